//! What machines that are up take of the hub's memory. A process of its own: other tests take memory, too.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use siderolink::{Device, Endpoint, KEEPALIVE, PeerConfig, PrivateKey};

/// Resident bytes that are no file's.
fn anonymous() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn two_thousand_peers_with_sessions_take_little_memory() {
    // Without optimization a handshake takes 20 ms; what a peer takes is the same.
    const PEERS: u16 = if cfg!(debug_assertions) { 200 } else { 2_000 };
    let now = Instant::now();
    let address = |number: u16| Ipv6Addr::new(0xfdae, 0, 0, 0, 0, 0, 1, number);
    let endpoint = |port: u16| Endpoint::Udp((Ipv4Addr::LOCALHOST, port).into());
    let before = anonymous();
    let mut hub = Device::new(PrivateKey::from_bytes([1; 32]));
    let mut began = Duration::ZERO;
    for number in 1..=PEERS {
        let mut key = [2; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        let mut machine = Device::new(PrivateKey::from_bytes(key));
        let start = Instant::now();
        let peer = PeerConfig { address: address(number), endpoint: None, keepalive: None };
        hub.set_peer(now, machine.public_key(), peer).unwrap();
        began += start.elapsed();
        let peer =
            PeerConfig { address: address(0), endpoint: Some(endpoint(1)), keepalive: Some(KEEPALIVE) };
        machine.set_peer(now, hub.public_key(), peer).unwrap();
        machine.initiate(now, &hub.public_key());
        // Handshakes of many seconds, in one: the limit on them is another test's.
        let later = now + Duration::from_secs(u64::from(number));
        while let Some((_, datagram)) = machine.poll_transmit() {
            hub.handle_datagram(later, endpoint(number), &datagram);
            while let Some((_, datagram)) = hub.poll_transmit() {
                machine.handle_datagram(later, endpoint(1), &datagram);
            }
        }
        assert!(hub.status(&machine.public_key()).unwrap().last_handshake.is_some());
    }
    let each = (anonymous() - before) / usize::from(PEERS);
    let start = Instant::now();
    hub.handle_timeout(now + Duration::from_secs(5));
    println!(
        "{PEERS} peers with sessions: {each} bytes each, {} KiB for 2000; adding one takes {:?}, all timers {:?}",
        each * 2000 / 1024,
        began / u32::from(PEERS),
        start.elapsed(),
    );
    assert!(each < 16 * 1024, "{each} bytes a peer");
}
