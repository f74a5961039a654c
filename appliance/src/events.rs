//! The boot journal's view of what the link and the hub tell.

use hub::{HubEvent, HubEventKind};
use netboot::journal::{Event, Step};
use omni_link::Happening;

use crate::recorder::unix_millis;

/// An event of a machine that Omni knows by its id.
pub(crate) fn of_link(id: &str, happening: Happening) -> Event {
    let mut address = None;
    let step = match happening {
        Happening::Pending => Step::Pending,
        Happening::Accepted => Step::Accepted,
        Happening::Rejected => Step::Rejected,
        Happening::Allocated { cluster, talos_version } => Step::Allocated { cluster, talos_version },
        Happening::Released => Step::Released,
        Happening::Installed => Step::Installed,
        Happening::Removed => Step::Removed,
        Happening::TunnelOpened => Step::TunnelOpened,
        Happening::TunnelClosed { reason } => Step::TunnelClosed { reason },
        Happening::TunnelRefused { reason, peer } => {
            address = peer;
            Step::TunnelRefused { reason }
        }
        Happening::Inventory { summary } => Step::Inventory { summary },
        Happening::AgentFailed { reason } => Step::AgentFailed { reason },
        Happening::PowerConfigured { driver, reason } => {
            Step::PowerConfigured { driver: driver.to_owned(), reason }
        }
        Happening::PowerOn { pxe } => Step::PowerOn { pxe },
        Happening::PowerOff => Step::PowerOff,
        Happening::PowerFailed { reason } => Step::PowerFailed { reason },
        Happening::WipeStarted => Step::WipeStarted,
        Happening::DiskReport { report } => Step::DiskReport { report },
        Happening::WipeFinished { millis } => Step::WipeFinished { millis },
        Happening::WipeFailed { reason } => Step::WipeFailed { reason },
        Happening::Rebooted => Step::Rebooted,
        Happening::Ready => Step::Ready,
    };
    Event::new(unix_millis(), step).with_uuid(id.parse().ok()).with_address(address)
}

/// Talos is given its unique token through the tunnel; the agent of ours brings one.
const NO_TOKEN_WITHOUT_TUNNEL: &str = "it has no unique token, and is given one through SideroLink's tunnel only: \
    set `[hub] wireguard = true`, or `[agent] kind = \"bootlace\"` where it is Talos' agent";

/// What only the hub sees: machines that join or may not. The rest comes to the link through its watches,
/// from the hub as from any Omni. `tunnel`: the hub has SideroLink's.
pub(crate) fn of_hub(event: HubEvent, tunnel: bool) -> Option<Event> {
    let step = match event.kind {
        HubEventKind::Limbo if !tunnel => Step::JoinRefused { reason: NO_TOKEN_WITHOUT_TUNNEL.to_owned() },
        HubEventKind::Joined => Step::Joined,
        HubEventKind::JoinRefused { reason } => Step::JoinRefused { reason },
        HubEventKind::UuidConflict { reason } => Step::UuidConflict { reason },
        HubEventKind::Limbo
        | HubEventKind::TokenGiven
        | HubEventKind::Pending
        | HubEventKind::Accepted
        | HubEventKind::Rejected
        | HubEventKind::Allocated { .. }
        | HubEventKind::Released
        | HubEventKind::Installed
        | HubEventKind::Removed => return None,
    };
    Some(Event::new(unix_millis(), step).with_uuid(event.machine.parse().ok()).with_address(event.peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_stays_in_limbo_for_want_of_a_tunnel_is_told_with_what_to_do() {
        let limbo = || HubEvent { machine: String::new(), peer: None, kind: HubEventKind::Limbo };
        assert_eq!(of_hub(limbo(), true), None, "it is given its token there");
        let told = of_hub(limbo(), false).unwrap().to_string();
        assert!(told.contains("has no unique token") && told.contains("`[hub] wireguard = true`"), "{told}");
    }
}
