//! Load on port 67 or 4011: a closed loop with so many questions open, or a fixed rate.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeSpec;

use crate::cost::Server;
use crate::firmware::{Firmware, Identity, Template, proxy_request};
use crate::report::{Report, Unit};
use crate::stats::Phase;

/// After so long a question counts as lost. Queues here are never longer than tens of milliseconds.
const LOST: Duration = Duration::from_secs(1);
/// How long the last answers are waited for.
const DRAIN: Duration = Duration::from_millis(300);
/// Answers that wait to be read: more than any load has open.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Answers read before it is time to send again.
const BATCH: usize = 32;

/// What to ask, and how fast.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// The server's address; port 67 is asked by broadcast
    #[arg(long)]
    pub server: Ipv4Addr,
    /// The client's own address
    #[arg(long)]
    pub address: Ipv4Addr,
    /// The client's interface
    #[arg(long)]
    pub interface: Option<String>,
    /// 67 or 4011
    #[arg(long, default_value_t = 67)]
    pub port: u16,
    /// The client's port
    #[arg(long, default_value_t = 68)]
    pub from_port: u16,
    /// Whose packets
    #[arg(long, value_enum, default_value = "ovmf")]
    pub firmware: Firmware,
    /// Open questions at a time
    #[arg(long, default_value_t = 64)]
    pub window: usize,
    /// Questions a second, whatever comes back [default: as fast as answers come]
    #[arg(long)]
    pub rate: Option<u32>,
    /// How long
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Machines that take turns
    #[arg(long, default_value_t = 5000)]
    pub machines: u32,
    /// Tells the machines of this run from those of others
    #[arg(long, default_value_t = 1)]
    pub run: u16,
}

/// Opens the client's socket.
pub(crate) fn client_socket(port: u16, interface: Option<&str>) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
        .with_context(|| format!("cannot bind the client's port {port}"))?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    if let Some(interface) = interface {
        setsockopt(&socket.as_fd(), sockopt::BindToDevice, &interface.into())
            .with_context(|| format!("cannot use the interface {interface}"))?;
    }
    // The forced size needs a privilege; without it the usual one has to do.
    let _ = setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &RECEIVE_BUFFER);
    Ok(socket)
}

struct Asking {
    socket: UdpSocket,
    to: SocketAddrV4,
    template: Template,
    machines: u32,
    run: u16,
    next: u32,
    open: HashMap<u32, Instant>,
    micros: Vec<u64>,
    lost: u64,
    strange: u64,
}

impl Load {
    /// Runs it.
    ///
    /// # Errors
    /// When the socket cannot be had or used.
    pub fn run(&self, server: &Server) -> Result<Report> {
        let first = Identity::new(self.run, 0);
        let mut message = self.firmware.discover();
        first.sign(&mut message, 0);
        if self.port == 4011 {
            message = proxy_request(message, self.address);
        }
        let to =
            if self.port == 4011 || self.interface.is_none() { self.server } else { Ipv4Addr::BROADCAST };
        let mut asking = Asking {
            socket: client_socket(self.from_port, self.interface.as_deref())?,
            to: SocketAddrV4::new(to, self.port),
            template: Template::new(&message, first),
            machines: self.machines.max(1),
            run: self.run,
            next: 0,
            open: HashMap::new(),
            micros: Vec::new(),
            lost: 0,
            strange: 0,
        };
        let meter = server.meter();
        let started = Instant::now();
        let end = started + Duration::from_secs_f64(self.seconds);
        match self.rate {
            Some(rate) => asking.fixed_rate(started, end, f64::from(rate.max(1)))?,
            None => asking.closed_loop(end, self.window.max(1))?,
        }
        let seconds = started.elapsed().as_secs_f64();
        asking.drain()?;
        let cost = meter.stop();
        let mut report = Report::new(&format!("dhcp {}", self.port), self.window, Unit::Offers);
        report.server = cost;
        report.done = asking.micros.len() as u64;
        report.work = report.done;
        report.seconds = seconds;
        if asking.lost > 0 {
            report.failed.insert("no answer".into(), asking.lost);
        }
        if asking.strange > 0 {
            report.failed.insert("an answer nobody asked for, or a second one".into(), asking.strange);
        }
        report.phases.push(Phase::of("offer", asking.micros));
        Ok(report)
    }
}

impl Asking {
    fn closed_loop(&mut self, end: Instant, window: usize) -> Result<()> {
        while Instant::now() < end {
            while self.open.len() < window && self.send()? {}
            if !self.wait(LOST)? {
                self.give_up(Duration::ZERO);
            }
            self.receive()?;
        }
        Ok(())
    }

    fn fixed_rate(&mut self, started: Instant, end: Instant, rate: f64) -> Result<()> {
        let mut due = started;
        while due < end {
            let now = Instant::now();
            if now >= due {
                self.send()?;
                due = started + Duration::from_secs_f64(f64::from(self.next) / rate);
            } else {
                self.wait(due - now)?;
            }
            self.receive()?;
        }
        Ok(())
    }

    /// The answers that are still on their way; the rest is lost.
    fn drain(&mut self) -> Result<()> {
        let end = Instant::now() + DRAIN;
        while !self.open.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.wait(left)? {
                break;
            }
            self.receive()?;
        }
        self.give_up(Duration::ZERO);
        Ok(())
    }

    fn give_up(&mut self, older: Duration) {
        let before = self.open.len();
        self.open.retain(|_, asked| asked.elapsed() < older);
        self.lost += (before - self.open.len()) as u64;
    }

    fn send(&mut self) -> Result<bool> {
        let identity = Identity::new(self.run, self.next % self.machines);
        let xid = self.next.wrapping_add(u32::from(self.run) << 24);
        match self.socket.send_to(self.template.packet(identity, xid), self.to) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // Told by ICMP of an earlier packet: the server is not there yet, or no more.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).context("cannot send"),
        }
        self.open.insert(xid, Instant::now());
        self.next = self.next.wrapping_add(1);
        Ok(true)
    }

    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; 2048];
        for _ in 0..BATCH {
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    let xid = buffer[..length].get(4..8).and_then(|bytes| bytes.first_chunk::<4>());
                    match xid.and_then(|bytes| self.open.remove(&u32::from_be_bytes(*bytes))) {
                        Some(asked) => {
                            self.micros.push(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX));
                        }
                        None => self.strange += 1,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
        Ok(())
    }

    fn wait(&self, at_most: Duration) -> Result<bool> {
        let mut poll = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        Ok(ppoll(&mut poll, Some(TimeSpec::from_duration(at_most)), None)? > 0)
    }
}

/// How long an unanswered question waits before it is asked again: the resolution of [`until_first_offer`].
const ASK_AGAIN: Duration = Duration::from_micros(200);

/// One question, repeated until it is answered: how long that took.
///
/// # Errors
/// When nothing answers within `limit`, or the socket cannot be used.
pub fn until_first_offer(load: &Load, started: Instant, limit: Duration) -> Result<Duration> {
    let identity = Identity::new(load.run, 0);
    let mut message = load.firmware.discover();
    identity.sign(&mut message, 1);
    let bytes = message.emit();
    let socket = client_socket(load.from_port, load.interface.as_deref())?;
    let to = if load.interface.is_none() { load.server } else { Ipv4Addr::BROADCAST };
    let mut buffer = [0; 2048];
    while started.elapsed() < limit {
        // A refusal is told by ICMP while nobody listens yet.
        let _ = socket.send_to(&bytes, (to, load.port));
        let mut poll = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        ppoll(&mut poll, Some(TimeSpec::from_duration(ASK_AGAIN)), None)?;
        if socket.recv(&mut buffer).is_ok_and(|length| length > 240 && buffer[0] == 2) {
            return Ok(started.elapsed());
        }
    }
    anyhow::bail!("no offer within {limit:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(port: u16, server_port: u16) -> Load {
        Load {
            server: Ipv4Addr::LOCALHOST,
            address: Ipv4Addr::LOCALHOST,
            interface: None,
            port: server_port,
            from_port: port,
            firmware: Firmware::Ovmf,
            window: 4,
            rate: None,
            seconds: 0.05,
            machines: 10,
            run: 3,
        }
    }

    /// Answers every question but each `drop`th by sending it back.
    fn echo(drop: u32) -> u16 {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            let mut seen = 0;
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                seen += 1;
                if seen % drop != 0 {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            }
        });
        port
    }

    #[test]
    fn answers_are_matched_and_silence_is_counted() {
        let report = load(0, echo(10)).run(&Server::default()).unwrap();
        assert!(report.done > 10, "{report:?}");
        let lost = report.failed.get("no answer").copied().unwrap_or_default();
        assert!(lost > 0 && lost <= report.done, "{report:?}");
    }

    #[test]
    fn a_fixed_rate_sends_as_many_as_it_says() {
        let load = Load { rate: Some(2000), ..load(0, echo(u32::MAX)) };
        let report = load.run(&Server::default()).unwrap();
        let asked = report.done + report.failures();
        assert_eq!(asked, 100, "{report:?}");
    }
}
