//! Instances as they were read lately: who asks for a service, or watches it, is spared reading their JSON once more.
//!
//! Invariants:
//! - What stands at a key with one `mod_revision` is one thing for ever, so what is remembered of it is never wrong.
//! - It is bounded, and holds on to nobody's buffers: what is kept is its own. When there is too much all is forgotten,
//!   which costs time; what is large by itself is not remembered.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use quorate_proto::{Key, Revision, v1};
use quorate_state::outcome::Meta;

use super::instance;

/// Of all that is remembered, about.
const BYTES_MAX: usize = 8 << 20;
/// Of one instance.
const INSTANCE_BYTES_MAX: usize = 64 << 10;
/// What an instance takes besides its key and what it says.
const OVERHEAD_BYTES: usize = 512;

/// See the module.
#[derive(Default)]
pub struct Known(Mutex<Instances>);

#[derive(Default)]
struct Instances {
    by_key: HashMap<Box<[u8]>, Read>,
    bytes: usize,
}

struct Read {
    mod_revision: Revision,
    instance: Arc<v1::Instance>,
    bytes: usize,
}

impl Known {
    /// The instance at a key, for the wire; `None` when the key is none of an instance.
    pub fn at(&self, key: &Key, value: &Bytes, meta: Meta) -> Option<Arc<v1::Instance>> {
        if let Some(known) = self.0.lock().by_key.get(key.as_bytes())
            && known.mod_revision == meta.mod_revision
        {
            return Some(Arc::clone(&known.instance));
        }
        let instance = Arc::new(instance::at(key, value, meta)?);
        let bytes = OVERHEAD_BYTES + key.as_bytes().len() + instance.encoded_len();
        if bytes <= INSTANCE_BYTES_MAX {
            let read = Read { mod_revision: meta.mod_revision, instance: Arc::clone(&instance), bytes };
            self.0.lock().remember(key.as_bytes(), read);
        }
        Some(instance)
    }
}

impl Instances {
    fn remember(&mut self, key: &[u8], read: Read) {
        // Somebody may read the past.
        if self.by_key.get(key).is_some_and(|known| known.mod_revision >= read.mod_revision) {
            return;
        }
        if self.bytes + read.bytes > BYTES_MAX {
            (self.by_key, self.bytes) = (HashMap::new(), 0);
        }
        self.bytes += read.bytes;
        if let Some(before) = self.by_key.insert(key.into(), read) {
            self.bytes -= before.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: usize) -> Key {
        Key::new(format!("/services/orders/{id}")).unwrap()
    }

    fn document(port: u16) -> Bytes {
        format!(r#"{{"address":"10.0.0.1","port":{port}}}"#).into()
    }

    fn meta(mod_revision: i64) -> Meta {
        let mod_revision = Revision(mod_revision);
        Meta { create_revision: Revision(2), mod_revision, version: 1, lease: None, created_ms: 0, modified_ms: 0 }
    }

    #[test]
    fn what_was_read_is_not_read_again_until_it_changes() {
        let known = Known::default();
        let first = known.at(&key(1), &document(80), meta(5)).unwrap();
        assert!(Arc::ptr_eq(&first, &known.at(&key(1), &document(80), meta(5)).unwrap()));
        let later = known.at(&key(1), &document(81), meta(7)).unwrap();
        assert_eq!((first.port, later.port, later.mod_revision), (80, 81, 7));
        // Who reads the past gets the past, and takes nothing from those who do not.
        assert_eq!(known.at(&key(1), &document(80), meta(5)).unwrap().port, 80);
        assert!(Arc::ptr_eq(&later, &known.at(&key(1), &document(81), meta(7)).unwrap()));
    }

    #[test]
    fn what_cannot_be_read_is_remembered_as_that_and_other_keys_are_no_instances() {
        let known = Known::default();
        let malformed = known.at(&key(1), &Bytes::from_static(b"{"), meta(5)).unwrap();
        assert!(!malformed.malformed.is_empty());
        let other = Key::new("/elsewhere").unwrap();
        assert!(known.at(&other, &document(80), meta(5)).is_none());
        assert_eq!(known.0.lock().by_key.len(), 1);
        let large = format!(r#"{{"address":"10.0.0.1","port":80,"surplus":"{}"}}"#, "x".repeat(INSTANCE_BYTES_MAX));
        known.at(&key(2), &large.into(), meta(5)).unwrap();
        assert_eq!(known.0.lock().by_key.len(), 2, "what is not told of a document does not count");
        let tags: Vec<String> = (0..64).map(|tag| format!("{tag:0>253}")).collect();
        let metadata: std::collections::BTreeMap<_, _> = (0..64).map(|n| (n.to_string(), "x".repeat(2_000))).collect();
        let large = serde_json::json!({ "address": "10.0.0.1", "port": 80, "tags": tags, "metadata": metadata });
        let large = known.at(&key(3), &large.to_string().into(), meta(5)).unwrap();
        assert!(large.malformed.is_empty(), "{}", large.malformed);
        assert_eq!(known.0.lock().by_key.len(), 2, "a large one is not remembered");
    }

    #[test]
    fn it_is_bounded_and_counts_what_it_has() {
        let known = Known::default();
        for id in 0..2 * BYTES_MAX / OVERHEAD_BYTES {
            known.at(&key(id), &document(80), meta(5)).unwrap();
            known.at(&key(id), &document(81), meta(6)).unwrap();
            let instances = known.0.lock();
            assert!(instances.bytes <= BYTES_MAX && !instances.by_key.is_empty());
        }
        let instances = known.0.lock();
        assert_eq!(instances.bytes, instances.by_key.values().map(|read| read.bytes).sum::<usize>());
    }
}
