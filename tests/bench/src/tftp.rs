//! Load on TFTP: so many clients read a file at once, over a link that may lose and delay.
//!
//! Loss and delay are made here, in the client: each DATA and each ACK is dropped by chance, each packet that the
//! client sends is held back. (The kernels that this runs on have no netem.)

mod transfer;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netboot::tftp::{ClientError, Options, Wanted};
use tokio::net::UdpSocket;
use tokio::task::LocalSet;

pub(crate) use self::transfer::read;
use crate::cost::Server;
use crate::report::{Report, Unit};
use crate::stats::Phase;

/// No file of a load is larger.
const FILE_MAX: usize = 256 << 20;
const DATA: u8 = 3;
const ACK: u8 = 4;

/// What to read, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// The server
    #[arg(long)]
    pub server: SocketAddrV4,
    /// The file
    #[arg(long)]
    pub file: String,
    /// Block size to ask for; 0 asks for none
    #[arg(long, default_value_t = 1468)]
    pub blksize: u16,
    /// Window to ask for; 0 asks for none
    #[arg(long, default_value_t = 0)]
    pub windowsize: u16,
    /// The clients' first address [default: the host's]
    #[arg(long)]
    pub address: Option<Ipv4Addr>,
    /// How many addresses from there on the clients share
    #[arg(long, default_value_t = 1)]
    pub addresses: u32,
    /// Clients at once
    #[arg(long, default_value_t = 1)]
    pub clients: usize,
    /// How often each reads the file
    #[arg(long, default_value_t = 1)]
    pub repeat: usize,
    /// DATA and ACK packets lost, in percent
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// Datagrams of a window reach the client as one where the kernel can (UDP_GRO), as segments of TCP always do
    #[arg(long)]
    pub together: bool,
    /// How long the client's packets are held back, in microseconds
    #[arg(long, default_value_t = 0)]
    pub delay_us: u64,
    /// The client says its last word again after so many milliseconds [default: 250, doubling, as iPXE]
    #[arg(long)]
    pub client_timeout_ms: Option<u64>,
    /// Who has not ended by then has failed, in seconds
    #[arg(long, default_value_t = 60.0)]
    pub limit: f64,
    /// Begins the chances
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Load {
    fn options(&self) -> Options {
        Options {
            block_size: (self.blksize > 0).then_some(self.blksize),
            window_size: (self.windowsize > 0).then_some(self.windowsize),
            ..Options::default()
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// When the load itself does not work; a transfer that fails is part of the report.
    pub fn run(&self, server: &Server) -> Result<Report> {
        crate::http::runtime()?.block_on(LocalSet::new().run_until(self.transfers(server)))
    }

    async fn transfers(&self, server: &Server) -> Result<Report> {
        let mut report = Report::new("tftp", self.clients, Unit::Bytes);
        let mut micros = Vec::new();
        let delayed = (self.delay_us > 0).then(|| Delay::start(Duration::from_micros(self.delay_us)));
        let limit = Duration::from_secs_f64(self.limit);
        let (meter, started) = (server.meter(), Instant::now());
        let end = tokio::time::Instant::now() + limit;
        let clients: Vec<_> = (0..self.clients)
            .map(|number| {
                let link = Link {
                    chance: Chance::new(self.seed.wrapping_mul(0x9e37).wrapping_add(number as u64)),
                    loss: self.loss / 100.0,
                    delay: delayed.clone(),
                    timeout: self.client_timeout_ms.map(Duration::from_millis),
                    together: self.together,
                };
                let (load, began) = (self.clone(), started);
                let from =
                    self.address.map_or(Ipv4Addr::UNSPECIFIED, |first| nth(first, number, self.addresses));
                let client = async move { load.client(from, link, began).await };
                tokio::task::spawn_local(tokio::time::timeout_at(end, client))
            })
            .collect();
        for client in clients {
            match client.await.context("a client panicked")? {
                Ok(transfers) => {
                    for transfer in transfers {
                        match transfer {
                            Ok(transfer) => {
                                report.done += 1;
                                report.work += transfer.bytes;
                                report.repeats += transfer.repeats;
                                micros.push(u64::try_from(transfer.took.as_micros())?);
                            }
                            Err(error) => report.fail(error),
                        }
                    }
                }
                Err(_) => report.fail(format!("not done within {} s", self.limit)),
            }
        }
        report.seconds = started.elapsed().as_secs_f64();
        report.server = meter.stop();
        report.phases.push(Phase::of("transfer", micros));
        Ok(report)
    }

    async fn client(self, from: Ipv4Addr, mut link: Link, started: Instant) -> Vec<Result<Transfer>> {
        let mut transfers = Vec::new();
        for _ in 0..self.repeat {
            let wanted = Wanted {
                server: self.server,
                name: self.file.clone(),
                options: self.options(),
                max_bytes: FILE_MAX,
            };
            transfers.push(read(wanted, from, &mut link, started).await);
        }
        transfers
    }
}

/// The address of a client when several share some.
pub(crate) fn nth(first: Ipv4Addr, number: usize, addresses: u32) -> Ipv4Addr {
    let number = u32::try_from(number).unwrap_or_default() % addresses.max(1);
    Ipv4Addr::from(u32::from(first).wrapping_add(number))
}

/// One file that arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) bytes: u64,
    pub(crate) repeats: u64,
    pub(crate) took: Duration,
}

/// The link between a client and the wire.
pub(crate) struct Link {
    chance: Chance,
    loss: f64,
    delay: Option<Delay>,
    timeout: Option<Duration>,
    together: bool,
}

impl Link {
    /// Nothing is lost, nothing waits.
    pub(crate) fn clean() -> Self {
        Self { chance: Chance::new(1), loss: 0.0, delay: None, timeout: None, together: false }
    }

    /// The client says its last word again after so long; doubling from 250 ms when nothing is said.
    pub(crate) fn with_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// Datagrams of a window reach the client as one, as segments of TCP always do.
    pub(crate) fn together(mut self) -> Self {
        self.together = true;
        self
    }

    fn loses(&mut self, packet: &[u8]) -> bool {
        self.loss > 0.0 && matches!(packet, [0, DATA | ACK, ..]) && self.chance.next() < self.loss
    }

    /// `known`: the socket sends nowhere else.
    fn send(&mut self, socket: &Arc<UdpSocket>, bytes: Vec<u8>, to: SocketAddrV4, known: bool) {
        if self.loses(&bytes) {
            return;
        }
        // A full queue is loss, which the protocol is made for.
        match &self.delay {
            Some(delay) => delay.send(socket, bytes, to),
            None if known => drop(socket.try_send(&bytes)),
            None => drop(socket.try_send_to(&bytes, to.into())),
        }
    }
}

/// Asks for a file's size and ends the transfer as soon as it is told, as EDK2 does.
pub(crate) async fn ask_size(wanted: Wanted, from: Ipv4Addr, limit: Duration) -> Result<u64> {
    use netboot::tftp::{ErrorCode, Mode, Packet, Request};
    let socket = UdpSocket::bind((from, 0)).await.context("cannot bind a client's port")?;
    let request =
        Packet::Read(Request { name: &wanted.name, mode: Mode::Octet, options: wanted.options }).emit();
    let end = tokio::time::Instant::now() + limit;
    let mut wait = Duration::from_millis(250);
    let mut buffer = [0; 2048];
    loop {
        socket.send_to(&request, wanted.server).await?;
        let Ok(received) = tokio::time::timeout(wait, socket.recv_from(&mut buffer)).await else {
            if tokio::time::Instant::now() > end {
                bail!("no answer from the server");
            }
            wait *= 2;
            continue;
        };
        let (length, peer) = received?;
        match Packet::parse(&buffer[..length]) {
            Ok(Packet::OptionAck(options)) => {
                let end =
                    Packet::Error { code: ErrorCode::OptionRefused, message: "User aborted the transfer" };
                socket.send_to(&end.emit(), peer).await?;
                return options.transfer_size.context("the server does not tell sizes");
            }
            Ok(Packet::Error { code, message }) => bail!("server error {code}: {message}"),
            _ => bail!("the server knows no options"),
        }
    }
}

/// The reason without what differs from client to client.
fn words(error: &ClientError) -> String {
    error.to_string()
}

/// Numbers by chance, the same ones for the same seed (xorshift64*).
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to 1.
    #[allow(clippy::cast_precision_loss, reason = "53 bits are what a number of this kind has")]
    pub(crate) fn next(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

type Held = (Instant, Arc<UdpSocket>, Vec<u8>, SocketAddrV4);

/// Holds packets back for a fixed time, on a thread of its own: the runtime's timers are too coarse.
#[derive(Clone, Debug)]
pub(crate) struct Delay {
    time: Duration,
    queue: Rc<mpsc::Sender<Held>>,
}

impl Delay {
    fn start(time: Duration) -> Self {
        let (queue, held) = mpsc::channel::<Held>();
        // Ends when the last link is gone.
        thread::spawn(move || {
            for (due, socket, bytes, to) in held {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let _ = socket.try_send_to(&bytes, to.into());
            }
        });
        Self { time, queue: Rc::new(queue) }
    }

    fn send(&self, socket: &Arc<UdpSocket>, bytes: Vec<u8>, to: SocketAddrV4) {
        // The thread lives as long as this sender.
        let _ = self.queue.send((Instant::now() + self.time, Arc::clone(socket), bytes, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_even_and_the_same_for_a_seed() {
        let mut chance = Chance::new(7);
        let numbers: Vec<f64> = (0..10_000).map(|_| chance.next()).collect();
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
        let below = numbers.iter().filter(|number| **number < 0.01).count();
        assert!((50..200).contains(&below), "{below}");
        assert_eq!(Chance::new(7).next().to_bits(), numbers[0].to_bits());
    }

    #[test]
    fn only_data_and_acknowledgements_are_lost() {
        let mut link = Link { loss: 1.0, ..Link::clean() };
        assert!(link.loses(&[0, DATA, 0, 1]) && link.loses(&[0, ACK, 0, 1]));
        assert!(!link.loses(&[0, 1, b'a']) && !link.loses(&[0, 6]) && !link.loses(&[]));
    }
}
