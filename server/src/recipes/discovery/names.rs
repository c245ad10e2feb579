//! Names of services and instances, and the keys at which they stand.
//!
//! | key | what |
//! |---|---|
//! | `/services/<service>` | settings of the service, a document of its own |
//! | `/services/<service>/<instance>` | an instance |
//! | `quorate.ttl/<service>/<instance>/<check>` | there while a TTL check was answered in time; not a path |
//! | `quorate.checkers/<member>` | there while a member runs checks; not a path |
//!
//! Invariants:
//! - A [`ServiceName`] and an [`InstanceName`] were checked, so that their keys are paths.

use std::fmt;

use bytes::Bytes;
use quorate_proto::{Key, MemberId};

use super::error::DiscoveryError;

/// The directory of all services.
pub const ROOT: &str = "/services";
/// Before the keys of TTL checks.
const TTL_PREFIX: &str = "quorate.ttl/";
/// Before the keys of members that check.
pub const CHECKERS_PREFIX: &str = "quorate.checkers/";
/// Longest name of a service or an instance.
const NAME_BYTES_MAX: usize = 253;

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(String);

/// An instance of a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceName {
    /// Its service.
    pub service: ServiceName,
    /// Unique within it.
    pub id: String,
}

/// What a key below [`ROOT`] holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place<'a> {
    /// The settings of a service.
    Settings(ServiceName),
    /// An instance, whose id was not checked.
    Instance(ServiceName, &'a str),
}

fn is_name(name: &str, upper: bool) -> bool {
    let fits = |byte: u8| {
        byte.is_ascii_lowercase()
            || byte.is_ascii_digit()
            || b"-_.".contains(&byte)
            || upper && byte.is_ascii_uppercase()
    };
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(fits)
}

impl ServiceName {
    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Result<Self, DiscoveryError> {
        let name = name.into();
        if is_name(&name, false) {
            return Ok(Self(name));
        }
        Err(DiscoveryError::invalid(format!(
            "the service {name:?} is not 1 to {NAME_BYTES_MAX} lower-case letters, digits, '-', '_' and '.'"
        )))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its directory, and the key of its settings.
    pub fn directory(&self) -> String {
        format!("{ROOT}/{}", self.0)
    }

    /// Where its settings stand.
    pub fn key(&self) -> Key {
        key(self.directory())
    }

    /// The keys directly and further below it: `[start, end)`.
    pub fn span(&self) -> (Bytes, Bytes) {
        (format!("{ROOT}/{}/", self.0).into(), format!("{ROOT}/{}0", self.0).into())
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl InstanceName {
    /// Checks both names.
    pub fn new(service: impl Into<String>, id: impl Into<String>) -> Result<Self, DiscoveryError> {
        let (service, id) = (ServiceName::new(service)?, id.into());
        check_id(&id).map_err(DiscoveryError::invalid)?;
        Ok(Self { service, id })
    }

    /// Where its document stands.
    pub fn key(&self) -> Key {
        key(format!("{ROOT}/{}/{}", self.service, self.id))
    }

    /// What is there while its check with this place in the document was answered in time.
    pub fn ttl_key(&self, check: usize) -> Key {
        key(format!("{TTL_PREFIX}{}/{}/{check}", self.service, self.id))
    }

    /// The keys of all its TTL checks: `[start, end)`.
    pub fn ttl_span(&self) -> (Bytes, Bytes) {
        let prefix = format!("{TTL_PREFIX}{}/{}", self.service, self.id);
        (format!("{prefix}/").into(), format!("{prefix}0").into())
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance {} of service {}", self.id, self.service)
    }
}

/// The keys of all TTL checks: `[start, end)`.
pub fn all_ttl_keys() -> (Bytes, Bytes) {
    span_of_prefix(TTL_PREFIX)
}

/// The keys of all members that check: `[start, end)`.
pub fn all_checkers() -> (Bytes, Bytes) {
    span_of_prefix(CHECKERS_PREFIX)
}

fn span_of_prefix(prefix: &str) -> (Bytes, Bytes) {
    (Bytes::copy_from_slice(prefix.as_bytes()), format!("{}0", prefix.trim_end_matches('/')).into())
}

/// What is there while a member runs checks.
pub fn checker(member: MemberId) -> Key {
    key(format!("{CHECKERS_PREFIX}{member}"))
}

/// Whose key that is.
pub fn checker_of(key: &Key) -> Option<MemberId> {
    let text = std::str::from_utf8(key.as_bytes()).ok()?.strip_prefix(CHECKERS_PREFIX)?;
    MemberId::new(u64::from_str_radix(text, 16).ok()?)
}

/// Which check a key of [`InstanceName::ttl_key`] belongs to.
pub fn ttl_check_of(key: &Key) -> Option<(InstanceName, usize)> {
    let text = std::str::from_utf8(key.as_bytes()).ok()?.strip_prefix(TTL_PREFIX)?;
    let mut parts = text.split('/');
    let (service, id, check) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
    parts.next().is_none().then_some(())?;
    Some((InstanceName::new(service, id).ok()?, check))
}

/// What stands at a key; `None` for what discovery does not know.
pub fn place(key: &Key) -> Option<Place<'_>> {
    let below = std::str::from_utf8(key.as_bytes()).ok()?.strip_prefix(ROOT)?.strip_prefix('/')?;
    match below.split_once('/') {
        None => Some(Place::Settings(ServiceName::new(below).ok()?)),
        Some((_, id)) if id.is_empty() || id.contains('/') => None,
        Some((service, id)) => Some(Place::Instance(ServiceName::new(service).ok()?, id)),
    }
}

/// Whether an id may be one; else why not.
pub fn check_id(id: &str) -> Result<(), String> {
    if is_name(id, true) {
        return Ok(());
    }
    Err(format!("the id {id:?} is not 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' and '.'"))
}

fn key(text: String) -> Key {
    #[expect(clippy::expect_used, reason = "the parts were checked: far below the longest key, and not empty")]
    Key::new(text).expect("a key of checked parts")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Key {
        Key::new(text.to_owned()).unwrap()
    }

    #[test]
    fn names_are_checked_and_have_keys() {
        let name = InstanceName::new("web-1.eu_a", "Pod-7").unwrap();
        assert_eq!(name.key(), at("/services/web-1.eu_a/Pod-7"));
        assert_eq!(ttl_check_of(&name.ttl_key(3)), Some((name, 3)));
        for wrong in ["", "Web", "a/b", "ä", "a b", &"a".repeat(254)] {
            assert!(ServiceName::new(wrong).is_err(), "{wrong}");
        }
        assert!(InstanceName::new("web", "a/b").is_err());
    }

    #[test]
    fn keys_have_their_places() {
        let web = || ServiceName::new("web").unwrap();
        assert_eq!(place(&at("/services/web")), Some(Place::Settings(web())));
        assert_eq!(place(&at("/services/web/a b")), Some(Place::Instance(web(), "a b")));
        for other in ["/services", "/services/web/a/b", "/services/Web/a", "/servicesx/web", "services/web", "/a"] {
            assert_eq!(place(&at(other)), None, "{other}");
        }
        let member = MemberId::new(0xab).unwrap();
        assert_eq!(checker_of(&checker(member)), Some(member));
    }
}
