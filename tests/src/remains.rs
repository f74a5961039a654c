//! What a bed leaves in the system, and how it goes away again.
//!
//! A bed writes down what it is about to create before it creates it: `<temp>/bootlace-testbed/<id>/bed.json` names
//! the owner, the namespaces and the children. Four ways lead to the same [`clear`]: Drop, a signal, a panic that
//! aborts, and the sweep that the next bed does for owners that died without any of these.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, OnceLock, Weak};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::{sys, wait};

/// A killed process is gone within this time, or something is badly wrong with the host.
const DEATH_LIMIT: Duration = Duration::from_secs(10);
const RECORD: &str = "bed.json";

/// A process by pid and start time, so that a reused pid is never mistaken for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Process {
    pid: i32,
    started: u64,
    what: String,
}

impl Process {
    fn of(pid: i32, what: &str) -> Self {
        Self { pid, started: started(pid).unwrap_or(0), what: what.into() }
    }

    fn alive(&self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    owner: Process,
    namespaces: Vec<String>,
    children: Vec<Process>,
    #[serde(skip)]
    cleared: bool,
}

/// The record of one living bed.
#[derive(Debug)]
pub(crate) struct Remains {
    id: String,
    dir: PathBuf,
    record: Mutex<Record>,
}

impl Remains {
    /// Reserves an id and its folder and writes the record; `roles` become the namespaces `<id>-<role>`.
    pub(crate) fn reserve(roles: &[&str]) -> Result<Arc<Self>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pid = std::process::id().cast_signed();
        let id = format!("bl{pid}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = root().join(&id);
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let record = Record {
            owner: Process::of(pid, "harness"),
            namespaces: roles.iter().map(|role| format!("{id}-{role}")).collect(),
            children: Vec::new(),
            cleared: false,
        };
        write(&dir, &record)?;
        let remains = Arc::new(Self { id, dir, record: Mutex::new(record) });
        register(&remains);
        Ok(remains)
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts a child that the record knows. Fails once the bed is being taken down.
    pub(crate) fn spawn(&self, what: &str, command: Command) -> Result<Child> {
        let mut record = self.record.lock().expect("nobody panics while holding the record");
        if record.cleared {
            bail!("the bed is down, {what} is not started");
        }
        let program = command.get_program().to_owned();
        let child =
            sys::spawn(command).with_context(|| format!("cannot start {what} ({})", program.display()))?;
        record.children.retain(Process::alive);
        record.children.push(Process::of(child.id().cast_signed(), what));
        write(&self.dir, &record)?;
        Ok(child)
    }

    /// Ends every child, deletes the namespaces and the folder. Calling it again does nothing.
    pub(crate) fn clear(&self) {
        let mut record = self.record.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !std::mem::replace(&mut record.cleared, true) {
            clear(&self.dir, &record);
        }
    }
}

/// Takes down what beds of dead owners left; returns their ids.
pub(crate) fn sweep() -> Vec<String> {
    let Ok(entries) = fs::read_dir(root()) else { return Vec::new() };
    let mut swept = Vec::new();
    for entry in entries.flatten() {
        let id = entry.file_name().to_string_lossy().into_owned();
        let record = match fs::read(entry.path().join(RECORD)) {
            Ok(bytes) => serde_json::from_slice::<Record>(&bytes).ok(),
            Err(_) => None,
        };
        // Without a readable record the owner died (or lives) between creating the folder and writing it.
        let dead = match (&record, owner_by_id(&id)) {
            (Some(record), _) => !record.owner.alive(),
            (None, Some(pid)) => started(pid).is_none(),
            (None, None) => false,
        };
        if !dead {
            continue;
        }
        match record {
            Some(record) => clear(&entry.path(), &record),
            None => drop(fs::remove_dir_all(entry.path())),
        }
        swept.push(id);
    }
    swept
}

fn root() -> PathBuf {
    std::env::temp_dir().join("bootlace-testbed")
}

fn owner_by_id(id: &str) -> Option<i32> {
    id.strip_prefix("bl")?.split('-').next()?.parse().ok()
}

fn write(dir: &Path, record: &Record) -> Result<()> {
    let new = dir.join("bed.json.new");
    fs::write(&new, serde_json::to_vec_pretty(record)?)?;
    fs::rename(&new, dir.join(RECORD)).context("cannot write bed.json")
}

/// Start time of a process in clock ticks since boot (field 22 of stat); a zombie counts as gone.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18)?.parse().ok() }
}

fn clear(dir: &Path, record: &Record) {
    let us = std::process::id().cast_signed();
    let mut doomed: Vec<Process> = record.children.iter().filter(|child| child.alive()).cloned().collect();
    let known: BTreeSet<i32> = doomed.iter().map(|child| child.pid).chain([us]).collect();
    for namespace in &record.namespaces {
        // Grandchildren too; ourselves while a thread of ours still opens a socket in there.
        let strays = namespace_pids(namespace).into_iter().filter(|pid| !known.contains(pid));
        doomed.extend(strays.map(|pid| Process::of(pid, "stray")));
    }
    for process in &doomed {
        let _ = signal::kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
    for process in &doomed {
        let gone =
            wait::wait_until(DEATH_LIMIT, "a killed process to go", || (!process.alive()).then_some(()));
        if gone.is_err() {
            eprintln!("testbed: {} (pid {}) does not die", process.what, process.pid);
        }
    }
    for namespace in &record.namespaces {
        let _ = Command::new("ip").args(["netns", "del", namespace]).stderr(Stdio::null()).status();
    }
    match fs::remove_dir_all(dir) {
        // Another bed that starts at the same time may sweep the same remains.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            eprintln!("testbed: cannot remove {}: {error}", dir.display());
        }
        _ => {}
    }
    // The last one takes the common folder along; it stays when other beds live.
    let _ = fs::remove_dir(root());
}

fn namespace_pids(namespace: &str) -> Vec<i32> {
    let output = Command::new("ip").args(["netns", "pids", namespace]).stderr(Stdio::null()).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter_map(|line| line.trim().parse().ok()).collect()
}

fn registry() -> &'static Mutex<Vec<Weak<Remains>>> {
    static BEDS: OnceLock<Mutex<Vec<Weak<Remains>>>> = OnceLock::new();
    BEDS.get_or_init(Mutex::default)
}

fn clear_all() {
    let beds: Vec<_> = {
        let registry = registry().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        registry.iter().filter_map(Weak::upgrade).collect()
    };
    beds.iter().for_each(|bed| bed.clear());
}

fn register(remains: &Arc<Remains>) {
    static WATCH: Once = Once::new();
    let mut registry = registry().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    registry.retain(|bed| bed.strong_count() > 0);
    registry.push(Arc::downgrade(remains));
    drop(registry);
    WATCH.call_once(|| {
        watch_signals();
        if cfg!(panic = "abort") {
            let print = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                print(info);
                clear_all();
            }));
        }
    });
}

/// Ctrl-C, SIGTERM and SIGHUP take all beds down and end the program with 128 + signal.
fn watch_signals() {
    use tokio::signal::unix::{SignalKind, signal};
    let _in_runtime = runtime().enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        match signal(kind) {
            Ok(mut signals) => drop(runtime().spawn(async move {
                signals.recv().await;
                // A thread of its own: taking down blocks, and an exit must not wait for the runtime.
                std::thread::spawn(move || {
                    clear_all();
                    std::process::exit(128 + kind.as_raw_value());
                });
            })),
            Err(error) => eprintln!("testbed: no handler for signal {}: {error}", kind.as_raw_value()),
        }
    }
}

/// The runtime of the signal watch and of the power switches. It is never dropped.
pub(crate) fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("testbed")
            .enable_all()
            .build()
            .expect("a runtime can be built")
    })
}
