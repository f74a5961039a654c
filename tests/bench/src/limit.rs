//! Servers that do nothing: the limit of the machine that measures.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use crate::cost::{Cost, own_cpu};
use crate::report::{Report, Unit};

/// A head is read to its end or to so many bytes.
const HEAD_MAX: usize = 4096;
/// The bytes of one TFTP datagram of the usual block size with its header.
const DATAGRAM: usize = 1468 + 4;

/// Which limit.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Limit {
    /// Sends every datagram back: the least that an answer costs
    Echo {
        /// Where
        #[arg(long)]
        listen: SocketAddrV4,
    },
    /// Answers every connection with one file by sendfile, and closes
    Sendfile {
        /// Where
        #[arg(long)]
        listen: SocketAddrV4,
        /// Which
        #[arg(long)]
        file: PathBuf,
    },
    /// Sends datagrams in windows, each by one call, to nobody
    Windows {
        /// To whom
        #[arg(long)]
        to: SocketAddrV4,
        /// Datagrams by one call
        #[arg(long, default_value_t = 16)]
        window: usize,
        /// How long
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
    },
}

impl Limit {
    /// Serves for ever; only the last kind ends, with a report.
    ///
    /// # Errors
    /// When the sockets cannot be had.
    pub fn run(&self) -> Result<Report> {
        match self {
            Self::Echo { listen } => echo(*listen),
            Self::Sendfile { listen, file } => serve_file(*listen, file),
            Self::Windows { to, window, seconds } => windows(*to, *window, Duration::from_secs_f64(*seconds)),
        }
    }
}

fn echo(listen: SocketAddrV4) -> Result<Report> {
    let socket = UdpSocket::bind(listen).with_context(|| format!("cannot bind udp {listen}"))?;
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        // Who asked is gone, or its queue is full.
        let _ = socket.send_to(&buffer[..length], from);
    }
}

/// One thread and one loop: each connection has its turn for what its socket takes.
fn serve_file(listen: SocketAddrV4, path: &PathBuf) -> Result<Report> {
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot bind tcp {listen}"))?;
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let length = file.metadata()?.len();
    let mut downloads: Vec<(TcpStream, u64)> = Vec::new();
    loop {
        let mut waits = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        waits.extend(downloads.iter().map(|(stream, _)| PollFd::new(stream.as_fd(), PollFlags::POLLOUT)));
        poll(&mut waits, PollTimeout::NONE)?;
        let ready: Vec<bool> = waits.iter().map(|wait| wait.any().unwrap_or_default()).collect();
        let mut turns = ready[1..].iter();
        downloads.retain_mut(|(stream, sent)| {
            turns.next() != Some(&true)
                || send_some(stream, &file, sent, length).is_ok_and(|()| *sent < length)
        });
        if ready[0] {
            let (mut stream, _) = listener.accept()?;
            // Who says nothing, or breaks off, holds up a measurement and nobody else.
            if read_head(&mut stream).is_ok() {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                let _ = stream.write_all(head.as_bytes());
                stream.set_nonblocking(true)?;
                downloads.push((stream, 0));
            }
        }
    }
}

fn send_some(stream: &TcpStream, file: &File, sent: &mut u64, length: u64) -> nix::Result<()> {
    let mut at = i64::try_from(*sent).map_err(|_| Errno::EOVERFLOW)?;
    let rest = usize::try_from(length - *sent).map_err(|_| Errno::EOVERFLOW)?;
    match nix::sys::sendfile::sendfile(stream, file, Some(&mut at), rest) {
        Ok(bytes) => {
            *sent += bytes as u64;
            Ok(())
        }
        Err(Errno::EAGAIN) => Ok(()),
        Err(error) => Err(error),
    }
}

fn read_head(stream: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_MAX {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(())
}

fn windows(to: SocketAddrV4, window: usize, time: Duration) -> Result<Report> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    if window > 1 {
        let segment = i32::try_from(DATAGRAM)?;
        setsockopt(&socket.as_fd(), sockopt::UdpGsoSegment, &segment).context("no UDP_SEGMENT here")?;
    }
    let bytes = vec![0x5a; DATAGRAM * window];
    let (started, cpu_before) = (Instant::now(), own_cpu()?);
    let mut sent = 0_u64;
    while started.elapsed() < time {
        // Nobody listens there: the refusal comes back by ICMP.
        if socket.send_to(&bytes, to).is_ok() {
            sent += bytes.len() as u64;
        }
    }
    let mut report = Report::new("windows", 1, Unit::Bytes);
    (report.work, report.seconds) = (sent, started.elapsed().as_secs_f64());
    report.server = Some(Cost { cpu_s: own_cpu()? - cpu_before, ..Cost::default() });
    Ok(report)
}
