//! From the bytes of a query to the bytes of its answer.
//!
//! Invariants:
//! - Bytes that are no query have an answer that says so, or none; nothing that comes from outside stops the member.
//! - An answer is never larger than whoever asked can take: what does not fit is left out, and over UDP the answer says
//!   that it was.
//! - Names of other domains are refused: this is no resolver.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name};
use tokio::time::timeout;

use super::answer::{Answer, Question};
use super::question::{Asked, read};
use crate::recipes::discovery::Discovery;

/// Without EDNS.
const UDP_BYTES_MIN: u16 = 512;
/// More is cut to pieces on its way.
const UDP_BYTES_MAX: u16 = 1_232;
const TCP_BYTES_MAX: u16 = u16::MAX;
const HEADER_BYTES: usize = 12;
/// An empty name, type and class.
const QUESTION_BYTES_MIN: usize = 5;
/// The same, time to live and length.
const RECORD_BYTES_MIN: usize = 11;
/// After this whoever asked has given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In one packet.
    Udp,
    /// In a stream.
    Tcp,
}

/// Answers queries.
pub struct Answers {
    discovery: Arc<Discovery>,
    domain: Name,
}

impl Answers {
    /// For names of this domain.
    pub fn new(discovery: Arc<Discovery>, domain: Name) -> Self {
        Self { discovery, domain }
    }

    /// The answer to a query; `None`: there is nothing to say to that.
    pub async fn answer(&self, bytes: &[u8], way: Way) -> Option<Vec<u8>> {
        if bytes.len() < HEADER_BYTES || bytes[2] & 0x80 != 0 {
            // Too short to have an id, or an answer itself: answering those could go on for ever.
            return None;
        }
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        let op_code = OpCode::from_u8((bytes[2] >> 3) & 0x0f);
        let failed = |code| Message::error_msg(id, op_code, code).to_vec().ok();
        let answered = AssertUnwindSafe(self.decoded(bytes, way)).catch_unwind();
        match timeout(PATIENCE, answered).await {
            Ok(Ok(Ok(answer))) => Some(answer),
            Ok(Ok(Err(code))) => failed(code),
            Ok(Err(_)) | Err(_) => failed(ResponseCode::ServFail),
        }
    }

    async fn decoded(&self, bytes: &[u8], way: Way) -> Result<Vec<u8>, ResponseCode> {
        let Begun { question, mut response, bytes_max } = begin(bytes, way)?;
        if let Some(question) = question {
            self.fill(&question, &mut response).await;
        }
        fit(response, bytes_max.into(), way).ok_or(ResponseCode::ServFail)
    }

    async fn fill(&self, query: &Query, response: &mut Message) {
        let question = Question { name: query.name(), kind: query.query_type(), domain: &self.domain };
        let serial = self.discovery.serial();
        let answer = match asked(query, &self.domain) {
            Asked::Instances(ways) => {
                let mut found = None;
                for wanted in ways {
                    match self.discovery.look(&wanted.service).await {
                        Ok(Some(looked)) => found = question.instances(&looked, &wanted.only),
                        Ok(None) => {}
                        Err(error) => {
                            tracing::debug!(%error, service = %wanted.service, "a service cannot be looked up");
                            response.metadata.response_code = ResponseCode::ServFail;
                            return;
                        }
                    }
                    if found.is_some() {
                        break;
                    }
                }
                Some(found.unwrap_or_else(Answer::nothing))
            }
            asked => question.without_instances(&asked, serial),
        };
        finish(question, answer, serial, response);
    }
}

/// A query that was read.
struct Begun {
    /// What is asked, where that is to be answered.
    question: Option<Query>,
    /// What the answer begins with.
    response: Message,
    /// For the whole answer.
    bytes_max: u16,
}

/// Whether the message is long enough for what its header counts: the library sets memory aside for that.
fn has_what_it_counts(bytes: &[u8]) -> bool {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return false };
    let [.., q1, q0, a1, a0, n1, n0, o1, o0] = *header;
    let count = |high, low| usize::from(u16::from_be_bytes([high, low]));
    let records = count(a1, a0) + count(n1, n0) + count(o1, o0);
    count(q1, q0) * QUESTION_BYTES_MIN + records * RECORD_BYTES_MIN <= rest.len()
}

/// Reads a query.
fn begin(bytes: &[u8], way: Way) -> Result<Begun, ResponseCode> {
    if !has_what_it_counts(bytes) {
        return Err(ResponseCode::FormErr);
    }
    let query = Message::from_vec(bytes).map_err(|_| ResponseCode::FormErr)?;
    if query.metadata.message_type != MessageType::Query {
        return Err(ResponseCode::FormErr);
    }
    let mut response = Message::response(query.metadata.id, query.metadata.op_code);
    response.metadata.recursion_desired = query.metadata.recursion_desired;
    response.metadata.checking_disabled = query.metadata.checking_disabled;
    response.add_queries(query.queries.iter().cloned());
    let bytes_max = match (way, &query.edns) {
        (Way::Tcp, _) => TCP_BYTES_MAX,
        (Way::Udp, None) => UDP_BYTES_MIN,
        (Way::Udp, Some(edns)) => edns.max_payload().clamp(UDP_BYTES_MIN, UDP_BYTES_MAX),
    };
    let mut newer_edns = false;
    if let Some(asked) = &query.edns {
        newer_edns = asked.version() > 0;
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES_MAX).set_version(0);
        response.set_edns(edns);
    }
    let mut question = None;
    match query.queries.as_slice() {
        _ if newer_edns => response.metadata.response_code = ResponseCode::BADVERS,
        _ if query.metadata.op_code != OpCode::Query => response.metadata.response_code = ResponseCode::NotImp,
        [only] => question = Some(only.clone()),
        _ => response.metadata.response_code = ResponseCode::FormErr,
    }
    Ok(Begun { question, response, bytes_max })
}

/// What a query is about.
fn asked(query: &Query, domain: &Name) -> Asked {
    let is_ours = matches!(query.query_class(), DNSClass::IN | DNSClass::ANY);
    if is_ours { read(query.name(), domain) } else { Asked::Elsewhere }
}

/// Puts the answer into the response; none: it is not for us to say.
fn finish(question: Question<'_>, answer: Option<Answer>, serial: u32, response: &mut Message) {
    let Some(answer) = answer else {
        response.metadata.response_code = ResponseCode::Refused;
        return;
    };
    response.metadata.authoritative = true;
    response.metadata.response_code = answer.code;
    if answer.answers.is_empty() {
        response.add_authorities(question.soa(serial, answer.negative_ttl_s));
    }
    response.add_answers(answer.answers);
    response.add_additionals(answer.additionals);
}

/// The bytes of a response that are not more than allowed: additional records go first, then answers.
fn fit(mut response: Message, bytes_max: usize, way: Way) -> Option<Vec<u8>> {
    let (answers, additionals) = (response.answers.clone(), response.additionals.clone());
    if let Some(bytes) = encoded(&response, bytes_max) {
        return Some(bytes);
    }
    // As many additional records as there is room for, all answers being there.
    response.additionals.clear();
    if encoded(&response, bytes_max).is_some() {
        return most(additionals.len(), |count| {
            response.additionals = additionals[..count].to_vec();
            encoded(&response, bytes_max)
        });
    }
    response.metadata.truncation = way == Way::Udp;
    most(answers.len(), |count| {
        response.answers = answers[..count].to_vec();
        encoded(&response, bytes_max)
    })
}

/// The largest of `0..=count` for which there are bytes, and those.
fn most(count: usize, mut of: impl FnMut(usize) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let (mut fits, mut too_many) = (0, count + 1);
    let mut best = of(0)?;
    while too_many - fits > 1 {
        let middle = fits + (too_many - fits) / 2;
        match of(middle) {
            Some(bytes) => (fits, best) = (middle, bytes),
            None => too_many = middle,
        }
    }
    Some(best)
}

fn encoded(response: &Message, bytes_max: usize) -> Option<Vec<u8>> {
    // More than this many records are not even tried: each has at least twelve bytes.
    if response.answers.len() + response.additionals.len() > bytes_max / HEADER_BYTES {
        return None;
    }
    response.to_vec().ok().filter(|bytes| bytes.len() <= bytes_max)
}

#[cfg(test)]
mod fuzz;
