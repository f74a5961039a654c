//! The handlers that answer with text: boot scripts and the configuration to join with.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use netboot::boot::{BootBody, BootRequest, Refusal};
use netboot::firmware::Arch;
use netboot::journal::{Event, Step};
use uuid::Uuid;

use super::{Peer, Shared, address};
use crate::clock::unix_ms;

/// Characters kept of a name that a machine says about itself: the longest DNS name has 253.
const MAX_TEXT: usize = 256;

type Parameters = Query<BTreeMap<String, String>>;

/// `/ipxe/init.ipxe`.
pub(super) async fn init(State(shared): State<Arc<Shared>>) -> Response {
    text(StatusCode::OK, shared.init_script.clone())
}

/// `/ipxe/boot.ipxe`: the machine tells who it is, the policy what it boots.
pub(super) async fn boot(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
    Query(parameters): Parameters,
) -> Response {
    let Some(uuid) = parameters.get("uuid").and_then(|text| text.parse::<Uuid>().ok()) else {
        let words = "the parameter uuid is missing or is no UUID: iPXE sends it as uuid=${uuid}\n";
        return text(StatusCode::BAD_REQUEST, words);
    };
    let say = |name: &str| parameters.get(name).map(|text| clean(text)).filter(|text| !text.is_empty());
    let request = BootRequest {
        uuid,
        mac: say("mac").and_then(|mac| mac.parse().ok()),
        hostname: say("hostname"),
        serial: say("serial"),
        domain: say("domain"),
        arch: Arch::from_buildarch(parameters.get("arch").map_or("", String::as_str)),
        peer: address(peer),
    };
    let answer = shared.policy.boot(&request);
    let step = Step::ScriptServed { mode: answer.mode, reason: answer.reason };
    let event = Event::new(unix_ms(), step).with_uuid(uuid).with_mac(request.mac);
    (shared.sink)(event.with_address(request.peer));
    match answer.body {
        BootBody::Script(script) => text(StatusCode::OK, script.to_string()),
        BootBody::NotFound(words) => text(StatusCode::NOT_FOUND, words),
    }
}

/// `/config`: carries a token, so neither it nor the answer is logged, and nobody may keep a copy.
pub(super) async fn config(
    State(shared): State<Arc<Shared>>,
    peer: Peer,
    Query(parameters): Parameters,
) -> Response {
    let uuid = parameters.get("u").and_then(|text| text.parse::<Uuid>().ok());
    let peer = address(peer);
    let answer = shared.policy.join_config(uuid, peer);
    let (step, response) = match answer {
        Ok(yaml) => {
            let headers = [(CONTENT_TYPE, "text/yaml"), (CACHE_CONTROL, "no-store")];
            (Step::ConfigServed, (headers, yaml).into_response())
        }
        Err(refusal) => {
            let status = match refusal {
                Refusal::Forbidden(_) => StatusCode::FORBIDDEN,
                Refusal::TooMany => StatusCode::TOO_MANY_REQUESTS,
                Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            let reason = refusal.to_string();
            let response = text(status, format!("{reason}\n"));
            (Step::ConfigRefused { reason }, response)
        }
    };
    (shared.sink)(Event::new(unix_ms(), step).with_uuid(uuid).with_address(peer));
    response
}

/// Text from a machine, fit for a journal's line.
fn clean(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(MAX_TEXT).collect()
}

fn text(status: StatusCode, body: impl Into<axum::body::Body>) -> Response {
    (status, [(CONTENT_TYPE, "text/plain; charset=utf-8")], body.into()).into_response()
}
