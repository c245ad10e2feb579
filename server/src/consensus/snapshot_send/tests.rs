//! A snapshot arrives whole or not at all, and what has arrived is not sent again.

use super::*;
use crate::consensus::types::{SnapshotMeta, log_id};

struct Sent {
    dir: tempfile::TempDir,
    snapshot: Snapshot,
}

fn from() -> MemberId {
    MemberId::new(9).unwrap()
}

fn vote(term: u64) -> Vote {
    Vote::new(term, 9)
}

/// A snapshot of a large, an empty and a small file.
fn snapshot() -> Sent {
    let dir = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..CHUNK_BYTES * 3 + 5).map(|n| u8::try_from(n % 251).unwrap()).collect();
    for (name, content) in [("000012.sst", &large[..]), ("CURRENT", b"MANIFEST-1"), ("empty", b"")] {
        std::fs::write(dir.path().join(name), content).unwrap();
    }
    let meta = SnapshotMeta { last_log_id: Some(log_id(3, 8)), ..SnapshotMeta::default() };
    let snapshot = Snapshot { meta, snapshot: SnapshotDir::open(dir.path().to_owned()).unwrap() };
    Sent { dir, snapshot }
}

fn receiver() -> (tempfile::TempDir, Arc<Receiver>) {
    let root = tempfile::tempdir().unwrap();
    let receiver = Receiver::new(root.path().to_owned());
    (root, receiver)
}

fn offer(sent: &Sent, term: u64) -> Bytes {
    let files = sent.snapshot.snapshot.files().to_vec();
    encode_offer(&SnapshotOffer { vote: vote(term), meta: sent.snapshot.meta.clone(), files })
}

async fn have(receiver: &Receiver, sent: &Sent, term: u64) -> Vec<u64> {
    decode_have(receiver.offer(from(), offer(sent, term)).await.unwrap()).unwrap()
}

async fn frames(sent: &Sent, term: u64, have: Vec<u64>) -> Vec<Frame> {
    let next = Next::Offer(Frame { body: offer(sent, term) });
    Parts { snapshot: sent.snapshot.snapshot.clone(), have, next }.stream().collect().await
}

async fn receive(receiver: &Receiver, frames: Vec<Frame>) -> Result<(Vote, Snapshot), Status> {
    let arrived = receive_in_turn(receiver, frames).await?;
    Ok((arrived.vote, arrived.snapshot))
}

async fn receive_in_turn(receiver: &Receiver, frames: Vec<Frame>) -> Result<Received, Status> {
    receiver.receive(from(), futures::stream::iter(frames.into_iter().map(Ok))).await
}

fn assert_same(sent: &Sent, arrived: &Snapshot) {
    assert_eq!(arrived.meta, sent.snapshot.meta);
    assert_eq!(arrived.snapshot.files(), sent.snapshot.snapshot.files());
    for file in arrived.snapshot.files() {
        let read = |path: &Path| std::fs::read(path.join(&file.name)).unwrap();
        assert_eq!(read(arrived.snapshot.path()), read(sent.dir.path()), "{}", file.name);
    }
}

#[tokio::test]
async fn it_arrives_as_it_was_sent() {
    let (sent, (_root, receiver)) = (snapshot(), receiver());
    let have = have(&receiver, &sent, 1).await;
    assert_eq!(have, [0, 0, 0]);
    let (vote_of, arrived) = receive(&receiver, frames(&sent, 1, have).await).await.unwrap();
    assert_eq!(vote_of, vote(1));
    assert_same(&sent, &arrived);
}

#[tokio::test]
async fn after_a_break_anywhere_only_the_rest_is_sent() {
    let sent = snapshot();
    let all = frames(&sent, 1, vec![0; 3]).await;
    for cut in 1..all.len() {
        let (_root, receiver) = receiver();
        have(&receiver, &sent, 1).await;
        let broken = receive(&receiver, all[..cut].to_vec()).await.unwrap_err();
        assert!(broken.message().contains("goes on from here"), "{broken}");
        // Whoever leads meanwhile, it is the same snapshot of the same member.
        let have = have(&receiver, &sent, 2).await;
        let rest = frames(&sent, 2, have.clone()).await;
        let sent_again: usize = rest.iter().map(|frame| frame.body.len()).sum();
        if cut >= 4 {
            assert!(have[0] >= 2 * CHUNK_BYTES as u64, "cut at {cut}: {have:?}");
            assert!(sent_again < 2 * CHUNK_BYTES, "cut at {cut}: {sent_again} bytes");
        }
        let (_, arrived) = receive(&receiver, rest).await.unwrap();
        assert_same(&sent, &arrived);
    }
}

#[tokio::test]
async fn a_flipped_bit_is_noticed_and_the_file_sent_again() {
    let (sent, (_root, receiver)) = (snapshot(), receiver());
    have(&receiver, &sent, 1).await;
    let mut all = frames(&sent, 1, vec![0; 3]).await;
    let mut chunk = all[2].body.to_vec();
    *chunk.last_mut().unwrap() ^= 0x10;
    all[2].body = chunk.into();
    let refused = receive(&receiver, all).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::DataLoss, "{refused}");
    let have = have(&receiver, &sent, 1).await;
    assert_eq!(have, [0, 0, 0]);
    let (_, arrived) = receive(&receiver, frames(&sent, 1, have).await).await.unwrap();
    assert_same(&sent, &arrived);
}

#[tokio::test]
async fn damage_of_what_is_here_already_is_noticed() {
    let (sent, (root, receiver)) = (snapshot(), receiver());
    have(&receiver, &sent, 1).await;
    receive(&receiver, frames(&sent, 1, vec![0; 3]).await[..3].to_vec()).await.unwrap_err();
    let incoming = std::fs::read_dir(root.path()).unwrap().next().unwrap().unwrap().path();
    let mut there = std::fs::read(incoming.join("000012.sst")).unwrap();
    there[7] ^= 1;
    std::fs::write(incoming.join("000012.sst"), there).unwrap();
    let have = have(&receiver, &sent, 1).await;
    assert!(have[0] > 0);
    let refused = receive(&receiver, frames(&sent, 1, have).await).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::DataLoss, "{refused}");
}

#[tokio::test]
async fn parts_out_of_place_are_refused() {
    let sent = snapshot();
    let all = frames(&sent, 1, vec![0; 3]).await;
    for wrong in [[0, 2, 1], [0, 1, 1], [0, 1, 3]] {
        let (_root, receiver) = receiver();
        have(&receiver, &sent, 1).await;
        let frames = wrong.iter().map(|at| all[*at].clone()).collect();
        let refused = receive(&receiver, frames).await.unwrap_err();
        let expected = [tonic::Code::InvalidArgument, tonic::Code::Internal];
        assert!(expected.contains(&refused.code()), "{wrong:?}: {refused}");
    }
}

#[tokio::test]
async fn another_snapshot_takes_the_place_of_one_that_was_not_finished() {
    let (first, second, (root, receiver)) = (snapshot(), snapshot(), receiver());
    have(&receiver, &first, 1).await;
    receive(&receiver, frames(&first, 1, vec![0; 3]).await[..3].to_vec()).await.unwrap_err();
    std::fs::write(second.dir.path().join("CURRENT"), "MANIFEST-22").unwrap();
    let snapshot = Snapshot {
        meta: second.snapshot.meta.clone(),
        snapshot: SnapshotDir::open(second.dir.path().to_owned()).unwrap(),
    };
    let second = Sent { dir: second.dir, snapshot };
    assert_eq!(have(&receiver, &second, 1).await, [0, 0, 0]);
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "the leftovers are gone");
    let (_, arrived) = receive(&receiver, frames(&second, 1, vec![0; 3]).await).await.unwrap();
    assert_same(&second, &arrived);
}

#[tokio::test]
async fn one_is_received_at_a_time() {
    let (sent, (_root, receiver)) = (snapshot(), receiver());
    let waiting = receiver.receive(from(), futures::stream::pending());
    let mut waiting = std::pin::pin!(waiting);
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    let busy = receiver.offer(from(), offer(&sent, 1)).await.unwrap_err();
    assert_eq!(busy.code(), tonic::Code::Unavailable);
    assert!(receive(&receiver, frames(&sent, 1, vec![0; 3]).await).await.is_err());
}

/// A leader that changed offers its own snapshot while the one before is still being installed. Its offer used to
/// remove the files under the installation, which ended the member.
#[tokio::test]
async fn an_offer_leaves_a_snapshot_alone_that_is_being_installed() {
    let (first, second, (root, receiver)) = (snapshot(), snapshot(), receiver());
    have(&receiver, &first, 1).await;
    let arrived = receive_in_turn(&receiver, frames(&first, 1, vec![0; 3]).await).await.unwrap();

    let other = MemberId::new(8).unwrap();
    let refused = receiver.offer(other, offer(&second, 2)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert_same(&first, &arrived.snapshot);

    drop(arrived);
    receiver.offer(other, offer(&second, 2)).await.unwrap();
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "installed or not, it has had its turn");
}
