//! The discovery agent: PID 1 of a bare machine that was network-booted.
//!
//! It brings the network up, fetches its join configuration, registers with SideroLink, opens the reverse
//! tunnel to the appliance and serves two things through it: `management.AgentService` and a read-only
//! inventory in Talos' resource types.
//!
//! Invariant: it writes to no disk and to no BMC unless [`service::Agent`] is asked to, and tells only what the
//! kernel and the firmware say. Parsing, the DHCP client and every choice of disk are plain functions of
//! text, bytes and directories; the drivers are [`boot`], [`net`] and [`machine`]. `unsafe` is in [`sys`].

pub mod boot;
pub mod cmdline;
pub mod config;
pub mod console;
pub mod disks;
pub mod fetch;
pub mod identity;
pub mod inventory;
pub mod ipmi;
pub mod join;
pub mod machine;
pub mod machine_api;
pub mod medium;
pub mod meta;
pub mod modules;
pub mod net;
pub mod pid1;
pub mod retry;
pub mod service;
pub mod smbios;
pub mod sys;
pub mod tls;
pub mod wipe;
pub mod wireguard;
