//! Doors for the fuzz tests to parsers that nothing else outside calls.

use std::net::Ipv4Addr;

use crate::frames::{Frame, Outbox, VlanId};
use crate::{dhcp, http, raw};

/// Reads a frame as DHCP and the raw stack do, with and without what the card says, and tags it.
pub fn frame(bytes: &[u8]) {
    let _ = dhcp::frame::parse(bytes);
    if bytes.len() >= crate::frames::HEADER {
        let network = raw::Network::new(Ipv4Addr::new(10, 88, 0, 1), 24).expect("a network");
        for card in [&[][..], &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            raw::fuzz(&Frame { vlan: None, card, bytes }, network);
        }
    }
    let tag = bytes.first_chunk().map_or(0, |number| u16::from_be_bytes(*number));
    let mut outbox = Outbox::new();
    outbox.push(VlanId::new(tag), bytes);
    assert!(outbox.len() <= 1 && outbox.dropped() <= 1, "a frame or a drop");
}

/// Reads the head of a request as it comes in two parts, cut at `at`.
pub fn request(bytes: &[u8], at: usize) {
    http::fuzz(bytes, at);
}
