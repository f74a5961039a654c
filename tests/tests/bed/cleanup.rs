//! Nothing is left behind, however a bed ends.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use testbed::{Bed, wait_until};

use crate::{SOON, discover, processes};

fn namespaces() -> String {
    let output = Command::new("ip").arg("netns").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

#[test]
fn two_beds_live_side_by_side_and_leave_nothing() {
    let (one, two) = (Bed::start().unwrap(), Bed::start().unwrap());
    assert_ne!(one.id(), two.id());
    discover(&one);
    discover(&two);
    let ids = [one.id().to_owned(), two.id().to_owned()];
    let dirs: [PathBuf; 2] = [one.dir().into(), two.dir().into()];
    let pids = [processes(&ids[0]), processes(&ids[1])];
    assert!(pids.iter().all(|pids| pids.len() == 1), "a dnsmasq each: {pids:?}");
    drop(one);
    discover(&two);
    drop(two);
    let left = namespaces();
    assert!(ids.iter().all(|id| !left.contains(id.as_str())), "{left}");
    assert!(dirs.iter().all(|dir| !dir.exists()));
    assert!(pids.iter().flatten().all(|&pid| !alive(pid)));
}

/// A harness in a process of its own, with one machine.
struct Harness {
    child: Child,
    about: serde_json::Value,
}

impl Harness {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bed"));
        let mut child = command.args(["--machine", "bios"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, about: serde_json::from_str(&line).unwrap() }
    }

    fn id(&self) -> &str {
        self.about["id"].as_str().unwrap()
    }

    fn dir(&self) -> &Path {
        Path::new(self.about["dir"].as_str().unwrap())
    }

    fn end_by(&mut self, signal: Signal) -> std::process::ExitStatus {
        signal::kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_harness_that_is_stopped_by_a_signal_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut harness = Harness::start();
        let pids = processes(harness.id());
        assert_eq!(pids.len(), 2, "dnsmasq and QEMU");
        assert_eq!(harness.end_by(signal).code(), Some(128 + signal as i32));
        assert!(!namespaces().contains(harness.id()));
        assert!(!harness.dir().exists());
        assert!(pids.iter().all(|&pid| !alive(pid)));
    }
}

#[test]
fn a_harness_that_is_killed_takes_its_children_along_and_the_next_bed_sweeps_the_rest() {
    let mut harness = Harness::start();
    let pids = processes(harness.id());
    assert_eq!(pids.len(), 2, "dnsmasq and QEMU");
    harness.end_by(Signal::SIGKILL);
    wait_until(SOON, "its children to die", || pids.iter().all(|&pid| !alive(pid)).then_some(())).unwrap();
    // A bed of another test may sweep first; what counts is that after any start nothing is left.
    let bed = Bed::start().unwrap();
    wait_until(SOON, "the sweep", || (!harness.dir().exists()).then_some(())).unwrap();
    assert!(!namespaces().contains(harness.id()));
    drop(bed);
}

#[test]
fn a_panic_in_a_test_takes_the_bed_down() {
    let id = std::thread::spawn(|| {
        let bed = Bed::start().unwrap();
        let id = bed.id().to_owned();
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _bed = bed;
            panic!("a test fails (on purpose)");
        }));
        assert!(panic.is_err());
        id
    })
    .join()
    .unwrap();
    assert!(!namespaces().contains(&id));
}
