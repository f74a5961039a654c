//! DHCP as far as booting needs it. A [`Responder`] serves one network in one of four modes: `proxy` tells machines
//! what to boot and leaves their addresses to the site's DHCP server; `merge` asks that server on a machine's
//! behalf and gives one whole answer; `server` gives addresses itself; `off`.
//!
//! [`codec`] turns bytes into a [`codec::Message`] and back, [`request`] reads from it what a booting machine
//! wants, [`Proxy`] says what it boots. RFC 2131 (DHCP), RFC 2132 and 3396 (options), RFC 3004 (user class), RFC 3046
//! (relays), RFC 4578 (PXE options), the PXE specification 2.1 for port 4011, the UEFI specification for HTTP
//! boot.

mod boot;
pub mod codec;
#[cfg(test)]
mod fixtures;
mod limiter;
mod merge;
mod outcome;
mod proxy;
pub mod request;
mod responder;
pub mod server;

pub use outcome::{Counters, IgnoreReason, Offered, Outcome, Port, Reply, ReplyTo, Seen};
pub use proxy::{Proxy, ProxyConfig, REPLY_MAX};
pub use responder::{Datagram, Event, Link, Mode, Packet, Responder, ResponderConfig, Transmit};
