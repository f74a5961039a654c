//! A server's thread with a network namespace of its own, joined to the test's by a pair of interfaces: `srv` there,
//! `cli` here. Both namespaces, and the interfaces in them, end with their threads.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{geteuid, gettid};
use tokio_util::sync::CancellationToken;

/// Of `cli`, whose address is 192.0.2.2/24.
pub(crate) const CLIENT_MAC: [u8; 6] = [0x52, 0x54, 0, 0x88, 0, 1];

/// Runs a command of one-word arguments, which has to succeed.
pub(crate) fn run(program: &str, arguments: &str) {
    let status = Command::new(program).args(arguments.split(' ')).status().expect("it is there");
    assert!(status.success(), "{program} {arguments}");
}

/// Moves the test into a namespace of its own. Where there is none to be had it says so, and the test passes.
pub(crate) fn enter() -> bool {
    if !geteuid().is_root() {
        println!("not run: only root may make network namespaces and open packet sockets");
        return false;
    }
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("not run: no network namespace can be had here: {error}");
        return false;
    }
    true
}

/// A server that runs.
pub(crate) struct Server<T> {
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
    /// What it told the test when it listened.
    pub(crate) told: T,
}

impl<T: Send + 'static> Server<T> {
    /// Runs `serve` in the other namespace, where `srv` is down and has no address, and returns when it listens:
    /// it says so by sending what the test needs of it.
    pub(crate) fn start(serve: impl FnOnce(&Sender<T>, CancellationToken) + Send + 'static) -> Self {
        let shutdown = CancellationToken::new();
        let (namespace_sender, namespace) = channel();
        let (linked_sender, linked) = channel();
        let (listens, told) = channel();
        let thread = {
            let shutdown = shutdown.clone();
            std::thread::spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).expect("root may have a namespace");
                namespace_sender.send(gettid()).expect("the test waits");
                linked.recv().expect("the test links the namespaces");
                serve(&listens, shutdown);
            })
        };
        let namespace = namespace.recv().expect("the server has its namespace");
        run("ip", "link add srv type veth peer name cli");
        run("ip", &format!("link set srv netns {namespace}"));
        run("ip", "link set cli address 52:54:00:88:00:01");
        run("ip", "address add 192.0.2.2/24 dev cli");
        run("ip", "link set cli up");
        linked_sender.send(()).expect("the server waits");
        let told = told.recv().expect("the server listens");
        Self { shutdown, thread: Some(thread), told }
    }
}

impl<T> Drop for Server<T> {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.expect("it was started").expect("the server ends well");
        }
    }
}
