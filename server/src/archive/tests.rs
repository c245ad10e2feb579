//! An archive comes back as it was, or not at all.

use super::*;

fn directory(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn pack(dir: &Path, note: &str) -> Vec<u8> {
    let mut packed = Vec::new();
    Packer::new(dir, note).unwrap().write_to(&mut packed).unwrap();
    packed
}

#[test]
fn it_comes_back_as_it_was() {
    let large: Vec<u8> = (0..CHUNK_BYTES * 2 + 17).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let exact = vec![7; CHUNK_BYTES];
    let dir = directory(&[("a.sst", large.clone()), ("empty", vec![]), ("exact", exact.clone())]);
    let packed = pack(dir.path(), "revision 7");
    let target = tempfile::tempdir().unwrap();
    let contents = unpack(&packed[..], &target.path().join("new")).unwrap();
    assert_eq!(contents.note, "revision 7");
    let names: Vec<_> = contents.files.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    assert_eq!(names, [("a.sst", large.len() as u64), ("empty", 0), ("exact", exact.len() as u64)]);
    assert_eq!(fs::read(target.path().join("new/a.sst")).unwrap(), large);
    assert_eq!(fs::read(target.path().join("new/empty")).unwrap(), b"");
    assert_eq!(fs::read(target.path().join("new/exact")).unwrap(), exact);
    assert_eq!(verify(&packed[..]).unwrap(), contents);
}

#[test]
fn every_cut_and_every_flipped_bit_is_noticed() {
    let dir = directory(&[("a", b"hello".to_vec()), ("b", b"world!".to_vec())]);
    let packed = pack(dir.path(), "n");
    let target = tempfile::tempdir().unwrap();
    for length in 0..packed.len() {
        let error = unpack(&packed[..length], target.path()).unwrap_err();
        let expected = matches!(error, ArchiveError::Truncated { .. } | ArchiveError::NotAnArchive);
        assert!(expected, "cut at {length}: {error}");
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0, "cut at {length} left files");
    }
    for bit in 0..packed.len() * 8 {
        let mut flipped = packed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(unpack(&flipped[..], target.path()).is_err(), "bit {bit}");
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0, "bit {bit} left files");
    }
    let mut longer = packed.clone();
    longer.push(0);
    assert!(verify(&longer[..]).unwrap_err().to_string().contains("something follows"));
}

#[test]
fn a_name_cannot_leave_the_directory() {
    let dir = directory(&[("aaaa", b"x".to_vec())]);
    let packed = pack(dir.path(), "");
    let at = packed.windows(4).position(|window| window == b"aaaa").unwrap();
    let mut escaping = packed;
    escaping[at..at + 4].copy_from_slice(b"../x");
    let target = tempfile::tempdir().unwrap();
    let error = unpack(&escaping[..], &target.path().join("in")).unwrap_err().to_string();
    assert!(error.contains("the name of a file is wrong"), "{error}");
    assert!(!target.path().join("x").exists());
}

#[test]
fn what_is_no_archive_is_told_apart() {
    assert!(matches!(verify(&b"PK\x03\x04 something else entirely"[..]), Err(ArchiveError::NotAnArchive)));
    let mut newer = pack(tempfile::tempdir().unwrap().path(), "");
    newer[MAGIC.len()] = 2;
    assert!(matches!(verify(&newer[..]), Err(ArchiveError::Newer { found: 2 })));
}

#[test]
fn a_directory_with_something_in_it_is_refused() {
    let packed = pack(tempfile::tempdir().unwrap().path(), "");
    let target = directory(&[("mine", vec![])]);
    assert!(matches!(unpack(&packed[..], target.path()), Err(ArchiveError::NotEmpty { .. })));
    assert!(target.path().join("mine").exists());
    fs::create_dir(target.path().join("sub")).unwrap();
    assert!(Packer::new(target.path(), "").is_err(), "a directory in a directory cannot be packed");
}

#[test]
fn golden_bytes() {
    let dir = directory(&[("f", b"hi".to_vec())]);
    let packed = pack(dir.path(), "n");
    let mut expected = b"quorate archive\n\x01\0\0\0\x01n".to_vec();
    expected.extend(xxh3_64(&expected).to_be_bytes());
    expected.extend(b"\x01\0\x01f\0\0\0\0\0\0\0\x02hi");
    expected.extend(xxh3_64(b"hi").to_be_bytes());
    expected.extend(b"\0\0\0\0\x01");
    expected.extend(xxh3_64(&expected).to_be_bytes());
    assert_eq!(packed, expected);
}
