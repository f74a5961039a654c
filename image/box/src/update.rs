//! Fetches another version where `[box]` says which, and starts it on trial.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bootlace_agent::retry::Backoff;
use bootlace_agent::say;
use bootlace_image::stick::update::install;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::config::{Config, Update};
use crate::medium::Stick;
use crate::trial::Trial;

/// No slot is larger.
const MAX_SLOT: u64 = 512 << 20;
/// For the whole download, which may come over a thin line.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Brings the stick to the version that is wanted. Returns only to start over; without a wish, never.
pub(crate) async fn run(
    stick: Option<&Stick>,
    config: &Config,
    mut address: watch::Receiver<bool>,
    trial: Trial,
    failed: Option<String>,
) {
    let (Some(stick), Some(update)) = (stick, &config.update) else { return std::future::pending().await };
    // One thing at a time: a version on trial ends its trial first, and the next start looks again.
    if trial.is_on() || address.wait_for(|up| *up).await.is_err() {
        return std::future::pending().await;
    }
    if failed.as_deref() == Some(update.hash.as_str()) {
        say!("update: the wanted version was tried, and did not come up");
        return std::future::pending().await;
    }
    let mut backoff = Backoff::new(11);
    loop {
        match once(stick, update).await {
            Ok(true) => return crate::restart(),
            Ok(false) => return std::future::pending().await,
            Err(error) => say!("update: {error:#}"),
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// The hash of the version that was tried last and did not come up: it is not tried again.
pub(crate) fn failed(stick: &Stick, trial: Trial, state: &Path) -> Option<String> {
    let file = state.join("failed-update");
    if let Trial::Failed(_) = trial
        && let Ok(hash) = stick.hash(stick.slot().other())
    {
        // Where it cannot be kept, it is at least known until the next start.
        let _ = std::fs::write(&file, &hash);
        return Some(hash);
    }
    std::fs::read_to_string(file).ok()
}

/// Whether another version was written.
async fn once(stick: &Stick, update: &Update) -> Result<bool> {
    if stick.hash(stick.slot())? == update.hash {
        return Ok(false);
    }
    say!("update: fetching {}", update.url);
    let slot = tokio::time::timeout(PATIENCE, fetch(&update.url)).await.context("no answer in time")??;
    let hash = bootlace_image::oci::hex(&Sha256::digest(&slot));
    ensure!(hash == update.hash, "{} hashes to {hash}, not to what is wanted", update.url);
    let (mut disk, _) = stick.open()?;
    say!("update: writing {} bytes", slot.len());
    let updated = tokio::task::spawn_blocking(move || install(&mut disk, &slot, |_| ())).await??;
    say!("update: {} is in slot {}; starting it", updated.version, updated.slot);
    Ok(true)
}

/// Fetches a file by HTTP.
async fn fetch(url: &str) -> Result<Vec<u8>> {
    let rest = url.strip_prefix("http://").context("not http://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let target = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let mut stream =
        TcpStream::connect(&target).await.with_context(|| format!("cannot connect to {target}"))?;
    let slash = if path.is_empty() { "/" } else { "" };
    // Version 1.0 and close: the body ends with the connection, never in chunks.
    let request = format!(
        "GET {slash}{path} HTTP/1.0\r\nHost: {authority}\r\nUser-Agent: bootlace-box\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_SLOT).read_to_end(&mut answer).await?;
    body(answer)
}

/// The body of an answer that says 200.
fn body(mut answer: Vec<u8>) -> Result<Vec<u8>> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("the answer is not HTTP")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    ensure!(head.starts_with("HTTP/1.") && status == "200", "answered with {status:?}");
    answer.drain(..end + 4);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_good_answer_has_a_body() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nslot\r\n\r\n".to_vec()).unwrap(), b"slot\r\n\r\n");
        for answer in [&b"HTTP/1.0 404 No\r\n\r\nx"[..], b"HTTP/1.0 200 OK\r\n", b"SSH-2.0 200\r\n\r\n", b""]
        {
            assert!(body(answer.to_vec()).is_err());
        }
    }
}
