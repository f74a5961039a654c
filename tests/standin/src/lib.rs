//! The operating system of the test bed. It stands in for Talos on an allocated machine, since no Talos image
//! ships with this repository: it boots from the network, joins, installs itself on the first disk, and boots
//! from there.
//!
//! Invariant: what it says on the wire is what Talos says, and everything that the discovery agent does too
//! (modules, network, configuration, join) is the agent's own code. It writes to a disk only when it was booted
//! from the network with `standin.installer` on its kernel command line, or when Talos' metal agent, which runs on it
//! where the image has it, says so.
//!
//! Drivers: `main.rs` is PID 1; `bin/standin-image.rs` builds the disk image that it installs.

pub mod disk;
pub mod events;
pub mod install;
pub mod metal_agent;
pub mod state;
pub mod system;
pub mod uki;
