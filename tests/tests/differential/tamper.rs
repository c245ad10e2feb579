//! Wrong answers on purpose: each is what a door with one defect would say.

use quorate_proto::etcd::etcdserverpb::WatchResponse;
use quorate_proto::etcd::etcdserverpb::response_op::Response;
use quorate_proto::etcd::mvccpb::event::EventType;
use tonic::Code;

use super::answer::{Answer, Reply};
use super::step::Step;

/// One defect.
pub struct Tampering {
    pub name: &'static str,
    pub change: fn(&Step, &mut Answer),
    /// So many steps are enough to show it.
    pub steps_max: usize,
}

pub const TAMPERINGS: &[Tampering] = &[
    Tampering {
        name: "the count of a limited range is what was returned",
        change: counts_what_it_returns,
        steps_max: 3,
    },
    Tampering { name: "a put forgets the previous value", change: forgets_previous, steps_max: 3 },
    Tampering { name: "the version of a key made anew goes on", change: version_goes_on, steps_max: 5 },
    Tampering { name: "compacted has the wrong code", change: wrong_code, steps_max: 2 },
    Tampering { name: "nested answers lack the revision", change: nested_without_revision, steps_max: 2 },
    Tampering { name: "a watch splits a transaction", change: splits_transactions, steps_max: 4 },
    Tampering { name: "a watch delivers deletions in the wrong order", change: wrong_order, steps_max: 4 },
    Tampering { name: "a watch loses the previous value of a deletion", change: loses_previous, steps_max: 4 },
    Tampering { name: "a lease's time is not raised to the floor", change: no_floor, steps_max: 2 },
];

fn counts_what_it_returns(_: &Step, answer: &mut Answer) {
    if let Reply::Range(range) = &mut answer.reply
        && range.more
    {
        range.count = i64::try_from(range.kvs.len()).unwrap_or(0);
    }
}

fn forgets_previous(_: &Step, answer: &mut Answer) {
    if let Reply::Put(put) = &mut answer.reply {
        put.prev_kv = None;
    }
}

fn version_goes_on(_: &Step, answer: &mut Answer) {
    if let Reply::Range(range) = &mut answer.reply {
        let anew = range.kvs.iter_mut().filter(|kv| kv.key == "m" && kv.create_revision > 1000);
        anew.for_each(|kv| kv.version += 1);
    }
}

fn wrong_code(_: &Step, answer: &mut Answer) {
    if let Reply::Refused { code, message } = &mut answer.reply
        && message.ends_with("has been compacted")
    {
        *code = Code::FailedPrecondition;
    }
}

fn nested_without_revision(_: &Step, answer: &mut Answer) {
    if let Reply::Txn(txn) = &mut answer.reply {
        for op in &mut txn.responses {
            if let Some(Response::ResponsePut(put)) = &mut op.response {
                put.header.iter_mut().for_each(|header| header.revision = 0);
            }
        }
    }
}

fn by_watch(answer: &mut Answer, change: impl Fn(Vec<WatchResponse>) -> Vec<WatchResponse>) {
    // The witness is the harness' own.
    for (_, responses) in answer.watched.iter_mut().filter(|((stream, _), _)| *stream < 2) {
        *responses = change(std::mem::take(responses));
    }
}

fn splits_transactions(_: &Step, answer: &mut Answer) {
    by_watch(answer, |responses| {
        let split = |response: WatchResponse| {
            if response.events.len() < 2 {
                return vec![response];
            }
            response
                .events
                .iter()
                .map(|event| WatchResponse { events: vec![event.clone()], ..response.clone() })
                .collect()
        };
        responses.into_iter().flat_map(split).collect()
    });
}

fn wrong_order(_: &Step, answer: &mut Answer) {
    by_watch(answer, |mut responses| {
        for response in &mut responses {
            if response.events.iter().all(|event| event.r#type() == EventType::Delete) {
                response.events.reverse();
            }
        }
        responses
    });
}

fn loses_previous(_: &Step, answer: &mut Answer) {
    by_watch(answer, |mut responses| {
        let events = responses.iter_mut().flat_map(|response| &mut response.events);
        events.filter(|event| event.r#type() == EventType::Delete).for_each(|event| event.prev_kv = None);
        responses
    });
}

fn no_floor(step: &Step, answer: &mut Answer) {
    if let (Step::GrantAndRevoke(asked), Reply::Grant(granted)) = (step, &mut answer.reply) {
        granted.ttl = asked.ttl;
    }
}
