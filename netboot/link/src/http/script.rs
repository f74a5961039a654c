//! What is answered with text: boot scripts and the configuration to join with.

use std::borrow::Cow;

use http::StatusCode;
use netboot::boot::{BootBody, BootRequest, Refusal};
use netboot::firmware::Arch;
use netboot::journal::{Event, Step};
use uuid::Uuid;

use super::answer::{Answer, Boot, Question};
use crate::clock::unix_ms;

/// Characters kept of a name that a machine says about itself: the longest DNS name has 253.
const MAX_TEXT: usize = 256;
/// Parameters read of a question; iPXE sends seven.
const MAX_PARAMETERS: usize = 32;

/// The parameters of a query, decoded where that is needed.
fn parameters<'a>(question: Question<'a>) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
    form_urlencoded::parse(question.query.as_bytes()).take(MAX_PARAMETERS)
}

/// `/ipxe/boot.ipxe`: the machine tells who it is, the policy what it boots.
pub(super) fn boot(boot: &Boot, question: Question<'_>) -> Answer {
    let (mut uuid, mut mac, mut arch) = (None, None, Arch::from_buildarch(""));
    let (mut hostname, mut serial, mut domain) = (None, None, None);
    for (name, value) in parameters(question) {
        match &*name {
            "uuid" => uuid = value.parse::<Uuid>().ok(),
            "mac" => mac = clean(&value).and_then(|mac| mac.parse().ok()),
            "arch" => arch = Arch::from_buildarch(&value),
            "hostname" => hostname = clean(&value),
            "serial" => serial = clean(&value),
            "domain" => domain = clean(&value),
            _ => {}
        }
    }
    let Some(uuid) = uuid else {
        let words = "the parameter uuid is missing or is no UUID: iPXE sends it as uuid=${uuid}\n";
        return Answer::text(StatusCode::BAD_REQUEST, words);
    };
    let request = BootRequest { uuid, mac, hostname, serial, domain, arch, peer: question.peer };
    let answer = boot.policy.boot(&request);
    let step = Step::ScriptServed { mode: answer.mode, reason: answer.reason };
    let event = Event::new(unix_ms(), step).with_uuid(uuid).with_mac(request.mac);
    (boot.sink)(event.with_address(request.peer));
    match answer.body {
        BootBody::Script(script) => Answer::text(StatusCode::OK, script.to_string()),
        BootBody::NotFound(words) => Answer::text(StatusCode::NOT_FOUND, words),
    }
}

/// `/config`: carries a token, so neither it nor the answer is logged, and nobody may keep a copy.
pub(super) fn config(boot: &Boot, question: Question<'_>) -> Answer {
    let uuid = parameters(question).find(|(name, _)| name == "u").and_then(|(_, text)| text.parse().ok());
    let peer = question.peer;
    let (step, answer) = match boot.policy.join_config(uuid, peer) {
        Ok(yaml) => {
            let answer = Answer { kind: "text/yaml", secret: true, ..Answer::text(StatusCode::OK, yaml) };
            (Step::ConfigServed, answer)
        }
        Err(refusal) => {
            let status = match refusal {
                Refusal::Forbidden(_) => StatusCode::FORBIDDEN,
                Refusal::TooMany => StatusCode::TOO_MANY_REQUESTS,
                Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            let reason = refusal.to_string();
            let answer = Answer::text(status, format!("{reason}\n"));
            (Step::ConfigRefused { reason }, answer)
        }
    };
    (boot.sink)(Event::new(unix_ms(), step).with_uuid(uuid).with_address(peer));
    answer
}

/// Text from a machine, fit for a journal's line; nothing when it says nothing.
fn clean(text: &str) -> Option<String> {
    let clean: String = text.chars().filter(|character| !character.is_control()).take(MAX_TEXT).collect();
    (!clean.is_empty()).then_some(clean)
}
