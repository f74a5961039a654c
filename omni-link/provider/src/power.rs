//! On, off, reboot.
//!
//! ```text
//!        off, wanted                       on, nothing left to do, inventory known
//!  Off ---------------> On (PXE once when it boots by network) --------------------> Off
//!                       |  ^
//!                       +--+  cycled: the agent runs and Talos is wanted, Talos runs and the agent is
//!                             wanted, or the agent is not there within the boot deadline
//! ```
//!
//! Power-off does not wait: as soon as nothing is left to do the machine goes off. A crash loop is held back
//! by the boot deadline alone, which no boot that we caused is cut short by.

use std::time::{Duration, SystemTime};

use crate::boot::{BootMode, boot_mode, installed, requires_wipe};
use crate::private::BmcConfigurationSpec;
use crate::reason::Reason;
use crate::specs::infra_machine_spec::MachinePowerState;
use crate::view::{InfraMachine, MachineView};
use crate::wipe::actionable;

/// What is done to a machine's power.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PowerAction {
    /// Switch it on.
    On {
        /// Make it boot from the network this once.
        pxe_once: bool,
    },
    /// Switch it off.
    Off,
    /// Restart it. The driver records it as a reboot, without a request id.
    Cycle {
        /// Make it boot from the network this once.
        pxe_once: bool,
    },
    /// Do nothing.
    Leave,
}

/// What is done about a reboot request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RebootAction {
    /// Reboot it, then record the request as done.
    Reboot {
        /// Make it boot from the network this once.
        pxe_once: bool,
    },
    /// Record the request as done: there is nothing to reboot.
    Acknowledge,
    /// Do nothing.
    Leave,
}

/// A power-off request to be acknowledged: what to write into the PowerOperation record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PowerOffAck {
    /// The request.
    pub id: String,
    /// The machine's wipe id, which ends the request when it changes.
    pub wipe_id: String,
}

/// The machine has something to do: it is in use or must be wiped.
#[must_use]
pub fn wants_power_on(view: &MachineView) -> bool {
    view.machine.as_ref().is_some_and(|machine| use_of(view, machine).is_some())
}

/// What the machine is to be on for.
fn use_of(view: &MachineView, machine: &InfraMachine) -> Option<Reason> {
    if requires_wipe(view) {
        Some(Reason::WipeDue)
    } else if machine.allocated() {
        Some(Reason::Allocated)
    } else if installed(view) {
        Some(Reason::Installed)
    } else {
        None
    }
}

fn prefers_on(machine: &InfraMachine) -> bool {
    machine.spec.preferred_power_state == MachinePowerState::PowerStateOn as i32
}

/// Whether anything can switch the machine.
fn controllable(bmc: Option<&BmcConfigurationSpec>) -> Result<(), Reason> {
    let bmc = bmc.ok_or(Reason::NoBmcConfig)?;
    let ipmi = bmc.ipmi.as_ref().is_some_and(|ipmi| !ipmi.address.is_empty());
    let api = bmc.api.as_ref().is_some_and(|api| !api.address.is_empty());
    if ipmi || api { Ok(()) } else { Err(Reason::NoPowerControl) }
}

/// The user's power-off request stands: acknowledged, and no wipe was asked for since.
#[must_use]
pub fn power_off_active(view: &MachineView) -> bool {
    let (Some(machine), Some(power)) = (&view.machine, &view.power) else { return false };
    !power.last_power_off_id.is_empty()
        && power.last_power_off_id == machine.spec.power_off_request_id
        && power.wipe_id_at_power_off == machine.spec.wipe_id
}

/// A power-off request that was not acknowledged yet.
#[must_use]
pub fn power_off_ack(view: &MachineView) -> Option<PowerOffAck> {
    let machine = actionable(view).ok()?;
    let id = &machine.spec.power_off_request_id;
    let last = view.power.as_ref().map_or("", |power| power.last_power_off_id.as_str());
    (!id.is_empty() && id != last)
        .then(|| PowerOffAck { id: id.clone(), wipe_id: machine.spec.wipe_id.clone() })
}

/// What to do to the machine's power, and why.
#[must_use]
pub fn power(view: &MachineView, now: SystemTime) -> (PowerAction, Reason) {
    match power_of(view, now) {
        Ok(decision) => decision,
        Err(reason) => (PowerAction::Leave, reason),
    }
}

fn power_of(view: &MachineView, now: SystemTime) -> Result<(PowerAction, Reason), Reason> {
    let machine = actionable(view)?;
    controllable(view.bmc.as_ref())?;
    let on = view.powered_on().ok_or(Reason::PowerUnknown)?;
    let wanted = use_of(view, machine).or_else(|| prefers_on(machine).then_some(Reason::PreferredOn));
    match (on, wanted) {
        (false, _) if power_off_active(view) || power_off_ack(view).is_some() => {
            Err(Reason::PowerOffRequested)
        }
        (false, Some(reason)) => Ok((PowerAction::On { pxe_once: pxe_once(view) }, reason)),
        (false, None) => Err(Reason::Idle),
        (true, Some(Reason::PreferredOn)) => Err(Reason::PreferredOn),
        (true, Some(reason)) => running(view, now, reason),
        (true, None) if !view.inventory => Err(Reason::WaitingForInventory),
        (true, None) if !view.fresh => Err(Reason::Stale),
        (true, None) => Ok((PowerAction::Off, Reason::NothingLeftToDo)),
    }
}

fn pxe_once(view: &MachineView) -> bool {
    boot_mode(view).0.network()
}

/// A machine that is on and has something to do: does what it needs run?
fn running(view: &MachineView, now: SystemTime, reason: Reason) -> Result<(PowerAction, Reason), Reason> {
    let cycle = PowerAction::Cycle { pxe_once: true };
    let decision = match (boot_mode(view).0, view.agent_accessible()) {
        (BootMode::Agent, true) | (BootMode::Disk, _) => return Err(reason),
        (BootMode::Talos, false) => return Err(Reason::TalosBooting),
        (BootMode::Talos, true)
            if view.reached_agent() && (view.wiped_in_this_boot() || since_reboot_over(view, now)) =>
        {
            (cycle, Reason::TalosWanted)
        }
        (BootMode::Agent, false) if view.reached_talos() => (cycle, Reason::AgentWanted),
        (BootMode::Talos, true) | (BootMode::Agent, false) => {
            let left = until_deadline(view, now);
            if !left.is_zero() {
                return Err(Reason::Booting { left });
            }
            (cycle, Reason::BootDeadlinePassed { after: view.policy.boot_deadline })
        }
    };
    if view.fresh { Ok(decision) } else { Err(Reason::Stale) }
}

/// The last reboot is no longer so recent that another one would be a loop.
fn since_reboot_over(view: &MachineView, now: SystemTime) -> bool {
    view.last_reboot().is_none_or(|reboot| elapsed(now, reboot) >= view.policy.boot_deadline)
}

/// How long the machine still has to show up.
fn until_deadline(view: &MachineView, now: SystemTime) -> Duration {
    match view.last_boot().max(view.watched_since) {
        Some(since) => view.policy.boot_deadline.saturating_sub(elapsed(now, since)),
        None => Duration::ZERO,
    }
}

/// Time since; a moment in the future counts as now.
fn elapsed(now: SystemTime, since: SystemTime) -> Duration {
    now.duration_since(since).unwrap_or_default()
}

/// What to do about the user's reboot request, and why.
#[must_use]
pub fn reboot(view: &MachineView, now: SystemTime) -> (RebootAction, Reason) {
    match reboot_of(view, now) {
        Ok(decision) => decision,
        Err(reason) => (RebootAction::Leave, reason),
    }
}

fn reboot_of(view: &MachineView, now: SystemTime) -> Result<(RebootAction, Reason), Reason> {
    let machine = actionable(view)?;
    let requested = &machine.spec.requested_reboot_id;
    if requested.is_empty() {
        return Err(Reason::NoRequest);
    }
    if view.reboot.as_ref().is_some_and(|reboot| reboot.last_reboot_id == *requested) {
        return Err(Reason::RequestDone);
    }
    controllable(view.bmc.as_ref())?;
    if !view.fresh {
        return Err(Reason::Stale);
    }
    if !view.powered_on().ok_or(Reason::PowerUnknown)? {
        return Ok((RebootAction::Acknowledge, Reason::RebootWhileOff));
    }
    if let Some(boot) = view.last_boot() {
        let left = view.policy.min_reboot_interval.saturating_sub(elapsed(now, boot));
        if !left.is_zero() {
            return Err(Reason::TooSoon { left });
        }
    }
    Ok((RebootAction::Reboot { pxe_once: pxe_once(view) }, Reason::RebootRequested))
}
