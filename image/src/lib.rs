//! Builds what bootlace's machines boot from files that other tools have made: for now the agent image, a
//! kernel and an initial RAM file system.
//!
//! Invariant: an image is a function of its inputs. The same kernel, modules, binary and driver list give the
//! same bytes on every host: no time, path, user or random number gets in. Nothing here needs root, mounts, or
//! a loop device, and an output file appears under its name only when it is complete.
//!
//! The driver is the command line in `main.rs`. The crate knows none of ours at compile time: the binaries it
//! packs are arguments.

pub mod agent;
pub mod binary;
pub mod cpio;
pub mod drivers;
pub mod extension;
pub mod firmware;
pub mod flash;
pub mod initramfs;
pub mod modules;
pub mod oci;
pub mod output;
pub mod parts;
pub mod rootfs;
pub mod stick;
pub mod talos;
pub mod uki;
