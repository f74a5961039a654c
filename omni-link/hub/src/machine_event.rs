//! What a running Talos tells.
//!
//! The machine is known by the address that it calls from: the one inside the tunnel, which WireGuard vouches for;
//! without WireGuard it is the address that the machine joined from.

use std::net::IpAddr;

use agent_wire::events::EventRequest;
use agent_wire::machine::{SequenceEvent, sequence_event::Action};
use cosi::{Missing, StateError};
use prost::Message;
use provider::resources::INFRA_MACHINE_OWNER;
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::{InfraMachineSpec, SiderolinkSpec};
use thiserror::Error;
use tonic::Status;

use crate::{Hub, HubEvent, HubEventKind};

/// The message name at the end of the type URL, whatever stands before it.
const SEQUENCE_EVENT: &str = "machine.SequenceEvent";
/// How the error of an install sequence says that it ended with the reboot into the new system.
const REBOOT: &str = "unix.Reboot";

/// Why an event is refused.
#[derive(Debug, Error)]
pub enum PublishError {
    /// No accepted machine has that address.
    #[error("no machines found for address {0}")]
    NoMachine(String),
    /// It is no event.
    #[error("the event cannot be read")]
    Malformed(#[source] prost::DecodeError),
    /// The store failed.
    #[error("the hub's store failed")]
    Store(#[from] StateError),
}

impl From<PublishError> for Status {
    fn from(error: PublishError) -> Self {
        let text = error.to_string();
        match error {
            PublishError::NoMachine(_) => Self::unknown(text),
            PublishError::Malformed(_) => Self::invalid_argument(text),
            PublishError::Store(_) => Self::internal("internal server error"),
        }
    }
}

impl Hub {
    /// A machine at `peer` reports an event.
    ///
    /// # Errors
    /// When no accepted machine is at that address, or the event is none.
    pub async fn publish(&self, request: EventRequest, peer: Option<IpAddr>) -> Result<(), PublishError> {
        let machine = self.machine_at(peer).await?;
        let Some(data) = request.data else { return Ok(()) };
        if data.type_url.rsplit('/').next() != Some(SEQUENCE_EVENT) {
            return Ok(());
        }
        let event = SequenceEvent::decode(data.value.as_slice()).map_err(PublishError::Malformed)?;
        if !runs_from_disk(&event) {
            return Ok(());
        }
        let result = self
            .store
            .put::<InfraMachineSpec, _>(&machine, INFRA_MACHINE_OWNER, Missing::Fail, |_, spec| {
                // It may come twice for one boot: the number is only ever compared.
                spec.install_event_id = spec.install_event_id.saturating_add(1);
                Ok(())
            })
            .await;
        match result {
            Ok(_) => {
                self.emit(HubEvent { machine, peer, kind: HubEventKind::Installed });
                Ok(())
            }
            Err(StateError::NotFound(_) | StateError::PhaseConflict(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The one accepted machine with that address.
    async fn machine_at(&self, peer: Option<IpAddr>) -> Result<String, PublishError> {
        let address = peer.map(|peer| peer.to_canonical().to_string()).unwrap_or_default();
        let nobody = || PublishError::NoMachine(address.clone());
        let id = self.linked_at(&address).await?.ok_or_else(nobody)?;
        let machine = self.store.find::<InfraMachineSpec>(&id).await?.ok_or_else(nobody)?;
        let accepted = machine.spec.acceptance_status == AcceptanceStatus::Accepted as i32;
        if accepted && !machine.tearing_down() { Ok(id) } else { Err(nobody()) }
    }

    /// The one machine with that address. Without WireGuard it is the one that joined from there: `None` also when two
    /// claim it, then neither is believed.
    pub(crate) async fn linked_at(&self, address: &str) -> Result<Option<String>, StateError> {
        if let Some(wireguard) = &self.wireguard {
            let Some(machine) = wireguard.machine_at(address) else { return Ok(None) };
            let link = self.store.find::<SiderolinkSpec>(&machine).await?;
            return Ok(link.is_some_and(|link| !link.tearing_down()).then_some(machine));
        }
        let mut found = None;
        for hint in self.index.at(address) {
            let link = self.store.find::<SiderolinkSpec>(&hint.machine).await?;
            let Some(link) = link.filter(|link| link.spec.remote_addr == address) else {
                self.index.wrong(address, &hint);
                continue;
            };
            if !link.tearing_down() && found.replace(hint.machine).is_some() {
                return Ok(None);
            }
        }
        Ok(found)
    }
}

/// The two ways in which Talos shows that it is on the disk: it boots, or its installer is done and reboots.
fn runs_from_disk(event: &SequenceEvent) -> bool {
    match (event.sequence.as_str(), Action::try_from(event.action)) {
        ("boot", Ok(Action::Start)) => true,
        ("install", Ok(Action::Noop)) => {
            event.error.as_ref().is_some_and(|error| error.message.contains(REBOOT))
        }
        _ => false,
    }
}
