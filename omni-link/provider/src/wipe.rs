//! Whether a machine's disks are wiped now.

use std::time::SystemTime;

use crate::boot::requires_wipe;
use crate::private::WipeStatusSpec;
use crate::reason::Reason;
use crate::specs::InfraMachineSpec;
use crate::view::{InfraMachine, MachineView};

/// What is done to the disks.
#[derive(Clone, Debug, PartialEq)]
pub enum WipeAction {
    /// Wipe them; when that succeeded, this is the record to write.
    Wipe(Box<WipeStatusSpec>),
    /// Leave them alone.
    Leave,
}

/// The one gate before every act on a machine: accepted, not being removed, not cordoned.
pub(crate) fn actionable(view: &MachineView) -> Result<&InfraMachine, Reason> {
    use crate::view::Acceptance;
    let machine = view.machine.as_ref().ok_or(Reason::Unknown)?;
    match machine.acceptance() {
        Acceptance::Rejected => Err(Reason::Rejected),
        Acceptance::Pending => Err(Reason::Pending),
        Acceptance::Accepted if machine.tearing_down => Err(Reason::TearingDown),
        Acceptance::Accepted if machine.spec.cordoned => Err(Reason::Cordoned),
        Acceptance::Accepted => Ok(machine),
    }
}

/// The record of a wipe that was done for this specification in the boot that began at `boot`. It is taken when the
/// wipe begins: whatever changes while it runs asks for the next one.
#[must_use]
pub fn wipe_record(machine: &InfraMachineSpec, boot: Option<SystemTime>) -> WipeStatusSpec {
    WipeStatusSpec {
        last_wipe_id: machine.wipe_id.clone(),
        last_wipe_install_event_id: machine.install_event_id,
        initial_wipe_done: true,
        wiped_node_unique_token: machine.node_unique_token.clone(),
        boot_at_wipe: boot.map(Into::into),
        ..WipeStatusSpec::default()
    }
}

/// Whether to wipe, and why.
#[must_use]
pub fn wipe(view: &MachineView) -> (WipeAction, Reason) {
    let machine = match actionable(view) {
        Ok(machine) => machine,
        Err(reason) => return (WipeAction::Leave, reason),
    };
    if !requires_wipe(view) {
        return (WipeAction::Leave, Reason::NotDue);
    }
    if !view.fresh {
        return (WipeAction::Leave, Reason::Stale);
    }
    if !view.agent_accessible() {
        return (WipeAction::Leave, Reason::AgentAway);
    }
    (WipeAction::Wipe(Box::new(wipe_record(&machine.spec, view.last_boot()))), Reason::WipeDue)
}
