//! What a data directory keeps, and everything that it refuses, with what its message says to do.

use super::*;

fn cluster(id: u64) -> ClusterId {
    ClusterId::new(id).unwrap()
}

fn refused(path: &Path, name: &str) -> String {
    DataDir::open(path, name).map(|_| ()).unwrap_err().to_string()
}

/// A directory that a member has used.
fn used() -> (tempfile::TempDir, Identity) {
    let dir = tempfile::tempdir().unwrap();
    let identity = DataDir::open(dir.path(), "a").unwrap().identity();
    (dir, identity)
}

#[test]
fn an_identity_is_minted_once_and_stays() {
    let (dir, first) = used();
    assert_eq!((first.cluster, first.name.as_str(), first.removed), (None, "a", false));
    let again = DataDir::open(dir.path(), "a").unwrap();
    assert_eq!(again.identity(), first);
    assert!(again.log().is_dir() && again.state().is_dir() && again.snapshots().is_dir());
    assert_ne!(used().1.member, first.member);
}

#[test]
fn the_cluster_is_set_once() {
    let (dir, _) = used();
    let open = DataDir::open(dir.path(), "a").unwrap();
    open.set_cluster(cluster(7)).unwrap();
    open.set_cluster(cluster(7)).unwrap();
    let error = open.set_cluster(cluster(8)).unwrap_err().to_string();
    assert!(error.contains("0000000000000007") && error.contains("0000000000000008"), "{error}");
    assert!(error.contains("check --data-dir"), "{error}");
    std::fs::write(open.log().join("CURRENT"), "x").unwrap();
    drop(open);
    assert_eq!(DataDir::open(dir.path(), "a").unwrap().identity().cluster, Some(cluster(7)));
}

#[test]
fn a_second_user_is_refused_while_the_first_lives() {
    let (dir, _) = used();
    let first = DataDir::open(dir.path(), "a").unwrap();
    let error = refused(dir.path(), "a");
    assert!(error.contains("in use by another process; stop it"), "{error}");
    drop(first);
    DataDir::open(dir.path(), "a").unwrap();
}

#[test]
fn a_directory_with_other_files_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.tex"), "x").unwrap();
    let error = refused(dir.path(), "a");
    assert!(error.contains("thesis.tex") && error.contains("choose an empty or new directory"), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn the_root_of_a_file_system_and_a_first_start_cut_short_are_empty() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    std::fs::write(dir.path().join("LOCK"), "").unwrap();
    std::fs::write(dir.path().join("FORMAT.new"), "quor").unwrap();
    DataDir::open(dir.path(), "a").unwrap();
    // Stopped after the format and the parts, before the identity.
    std::fs::remove_file(dir.path().join("identity")).unwrap();
    DataDir::open(dir.path(), "a").unwrap();
}

#[test]
fn a_newer_format_is_refused() {
    let (dir, _) = used();
    std::fs::write(dir.path().join("FORMAT"), "quorate data directory, format 2\n").unwrap();
    let error = refused(dir.path(), "a");
    assert!(error.contains("format 2, this program knows 1; start it with a newer program"), "{error}");
}

#[test]
fn another_member_is_refused() {
    let (dir, identity) = used();
    let error = refused(dir.path(), "b");
    assert!(error.contains("\"a\"") && error.contains("\"b\""), "{error}");
    assert!(error.contains(&identity.member.to_string()) && error.contains("check --data-dir and --name"), "{error}");
}

#[test]
fn every_flipped_or_missing_byte_of_the_identity_is_noticed() {
    let (dir, identity) = used();
    let file = dir.path().join("identity");
    let whole = std::fs::read(&file).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        std::fs::write(&file, &flipped).unwrap();
        let error = refused(dir.path(), "a");
        assert!(error.contains("remove this member from the cluster"), "byte {at}: {error}");
        std::fs::write(&file, &whole[..at]).unwrap();
        assert!(refused(dir.path(), "a").contains("remove this member from the cluster"), "cut at {at}");
    }
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(DataDir::open(dir.path(), "a").unwrap().identity(), identity);
}

#[test]
fn missing_parts_are_damage() {
    let (dir, _) = used();
    std::fs::write(dir.path().join("log/CURRENT"), "x").unwrap();
    std::fs::remove_file(dir.path().join("identity")).unwrap();
    assert!(refused(dir.path(), "a").contains("log/ has data"));

    let (dir, _) = used();
    std::fs::remove_dir(dir.path().join("state")).unwrap();
    assert!(refused(dir.path(), "a").contains("state: it is missing"));

    let (dir, _) = used();
    std::fs::remove_file(dir.path().join("FORMAT")).unwrap();
    assert!(refused(dir.path(), "a").contains("FORMAT: it is missing"));

    let (dir, _) = used();
    std::fs::write(dir.path().join("FORMAT"), "1").unwrap();
    assert!(refused(dir.path(), "a").contains("which format"));
}

#[test]
fn a_member_of_a_cluster_without_its_log_is_refused() {
    let (dir, _) = used();
    DataDir::open(dir.path(), "a").unwrap().set_cluster(cluster(7)).unwrap();
    let error = refused(dir.path(), "a");
    assert!(error.contains("it is missing, but this member belongs to a cluster"), "{error}");
    assert!(error.contains("--join"), "{error}");
}

#[test]
fn a_removed_member_does_not_start_again() {
    let (dir, identity) = used();
    DataDir::open(dir.path(), "a").unwrap().set_removed().unwrap();
    let error = refused(dir.path(), "a");
    assert!(error.contains(&identity.member.to_string()), "{error}");
    assert!(error.contains("empty the directory and start it with --join"), "{error}");
}

#[test]
fn names_that_break_the_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refused(dir.path(), "").contains("1 to 64"));
    assert!(refused(dir.path(), "a\nremoved true").contains("line break"));
    let spaced = DataDir::open(dir.path(), "rack 7 check ö").unwrap().identity();
    assert_eq!(DataDir::open(dir.path(), "rack 7 check ö").unwrap().identity(), spaced);
}

#[test]
fn golden_identity() {
    let identity =
        Identity { member: MemberId::new(0xa1).unwrap(), cluster: None, name: "a".to_owned(), removed: false };
    let lines = "quorate identity 1\nmember 00000000000000a1\ncluster none\nname a\nremoved false\n";
    assert_eq!(encode_identity(&identity), format!("{lines}check {:016x}\n", xxh3_64(lines.as_bytes())));
    let later = Identity { cluster: Some(cluster(0xbeef)), removed: true, ..identity };
    assert!(encode_identity(&later).contains("\ncluster 000000000000beef\nname a\nremoved true\n"));
    assert_eq!(decode_identity(&encode_identity(&later)), Some(later));
}
