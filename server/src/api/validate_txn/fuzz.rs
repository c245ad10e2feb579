//! Damaged transactions of both doors: refused, or a command that the log takes and gives back. The first byte of an
//! input says which door.

use prost::Message as _;
use quorate_proto::etcd::etcdserverpb as pb;
use quorate_state::codec::{decode_envelope, encode_envelope};
use quorate_state::command::{Command, Envelope, Principal};

use super::*;
use crate::api::etcd::requests;
use crate::fuzzing::fuzz;

#[test]
fn transactions() {
    let corpus = include_str!("../../../../tests/corpus/transactions.txt");
    let limits = Limits::default();
    fuzz("transactions", corpus, |input| {
        let txn = match input.split_first() {
            Some((0, rest)) => v1::TxnRequest::decode(rest).ok().and_then(|request| txn(request, &limits).ok()),
            Some((1, rest)) => {
                pb::TxnRequest::decode(rest).ok().and_then(|request| requests::txn(request, &limits).ok())
            }
            _ => None,
        };
        let Some(txn) = txn else { return false };
        let envelope = Envelope { request: None, principal: Principal::default(), command: Command::Txn(txn) };
        assert_eq!(decode_envelope(&encode_envelope(&envelope)), Ok(envelope));
        true
    });
}
