//! A PXE client simulator: thousands of machines in one process, and what they cost the server that boots them.
//!
//! * [`dhcp`], [`tftp`], [`http`]: load of one protocol.
//! * [`storm`]: whole boots with the packet sequences of real firmware: DHCP, loader, script, kernel and
//!   initramfs, hello.
//! * [`idle`]: what a server is before any client came.
//! * [`limit`]: servers of ours that do nothing: what the machine itself costs.
//! * [`suite`]: all of it against us and the peers that Debian packages, and the table for the documentation.
//!
//! The protocols are the machines of `netboot`, the client's side of them. **Invariant:** a load never reports work
//! that was not checked: bytes are counted at the client, answers are matched to questions, a client that failed is
//! counted with its reason.
//!
//! **Driver.** `main.rs`, one subcommand a load.

pub mod cost;
pub mod dhcp;
pub mod firmware;
pub mod http;
pub mod idle;
pub mod limit;
pub mod report;
pub mod stats;
pub mod storm;
pub mod suite;
pub mod svg;
pub mod table;
pub mod tftp;
