//! The resource's side of fencing: refuse whoever is late.
//!
//! Invariants:
//! - The highest token that was admitted never goes down.
//! - What [`FenceGate::admit_then`] runs, runs while no other token can be admitted.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use quorate_proto::Token;

/// A token was refused: its holder has lost the lock, and somebody else has written since.
///
/// ```
/// use quorate::{FenceGate, Token};
/// let gate = FenceGate::new();
/// gate.admit(Token(8)).unwrap();
/// let refused = gate.admit(Token(7)).unwrap_err();
/// assert_eq!((refused.token, refused.highest), (Token(7), Token(8)));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "token {token} is refused{}: a holder with token {highest} came later; the lock was lost, acquire it again",
    resource.as_ref().map(|name| format!(" by {name}")).unwrap_or_default()
)]
pub struct Fenced {
    /// The token.
    pub token: Token,
    /// The highest that was admitted.
    pub highest: Token,
    /// The resource, if it has a name.
    pub resource: Option<String>,
}

/// Stands in front of a resource and admits a token only if it is at least as high as all before: so a holder that was
/// paused, and lost its lock without knowing, writes nothing after its successor did.
///
/// It is for resources that a lock or a leadership protects *exclusively*; shared holders and permits have tokens of their
/// own in no particular order. What it knows is in memory. If the resource outlives the process, keep
/// [`highest`](Self::highest) **with the resource's data, in the same write**, and begin with [`starting_at`](Self::starting_at):
/// a gate that forgets lets a late writer in. Data in Quorate itself needs no gate: see
/// [`LockGuard::txn`](crate::LockGuard::txn).
///
/// ```
/// use quorate::{FenceGate, Token};
/// let (gate, mut file) = (FenceGate::starting_at(Token(40)), Vec::new());
/// let written = gate.admit_then(Token(41), || file.push("line"));
/// assert!(written.is_ok() && gate.admit(Token(40)).is_err());
/// ```
#[derive(Debug, Default)]
pub struct FenceGate {
    resource: Option<String>,
    highest: Mutex<Token>,
}

impl FenceGate {
    /// One that has seen no token.
    ///
    /// ```
    /// let gate = quorate::FenceGate::new();
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// One that has seen this token, as stored with the resource.
    ///
    /// ```
    /// let gate = quorate::FenceGate::starting_at(quorate::Token(40));
    /// assert!(gate.admit(quorate::Token(39)).is_err());
    /// ```
    pub fn starting_at(highest: Token) -> Self {
        Self { resource: None, highest: Mutex::new(highest) }
    }

    /// Names the resource, for its errors.
    ///
    /// ```
    /// let gate = quorate::FenceGate::new().named("the ledger");
    /// ```
    #[must_use]
    pub fn named(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Admits a token that is at least as high as all before. The write that follows must not overtake another one that is
    /// admitted meanwhile; [`admit_then`](Self::admit_then) sees to that.
    ///
    /// ```
    /// # let gate = quorate::FenceGate::new();
    /// gate.admit(quorate::Token(7)).unwrap();
    /// gate.admit(quorate::Token(7)).unwrap();
    /// ```
    pub fn admit(&self, token: Token) -> Result<(), Fenced> {
        self.admit_then(token, || ())
    }

    /// Admits a token and runs `write`, as one step.
    ///
    /// ```
    /// # let gate = quorate::FenceGate::new();
    /// let mut value = 1;
    /// gate.admit_then(quorate::Token(7), || value = 2).unwrap();
    /// assert_eq!(value, 2);
    /// ```
    pub fn admit_then<T>(&self, token: Token, write: impl FnOnce() -> T) -> Result<T, Fenced> {
        let mut highest = self.highest.lock();
        if token < *highest {
            return Err(Fenced { token, highest: *highest, resource: self.resource.clone() });
        }
        *highest = token;
        Ok(write())
    }

    /// The highest token that was admitted; 0 before the first. To be stored with the resource's data.
    ///
    /// ```
    /// # let gate = quorate::FenceGate::new();
    /// assert_eq!(gate.highest(), quorate::Token(0));
    /// ```
    pub fn highest(&self) -> Token {
        *self.highest.lock()
    }
}

/// A [`FenceGate`] for each of many resources, by name.
///
/// ```
/// use quorate::{FenceGates, Token};
/// let gates = FenceGates::new();
/// gates.gate("/accounts/7").admit(Token(12)).unwrap();
/// gates.gate("/accounts/8").admit(Token(3)).unwrap();
/// assert!(gates.gate("/accounts/7").admit(Token(3)).is_err());
/// ```
#[derive(Debug, Default)]
pub struct FenceGates(Mutex<BTreeMap<String, Arc<FenceGate>>>);

impl FenceGates {
    /// None yet.
    ///
    /// ```
    /// let gates = quorate::FenceGates::new();
    /// ```
    pub fn new() -> Self {
        Self::default()
    }

    /// Those of resources whose highest tokens were stored.
    ///
    /// ```
    /// let gates = quorate::FenceGates::load([("/accounts/7".to_owned(), quorate::Token(12))]);
    /// assert!(gates.gate("/accounts/7").admit(quorate::Token(11)).is_err());
    /// ```
    pub fn load(stored: impl IntoIterator<Item = (String, Token)>) -> Self {
        let gate = |(name, highest): (String, Token)| {
            let gate = FenceGate::starting_at(highest).named(name.clone());
            (name, Arc::new(gate))
        };
        Self(Mutex::new(stored.into_iter().map(gate).collect()))
    }

    /// The gate of a resource; a new one if it has none yet.
    ///
    /// ```
    /// # let gates = quorate::FenceGates::new();
    /// let gate = gates.gate("/accounts/7");
    /// ```
    pub fn gate(&self, resource: &str) -> Arc<FenceGate> {
        let mut gates = self.0.lock();
        if let Some(gate) = gates.get(resource) {
            return gate.clone();
        }
        let gate = Arc::new(FenceGate::new().named(resource));
        gates.insert(resource.to_owned(), gate.clone());
        gate
    }

    /// The highest token of each resource, by name: to be stored.
    ///
    /// ```
    /// # let gates = quorate::FenceGates::new();
    /// for (name, token) in gates.highest() { println!("{name} {token}"); }
    /// ```
    pub fn highest(&self) -> Vec<(String, Token)> {
        self.0.lock().iter().map(|(name, gate)| (name.clone(), gate.highest())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_token_is_refused_and_says_why() {
        let gate = FenceGate::new().named("the ledger");
        gate.admit(Token(3)).unwrap();
        gate.admit(Token(3)).unwrap();
        gate.admit(Token(9)).unwrap();
        let mut ran = false;
        let error = gate.admit_then(Token(8), || ran = true).unwrap_err();
        assert!(!ran);
        let text = error.to_string();
        assert!(text.contains("token 8 is refused by the ledger") && text.contains("token 9"), "{text}");
        assert_eq!(gate.highest(), Token(9));
    }

    #[test]
    fn a_gate_begins_where_the_stored_one_ended() {
        let gates = FenceGates::new();
        gates.gate("a").admit(Token(5)).unwrap();
        gates.gate("b").admit(Token(2)).unwrap();
        let again = FenceGates::load(gates.highest());
        assert!(again.gate("a").admit(Token(4)).is_err());
        assert!(again.gate("b").admit(Token(4)).is_ok());
        assert!(again.gate("new").admit(Token(1)).is_ok());
    }
}
