//! Why: what an operator reads.

use std::time::Duration;

use thiserror::Error;

/// Why a machine gets the boot mode that it gets.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum BootReason {
    /// No InfraMachine.
    #[error("not known to Omni yet")]
    Unknown,
    /// The user rejected it.
    #[error("rejected: it boots from its own disk")]
    Rejected,
    /// It is being removed.
    #[error("it is being removed from Omni")]
    TearingDown,
    /// Nobody decided yet.
    #[error("waits for acceptance")]
    Pending,
    /// It is free.
    #[error("accepted, not allocated to a cluster")]
    NotAllocated,
    /// Its power is not under control yet.
    #[error("power control is not configured yet")]
    NoBmcConfig,
    /// Its disks are to be wiped.
    #[error("its disks are to be wiped before use")]
    WipeDue,
    /// Talos is on its disk.
    #[error("Talos is installed on its disk")]
    Installed,
    /// It is to install Talos.
    #[error("allocated: boots Talos {talos_version} to install it")]
    Allocated {
        /// Of the cluster.
        talos_version: String,
    },
}

/// Why something is done to a machine, or is not.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Reason {
    /// No InfraMachine.
    #[error("the machine is not known to Omni")]
    Unknown,
    /// Nobody decided yet.
    #[error("the machine waits for acceptance: nothing is done to it")]
    Pending,
    /// The user rejected it.
    #[error("the machine is rejected: nothing is done to it")]
    Rejected,
    /// It is being removed.
    #[error("the machine is being removed from Omni")]
    TearingDown,
    /// The user asked to leave it alone.
    #[error("the machine is cordoned")]
    Cordoned,
    /// Omni may have changed its mind.
    #[error("no link to Omni: this waits until its wishes are known again")]
    Stale,
    /// No BMCConfiguration.
    #[error("power control is not configured yet")]
    NoBmcConfig,
    /// A BMCConfiguration without any address.
    #[error("the machine has no power control: switch it by hand")]
    NoPowerControl,
    /// The BMC did not tell.
    #[error("the power state is not known")]
    PowerUnknown,
    /// A user wants it off.
    #[error("a power-off was requested")]
    PowerOffRequested,
    /// A wipe is due.
    #[error("its disks are to be wiped")]
    WipeDue,
    /// No wipe is due.
    #[error("its disks are clean")]
    NotDue,
    /// It belongs to a cluster.
    #[error("it is allocated to a cluster")]
    Allocated,
    /// Talos is on its disk.
    #[error("Talos is installed on it")]
    Installed,
    /// The user wants it on.
    #[error("its preferred power state is on")]
    PreferredOn,
    /// Nothing to do, and it is on.
    #[error("nothing is left to do on it")]
    NothingLeftToDo,
    /// Nothing to do, and it is off.
    #[error("it is off and has nothing to do")]
    Idle,
    /// First power-off only after the inventory.
    #[error("its inventory is not complete yet")]
    WaitingForInventory,
    /// Booted, not there yet.
    #[error("it is booting: {}s left until its power is cycled", left.as_secs())]
    Booting {
        /// Until the boot deadline.
        left: Duration,
    },
    /// Talos boots and installs at its own pace.
    #[error("Talos is booting on it")]
    TalosBooting,
    /// The boot that we caused did not reach the agent in time.
    #[error("it did not show up within {}s after its last boot", after.as_secs())]
    BootDeadlinePassed {
        /// The deadline.
        after: Duration,
    },
    /// The agent runs, Talos is wanted.
    #[error("the agent runs on it, but it is allocated: it boots Talos")]
    TalosWanted,
    /// Talos runs, the agent is wanted.
    #[error("Talos runs on it, but the agent is needed to wipe it")]
    AgentWanted,
    /// The agent is needed and does not answer.
    #[error("the agent does not answer")]
    AgentAway,
    /// The user asks for nothing.
    #[error("no reboot is requested")]
    NoRequest,
    /// The request was carried out.
    #[error("the requested reboot is done")]
    RequestDone,
    /// The request stands.
    #[error("a reboot was requested")]
    RebootRequested,
    /// The request is void.
    #[error("a reboot was requested, but it is off")]
    RebootWhileOff,
    /// The last boot is too recent.
    #[error("a reboot was requested: it waits {}s more since the last boot", left.as_secs())]
    TooSoon {
        /// Of the minimal interval.
        left: Duration,
    },
    /// It may be allocated.
    #[error("ready for use")]
    Ready,
}
