//! A switch with a trunk: kernels of test beds may have no 802.1Q, so tags are put on and taken off here.
//!
//! ```text
//!   appliance's namespace            here (a thread)            switch's namespace
//!   eth0 (a TAP) ──── tagged ────┬── VLAN 10 ── untagged ── vlan10 (a TAP) in br0
//!                                └── VLAN 20 ── untagged ── vlan20 (a TAP) in br20
//! ```
//!
//! The TAPs carry plain frames: whatever the appliance leaves to its card (checksums, long segments) the kernel has
//! done before a frame is read here, tag or not.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::net::{Net, Role};
use crate::sys::open_tap;

/// A frame with a tag; nothing here sends longer ones.
const LONGEST: usize = 2048;
const ADDRESSES: usize = 12;

/// The switch. Drop unplugs it.
#[derive(Debug)]
pub struct Trunk {
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    untagged: Arc<AtomicU64>,
}

/// A VLAN and the bridge of the switch's namespace that is its network.
#[derive(Debug, Clone, Copy)]
pub struct TrunkVlan<'a> {
    /// Its number.
    pub id: u16,
    /// The bridge; made when it is not there.
    pub bridge: &'a str,
}

struct Port {
    vlan: u16,
    tap: File,
}

impl Trunk {
    /// Replaces the appliance's interface by the trunk: `eth0` has no address then.
    pub fn start(net: &Net, vlans: &[TrunkVlan<'_>]) -> Result<Self> {
        net.ip(Role::Appliance, "link del eth0")?;
        let trunk = net.inside(Role::Appliance, || Ok(open_tap("eth0")?)).context("no TAP for the trunk")?;
        net.ip(Role::Appliance, "link set eth0 up")?;
        Self::with(trunk, net, vlans)
    }

    /// Machines that tag their frames reach the VLANs; the bridge between is transparent.
    pub fn for_machines(net: &Net, vlans: &[TrunkVlan<'_>]) -> Result<Self> {
        let trunk = net.inside(Role::Switch, || Ok(open_tap("trunk")?)).context("no TAP for the trunk")?;
        net.ip(Role::Switch, "link set trunk master br0 up")?;
        Self::with(trunk, net, vlans)
    }

    fn with(trunk: File, net: &Net, vlans: &[TrunkVlan<'_>]) -> Result<Self> {
        let mut ports = Vec::new();
        for vlan in vlans {
            let name = format!("vlan{}", vlan.id);
            let tap = net.inside(Role::Switch, || Ok(open_tap(&name)?)).context("no TAP for a VLAN")?;
            let bridge = vlan.bridge;
            if net.ip(Role::Switch, &format!("link show {bridge}")).is_err() {
                let kind = "type bridge forward_delay 0 stp_state 0 mcast_snooping 0";
                net.ip(Role::Switch, &format!("link add {bridge} {kind}"))?;
                net.ip(Role::Switch, &format!("link set {bridge} up"))?;
            }
            net.ip(Role::Switch, &format!("link set {name} master {bridge} up"))?;
            ports.push(Port { vlan: vlan.id, tap });
        }
        let (stop, stopped) = UnixStream::pair()?;
        let untagged = Arc::new(AtomicU64::new(0));
        let counter = untagged.clone();
        let thread = thread::Builder::new()
            .name("trunk".into())
            .spawn(move || forward(&trunk, &ports, &stopped, &counter))?;
        Ok(Self { stop: Some(stop), thread: Some(thread), untagged })
    }

    /// IPv4 and ARP frames that came from the other side and had no tag: they belong to no VLAN and went nowhere. (Its kernel
    /// looks for IPv6 routers on every interface.)
    #[must_use]
    pub fn untagged(&self) -> u64 {
        self.untagged.load(Ordering::Relaxed)
    }
}

impl Drop for Trunk {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Until the other end of `stopped` is closed, or the TAPs are gone.
fn forward(trunk: &File, ports: &[Port], stopped: &UnixStream, untagged: &AtomicU64) {
    let mut buffer = [0; LONGEST];
    loop {
        let wait = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut waits: Vec<_> = ports.iter().map(|port| wait(port.tap.as_fd())).collect();
        waits.extend([wait(trunk.as_fd()), wait(stopped.as_fd())]);
        if poll(&mut waits, PollTimeout::NONE).is_err() {
            return;
        }
        let ready: Vec<bool> = waits.iter().map(|wait| wait.any().unwrap_or(true)).collect();
        if ready.last() == Some(&true) {
            return;
        }
        for (port, _) in ports.iter().zip(&ready).filter(|(_, ready)| **ready) {
            // A frame that finds no room is lost, as on any switch.
            let Ok(length) = (&port.tap).read(&mut buffer) else { return };
            let _ = (&*trunk).write(&tagged(&buffer[..length], port.vlan));
        }
        if ready[ports.len()] {
            let Ok(length) = (&*trunk).read(&mut buffer) else { return };
            match split(&buffer[..length]) {
                Some((vlan, frame)) => {
                    let port = ports.iter().find(|port| port.vlan == vlan);
                    let _ = port.map(|port| (&port.tap).write(&frame));
                }
                None => {
                    let ours = matches!(buffer[ADDRESSES..ADDRESSES + 2], [8, 0 | 6]);
                    untagged.fetch_add(u64::from(ours), Ordering::Relaxed);
                }
            }
        }
    }
}

/// The frame with the tag of a VLAN.
fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(frame.len().min(ADDRESSES));
    [addresses, &[0x81, 0], &vlan.to_be_bytes(), rest].concat()
}

/// The VLAN of a tagged frame, and the frame without its tag.
fn split(frame: &[u8]) -> Option<(u16, Vec<u8>)> {
    let [kind @ .., high, low] = frame.get(ADDRESSES..ADDRESSES + 4)? else { return None };
    let vlan = u16::from_be_bytes([*high & 0x0f, *low]);
    (kind == [0x81, 0] && vlan != 0).then(|| (vlan, [&frame[..ADDRESSES], &frame[ADDRESSES + 4..]].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_that_was_put_on_comes_off() {
        let frame: Vec<u8> = (0..60).collect();
        let with = tagged(&frame, 20);
        assert_eq!(with.len(), 64);
        assert_eq!(split(&with), Some((20, frame.clone())));
        assert_eq!(split(&frame), None);
        assert_eq!(split(&frame[..13]), None);
        assert_eq!(split(&tagged(&frame, 0)), None, "a priority tag is of no VLAN");
    }
}
