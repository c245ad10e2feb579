//! Records what clients ask and are told, in the form that the checkers read.
//!
//! Invariants:
//! - An operation is begun before anything of it leaves the client and over after its answer is there.
//! - What is not provably refused is recorded as unknown.

use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message as _;
use quorate_proto::{etcd::mvccpb, v1};
use quorate_state::outcome::{ChangeKind, RevisionChanges};
use quorate_tests::checkers::history::{
    Answer, Change, ChangeLog, Compaction, Directory, Elected, ElectionFact, History, Hold, Input, Kv, Learned,
    LeaseFact, Operation, Outcome, RequestId, Watch,
};
use tokio::sync::Notify;
use tonic::{Code, Status};

use crate::candidates;
use crate::trace::Trace;
use crate::way::is_not_sent;

/// Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    pub trace: Trace,
    history: Arc<Mutex<History>>,
    /// Answers that no member may give, whatever goes wrong.
    faults: Arc<Mutex<Vec<String>>>,
    /// Told of each write that was answered.
    pub written: Arc<Notify>,
}

/// An operation under way.
pub struct Begun {
    client: u64,
    request: Option<RequestId>,
    invoked: u64,
    input: Input,
}

impl Recorder {
    pub fn new(trace: Trace) -> Self {
        Self { trace, history: Arc::default(), faults: Arc::default(), written: Arc::default() }
    }

    pub fn begin(&self, client: u64, request: Option<RequestId>, input: Input) -> Begun {
        Begun { client, request, invoked: self.trace.moment(), input }
    }

    pub fn end(&self, begun: Begun, outcome: Outcome) {
        let Begun { client, request, invoked, input } = begun;
        self.trace.note(format!("client {client}: {input:?} → {outcome:?}"));
        let completed = self.trace.moment();
        if matches!(&outcome, Outcome::Done { answer, .. } if answer.changed()) {
            self.written.notify_waiters();
        }
        self.history.lock().operations.push(Operation { client, request, invoked, completed, input, outcome });
    }

    pub fn lease(&self, lease: i64, invoked: u64, what: Learned) {
        self.trace.note(format!("lease {lease}: {what:?}"));
        let fact = LeaseFact { lease, invoked, completed: self.trace.moment(), what };
        self.history.lock().leases.push(fact);
    }

    /// From here on leases may have begun their time anew.
    pub fn leader(&self) {
        let moment = self.trace.moment();
        self.history.lock().leaders.push(moment);
    }

    pub fn watch(&self, watch: Watch) {
        self.trace.note(format!("watch {} was told {} things", watch.name, watch.told.len()));
        self.history.lock().watches.push(watch);
    }

    pub fn hold(&self, hold: Hold) {
        self.trace.note(format!("{hold:?}"));
        self.history.lock().holds.push(hold);
    }

    /// Something of the election, which is there as of now.
    pub fn election(&self, client: u64, invoked: u64, what: Elected) {
        self.trace.note(format!("client {client}: {what:?}"));
        let (election, completed) = (candidates::election().into(), self.trace.moment());
        self.with(|history| history.elections.push(ElectionFact { election, client, invoked, completed, what }));
    }

    pub fn directory(&self, directory: Directory) {
        self.trace.note(format!("{directory:?}"));
        self.history.lock().directories.push(directory);
    }

    /// Notes an answer that says that something is broken.
    pub fn look_at(&self, status: &Status) {
        if matches!(status.code(), Code::Internal | Code::DataLoss) {
            self.trace.note(format!("an answer that says that something is broken: {status}"));
            self.faults.lock().push(format!("a client was told {:?}: {}", status.code(), status.message()));
        }
    }

    /// Notes an answer that is wrong by itself.
    pub fn fault(&self, text: String) {
        self.trace.note(&text);
        self.faults.lock().push(text);
    }

    /// Somebody asks to compact.
    pub fn compacting(&self, revision: i64) {
        self.with(|history| history.compacted = history.compacted.max(revision));
    }

    /// That was answered.
    pub fn compacted(&self, revision: i64) {
        self.trace.note(format!("compacted to {revision}"));
        let completed = self.trace.moment();
        self.with(|history| history.compactions.push(Compaction { revision, completed }));
    }

    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().clone()
    }

    pub fn with(&self, change: impl FnOnce(&mut History)) {
        change(&mut self.history.lock());
    }

    pub fn history(&self) -> History {
        self.history.lock().clone()
    }
}

/// A client that gives up leaves its operations unknown.
pub fn outcome(recorder: &Recorder, answer: Result<(i64, Answer), Status>) -> Outcome {
    if let Err(status) = &answer {
        recorder.look_at(status);
    }
    match answer {
        Ok((revision, answer)) => Outcome::Done { revision, answer },
        Err(status) if is_refusal(&status) => Outcome::Refused(status.message().to_owned()),
        Err(status) => Outcome::Unknown(status.message().to_owned()),
    }
}

/// Whether it is said that nothing was done.
pub fn is_refusal(status: &Status) -> bool {
    if is_not_sent(status) {
        return true;
    }
    match detail(status) {
        Some(detail) => detail.happened == i32::from(v1::error_detail::Happened::No),
        // The other wire says it by its codes alone.
        None => matches!(
            status.code(),
            Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound | Code::OutOfRange | Code::AlreadyExists
        ),
    }
}

/// What the native wire says besides of what went wrong.
pub fn detail(status: &Status) -> Option<v1::ErrorDetail> {
    v1::ErrorDetail::decode(status.details()).ok().filter(|_| !status.details().is_empty())
}

pub fn kv(kv: v1::KeyValue) -> Kv {
    Kv {
        key: kv.key.to_vec().into(),
        value: kv.value.to_vec().into(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease_id,
    }
}

pub fn etcd_kv(kv: mvccpb::KeyValue) -> Kv {
    Kv {
        key: kv.key.to_vec().into(),
        value: kv.value.to_vec().into(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: kv.lease,
    }
}

/// All that the members applied.
pub fn log_of(revisions: &[RevisionChanges], end: i64) -> ChangeLog {
    let changes = revisions.iter().flat_map(|revision| {
        revision.changes.iter().map(|change| {
            let key = change.key.as_bytes().to_vec().into();
            match &change.kind {
                ChangeKind::Put { meta, value } => Change::Put(Kv {
                    key,
                    value: value.to_vec().into(),
                    create_revision: meta.create_revision.get(),
                    mod_revision: meta.mod_revision.get(),
                    version: meta.version,
                    lease: meta.lease.map_or(0, quorate_proto::LeaseId::get),
                }),
                ChangeKind::Delete { .. } => Change::Delete { key, revision: revision.revision.get() },
            }
        })
    });
    ChangeLog { from: 2, to: end, changes: changes.collect() }
}
