//! A TCP proxy that misbehaves on order.
//!
//! ```text
//! client --> FaultProxy --> target        orders: delay, loss, stall, reset, cut, retarget, heal
//! ```
//!
//! Orders count for connections that are open as well as for those to come. Bytes that are let through arrive in
//! order and unchanged: what breaks is time and the connection, as on a bad line. Dropping the proxy ends it and
//! resets every connection.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::seed::Seed;

/// Largest piece that is forwarded at once: small enough that a loss hits the middle of a message now and then.
const PIECE: usize = 4096;
/// Pieces on the way at once; more would make a delayed line a slow one.
const PIECES_ON_THE_WAY: usize = 256;

/// What the line does to its bytes.
#[derive(Debug, Clone)]
struct Line {
    target: SocketAddr,
    /// Each piece arrives this much later.
    delay: Duration,
    /// A connection is reset after some number of bytes around this one.
    loss: Option<usize>,
    /// Nothing arrives, but the connections stay.
    stalled: bool,
    /// No connection lives.
    cut: bool,
    /// Connections of an earlier epoch are reset.
    epoch: u64,
}

/// What happened so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that reached the target.
    pub opened: usize,
    /// Connections that were turned away, by a cut or because the target is not there.
    pub refused: usize,
    /// Connections that were reset on order.
    pub reset: usize,
    /// Bytes that were let through, both ways.
    pub bytes: usize,
}

/// See the module.
pub struct FaultProxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
    counters: watch::Sender<Counters>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// A faultless proxy on a free port of loopback. `seed` decides where losses hit.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start(target: SocketAddr, seed: Seed) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let line = Line { target, delay: Duration::ZERO, loss: None, stalled: false, cut: false, epoch: 0 };
        let line = watch::Sender::new(line);
        let counters = watch::Sender::new(Counters::default());
        let task = tokio::spawn(accept(listener, line.subscribe(), counters.clone(), seed));
        Ok(Self { address, line, counters, task })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What happened so far, and a way to wait for more.
    pub fn counters(&self) -> watch::Receiver<Counters> {
        self.counters.subscribe()
    }

    /// Every byte arrives this much later, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.line.send_modify(|line| line.delay = delay);
    }

    /// Each connection is reset after between none and twice as many bytes.
    pub fn lose_connections_after(&self, bytes: usize) {
        self.line.send_modify(|line| line.loss = Some(bytes));
    }

    /// Nothing arrives any more; the connections stay, and so do the bytes: [`Self::heal`] lets them through.
    pub fn stall(&self) {
        self.line.send_modify(|line| line.stalled = true);
    }

    /// Resets every open connection. New ones are served.
    pub fn reset(&self) {
        self.line.send_modify(|line| line.epoch += 1);
    }

    /// Resets every open connection and turns away every new one.
    pub fn cut(&self) {
        self.line.send_modify(|line| {
            line.epoch += 1;
            line.cut = true;
        });
    }

    /// The target moved: open connections are reset, new ones go there.
    pub fn retarget(&self, target: SocketAddr) {
        self.line.send_modify(|line| {
            line.epoch += 1;
            line.target = target;
        });
    }

    /// No fault any more.
    pub fn heal(&self) {
        self.line.send_modify(|line| {
            line.delay = Duration::ZERO;
            line.loss = None;
            line.stalled = false;
            line.cut = false;
        });
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    line: watch::Receiver<Line>,
    counters: watch::Sender<Counters>,
    mut seed: Seed,
) {
    let mut connections = JoinSet::new();
    loop {
        // Cancel-safe: a connection that is not taken now is taken by the next round.
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let counters = counters.clone();
                    connections.spawn(serve(client, line.clone(), counters, seed.fork()));
                }
                // Out of file descriptors: as good as a refusal.
                Err(_) => counters.send_modify(|counters| counters.refused += 1),
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn serve(
    client: TcpStream,
    mut line: watch::Receiver<Line>,
    counters: watch::Sender<Counters>,
    mut seed: Seed,
) {
    let Line { target, cut, epoch, .. } = line.borrow_and_update().clone();
    // Who closes with unread data or without a goodbye resets: that is how a line breaks.
    let _ = client.set_zero_linger();
    let server = if cut { None } else { TcpStream::connect(target).await.ok() };
    let Some(server) = server else {
        return counters.send_modify(|counters| counters.refused += 1);
    };
    let _ = server.set_zero_linger();
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    counters.send_modify(|counters| counters.opened += 1);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let budget = Budget::new(seed.draw());
    let there = forward(from_client, to_server, line.clone(), &budget, &counters);
    let back = forward(from_server, to_client, line.clone(), &budget, &counters);
    // Cancel-safe: what is dropped is a connection that is to be reset.
    let broken = tokio::select! {
        ends = async { tokio::join!(there, back) } => ends.0.is_err() || ends.1.is_err(),
        () = outdated(&mut line, epoch) => true,
        () = budget.used_up() => true,
    };
    if broken {
        counters.send_modify(|counters| counters.reset += 1);
    }
}

/// Until connections of this epoch are to be reset.
async fn outdated(line: &mut watch::Receiver<Line>, epoch: u64) {
    if line.wait_for(|line| line.epoch != epoch).await.is_err() {
        // The proxy is gone.
    }
}

/// How many bytes a connection has left on a lossy line.
struct Budget {
    chance: u64,
    used: Mutex<usize>,
    up: watch::Sender<bool>,
}

impl Budget {
    fn new(chance: u64) -> Self {
        Self { chance, used: Mutex::default(), up: watch::Sender::new(false) }
    }

    fn take(&self, bytes: usize, loss: Option<usize>) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        // What was sent before the line became lossy does not count.
        let Some(around) = loss else {
            *used = 0;
            return;
        };
        *used += bytes;
        let limit = Seed::new(self.chance).below(2 * around);
        if *used > limit {
            self.up.send_replace(true);
        }
    }

    async fn used_up(&self) {
        let _ = self.up.subscribe().wait_for(|up| *up).await;
    }
}

/// One direction, until its end.
async fn forward(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    line: watch::Receiver<Line>,
    budget: &Budget,
    counters: &watch::Sender<Counters>,
) -> io::Result<()> {
    let (sender, receiver) = mpsc::channel::<(Instant, Arc<[u8]>)>(PIECES_ON_THE_WAY);
    let reading = async {
        let mut piece = vec![0; PIECE];
        loop {
            let length = from.read(&mut piece).await?;
            if length == 0 {
                drop(sender);
                return Ok(());
            }
            let (due, loss) = {
                let line = line.borrow();
                (Instant::now() + line.delay, line.loss)
            };
            budget.take(length, loss);
            if sender.send((due, Arc::from(&piece[..length]))).await.is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    };
    let writing = write(receiver, to, line.clone(), counters);
    tokio::try_join!(reading, writing).map(|_| ())
}

async fn write(
    mut receiver: mpsc::Receiver<(Instant, Arc<[u8]>)>,
    mut to: OwnedWriteHalf,
    mut line: watch::Receiver<Line>,
    counters: &watch::Sender<Counters>,
) -> io::Result<()> {
    while let Some((due, piece)) = receiver.recv().await {
        tokio::time::sleep_until(due).await;
        if line.wait_for(|line| !line.stalled).await.is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        to.write_all(&piece).await?;
        counters.send_modify(|counters| counters.bytes += piece.len());
    }
    to.shutdown().await
}

#[cfg(test)]
mod tests;
