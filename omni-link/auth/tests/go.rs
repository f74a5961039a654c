//! Keys and signatures of Omni's Go library are read and verified. `tests/vectors` holds
//! what two versions of it made, over both versions of the OpenPGP library beneath; and
//! in `bootlace.json` what this crate makes, which both of them have read and verified.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use omni_auth::{
    AuthError, Certificate, Identity, PAYLOAD_HEADER, PublicKey, Role, ServiceAccountKey, TIMESTAMP_HEADER,
    verify,
};
use serde_json::Value;

const OLD: &str = include_str!("vectors/go-api-signature-v0.3.12.json");
const NEW: &str = include_str!("vectors/go-api-signature-v0.3.13.json");
const OURS: &str = include_str!("vectors/bootlace.json");

fn vector(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().unwrap()
}

fn key(vector: &Value) -> ServiceAccountKey {
    ServiceAccountKey::from_env_value(text(vector, "env")).unwrap()
}

fn headers(call: &Value) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in call["headers"].as_object().unwrap() {
        for value in values.as_array().unwrap() {
            headers.append(
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_bytes(value.as_str().unwrap().as_bytes()).unwrap(),
            );
        }
    }
    headers
}

fn time_of(headers: &HeaderMap) -> SystemTime {
    let seconds = headers[TIMESTAMP_HEADER].to_str().unwrap().parse().unwrap();
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn identity() -> Identity {
    Identity {
        id: "bare-metal@infra-provider.serviceaccount.omni.sidero.dev".to_owned(),
        role: Role::InfraProvider,
    }
}

/// Verifies the call against the public key that the vector gives in armor.
fn judge(public: &str, method: &str, headers: &HeaderMap) -> Result<Identity, AuthError> {
    let certificate = Certificate::from_armored(public).unwrap();
    verify(headers, method, time_of(headers), |fingerprint| {
        (fingerprint == certificate.fingerprint()).then(|| PublicKey {
            identity: identity(),
            expires: certificate.expires_at().unwrap(),
            ed25519: *certificate.ed25519(),
        })
    })
}

#[test]
fn keys_made_by_go_are_read() {
    for go in [OLD, NEW].map(vector) {
        let key = key(&go);
        assert_eq!(key.name(), "infra-provider:bare-metal");
        assert_eq!(key.fingerprint(), text(&go, "fingerprint"));
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        assert_eq!(key.expires_at(), Some(key.certificate().created() + year));
        assert_eq!(
            key.certificate().user_id(),
            "bare-metal (linux/amd64) <bare-metal@infra-provider.serviceaccount.omni.sidero.dev>"
        );
        assert_eq!(*key.encode(), {
            let again = ServiceAccountKey::from_env_value(&key.encode()).unwrap();
            (*again.encode()).clone()
        });
    }
}

#[test]
fn the_public_half_is_the_one_that_go_writes() {
    for go in [OLD, NEW].map(vector) {
        let public = Certificate::from_armored(text(&go, "public")).unwrap();
        assert_eq!(&public, key(&go).certificate());
    }
}

#[test]
fn calls_signed_by_go_verify_and_are_bound_to_method_and_text() {
    for go in [OLD, NEW].map(vector) {
        let calls = go["calls"].as_array().unwrap();
        assert_eq!(calls.len(), 3);
        for call in calls {
            let (headers, method) = (headers(call), text(call, "method"));
            let public = text(&go, "public");
            assert_eq!(judge(public, method, &headers), Ok(identity()), "{method}");
            assert_eq!(judge(public, "/cosi.resource.State/Destroy", &headers), Err(AuthError::Method));
            let mut changed = headers.clone();
            let payload = headers[PAYLOAD_HEADER].as_bytes();
            let payload = [payload, b" "].concat();
            changed.insert(PAYLOAD_HEADER, HeaderValue::from_bytes(&payload).unwrap());
            assert!(matches!(judge(public, method, &changed), Err(AuthError::Signature(_))));
        }
    }
}

#[test]
fn calls_signed_by_go_with_our_key_verify() {
    let ours = vector(OURS);
    for go in [OLD, NEW].map(vector) {
        let call = &go["called_with_bootlace_key"];
        let method = text(call, "method");
        assert_eq!(judge(text(&ours, "public"), method, &headers(call)), Ok(identity()));
        // And with the key of the other implementation, nothing does.
        assert_eq!(judge(text(&go, "public"), method, &headers(call)), Err(AuthError::UnknownKey));
    }
}

#[test]
fn our_own_vector_verifies() {
    let ours = vector(OURS);
    for call in ours["calls"].as_array().unwrap() {
        let verdict = judge(text(&ours, "public"), text(call, "method"), &headers(call));
        assert_eq!(verdict, Ok(identity()));
    }
}
