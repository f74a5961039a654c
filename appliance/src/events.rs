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

/// What only the hub sees: machines that join or may not. The rest comes to the link through its watches,
/// from the hub as from any Omni.
pub(crate) fn of_hub(event: HubEvent) -> Option<Event> {
    let step = match event.kind {
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
