//! The drivers of the boot protocols: raw frames for DHCP, a UDP socket for TFTP, HTTP for scripts, files and
//! everything else that is merged into its router.
//!
//! **Invariant.** No decision is made here: bytes go to the machines of `netboot` and to the
//! [`BootPolicy`](netboot::boot::BootPolicy), and what they answer goes to the wire. Every queue, buffer and
//! number of connections has a named limit. The join configuration is never logged.
//!
//! **Driver.** `appliance` binds first ([`dhcp::bind`], [`tftp::bind`], a TCP listener), so that a wrong
//! configuration shows before anything runs, and then runs each part until its token is cancelled.

mod clock;
pub mod dhcp;
pub mod frames;
#[doc(hidden)]
pub mod fuzz;
pub mod http;
pub mod raw;
mod sys;
pub mod tftp;
