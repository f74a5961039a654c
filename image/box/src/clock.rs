//! The time, from servers on the network (SNTP, RFC 4330): certificates and logs need it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bootlace_agent::retry::Backoff;
use bootlace_agent::say;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use crate::config::Config;

const PORT: u16 = 123;
/// Bytes of a message.
const MESSAGE: usize = 48;
/// Seconds from NTP's beginning, 1900, to 1970.
const EPOCH: u64 = 2_208_988_800;
/// Answers after this belong to NTP's second era, which begins in 2036; earlier ones are of the second era too.
const ERA_STARTS: u64 = 1_700_000_000 + EPOCH;
/// How long a server is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks at a clock that is right.
const INTERVAL: Duration = Duration::from_secs(3600);
/// A clock that is wrong by less is left alone.
const TOLERANCE: Duration = Duration::from_millis(500);

/// Keeps the clock right. Never returns.
pub(crate) async fn keep(config: Arc<Config>, mut address: watch::Receiver<bool>) {
    let mut backoff = Backoff::new(7);
    if config.time_servers.is_empty() || address.wait_for(|up| *up).await.is_err() {
        return std::future::pending().await;
    }
    loop {
        let wait = match ask_any(&config.time_servers).await {
            Some((server, time)) => {
                set(&server, time);
                backoff.reset();
                INTERVAL
            }
            None => backoff.next_wait(),
        };
        tokio::time::sleep(wait).await;
    }
}

/// The first server's answer.
async fn ask_any(servers: &[String]) -> Option<(String, Duration)> {
    for server in servers {
        let Ok(addresses) = tokio::net::lookup_host((server.as_str(), PORT)).await else { continue };
        for address in addresses {
            if let Ok(Ok(Some(time))) = tokio::time::timeout(PATIENCE, ask(address)).await {
                return Some((server.clone(), time));
            }
        }
    }
    None
}

async fn ask(server: SocketAddr) -> std::io::Result<Option<Duration>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    let mut nonce = [0; 8];
    let _ = bootlace_agent::sys::random(&mut nonce, false);
    socket.send(&request(nonce)).await?;
    let mut answer = [0; 128];
    let length = socket.recv(&mut answer).await?;
    Ok(parse(&answer[..length], nonce))
}

/// Version 4, client; the transmit time is a nonce that the server gives back.
fn request(nonce: [u8; 8]) -> [u8; MESSAGE] {
    let mut message = [0; MESSAGE];
    message[0] = 4 << 3 | 3;
    message[40..].copy_from_slice(&nonce);
    message
}

/// The server's time since 1970; none of an answer that is not to our request, or of a server without the time.
fn parse(answer: &[u8], nonce: [u8; 8]) -> Option<Duration> {
    let answer = answer.get(..MESSAGE)?;
    let (leap, mode, stratum) = (answer[0] >> 6, answer[0] & 7, answer[1]);
    if leap == 3 || mode != 4 || !(1..=15).contains(&stratum) || answer[24..32] != nonce {
        return None;
    }
    let number =
        |at: usize| u64::from(u32::from_be_bytes(answer[at..at + 4].try_into().expect("four bytes")));
    let (mut seconds, fraction) = (number(40), number(44));
    if seconds < ERA_STARTS {
        seconds += 1 << 32;
    }
    Some(Duration::new(seconds - EPOCH, u32::try_from((fraction * 1_000_000_000) >> 32).ok()?))
}

fn set(server: &str, time: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if now.abs_diff(time) < TOLERANCE {
        return;
    }
    match clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from_duration(time)) {
        Ok(()) => say!("time set by {server}, {} s off", now.abs_diff(time).as_secs()),
        Err(error) => say!("the time cannot be set: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(seconds: u32) -> [u8; MESSAGE] {
        let mut answer = [0; MESSAGE];
        answer[0] = 4 << 3 | 4;
        answer[1] = 2;
        answer[24..32].copy_from_slice(&[9; 8]);
        answer[40..44].copy_from_slice(&seconds.to_be_bytes());
        answer[44..48].copy_from_slice(&0x8000_0000_u32.to_be_bytes());
        answer
    }

    #[test]
    fn an_answer_is_the_time_in_either_era() {
        let in_2026 = u32::try_from(1_790_000_000 + EPOCH).unwrap();
        assert_eq!(parse(&answer(in_2026), [9; 8]), Some(Duration::from_millis(1_790_000_000_500)));
        assert_eq!(parse(&answer(5), [9; 8]).unwrap().as_secs(), (1 << 32) + 5 - EPOCH);
    }

    #[test]
    fn answers_that_are_not_ours_or_know_no_time_are_dropped() {
        let good = answer(u32::MAX);
        assert!(parse(&good, [8; 8]).is_none());
        assert!(parse(&good[..47], [9; 8]).is_none());
        for (at, byte) in [(0, 0xe4), (0, 0x23), (1, 0), (1, 16)] {
            let mut bad = good;
            bad[at] = byte;
            assert!(parse(&bad, [9; 8]).is_none(), "{at} {byte}");
        }
        assert_eq!(request([9; 8])[0], 0x23);
    }
}
