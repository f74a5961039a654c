//! The boot protocols of the appliance, as values: `ProxyDHCP`, TFTP, iPXE scripts, firmware kinds, the
//! questions a booting machine asks, and the boot journal.
//!
//! **Invariant.** Nothing here opens a socket or a file, reads a clock, the environment or randomness, spawns
//! a task or blocks. Bytes and [`Time`] go in; packets, events and deadlines come out. Bytes from the network
//! never panic and never grow a table past a named limit.
//!
//! **Driver.** `netboot-link` owns the sockets (raw frames for DHCP, UDP for TFTP, HTTP for scripts and
//! files) and feeds these machines; `netboot-assets` holds the boot files; `appliance` wires both together.

pub mod boot;
pub mod checksum;
pub mod dhcp;
pub mod dhcpv6;
pub mod firmware;
pub mod ipxe;
pub mod journal;
mod mac;
mod subnet;
pub mod tftp;
mod time;

pub use mac::{Mac, ParseMacError};
pub use subnet::{ParseSubnetError, Subnet};
pub use time::Time;
