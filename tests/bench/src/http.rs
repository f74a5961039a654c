//! A small HTTP/1.1 client, and load by it: files to many clients at once, or requests after one another.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::LocalSet;

use crate::cost::Server;
use crate::report::{Report, Unit};
use crate::stats::Phase;

/// No server says more before a body.
const HEAD_MAX: usize = 16 << 10;
/// Bytes taken from the kernel by one call.
const PIECE: usize = 1 << 20;
/// Scripts and configurations are small.
const TEXT_MAX: u64 = 1 << 20;

/// One thread is enough for a client: it throws bodies away.
///
/// # Errors
/// When the runtime cannot be started.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")
}

thread_local! {
    /// Room for bytes that the kernel throws away: it writes nothing there, and one is enough for all connections.
    static NOWHERE: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE]);
}

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    host: SocketAddrV4,
    buffer: Vec<u8>,
    /// Bytes in the buffer that were not taken yet.
    filled: usize,
}

/// What to do with a body.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// Keep it: a text.
    Text,
    /// The kernel throws it away; its length is checked.
    Discard,
    /// Compare it byte by byte.
    Same(&'a [u8]),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body's length.
    pub length: u64,
    /// The body, when it was kept.
    pub text: String,
}

impl Connection {
    /// Connects from an address of this host.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn open(host: SocketAddrV4, from: Ipv4Addr) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if !from.is_unspecified() {
            socket.bind((from, 0).into())?;
        }
        let stream = socket.connect(host.into()).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, host, buffer: vec![0; HEAD_MAX], filled: 0 })
    }

    /// Asks for a path and reads the whole answer.
    ///
    /// # Errors
    /// When the connection breaks, or the answer is no HTTP or has no length.
    pub async fn get(&mut self, path: &str, body: Body<'_>) -> Result<Answer> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: iPXE/1.0.0\r\n\r\n", self.host);
        self.stream.write_all(request.as_bytes()).await.context("the connection broke")?;
        let (head, status, length) = loop {
            if let Some(end) = self.buffer[..self.filled].windows(4).position(|four| four == b"\r\n\r\n") {
                let (status, length) = parse_head(&self.buffer[..end + 2])?;
                break (end + 4, status, length);
            }
            ensure!(self.filled < HEAD_MAX, "the head is too long");
            self.read(HEAD_MAX).await?;
        };
        self.take(head);
        let mut answer = Answer { status, length, text: String::new() };
        match body {
            Body::Text => {
                ensure!(length <= TEXT_MAX, "the text is too long");
                let length = usize::try_from(length)?;
                self.make_room(length);
                while self.filled < length {
                    self.read(length).await?;
                }
                answer.text = String::from_utf8_lossy(&self.buffer[..length]).into_owned();
                self.take(length);
            }
            Body::Discard => {
                let mut rest = length.checked_sub(self.filled as u64).context("bytes after the body")?;
                self.filled = 0;
                while rest > 0 {
                    let want = usize::try_from(rest.min(PIECE as u64))?;
                    rest -= self.discard(want).await? as u64;
                }
            }
            Body::Same(expected) => {
                ensure!(length == expected.len() as u64, "the file has another length");
                self.make_room(PIECE);
                let mut at = 0;
                while at < expected.len() {
                    if self.filled == 0 {
                        self.read(PIECE.min(expected.len() - at)).await?;
                    }
                    let (got, want) = (&self.buffer[..self.filled], expected.get(at..at + self.filled));
                    ensure!(want == Some(got), "the file differs after byte {at}");
                    at += self.filled;
                    self.filled = 0;
                }
            }
        }
        Ok(answer)
    }

    /// Room for so many bytes in the buffer: most answers are small, and there are thousands of connections.
    fn make_room(&mut self, length: usize) {
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
    }

    /// Reads once, to at most `until` bytes in the buffer.
    async fn read(&mut self, until: usize) -> Result<usize> {
        let (fd, room) = (self.stream.as_raw_fd(), &mut self.buffer[self.filled..until]);
        let length = receive(&self.stream, room.len(), || recv(fd, room, MsgFlags::MSG_DONTWAIT)).await?;
        self.filled += length;
        Ok(length)
    }

    /// Has the kernel throw away at most so many bytes.
    async fn discard(&mut self, want: usize) -> Result<usize> {
        let (fd, flags) = (self.stream.as_raw_fd(), MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT);
        receive(&self.stream, want, || NOWHERE.with_borrow_mut(|room| recv(fd, &mut room[..want], flags)))
            .await
    }

    fn take(&mut self, length: usize) {
        self.buffer.copy_within(length..self.filled, 0);
        self.filled -= length;
    }
}

/// Waits for bytes and takes them by `take`, which is asked for `want`.
async fn receive(
    stream: &TcpStream,
    want: usize,
    mut take: impl FnMut() -> nix::Result<usize>,
) -> Result<usize> {
    loop {
        stream.readable().await?;
        let mut drained = 0;
        let read = stream.try_io(Interest::READABLE, || match take()? {
            // There is no more: the next ones wake us, and to ask for them before costs a call.
            length if 0 < length && length < want => {
                drained = length;
                Err(io::ErrorKind::WouldBlock.into())
            }
            length => Ok(length),
        });
        match read {
            Ok(0) => bail!("the server closed the connection"),
            Ok(length) => return Ok(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && drained > 0 => return Ok(drained),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("the connection broke"),
        }
    }
}

/// Status and length of a head that ends with its last line's end.
fn parse_head(head: &[u8]) -> Result<(u16, u64)> {
    let text = std::str::from_utf8(head).context("the head is no text")?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Ok((status.context("no HTTP/1.1 answer")?, length.context("the answer has no content-length")?))
}

/// Files to clients at once.
#[derive(Clone, Debug, clap::Args)]
pub struct Files {
    /// The server
    #[arg(long)]
    pub server: SocketAddrV4,
    /// What to ask for
    #[arg(long)]
    pub path: String,
    /// Clients at once
    #[arg(long, default_value_t = 1)]
    pub clients: usize,
    /// How often each asks, on its connection
    #[arg(long, default_value_t = 1)]
    pub repeat: usize,
    /// A file that the answers must equal, byte by byte
    #[arg(long)]
    pub compare: Option<PathBuf>,
    /// Who has not ended by then has failed, in seconds
    #[arg(long, default_value_t = 120.0)]
    pub limit: f64,
}

impl Files {
    /// Runs it.
    ///
    /// # Errors
    /// When the load itself does not work; a download that fails is part of the report.
    pub fn run(&self, server: &Server) -> Result<Report> {
        let expected = match &self.compare {
            Some(path) => {
                Some(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?)
            }
            None => None,
        };
        runtime()?.block_on(LocalSet::new().run_until(self.downloads(Rc::new(expected), server)))
    }

    async fn downloads(&self, expected: Rc<Option<Vec<u8>>>, server: &Server) -> Result<Report> {
        let mut report = Report::new("http", self.clients, Unit::Bytes);
        let mut micros = Vec::new();
        let (meter, started) = (server.meter(), Instant::now());
        let end = tokio::time::Instant::now() + Duration::from_secs_f64(self.limit);
        let clients: Vec<_> = (0..self.clients)
            .map(|_| {
                let (load, expected) = (self.clone(), Rc::clone(&expected));
                let client = async move { load.client(expected.as_deref()).await };
                tokio::task::spawn_local(tokio::time::timeout_at(end, client))
            })
            .collect();
        for client in clients {
            match client.await.context("a client panicked")? {
                Ok(Ok(downloads)) => {
                    for (bytes, took) in downloads {
                        report.done += 1;
                        report.work += bytes;
                        micros.push(u64::try_from(took.as_micros())?);
                    }
                }
                Ok(Err(error)) => report.fail(format!("{error:#}")),
                Err(_) => report.fail(format!("not done within {} s", self.limit)),
            }
        }
        report.seconds = started.elapsed().as_secs_f64();
        report.server = meter.stop();
        report.phases.push(Phase::of("download", micros));
        Ok(report)
    }

    async fn client(&self, expected: Option<&[u8]>) -> Result<Vec<(u64, Duration)>> {
        let mut connection = Connection::open(self.server, Ipv4Addr::UNSPECIFIED).await?;
        let mut downloads = Vec::new();
        for _ in 0..self.repeat {
            let began = Instant::now();
            let answer = connection.get(&self.path, expected.map_or(Body::Discard, Body::Same)).await?;
            ensure!(answer.status == 200, "status {}", answer.status);
            downloads.push((answer.length, began.elapsed()));
        }
        Ok(downloads)
    }
}

/// Requests after one another.
#[derive(Clone, Debug, clap::Args)]
pub struct Requests {
    /// The server
    #[arg(long)]
    pub server: SocketAddrV4,
    /// What to ask for; `{n}` becomes the number of the client in twelve digits
    #[arg(long)]
    pub path: String,
    /// Connections at once
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// How long
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// A new connection for every request
    #[arg(long)]
    pub close: bool,
}

impl Requests {
    /// Runs it.
    ///
    /// # Errors
    /// When the load itself does not work; a request that fails is part of the report.
    pub fn run(&self, server: &Server) -> Result<Report> {
        runtime()?.block_on(LocalSet::new().run_until(self.requests(server)))
    }

    async fn requests(&self, server: &Server) -> Result<Report> {
        let mut report = Report::new("script", self.clients, Unit::Requests);
        let mut micros = Vec::new();
        let (meter, started) = (server.meter(), Instant::now());
        let end = started + Duration::from_secs_f64(self.seconds);
        let clients: Vec<_> = (0..self.clients)
            .map(|number| {
                let load = self.clone();
                tokio::task::spawn_local(async move { load.client(number, end).await })
            })
            .collect();
        for client in clients {
            let (times, result) = client.await.context("a client panicked")?;
            report.done += times.len() as u64;
            micros.extend(times);
            if let Err(error) = result {
                report.fail(format!("{error:#}"));
            }
        }
        report.work = report.done;
        report.seconds = started.elapsed().as_secs_f64();
        report.server = meter.stop();
        report.phases.push(Phase::of("request", micros));
        Ok(report)
    }

    async fn client(&self, number: usize, end: Instant) -> (Vec<u64>, Result<()>) {
        let mut times = Vec::new();
        let result = self.ask_until(number, end, &mut times).await;
        (times, result)
    }

    async fn ask_until(&self, number: usize, end: Instant, times: &mut Vec<u64>) -> Result<()> {
        let path = self.path.replace("{n}", &format!("{number:012}"));
        let mut open: Option<Connection> = None;
        while Instant::now() < end {
            let began = Instant::now();
            let mut connection = match open.take() {
                Some(connection) => connection,
                None => Connection::open(self.server, Ipv4Addr::UNSPECIFIED).await?,
            };
            let answer = connection.get(&path, Body::Text).await?;
            ensure!(answer.status == 200, "status {}", answer.status);
            times.push(u64::try_from(began.elapsed().as_micros())?);
            open = (!self.close).then_some(connection);
        }
        Ok(())
    }
}

/// Writes a file that no two places of are alike, so that a piece in the wrong place is seen.
///
/// # Errors
/// When it cannot be written.
pub fn write_pattern(path: &std::path::Path, bytes: u64) -> Result<()> {
    let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut out = io::BufWriter::with_capacity(1 << 20, file);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut left = bytes;
    while left > 0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let part = state.to_le_bytes();
        let length = usize::try_from(left.min(8)).unwrap_or(8);
        out.write_all(&part[..length])?;
        left -= length as u64;
    }
    out.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_a_status_and_a_length_in_any_case() {
        let head = b"HTTP/1.1 206 Partial\r\nServer: x\r\nContent-Length: 42\r\n";
        assert_eq!(parse_head(head).unwrap(), (206, 42));
        for head in
            [&b"HTTP/1.1 200 OK\r\n"[..], b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n", b"\xff\r\n", b""]
        {
            assert!(parse_head(head).is_err());
        }
    }

    async fn served(answer: &'static [u8]) -> Connection {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!() };
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            // Two requests, one answer each.
            for part in [answer, answer] {
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(part).await;
            }
        });
        Connection::open(address, Ipv4Addr::UNSPECIFIED).await.unwrap()
    }

    #[tokio::test]
    async fn bodies_are_kept_compared_or_thrown_away_on_one_connection() {
        let mut connection = served(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
        assert_eq!(connection.get("/", Body::Text).await.unwrap().text, "hello");
        assert_eq!(connection.get("/", Body::Discard).await.unwrap().length, 5);
        assert!(connection.get("/", Body::Text).await.is_err(), "the server is gone");
        let mut connection = served(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
        connection.get("/", Body::Same(b"hello")).await.unwrap();
        assert!(connection.get("/", Body::Same(b"hallo")).await.is_err());
    }

    #[test]
    fn a_pattern_has_its_length_and_no_period() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        write_pattern(&path, 4099).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 4099);
        assert_ne!(bytes[..1024], bytes[1024..2048]);
    }
}
