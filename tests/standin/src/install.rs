//! Puts the disk image on a disk, straight from the network.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::state::State;

/// How long the server may be silent before the download is given up and begun again.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Boot code and partition table.
const FIRST_BLOCK: usize = 4096;
/// Downloads the image onto the disk and puts the state into it. Returns the image's length.
///
/// The disk's first block is cleared first and the image's is written last: until everything else is on the
/// disk, the disk does not boot, and the machine begins again from the network.
pub async fn install(url: &Uri, disk: &mut File, disk_bytes: u64, state: &State) -> Result<u64> {
    let (mut body, length) = Download::start(url).await.with_context(|| format!("cannot download {url}"))?;
    ensure!(length <= disk_bytes, "the image of {length} bytes does not fit the disk of {disk_bytes} bytes");
    disk.seek(SeekFrom::Start(0))?;
    disk.write_all(&[0; FIRST_BLOCK]).context("cannot write to the disk")?;
    disk.sync_all().context("cannot write to the disk")?;
    let mut first = Vec::new();
    let mut at = 0;
    while let Some(chunk) =
        body.next().await.with_context(|| format!("the download of {url} broke off at {at}"))?
    {
        let held = chunk.len().min(FIRST_BLOCK - first.len());
        first.extend_from_slice(&chunk[..held]);
        disk.seek(SeekFrom::Start(at + held as u64))?;
        disk.write_all(&chunk[held..]).with_context(|| format!("cannot write to the disk at {at}"))?;
        at += chunk.len() as u64;
    }
    ensure!(at == length, "the download of {url} ended at {at} of {length} bytes");
    state.write(disk)?;
    disk.sync_all().context("cannot write to the disk")?;
    disk.seek(SeekFrom::Start(0))?;
    disk.write_all(&first)?;
    disk.sync_all().context("cannot write to the disk")?;
    Ok(length)
}

/// The body of a running download.
struct Download {
    body: hyper::body::Incoming,
    /// Ends with the body; aborted when the download is given up.
    _connection: tokio::task::JoinSet<()>,
}

impl Download {
    async fn start(url: &Uri) -> Result<(Self, u64)> {
        let address = address_of(url)?;
        let stream = timeout(SILENCE_LIMIT, TcpStream::connect(address)).await.context("no connection")??;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut task = tokio::task::JoinSet::new();
        // An error of the connection is the body's error too, and is told there.
        task.spawn(async move { drop(connection.await) });
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(header::HOST, address.to_string())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let response = timeout(SILENCE_LIMIT, sender.send_request(request)).await.context("no answer")??;
        if response.status() != StatusCode::OK {
            bail!("the server answers {}", response.status());
        }
        let length = response
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let length = length.context("the answer has no length")?;
        Ok((Self { body: response.into_body(), _connection: task }, length))
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match timeout(SILENCE_LIMIT, self.body.frame()).await.context("the server fell silent")? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// Where a URL points to. Names are not resolved: the static binary has no resolver, and the appliance gives
/// addresses.
fn address_of(url: &Uri) -> Result<SocketAddr> {
    ensure!(url.scheme_str() == Some("http"), "{url} is no http URL");
    let host = url.host().with_context(|| format!("{url} has no host"))?;
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse();
    let ip = ip.with_context(|| format!("{host} in {url} is no IP address"))?;
    Ok(SocketAddr::new(ip, url.port_u16().unwrap_or(80)))
}

#[cfg(test)]
mod tests;
