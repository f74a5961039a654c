//! TFTP as two machines: a [`Server`] that reads files to many clients from one port, and a [`Client`] that
//! reads one file.
//!
//! RFC 1350 with options: 2347 (negotiation), 2348 (`blksize`), 2349 (`timeout`, `tsize`) and 7440
//! (`windowsize`). Mode octet only; nothing can be written.
//!
//! All of the server's traffic leaves from one port (as the drop-in peer does, and firewalls like), so a
//! transfer is known by the client's address and port alone.
//!
//! **Driver.** `netboot_link::tftp` owns the socket and the clock.

mod client;
mod event;
mod name;
mod packet;
mod rtt;
mod server;
mod session;
mod turns;

pub use client::{Client, ClientError, Wanted};
pub use event::{Counters, Event, FailReason};
pub use name::{MAX_NAME, NameError, clean_name};
pub use packet::{ErrorCode, Mode, Options, Packet, ParseError, Request};
pub use server::{Burst, Files, Limits, Part, Server};

/// The largest block offered: an Ethernet MTU of 1500 less 20 of IPv4, 8 of UDP and 4 of TFTP. More would be
/// sent as IP fragments, which PXE ROMs often cannot put together.
pub const MAX_BLOCK_SIZE: u16 = 1500 - 20 - 8 - 4;
/// The least block size of RFC 2348.
pub const MIN_BLOCK_SIZE: u16 = 8;
/// The block size without negotiation (RFC 1350).
pub const DEFAULT_BLOCK_SIZE: u16 = 512;
/// The largest window offered: 64 blocks of 1468 bytes are 92 KiB, within the usual receive buffer of a
/// client's kernel (208 KiB) and many times what firmware asks for (EDK2: 4).
pub const MAX_WINDOW: u16 = 64;

/// Datagrams of one [`Burst`] at most: `UDP_MAX_SEGMENTS` of the kernels before 6.9.
pub const BURST_DATAGRAMS: usize = 64;
/// Bytes of one [`Burst`] at most: what one send to an IPv4 socket takes.
pub const BURST_BYTES: usize = 65_535 - IP_AND_UDP;

const IP_AND_UDP: usize = 20 + 8;
/// Opcode and block number.
const DATA_HEADER: usize = 4;

#[cfg(test)]
mod tests;
