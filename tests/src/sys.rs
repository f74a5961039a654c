//! Children that cannot outlive us, and TAPs.
//!
//! Every process of a bed is started by one thread that lives as long as the program: the kernel sends the
//! parent-death signal when the *thread* that forked ends, so a child of a test thread would die with its test
//! function and a child of a finished thread would not be tied to anything.

#![allow(
    unsafe_code,
    reason = "pre_exec is the only way to set the parent-death signal before the program starts, an ioctl to make a TAP"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd;

/// `struct ifreq` as TUNSETIFF reads it: a name and flags.
#[repr(C)]
struct TapRequest {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

nix::ioctl_write_ptr_bad!(
    tun_set_interface,
    nix::request_code_write!(b'T', 202, size_of::<i32>()),
    TapRequest
);

/// Makes a TAP of plain frames in the namespace of the calling thread. It is gone when the file is closed.
pub(crate) fn open_tap(name: &str) -> io::Result<File> {
    const TAP: i16 = 0x0002;
    const PLAIN: i16 = 0x1000;
    let tap = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = TapRequest { name: [0; 16], flags: TAP | PLAIN, rest: [0; 22] };
    request.name[..15].iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    // SAFETY: `request` has the layout and size of an ifreq and outlives the call.
    unsafe { tun_set_interface(tap.as_raw_fd(), &raw const request) }?;
    Ok(tap)
}

type Birth = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts `command` so that it is killed when this program ends, however it ends.
pub(crate) fn spawn(mut command: Command) -> io::Result<Child> {
    static NURSERY: OnceLock<Mutex<mpsc::Sender<Birth>>> = OnceLock::new();
    tie_to_us(&mut command);
    let (answer, answered) = mpsc::channel();
    NURSERY
        .get_or_init(|| Mutex::new(nursery()))
        .lock()
        .expect("nobody panics while holding the nursery")
        .send((command, answer))
        .map_err(io::Error::other)?;
    answered.recv().map_err(io::Error::other)?
}

/// The thread that is the parent of all children; it ends with the program.
fn nursery() -> mpsc::Sender<Birth> {
    let (send, receive) = mpsc::channel::<Birth>();
    thread::Builder::new()
        .name("nursery".into())
        .spawn(move || {
            for (mut command, answer) in receive {
                // The asker waits for the answer; if it is gone nothing can own the child, which drops here.
                let _ = answer.send(command.spawn());
            }
        })
        .expect("a thread can be started");
    send
}

fn tie_to_us(command: &mut Command) {
    // Its own group: a Ctrl-C at the terminal reaches only us, and we take the bed down in order.
    command.process_group(0);
    let parent = unistd::getpid();
    let tie = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // We may have died between fork and prctl; then no signal will come any more.
        if unistd::getppid() == parent {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(Errno::ESRCH as i32))
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(tie);
    }
}
