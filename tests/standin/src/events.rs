//! What Talos tells the event sink about its installation, which is what Omni concludes "installed" from.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_wire::SEQUENCE_EVENT_TYPE_URL;
use agent_wire::events::EventRequest;
use agent_wire::events::event_sink_service_client::EventSinkServiceClient;
use agent_wire::machine::sequence_event::Action;
use agent_wire::machine::{SequenceError, SequenceEvent};
use anyhow::{Context as _, Result};
use prost::Message as _;
use prost_types::Any;
use tonic::transport::Endpoint;

/// How long one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// `common.Code` of an error that ended a sequence.
const FATAL: i32 = 0;

/// The end of an installation. Talos' sequencer sees the reboot as a fatal error of the sequence, by this name.
pub fn install_ended() -> SequenceEvent {
    SequenceEvent {
        sequence: "install".to_owned(),
        action: Action::Noop.into(),
        error: Some(SequenceError { code: FATAL, message: "unix.Reboot".to_owned() }),
    }
}

/// The beginning of a boot of the installed system.
pub fn boot_began() -> SequenceEvent {
    SequenceEvent { sequence: "boot".to_owned(), action: Action::Start.into(), error: None }
}

/// Sends an event to the sink at `ip:port`, once.
pub async fn publish(sink: &str, event: &SequenceEvent) -> Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{sink}"))
        .with_context(|| format!("{sink:?} is no event sink"))?
        .connect_timeout(CALL_LIMIT)
        .timeout(CALL_LIMIT);
    let channel = endpoint.connect().await.with_context(|| format!("cannot reach the event sink {sink}"))?;
    let request = EventRequest {
        data: Some(Any { type_url: SEQUENCE_EVENT_TYPE_URL.to_owned(), value: event.encode_to_vec() }),
        id: event_id(SystemTime::now()),
        actor_id: String::new(),
    };
    let answer = EventSinkServiceClient::new(channel).publish(request).await;
    answer.with_context(|| format!("the event sink {sink} refused the event {}", event.sequence))?;
    Ok(())
}

/// Ids sort by time.
fn event_id(now: SystemTime) -> String {
    format!("{:032x}", now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos())
}

#[cfg(test)]
mod tests;
