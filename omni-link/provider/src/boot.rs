//! Which of three things a machine boots.
//!
//! ```text
//! rejected                                     -> disk
//! unknown, tearing down, pending, not allocated,
//! no BMC configuration, wipe due               -> agent
//! installed since the last wipe                -> disk
//! otherwise                                    -> Talos
//! ```

use crate::reason::BootReason;
use crate::view::{Acceptance, MachineView};

/// What a machine boots.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum BootMode {
    /// The discovery agent over the network.
    Agent,
    /// Talos over the network, to install it.
    Talos,
    /// Its own disk.
    Disk,
}

impl BootMode {
    /// The name that the peer uses too.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent-pxe",
            Self::Talos => "talos-pxe",
            Self::Disk => "talos-disk",
        }
    }

    /// It comes over the network.
    #[must_use]
    pub fn network(self) -> bool {
        match self {
            Self::Agent | Self::Talos => true,
            Self::Disk => false,
        }
    }
}

impl std::fmt::Display for BootMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Talos has run from the machine's disk since the last wipe.
#[must_use]
pub fn installed(view: &MachineView) -> bool {
    let wiped_at = view.wipe.as_ref().map_or(0, |wipe| wipe.last_wipe_install_event_id);
    view.machine.as_ref().is_some_and(|machine| machine.spec.install_event_id > wiped_at)
}

/// The disks are not known to be clean: never wiped by us, or Omni asks for a new wipe.
#[must_use]
pub fn requires_wipe(view: &MachineView) -> bool {
    match (&view.machine, &view.wipe) {
        (Some(machine), Some(wipe)) => !wipe.initial_wipe_done || machine.spec.wipe_id != wipe.last_wipe_id,
        (None, _) | (_, None) => true,
    }
}

/// What the machine boots next, and why.
#[must_use]
pub fn boot_mode(view: &MachineView) -> (BootMode, BootReason) {
    let Some(machine) = &view.machine else { return (BootMode::Agent, BootReason::Unknown) };
    match machine.acceptance() {
        Acceptance::Rejected => return (BootMode::Disk, BootReason::Rejected),
        _ if machine.tearing_down => return (BootMode::Agent, BootReason::TearingDown),
        Acceptance::Pending => return (BootMode::Agent, BootReason::Pending),
        Acceptance::Accepted => {}
    }
    if !machine.allocated() {
        return (BootMode::Agent, BootReason::NotAllocated);
    }
    if view.bmc.is_none() {
        return (BootMode::Agent, BootReason::NoBmcConfig);
    }
    if requires_wipe(view) {
        return (BootMode::Agent, BootReason::WipeDue);
    }
    if installed(view) {
        return (BootMode::Disk, BootReason::Installed);
    }
    let talos_version = machine.spec.cluster_talos_version.clone();
    (BootMode::Talos, BootReason::Allocated { talos_version })
}
