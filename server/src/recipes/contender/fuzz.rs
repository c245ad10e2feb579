//! Damaged values and keys of contenders: whatever is not understood keeps others out.

use super::*;
use crate::fuzzing::fuzz;

#[test]
fn contenders() {
    let corpus = include_str!("../../../../tests/corpus/contenders.txt");
    let meta = Meta {
        create_revision: Revision(2),
        mod_revision: Revision(2),
        version: 1,
        lease: None,
        created_ms: 0,
        modified_ms: 0,
    };
    fuzz("contenders", corpus, |input| {
        let name = Name::new(b"l");
        let as_key = Key::new([b"l/", input].concat()).ok();
        if let Some(segment) = as_key.as_ref().and_then(|key| name.segment_of(key))
            && is_contender(segment)
            && let Some(lease) = lease_of(segment)
        {
            let acquire = segment.split_once('-').map(|(_, acquire)| u64::from_str_radix(acquire, 16).unwrap());
            let written = name.key(lease, acquire).unwrap();
            assert_eq!(lease_of(name.segment_of(&written).unwrap()), Some(lease));
        }
        let key = Key::new("l/1").unwrap();
        let contender = name.contender(Kind::Lock, &key, &meta, input).unwrap();
        let Some(document) = Document::of(Kind::Lock, input) else {
            assert_eq!(contender.claim, Claim::Exclusive);
            return false;
        };
        assert_eq!(contender.claim, document.claim());
        assert_eq!(Document::of(Kind::Lock, &document.encode()), Some(document));
        true
    });
}
