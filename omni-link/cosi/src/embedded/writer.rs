//! The thread that writes: rules of the changes, group commit.

use std::thread::JoinHandle;

use prost_types::Timestamp;
use redb::{ReadableTable, Table};
use tokio::sync::{mpsc, oneshot};

use super::history::{Change, Publisher};
use super::store::{self, Key, NUMBERS, RESOURCES, REVISION, Store};
use super::{Clock, MAX_NAME_BYTES, MAX_RESOURCE_BYTES};
use crate::{EventType, Phase, Pointer, Resource, StateError, UpdateOptions, Version};

/// Writes that wait. More callers wait for a place.
const QUEUE: usize = 64;
/// Writes in one commit: bounds the memory of one, and how long the first waits for the last.
const GROUP: usize = 64;

/// One write.
#[derive(Debug)]
pub(super) enum Op {
    Create { resource: Resource, owner: String },
    Update { resource: Resource, options: UpdateOptions },
    Destroy { pointer: Pointer, owner: String },
    Teardown { pointer: Pointer, owner: String },
}

type Answer = Result<Resource, StateError>;

struct Request {
    op: Op,
    reply: oneshot::Sender<Answer>,
}

/// The way to the thread. Dropping it ends the thread, after what was asked is written.
#[derive(Debug)]
pub(super) struct Writer {
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn spawn(store: Store, publisher: Publisher, clock: Clock) -> std::io::Result<Self> {
        let (requests, inbox) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("cosi-writer".to_owned())
            .spawn(move || run(&store, &publisher, &clock, inbox))?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// The resource as stored (with destroy: as it was). A caller that gives up does not take it back.
    pub(super) async fn write(&self, op: Op) -> Answer {
        let stopped = || StateError::Unavailable("the store has stopped".to_owned());
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().ok_or_else(stopped)?;
        requests.send(Request { op, reply }).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of the store had panicked");
        }
    }
}

fn run(store: &Store, publisher: &Publisher, clock: &Clock, mut inbox: mpsc::Receiver<Request>) {
    while let Some(first) = inbox.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP
            && let Ok(next) = inbox.try_recv()
        {
            group.push(next);
        }
        let (ops, replies): (Vec<Op>, Vec<_>) =
            group.into_iter().map(|request| (request.op, request.reply)).unzip();
        let answers = match commit(store, clock, ops) {
            Ok(done) => {
                publisher.publish(done.before, done.changes);
                done.answers
            }
            Err(error) => {
                tracing::error!(%error, "the store cannot be written");
                let error = StateError::Unavailable(format!("the store cannot be written: {error}"));
                vec![Err(error); replies.len()]
            }
        };
        for (reply, answer) in replies.into_iter().zip(answers) {
            // The caller may have gone.
            let _ = reply.send(answer);
        }
    }
}

/// A group that is stored.
struct Done {
    answers: Vec<Answer>,
    /// The revision before the changes.
    before: u64,
    changes: Vec<Change>,
}

/// All or nothing: after an error none of the group is stored.
fn commit(store: &Store, clock: &Clock, ops: Vec<Op>) -> Result<Done, redb::Error> {
    let write = store.database().begin_write()?;
    let before;
    let mut answers = Vec::with_capacity(ops.len());
    let mut changes = Vec::new();
    {
        let mut resources = write.open_table(RESOURCES)?;
        for op in ops {
            let answer = decide(&resources, op, clock());
            if let Ok(Decision { change: Some(typ), resource, old }) = &answer {
                let bytes = store_change(&mut resources, *typ, resource)?;
                let (resource, old) = (resource.clone(), old.clone());
                changes.push(Change { typ: *typ, resource, old, bytes });
            }
            answers.push(answer.map(|decision| decision.resource));
        }
        let mut numbers = write.open_table(NUMBERS)?;
        before = numbers.get(REVISION)?.map_or(0, |revision| revision.value());
        if !changes.is_empty() {
            numbers.insert(REVISION, before + changes.len() as u64)?;
        }
    }
    if changes.is_empty() {
        write.abort()?;
    } else {
        write.commit()?;
    }
    Ok(Done { answers, before, changes })
}

/// Answers what the change weighs in the history, where most hold the resource twice.
fn store_change(
    resources: &mut Table<'_, Key, &'static [u8]>,
    typ: EventType,
    resource: &Resource,
) -> Result<usize, redb::StorageError> {
    let pointer = resource.pointer();
    let key = (pointer.namespace.as_str(), pointer.typ.as_str(), pointer.id.as_str());
    let encoded = store::encode(resource);
    if typ == EventType::Destroyed {
        resources.remove(key)?;
    } else {
        resources.insert(key, encoded.as_slice())?;
    }
    Ok(2 * encoded.len())
}

/// What a write comes to.
struct Decision {
    /// `Created`, `Updated` or `Destroyed`; `None` when the resource is as asked already.
    change: Option<EventType>,
    resource: Resource,
    /// What an update replaces.
    old: Option<Resource>,
}

fn decide(
    resources: &impl ReadableTable<Key, &'static [u8]>,
    op: Op,
    now: Timestamp,
) -> Result<Decision, StateError> {
    match op {
        Op::Create { resource, owner } => {
            let current = store::read(resources, &resource.pointer())?;
            create(current.as_ref(), resource, owner, now)
        }
        Op::Update { resource, options } => {
            let pointer = resource.pointer();
            let current = store::read(resources, &pointer)?.ok_or_else(|| store::not_found(&pointer))?;
            update(current, resource, &options, now)
        }
        Op::Destroy { pointer, owner } => {
            let current = store::read(resources, &pointer)?.ok_or_else(|| store::not_found(&pointer))?;
            destroy(current, &owner)
        }
        Op::Teardown { pointer, owner } => {
            let current = store::read(resources, &pointer)?.ok_or_else(|| store::not_found(&pointer))?;
            if current.is_tearing_down() {
                check_owner(&current, &owner)?;
                return Ok(Decision { change: None, resource: current, old: None });
            }
            let mut torn = current.clone();
            torn.metadata.phase = Phase::TearingDown;
            update(current, torn, &UpdateOptions { owner, expected_phase: None }, now)
        }
    }
}

fn create(
    current: Option<&Resource>,
    mut new: Resource,
    owner: String,
    now: Timestamp,
) -> Result<Decision, StateError> {
    let pointer = new.pointer();
    check_names(&pointer)?;
    if !new.metadata.owner.is_empty() && new.metadata.owner != owner {
        return Err(owned_by(&pointer, &new.metadata.owner));
    }
    if current.is_some() {
        return Err(StateError::AlreadyExists(format!("resource {pointer} already exists")));
    }
    // `updated` stays as it was sent, as with Omni.
    new.metadata.owner = owner;
    new.metadata.version = Version::Number(1);
    new.metadata.created = now;
    check_size(&new)?;
    Ok(Decision { change: Some(EventType::Created), resource: new, old: None })
}

/// The order of the checks is the peer's: owner, version, phase.
fn update(
    current: Resource,
    mut new: Resource,
    options: &UpdateOptions,
    now: Timestamp,
) -> Result<Decision, StateError> {
    check_owner(&current, &options.owner)?;
    let pointer = current.pointer();
    let (stored, brought) = (current.metadata.version, new.metadata.version);
    if stored != brought {
        let text = format!("resource {pointer} update conflict: it has version {stored}, not {brought}");
        return Err(StateError::VersionConflict(text));
    }
    let phase = current.metadata.phase;
    if let Some(expected) = options.expected_phase
        && expected != phase
    {
        let text = format!("resource {pointer} is in phase {phase}, not {expected}");
        return Err(StateError::PhaseConflict(text));
    }
    new.metadata.version = stored.next();
    new.metadata.owner.clone_from(&current.metadata.owner);
    new.metadata.created = current.metadata.created;
    new.metadata.updated = now;
    check_size(&new)?;
    Ok(Decision { change: Some(EventType::Updated), resource: new, old: Some(current) })
}

fn destroy(current: Resource, owner: &str) -> Result<Decision, StateError> {
    check_owner(&current, owner)?;
    if !current.metadata.finalizers.is_empty() {
        let held = current.metadata.finalizers.join(", ");
        let text = format!("resource {} has pending finalizers {held}", current.pointer());
        return Err(StateError::PendingFinalizers(text));
    }
    Ok(Decision { change: Some(EventType::Destroyed), resource: current, old: None })
}

fn check_owner(current: &Resource, owner: &str) -> Result<(), StateError> {
    if current.metadata.owner == owner {
        return Ok(());
    }
    Err(owned_by(&current.pointer(), &current.metadata.owner))
}

fn owned_by(pointer: &Pointer, owner: &str) -> StateError {
    StateError::OwnerConflict(format!("resource {pointer} is owned by {owner:?}"))
}

fn check_names(pointer: &Pointer) -> Result<(), StateError> {
    for (what, name) in [("namespace", &pointer.namespace), ("type", &pointer.typ), ("id", &pointer.id)] {
        // A zero byte would end a type in the order of keys.
        if name.is_empty() || name.len() > MAX_NAME_BYTES || name.contains('\0') {
            let text = format!("{what} must have 1 to {MAX_NAME_BYTES} bytes, none of them zero");
            return Err(StateError::InvalidArgument(text));
        }
    }
    Ok(())
}

fn check_size(resource: &Resource) -> Result<(), StateError> {
    let bytes = store::encode(resource).len();
    if bytes <= MAX_RESOURCE_BYTES {
        return Ok(());
    }
    let text = format!("resource {} has {bytes} bytes, more than {MAX_RESOURCE_BYTES}", resource.pointer());
    Err(StateError::InvalidArgument(text))
}
