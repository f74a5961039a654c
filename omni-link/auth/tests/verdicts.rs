//! Keys and calls, right and wrong ones, get the verdict of Omni's own libraries: `vectors/go.json`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use omni_auth::{Certificate, Identity, PublicKey, Role, ServiceAccountKey, verify};
use serde::Deserialize;

/// Go reads fields by their names in any case; nobody sends them so, and what we know less of we refuse.
const STRICTER: &str = "names of fields in other case";

#[derive(Deserialize)]
struct File {
    keys: Vec<Key>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct Key {
    what: String,
    env: String,
    name: String,
    user_id: String,
    fingerprint: String,
    public: String,
    created: u64,
    expires: u64,
    calls: Vec<Call>,
}

#[derive(Deserialize)]
struct Call {
    what: String,
    method: String,
    headers: BTreeMap<String, Vec<String>>,
    at: u64,
    accepted: bool,
}

#[derive(Deserialize)]
struct Refused {
    what: String,
    env: String,
}

fn file() -> File {
    serde_json::from_str(include_str!("vectors/go.json")).unwrap()
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn headers(call: &Call) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in &call.headers {
        for value in values {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
    }
    headers
}

#[test]
fn every_kind_of_key_that_go_makes_is_read() {
    for key in file().keys {
        let read = ServiceAccountKey::from_env_value(&key.env).unwrap();
        assert_eq!(read.name(), key.name, "{}", key.what);
        assert_eq!(read.fingerprint(), key.fingerprint, "{}", key.what);
        let public = Certificate::from_armored(&key.public).unwrap();
        assert_eq!(&public, read.certificate(), "{}", key.what);
        assert_eq!(public.user_id(), key.user_id, "{}", key.what);
        assert_eq!(public.created(), time(key.created), "{}", key.what);
        assert_eq!(read.expires_at(), (key.expires > 0).then(|| time(key.expires)), "{}", key.what);
    }
}

#[test]
fn every_call_gets_the_verdict_of_omni() {
    for key in file().keys {
        let public = Certificate::from_armored(&key.public).unwrap();
        let known = |fingerprint: &str| {
            (fingerprint == public.fingerprint()).then(|| PublicKey {
                identity: Identity { id: key.user_id.clone(), role: Role::InfraProvider },
                expires: time(u64::from(u32::MAX)),
                ed25519: *public.ed25519(),
            })
        };
        for call in &key.calls {
            let verdict = verify(&headers(call), &call.method, time(call.at), known);
            let accepted = call.accepted && call.what != STRICTER;
            assert_eq!(verdict.is_ok(), accepted, "{}, {}: {verdict:?}", key.what, call.what);
        }
    }
}

#[test]
fn keys_that_cannot_sign_are_refused() {
    for refused in file().refused {
        assert!(ServiceAccountKey::from_env_value(&refused.env).is_err(), "{}", refused.what);
    }
}
