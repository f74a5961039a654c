//! What can happen to a machine.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::firmware::Firmware;

/// One kind of step, with what the operator wants to know of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// The appliance serves a network; of no machine.
    NetworkServed {
        /// The interface, its VLAN, and the appliance's address there.
        network: String,
        /// By which stack.
        stack: String,
        /// Why by this one.
        reason: String,
    },
    /// Its firmware asks who can boot it.
    DhcpDiscover {
        /// Which firmware.
        firmware: Firmware,
    },
    /// It was offered a boot file.
    DhcpOffer {
        /// The name or URL.
        file: String,
        /// The port it was asked on: 67 or 4011.
        port: u16,
    },
    /// It asked and got no answer from us.
    DhcpIgnored {
        /// Why.
        reason: String,
    },
    /// It takes an address from the DHCP server of the site.
    AddressRequested {
        /// Which address.
        wanted: IpAddr,
    },
    /// A TFTP transfer began.
    TftpStarted {
        /// The file.
        file: String,
    },
    /// A TFTP transfer ended well.
    TftpFinished {
        /// The file.
        file: String,
        /// Its size.
        bytes: u64,
        /// How long it took.
        millis: u64,
    },
    /// A TFTP transfer ended badly.
    TftpFailed {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// A boot file was served over HTTP.
    FileServed {
        /// The path asked for.
        path: String,
        /// How many bytes went out.
        bytes: u64,
    },
    /// It asked what to boot and was told.
    ScriptServed {
        /// What: agent, talos, disk.
        mode: String,
        /// Why that.
        reason: String,
    },
    /// A kernel, an initramfs or an image was served.
    AssetServed {
        /// The path asked for.
        path: String,
        /// How many bytes went out.
        bytes: u64,
        /// How long it took.
        millis: u64,
    },
    /// It fetched the configuration to join with.
    ConfigServed,
    /// The configuration to join with was refused.
    ConfigRefused {
        /// Why.
        reason: String,
    },
    /// It joined over `SideroLink`.
    Joined,
    /// It tried to join and was refused.
    JoinRefused {
        /// Why.
        reason: String,
    },
    /// Another machine has the same UUID.
    UuidConflict {
        /// How that shows.
        reason: String,
    },
    /// It waits for the operator to accept it.
    Pending,
    /// The operator accepted it.
    Accepted,
    /// The operator rejected it.
    Rejected,
    /// Its agent opened the reverse tunnel.
    TunnelOpened,
    /// The reverse tunnel ended.
    TunnelClosed {
        /// Why.
        reason: String,
    },
    /// The reverse tunnel was refused.
    TunnelRefused {
        /// Why.
        reason: String,
    },
    /// Its agent told what the machine is made of.
    Inventory {
        /// In short.
        summary: String,
    },
    /// Its agent did not answer, or not well.
    AgentFailed {
        /// What was asked, and why there is no answer.
        reason: String,
    },
    /// Its power can be switched.
    PowerConfigured {
        /// By which driver.
        driver: String,
        /// Why by this one, where there was a choice.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// It was switched on.
    PowerOn {
        /// Whether it was told to boot from the network first.
        pxe: bool,
    },
    /// It was switched off.
    PowerOff,
    /// It could not be switched.
    PowerFailed {
        /// Why.
        reason: String,
    },
    /// Its disks are being wiped.
    WipeStarted,
    /// Its disks are empty.
    WipeFinished {
        /// How long it took.
        millis: u64,
    },
    /// What the agent did to one of its disks, or why it left it alone.
    DiskReport {
        /// In a line.
        report: String,
    },
    /// Its disks could not be wiped.
    WipeFailed {
        /// Why.
        reason: String,
    },
    /// It can be allocated.
    Ready,
    /// It belongs to a cluster now.
    Allocated {
        /// Which cluster.
        cluster: String,
        /// Which Talos it shall run.
        talos_version: String,
    },
    /// It left its cluster.
    Released,
    /// It was rebooted.
    Rebooted,
    /// It has Talos on its disk.
    Installed,
    /// It is known no longer.
    Removed,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DhcpDiscover { firmware } => write!(f, "asks for a boot server ({firmware})"),
            Self::DhcpOffer { file, port } => write!(f, "was offered {file} (port {port})"),
            Self::DhcpIgnored { reason } => write!(f, "was not answered: {reason}"),
            Self::AddressRequested { wanted } => write!(f, "takes the address {wanted}"),
            Self::TftpStarted { file } => write!(f, "fetches {file} by TFTP"),
            Self::TftpFinished { file, bytes, millis } => {
                write!(f, "has {file} by TFTP, {bytes} bytes in {millis} ms")
            }
            Self::TftpFailed { file, reason } => write!(f, "did not get {file} by TFTP: {reason}"),
            Self::FileServed { path, bytes } => write!(f, "has {path} by HTTP, {bytes} bytes"),
            Self::ScriptServed { mode, reason } => write!(f, "was told to boot {mode}: {reason}"),
            Self::AssetServed { path, bytes, millis } => {
                write!(f, "has {path}, {bytes} bytes in {millis} ms")
            }
            Self::ConfigServed => f.write_str("has its configuration"),
            Self::ConfigRefused { reason } => write!(f, "was refused its configuration: {reason}"),
            Self::Joined => f.write_str("joined"),
            Self::JoinRefused { reason } => write!(f, "was refused to join: {reason}"),
            Self::UuidConflict { reason } => write!(f, "shares its UUID with another machine: {reason}"),
            Self::Pending => f.write_str("waits to be accepted"),
            Self::Accepted => f.write_str("was accepted"),
            Self::Rejected => f.write_str("was rejected"),
            Self::TunnelOpened => f.write_str("opened its agent tunnel"),
            Self::TunnelClosed { reason } => write!(f, "closed its agent tunnel: {reason}"),
            Self::TunnelRefused { reason } => write!(f, "was refused an agent tunnel: {reason}"),
            Self::Inventory { summary } => write!(f, "is {summary}"),
            Self::AgentFailed { reason } => write!(f, "has an agent that does not answer: {reason}"),
            Self::PowerConfigured { driver, reason } if reason.is_empty() => {
                write!(f, "can be switched by {driver}")
            }
            Self::PowerConfigured { driver, reason } => write!(f, "can be switched by {driver}: {reason}"),
            Self::PowerOn { pxe: true } => f.write_str("was switched on, network first"),
            Self::PowerOn { pxe: false } => f.write_str("was switched on"),
            Self::PowerOff => f.write_str("was switched off"),
            Self::PowerFailed { reason } => write!(f, "could not be switched: {reason}"),
            Self::WipeStarted => f.write_str("wipes its disks"),
            Self::WipeFinished { millis } => write!(f, "wiped its disks in {millis} ms"),
            Self::DiskReport { report } => write!(f, "disk {report}"),
            Self::WipeFailed { reason } => write!(f, "could not wipe its disks: {reason}"),
            Self::NetworkServed { network, stack, reason } => {
                write!(f, "{network} is served by the {stack} stack: {reason}")
            }
            Self::Ready => f.write_str("is ready"),
            Self::Allocated { cluster, talos_version } => {
                write!(f, "belongs to {cluster}, Talos {talos_version}")
            }
            Self::Released => f.write_str("left its cluster"),
            Self::Rebooted => f.write_str("was rebooted"),
            Self::Installed => f.write_str("has Talos on its disk"),
            Self::Removed => f.write_str("was removed"),
        }
    }
}
