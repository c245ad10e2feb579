//! What is done with a hold: released, downgraded, taken away.
//!
//! Invariants:
//! - A change is made only if the key is as it was when the change was decided.
//! - A contender goes together with its companion.

use bytes::Bytes;
use quorate_proto::{Key, LeaseId, Revision};
use quorate_state::command::{Owner, Put, Txn, TxnOp};
use quorate_state::outcome::KeyValue;
use tokio::time::Instant;

use super::acquire::ROUNDS_MAX;
use super::contender::Claim;
use super::error::RecipeError;
use super::look::{Contest, Look};
use super::place::{deletion, unchanged};

/// Whose hold or place is taken away.
#[derive(Debug, Clone)]
pub enum Which {
    /// That of the holder with this token.
    Token(Revision),
    /// That of the contender with this key.
    Key(Bytes),
}

/// What was taken away.
pub struct Taken {
    /// The contender.
    pub kv: KeyValue,
    /// It held.
    pub held: bool,
}

/// Ends the hold, or the place, of one acquire. The revision afterwards, and whether there was one; a token of zero is
/// whatever it has come to.
pub async fn release(
    contest: &Contest,
    lease: LeaseId,
    acquire: u64,
    token: Revision,
    deadline: Instant,
) -> Result<(Revision, bool), RecipeError> {
    let Ok(key) = contest.name.key(lease, Some(acquire)) else { return Ok((contest.rooms.hub.revision(), false)) };
    // What this member has, or was just told, is nearly always the newest.
    let (found, revision) = contest.get_at(&key).await?;
    if let Some(kv) = contest.rooms.lines.fresh.take(&key, revision).or(found)
        && is_of(contest, &kv, &key, acquire, token)
        && let Some(revision) = write(contest, without(contest, &kv, acquire), deadline).await?
    {
        return Ok((revision, true));
    }
    for _ in 0..ROUNDS_MAX {
        contest.rooms.barrier(deadline).await?;
        let look = contest.look().await?;
        let mine =
            look.kvs.values().find(|kv| kv.meta.lease == Some(lease) && is_of(contest, kv, &key, acquire, token));
        let Some(kv) = mine else { return Ok((look.revision, false)) };
        if let Some(revision) = write(contest, without(contest, kv, acquire), deadline).await? {
            return Ok((revision, true));
        }
    }
    Err(RecipeError::contended())
}

/// Turns an exclusive hold into a shared one.
pub async fn downgrade(
    contest: &Contest,
    lease: LeaseId,
    acquire: u64,
    token: Revision,
    deadline: Instant,
) -> Result<Revision, RecipeError> {
    let name = &contest.name;
    let lost = || RecipeError::Lost { what: "the hold", name: name.to_string() };
    let key = name.key(lease, Some(acquire)).map_err(|_| lost())?;
    for _ in 0..ROUNDS_MAX {
        contest.rooms.barrier(deadline).await?;
        let look = contest.look().await?;
        let mine =
            look.kvs.values().find(|kv| kv.meta.lease == Some(lease) && is_of(contest, kv, &key, acquire, token));
        let kv = mine.filter(|kv| look.line.holds(&kv.key)).ok_or_else(lost)?;
        let document = contest.document(kv).ok_or_else(lost)?;
        match document.claim() {
            Claim::Shared => return Ok(look.revision),
            Claim::Permit(_) => {
                return Err(RecipeError::Conflict(format!("a permit of {name} cannot be downgraded; release it")));
            }
            Claim::Exclusive if document.acquires.len() > 1 => {
                return Err(RecipeError::Conflict(format!(
                    "{} acquires hold {name} together; downgrade it when the others have released",
                    document.acquires.len()
                )));
            }
            Claim::Exclusive => {}
        }
        let mut then = vec![TxnOp::Put(put_value(&kv.key, document.shared().encode()))];
        if let Some(companion) = name.companion_of(contest.kind, kv).and_then(|key| look.kvs.get(&key))
            && let Some(document) = contest.document(companion)
        {
            then.push(TxnOp::Put(put_value(&companion.key, document.shared().encode())));
        }
        let txn = Txn { compares: vec![unchanged(kv)], then, otherwise: Vec::new() };
        if let Some(revision) = write(contest, txn, deadline).await? {
            return Ok(revision);
        }
    }
    Err(RecipeError::contended())
}

/// Takes a hold or a place from whoever has it.
pub async fn force_release(
    contest: &Contest,
    which: &Which,
    deadline: Instant,
) -> Result<(Revision, Option<Taken>), RecipeError> {
    for _ in 0..ROUNDS_MAX {
        contest.rooms.barrier(deadline).await?;
        let look = contest.look().await?;
        let Some(kv) = chosen(&look, which) else { return Ok((look.revision, None)) };
        if let Some(revision) = write(contest, deletion(contest, kv), deadline).await? {
            let held = look.line.holds(&kv.key);
            return Ok((revision, Some(Taken { kv: kv.clone(), held })));
        }
    }
    Err(RecipeError::contended())
}

fn chosen<'l>(look: &'l Look, which: &Which) -> Option<&'l KeyValue> {
    let found = match which {
        Which::Key(key) => look.kvs.values().find(|kv| kv.key.as_bytes() == &key[..])?,
        Which::Token(token) => {
            let mut holders = look.line.places().filter(|(_, _, holds)| *holds);
            let (contender, companion, _) = holders.find(|(contender, companion, _)| {
                contender.or(*companion).is_some_and(|contender| contender.created == *token)
            })?;
            look.kvs.get(&contender.or(companion)?.key)?
        }
    };
    look.line.get(&found.key).is_some().then_some(found)
}

/// Whether the acquire holds, or waits, through this key.
fn is_of(contest: &Contest, kv: &KeyValue, own: &Key, acquire: u64, token: Revision) -> bool {
    let has = match contest.document(kv) {
        Some(document) => document.stands_for.is_none() && document.has(acquire),
        None => kv.key == *own,
    };
    has && (token == Revision::ZERO || token == kv.meta.create_revision)
}

/// Takes an acquire out of a hold; with the last one the key goes.
pub(super) fn without(contest: &Contest, kv: &KeyValue, acquire: u64) -> Txn {
    match contest.document(kv) {
        Some(document) if document.acquires.len() > 1 => {
            let put = put_value(&kv.key, document.without(acquire).encode());
            Txn { compares: vec![unchanged(kv)], then: vec![TxnOp::Put(put)], otherwise: Vec::new() }
        }
        _ => deletion(contest, kv),
    }
}

/// Writes a change; `None`: what it was decided on is not so any more.
async fn write(contest: &Contest, txn: Txn, deadline: Instant) -> Result<Option<Revision>, RecipeError> {
    let written = contest.rooms.write_if(txn, deadline).await?;
    Ok(written.map(|written| Revision(written.header.revision)))
}

/// A new value for a key that stays what it is otherwise.
pub(super) fn put_value(key: &Key, value: Bytes) -> Put {
    Put::new(key.clone(), value, Owner::Keep)
}
