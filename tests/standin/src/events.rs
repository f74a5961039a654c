//! What Talos tells the event sink about its installation, which is what Omni concludes "installed" from.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_wire::SEQUENCE_EVENT_TYPE_URL;
use agent_wire::events::EventRequest;
use agent_wire::events::event_sink_service_client::EventSinkServiceClient;
use agent_wire::machine::sequence_event::Action;
use agent_wire::machine::{SequenceError, SequenceEvent};
use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use prost_types::Any;
use siderolink::Tunnel;
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

/// Sends an event to the sink at `ip:port`, once; through the tunnel when the sink is in there.
pub async fn publish(sink: &str, tunnel: Option<&Tunnel>, event: &SequenceEvent) -> Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{sink}"))
        .with_context(|| format!("{sink:?} is no event sink"))?
        .connect_timeout(CALL_LIMIT)
        .timeout(CALL_LIMIT);
    let channel = match inside(sink, tunnel) {
        Some((tunnel, sink)) => {
            let connector = tower::service_fn(move |_| {
                let tunnel = tunnel.clone();
                async move { tunnel.connect(sink).await.map(TokioIo::new) }
            });
            endpoint.connect_with_connector(connector).await
        }
        None => endpoint.connect().await,
    };
    let channel = channel.with_context(|| format!("cannot reach the event sink {sink}"))?;
    let request = EventRequest {
        data: Some(Any { type_url: SEQUENCE_EVENT_TYPE_URL.to_owned(), value: event.encode_to_vec() }),
        id: event_id(SystemTime::now()),
        actor_id: String::new(),
    };
    let answer = EventSinkServiceClient::new(channel).publish(request).await;
    answer.with_context(|| format!("the event sink {sink} refused the event {}", event.sequence))?;
    Ok(())
}

/// The tunnel, if the address is one of SideroLink's.
fn inside(sink: &str, tunnel: Option<&Tunnel>) -> Option<(Tunnel, SocketAddrV6)> {
    let (tunnel, sink) = (tunnel?, sink.parse::<SocketAddrV6>().ok()?);
    let network = |address: &Ipv6Addr| address.segments()[..4].to_vec();
    (network(sink.ip()) == network(&tunnel.address())).then(|| (tunnel.clone(), sink))
}

/// Ids sort by time.
fn event_id(now: SystemTime) -> String {
    format!("{:032x}", now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos())
}

#[cfg(test)]
mod tests;
