//! Namespaces in pairs, and the files that all servers serve.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::http::write_pattern;

/// Server and client of every pair.
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Where the addresses of a storm's machines begin, and how many there are. The kernel's table of neighbours has
/// 1,024 places, of which it leaves half alone.
pub(super) const MACHINES: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
pub(super) const ADDRESSES: u8 = 200;
pub(super) const INTERFACE: &str = "eth0";

const PREFIX: &str = "blb";

/// A server's namespace and a client's, with a wire between them.
#[derive(Debug)]
pub(super) struct Bed {
    id: String,
}

impl Bed {
    pub(super) fn new(word: &str) -> Result<Self> {
        let bed = Self { id: format!("{PREFIX}{}-{word}", std::process::id()) };
        let (server, client) = (bed.server(), bed.client());
        for name in [&server, &client] {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        ip(&[
            "link", "add", INTERFACE, "netns", &server, "type", "veth", "peer", "name", INTERFACE, "netns",
            &client,
        ])?;
        for (name, address) in [(&server, SERVER), (&client, CLIENT)] {
            ip(&["-n", name, "addr", "add", &format!("{address}/16"), "dev", INTERFACE])?;
            ip(&["-n", name, "link", "set", INTERFACE, "up"])?;
        }
        Ok(bed)
    }

    /// Leaves the server's kernel without an address.
    pub(super) fn take_address(&self) -> Result<()> {
        ip(&["-n", &self.server(), "addr", "flush", "dev", INTERFACE])
    }

    /// Gives the client the addresses of a storm's machines.
    pub(super) fn add_machines(&self) -> Result<()> {
        let lines: String = (0..u32::from(ADDRESSES))
            .map(|number| Ipv4Addr::from(u32::from(MACHINES) + number))
            .map(|address| format!("addr add {address}/16 dev {INTERFACE}\n"))
            .collect();
        feed(inside(&self.client(), None, "ip").args(["-batch", "-"]), &lines)
    }

    /// Drops so many of a thousand packets that come to the client from a port. Packets are single ones then: a
    /// super frame would be lost as a whole.
    pub(super) fn lose(&self, port: u16, of_a_thousand: u16) -> Result<()> {
        for name in [self.server(), self.client()] {
            ip(&["-n", &name, "link", "set", INTERFACE, "gso_max_segs", "1", "gso_max_size", "1600"])?;
        }
        let rules = format!(
            "flush ruleset\ntable ip loss {{ chain in {{ type filter hook input priority 0; \
             tcp sport {port} numgen random mod 1000 < {of_a_thousand} drop; }}; }}\n"
        );
        feed(inside(&self.client(), None, "nft").args(["-f", "-"]), &rules).context("nft (package nftables)")
    }

    pub(super) fn server(&self) -> String {
        format!("{}s", self.id)
    }

    pub(super) fn client(&self) -> String {
        format!("{}c", self.id)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for name in [self.server(), self.client()] {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// A command that will run in a namespace, on one processor, and that does not outlive us. It becomes the program:
/// its process id is the program's.
pub(super) fn inside(
    namespace: &str,
    processor: Option<u8>,
    program: impl AsRef<std::ffi::OsStr>,
) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "nsenter"]).arg(format!("--net=/run/netns/{namespace}"));
    if let Some(processor) = processor {
        command.args(["taskset", "-c", &processor.to_string()]);
    }
    command.arg(program);
    command
}

/// Removes what runs left behind that were killed.
pub(super) fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')?.0.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

/// Runs a command on a text.
fn feed(command: &mut Command, text: &str) -> Result<()> {
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("there is no way in")?, text.as_bytes())?;
    if !child.wait()?.success() {
        bail!("it refuses {text:?}");
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("cannot run ip (package iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// What is served: the same bytes by every server.
#[derive(Debug)]
pub(super) struct Files {
    folder: TempDir,
}

/// The loader of a TFTP measurement, and the large one.
pub(super) const SMALL: &str = "undionly.kpxe";
pub(super) const LOADER: &str = "snp.efi";
pub(super) const LARGE: &str = "ipxe.efi";
/// The body of an HTTP measurement.
pub(super) const BODY: &str = "body.img";
pub(super) const KERNEL: &str = "kernel-amd64";
pub(super) const INITRAMFS: &str = "initramfs-metal-amd64.xz";

impl Files {
    pub(super) fn make() -> Result<Self> {
        let files = Self { folder: TempDir::with_prefix("bootlace-bench-")? };
        fs::create_dir(files.boot())?;
        fs::create_dir(files.web())?;
        fs::create_dir(files.assets())?;
        for (name, bytes) in [(SMALL, 256 << 10), ("snponly.efi", 1 << 20), (LARGE, 16 << 20)] {
            write_pattern(&files.boot().join(name), bytes)?;
        }
        // Debian's name and the one that is served.
        fs::copy(files.boot().join("snponly.efi"), files.boot().join(LOADER))?;
        fs::copy(files.boot().join(LOADER), files.web().join(LOADER))?;
        for (name, bytes) in [(BODY, 97_000_000), (KERNEL, 8_000_000), (INITRAMFS, 12_000_000)] {
            write_pattern(&files.assets().join(name), bytes)?;
        }
        Ok(files)
    }

    /// Served by TFTP.
    pub(super) fn boot(&self) -> PathBuf {
        self.folder.path().join("boot")
    }

    /// The root of a plain web server.
    pub(super) fn web(&self) -> PathBuf {
        self.folder.path().join("web")
    }

    /// Served by HTTP under `/assets`.
    pub(super) fn assets(&self) -> PathBuf {
        self.web().join("assets")
    }

    /// A folder for a server's own.
    pub(super) fn own(&self, word: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(word);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}
