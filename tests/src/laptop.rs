//! A person's computer: a shell on its serial line, disks, and a stick that can be pulled out with the power.

use std::io::{Read, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::bed::{Bed, tail};
use crate::kernel::Kernel;
use crate::wait::Watched;

/// Enough for a kernel with all drivers and a cache of a stick.
const MEMORY_MIB: u32 = 512;
/// What the shell says before a command's status, which no echo has.
const STATUS: &str = "\nstatus=";

/// A running computer. Dropping it pulls the plug.
#[derive(Debug)]
pub struct Laptop {
    qemu: Child,
    keyboard: ChildStdin,
    screen: Arc<Watched<String>>,
    /// What was read of the screen already, in bytes.
    seen: usize,
}

impl Laptop {
    /// Powers it on, straight into its kernel, and returns when the shell of its initramfs asks for a command. Disks
    /// are `/dev/vda` and so on, the stick is `/dev/sda`.
    ///
    /// # Errors
    /// QEMU does not start, or there is no shell in time.
    pub fn start(
        bed: &Bed,
        kernel: &Kernel,
        initramfs: &Path,
        disks: &[&Path],
        stick: &Path,
        limit: Duration,
    ) -> Result<Self> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-m", &MEMORY_MIB.to_string()]);
        command.args(["-nodefaults", "-no-user-config", "-nographic", "-serial", "stdio", "-no-reboot"]);
        command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
        command.args(["-append", "console=ttyS0 loglevel=4 panic=-1 rdinit=/bin/busybox -- sh /etc/rc"]);
        for (number, disk) in disks.iter().enumerate() {
            let options = format!("if=none,id=disk{number},format=raw,cache=unsafe,snapshot=on");
            command.args(["-drive", &format!("{options},file={}", disk.display())]);
            command.args(["-device", &format!("virtio-blk-pci,drive=disk{number}")]);
        }
        // What was flushed is on the stick when QEMU is killed, and the rest may not be.
        let options = "if=none,id=stick,format=raw,cache=writethrough";
        command.args(["-drive", &format!("{options},file={}", stick.display())]);
        command.args(["-device", "qemu-xhci", "-device", "usb-storage,drive=stick,removable=on"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut qemu = bed.remains().spawn("qemu laptop", command)?;
        let keyboard = qemu.stdin.take().context("stdin is piped")?;
        let output = qemu.stdout.take().context("stdout is piped")?;
        let screen = Arc::new(Watched::<String>::default());
        let shown = Arc::clone(&screen);
        thread::Builder::new().name("laptop".to_owned()).spawn(move || follow(output, &shown))?;
        let mut laptop = Self { qemu, keyboard, screen, seen: 0 };
        laptop.wait(limit, "laptop: ready")?;
        Ok(laptop)
    }

    /// Types a line.
    ///
    /// # Errors
    /// QEMU is gone.
    pub fn type_line(&mut self, text: &str) -> Result<()> {
        self.keyboard.write_all(format!("{text}\n").as_bytes()).context("the laptop is off")?;
        Ok(self.keyboard.flush()?)
    }

    /// Waits for a text on the screen, and returns what was shown from the last one to its end.
    ///
    /// # Errors
    /// It does not come in time.
    pub fn wait(&mut self, limit: Duration, text: &str) -> Result<String> {
        let seen = self.seen;
        let found = self.screen.wait(limit, &format!("{text:?} on the laptop"), |screen| {
            let at = screen[seen..].find(text)?;
            let end = seen + at + text.len();
            Some((screen[seen..end].to_owned(), end))
        });
        let (shown, end) = found.with_context(|| format!("it shows:\n{}", tail(&self.screen.lock(), 25)))?;
        self.seen = end;
        Ok(shown)
    }

    /// Types a command and waits for its end: what it said, and its status.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn run(&mut self, limit: Duration, command: &str) -> Result<(String, i32)> {
        self.type_line(&format!("{command}; s=$?; echo; echo status=$s."))?;
        self.ended(limit)
    }

    /// Waits for the end of what was typed as [`Self::run`] does it.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn ended(&mut self, limit: Duration) -> Result<(String, i32)> {
        let said = self.wait(limit, STATUS)?;
        let status = self.wait(limit, ".\n")?;
        let status = status.trim_end_matches(".\n").parse().context("a status is a number")?;
        Ok((said.trim_end_matches(STATUS).to_owned(), status))
    }

    /// As [`Self::run`], and it must end well.
    ///
    /// # Errors
    /// It does not.
    pub fn run_ok(&mut self, limit: Duration, command: &str) -> Result<String> {
        let (said, status) = self.run(limit, command)?;
        ensure!(status == 0, "{command}: status {status}:\n{said}");
        Ok(said)
    }

    /// Pulls the plug, by SIGKILL to QEMU.
    pub fn power_off(self) {}
}

impl Drop for Laptop {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Puts what is shown into one text, without carriage returns.
fn follow(mut output: ChildStdout, screen: &Watched<String>) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = output.read(&mut bytes) {
        let text = String::from_utf8_lossy(&bytes[..count]).replace('\r', "");
        screen.change(|screen| screen.push_str(&text));
    }
}
