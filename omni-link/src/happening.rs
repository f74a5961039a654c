//! What happened to a machine, told to the boot journal.

use std::net::IpAddr;
use std::sync::Arc;

/// One step in a machine's life as the link sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// Omni lists the machine and waits for a person to accept or reject it.
    Pending,
    /// A person accepted it.
    Accepted,
    /// A person rejected it.
    Rejected,
    /// It belongs to a cluster.
    Allocated {
        /// The cluster's name.
        cluster: String,
        /// The Talos version that it should boot.
        talos_version: String,
    },
    /// It no longer belongs to a cluster.
    Released,
    /// An operating system on its disk reported itself.
    Installed,
    /// Omni forgot it.
    Removed,
    /// Its agent opened a tunnel.
    TunnelOpened,
    /// The tunnel ended.
    TunnelClosed {
        /// Why.
        reason: String,
    },
    /// A tunnel was not let in.
    TunnelRefused {
        /// Why.
        reason: String,
        /// Where it came from, when that is known.
        peer: Option<IpAddr>,
    },
    /// The agent told what hardware it found.
    Inventory {
        /// One line.
        summary: String,
    },
    /// Its agent did not answer, or not well; the machine goes on without that answer.
    AgentFailed {
        /// What was asked, and why there is no answer.
        reason: String,
    },
    /// The machine can be switched.
    PowerConfigured {
        /// The driver: `api`, `redfish` or `ipmi`.
        driver: &'static str,
        /// Why this one, where there was a choice.
        reason: String,
    },
    /// The machine was switched on.
    PowerOn {
        /// Whether it boots from the network first.
        pxe: bool,
    },
    /// The machine was switched off.
    PowerOff,
    /// A power operation failed.
    PowerFailed {
        /// Why.
        reason: String,
    },
    /// The agent was told to wipe the disks.
    WipeStarted,
    /// What the agent did to one disk, or why it left it alone.
    DiskReport {
        /// One line.
        report: String,
    },
    /// The disks are wiped.
    WipeFinished {
        /// How long it took.
        millis: u64,
    },
    /// The disks could not be wiped.
    WipeFailed {
        /// Why.
        reason: String,
    },
    /// The machine was rebooted on request.
    Rebooted,
    /// The machine may be allocated.
    Ready,
}

/// Gets every [`Happening`] with the machine's id, which is empty where a caller did not say who it is.
pub type Observer = Arc<dyn Fn(&str, Happening) + Send + Sync>;
