//! DHCP as far as booting needs it: `ProxyDHCP`, which tells machines what to boot and leaves their addresses
//! to the site's DHCP server.
//!
//! [`codec`] turns bytes into a [`codec::Message`] and back, [`request`] reads from it what a booting machine
//! wants, [`Proxy`] answers. RFC 2131 (DHCP), RFC 2132 and 3396 (options), RFC 3004 (user class), RFC 3046
//! (relays), RFC 4578 (PXE options), the PXE specification 2.1 for port 4011, the UEFI specification for HTTP
//! boot.

pub mod codec;
#[cfg(test)]
mod fixtures;
mod outcome;
mod proxy;
pub mod request;

pub use outcome::{Counters, IgnoreReason, Offered, Outcome, Port, Reply, ReplyTo, Seen};
pub use proxy::{Proxy, ProxyConfig, REPLY_MAX};
