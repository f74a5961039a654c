use http::HeaderName;

use super::*;
use crate::identity::Role;
use crate::key::ServiceAccountKey;

const METHOD: &str = "/cosi.resource.State/Get";
const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn key() -> ServiceAccountKey {
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    ServiceAccountKey::generate("bare-metal", at(NOW), year).unwrap()
}

fn identity() -> Identity {
    Identity {
        id: "bare-metal@infra-provider.serviceaccount.omni.sidero.dev".to_owned(),
        role: Role::InfraProvider,
    }
}

/// A server that knows one key.
fn stored(key: &ServiceAccountKey) -> impl Fn(&str) -> Option<PublicKey> + use<> {
    let certificate = key.certificate().clone();
    move |fingerprint| {
        (fingerprint == certificate.fingerprint()).then(|| PublicKey {
            identity: identity(),
            expires: certificate.expires_at().unwrap(),
            ed25519: *certificate.ed25519(),
        })
    }
}

fn with(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
    }
    headers
}

/// Metadata over a payload of one's own, rightly signed for the time `NOW`.
fn signed_payload(key: &ServiceAccountKey, payload: &str, more: &[(&str, &str)]) -> HeaderMap {
    let signature = key.sign_text(payload.as_bytes(), at(NOW));
    let mut headers = with(more);
    headers.insert(TIMESTAMP_HEADER, NOW.into());
    headers.insert(PAYLOAD_HEADER, HeaderValue::from_bytes(payload.as_bytes()).unwrap());
    headers.insert(SIGNATURE_HEADER, signature.parse().unwrap());
    headers
}

/// Rightly signed metadata for a call that carries `more`.
fn signed(key: &ServiceAccountKey, more: &[(&str, &str)]) -> HeaderMap {
    let mut headers = with(more);
    key.sign_request(at(NOW), METHOD, &headers).apply(&mut headers);
    headers
}

fn judge(key: &ServiceAccountKey, headers: &HeaderMap) -> Result<Identity, AuthError> {
    verify(headers, METHOD, at(NOW), stored(key))
}

#[test]
fn a_signed_call_is_by_whom_the_stored_key_says() {
    let key = key();
    assert_eq!(judge(&key, &signed(&key, &[])), Ok(identity()));
    let mut renamed = signed(&key, &[]);
    let header = renamed[SIGNATURE_HEADER].to_str().unwrap();
    let header = header.replace("infra-provider:bare-metal", "whoever");
    renamed.insert(SIGNATURE_HEADER, header.parse().unwrap());
    assert_eq!(judge(&key, &renamed), Ok(identity()));
}

/// Rule: payload and request say the same of each of the ten headers.
#[test]
fn every_header_must_be_signed_as_it_is_carried() {
    let key = key();
    let stamp = format!(r#""x-sidero-timestamp":["{NOW}"]"#);
    let payload = |more: &str| format!(r#"{{"headers":{{{stamp}{more}}},"method":"{METHOD}"}}"#);
    for name in &SIGNED_HEADERS[1..] {
        let row = |more: &str, carried: &[(&str, &str)]| {
            judge(&key, &signed_payload(&key, &payload(more), carried))
        };
        let refused = Err(AuthError::Header(name));
        let list = |values: &str| format!(r#","{name}":{values}"#);
        assert_eq!(row("", &[]), Ok(identity()), "{name} absent");
        assert_eq!(row(&list("null"), &[]), Ok(identity()), "{name} null");
        assert_eq!(row(&list("[]"), &[]), refused, "{name} empty list");
        assert_eq!(row(&list(r#"["a"]"#), &[]), refused, "{name} not carried");
        // No request can carry a capital letter: this one can only be absent.
        if *name == "fieldSelectors" {
            let carried = [("fieldselectors", "a")];
            assert_eq!(row("", &carried), Ok(identity()), "{name} is not looked at");
            assert_eq!(row(&list(r#"["a"]"#), &carried), refused, "{name} signed");
            continue;
        }
        let (a, ab) = ([(*name, "a")], [(*name, "a"), (*name, "b")]);
        assert_eq!(row(&list(r#"["a"]"#), &a), Ok(identity()), "{name} same");
        assert_eq!(row("", &a), refused, "{name} not signed");
        assert_eq!(row(&list("null"), &a), refused, "{name} signed as absent");
        assert_eq!(row(&list("[]"), &a), refused, "{name} signed as empty");
        assert_eq!(row(&list(r#"["b"]"#), &a), refused, "{name} other value");
        assert_eq!(row(&list(r#"["A"]"#), &a), refused, "{name} other case");
        assert_eq!(row(&list(r#"["a","b"]"#), &ab), Ok(identity()), "{name} two");
        assert_eq!(row(&list(r#"["b","a"]"#), &ab), refused, "{name} order");
        assert_eq!(row(&list(r#"["a"]"#), &ab), refused, "{name} one of two");
        assert_eq!(row(&list(r#"["a","b"]"#), &a), refused, "{name} one more");
        assert_eq!(row(&list(r#"["a,b"]"#), &ab), refused, "{name} joined");
        assert_eq!(row(&list(r#"[""]"#), &[(*name, "")]), Ok(identity()), "{name} empty");
        assert_eq!(judge(&key, &signed(&key, &ab)), Ok(identity()), "{name} by us");
    }
}

/// Rule: the signed text may have any form that means the same.
#[test]
fn the_form_of_the_payload_is_free_but_its_meaning_is_not() {
    let key = key();
    let stamp = format!(r#"{{"x-sidero-timestamp":["{NOW}"]}}"#);
    let timestamp = Err(AuthError::Header(TIMESTAMP_HEADER));
    for (payload, expected) in [
        (format!(r#"{{"headers":{stamp},"method":"{METHOD}"}}"#), Ok(identity())),
        (format!(r#" {{ "method" : "{METHOD}" , "headers" : {stamp} }} "#), Ok(identity())),
        (format!(r#"{{"x":[1,{{}}],"headers":{stamp},"method":"{METHOD}"}}"#), Ok(identity())),
        (format!(r#"{{"headers":{stamp},"method":"/cosi.resource.State/List"}}"#), Err(AuthError::Method)),
        (format!(r#"{{"headers":{stamp},"method":""}}"#), Err(AuthError::Method)),
        (format!(r#"{{"headers":{stamp}}}"#), Err(AuthError::Method)),
        (format!(r#"{{"method":"{METHOD}"}}"#), timestamp.clone()),
        (format!(r#"{{"headers":null,"method":"{METHOD}"}}"#), timestamp.clone()),
        (format!(r#"{{"headers":{{}},"method":"{METHOD}"}}"#), timestamp.clone()),
        (
            format!(r#"{{"headers":{{"x-sidero-timestamp":["{}"]}},"method":"{METHOD}"}}"#, NOW + 1),
            timestamp.clone(),
        ),
        (
            format!(r#"{{"headers":{{"x-sidero-timestamp":["{NOW}","{NOW}"]}},"method":"{METHOD}"}}"#),
            timestamp,
        ),
        (format!(r#"{{"headers":{{"nodes":"a"}},"method":"{METHOD}"}}"#), Err(AuthError::Payload)),
        (
            format!(r#"{{"headers":{stamp},"method":"{METHOD}","method":"{METHOD}"}}"#),
            Err(AuthError::Payload),
        ),
        (format!(r#"{{"headers":{stamp},"method":"{METHOD}"}} x"#), Err(AuthError::Payload)),
        ("[".repeat(10_000), Err(AuthError::Payload)),
        ("null".to_owned(), Err(AuthError::Payload)),
        (" ".to_owned(), Err(AuthError::Payload)),
        (" ".repeat(MAX_PAYLOAD + 1), Err(AuthError::TooLong(PAYLOAD_HEADER))),
    ] {
        let headers = signed_payload(&key, &payload, &[]);
        let start = &payload[..payload.len().min(120)];
        assert_eq!(judge(&key, &headers), expected, "{start}");
    }
}

/// Rule: each of the three headers is there once.
#[test]
fn a_header_that_is_missing_empty_or_twice_there_is_refused() {
    let key = key();
    assert_eq!(judge(&key, &HeaderMap::new()), Err(AuthError::Missing(TIMESTAMP_HEADER)));
    for name in [TIMESTAMP_HEADER, PAYLOAD_HEADER, SIGNATURE_HEADER] {
        let mut headers = signed(&key, &[]);
        let value = headers.remove(name).unwrap();
        assert_eq!(judge(&key, &headers), Err(AuthError::Missing(name)));
        headers.insert(name, HeaderValue::from_static(""));
        assert_eq!(judge(&key, &headers), Err(AuthError::Missing(name)));
        headers.insert(name, value.clone());
        headers.append(name, value);
        assert_eq!(judge(&key, &headers), Err(AuthError::Repeated(name)));
        headers.insert(name, "9".repeat(MAX_PAYLOAD + 1).parse().unwrap());
        assert_eq!(judge(&key, &headers), Err(AuthError::TooLong(name)));
    }
}

/// Rule: five minutes, both ways.
#[test]
fn a_call_is_taken_up_to_five_minutes_before_and_after() {
    let key = key();
    let skew = |seconds, behind| Err(AuthError::Skew { seconds, behind });
    for (arrives, expected) in [
        (at(NOW), Ok(identity())),
        (at(NOW + 299), Ok(identity())),
        (at(NOW + 300), Ok(identity())),
        (at(NOW + 300) + Duration::from_millis(1), skew(300, true)),
        (at(NOW + 301), skew(301, true)),
        (at(NOW - 299), Ok(identity())),
        (at(NOW - 300), Ok(identity())),
        (at(NOW - 301), skew(301, false)),
        (UNIX_EPOCH - Duration::from_secs(1), skew(NOW + 1, false)),
    ] {
        let verdict = verify(&signed(&key, &[]), METHOD, arrives, stored(&key));
        assert_eq!(verdict, expected, "{arrives:?}");
    }
    assert_eq!(
        AuthError::Skew { seconds: 360, behind: true }.to_string(),
        "signed 360 s before our time, only 300 s are allowed"
    );
}

#[test]
fn a_timestamp_that_is_no_time_is_refused() {
    let key = key();
    let before = Err(AuthError::Skew { seconds: NOW, behind: true });
    for (text, expected) in [
        ("now", Err(AuthError::Timestamp)),
        ("1.8e9", Err(AuthError::Timestamp)),
        (" 1800000000", Err(AuthError::Timestamp)),
        ("99999999999999999999", Err(AuthError::Timestamp)),
        ("0", before.clone()),
        ("-1800000000", before.clone()),
        ("-9223372036854775808", before),
    ] {
        let mut headers = signed(&key, &[]);
        headers.insert(TIMESTAMP_HEADER, text.parse().unwrap());
        assert_eq!(judge(&key, &headers), expected, "{text}");
    }
    let mut headers = signed(&key, &[]);
    headers.insert(TIMESTAMP_HEADER, "9223372036854775807".parse().unwrap());
    assert!(judge(&key, &headers).is_err());
    headers.insert(TIMESTAMP_HEADER, HeaderValue::from_bytes(b"\xff").unwrap());
    assert_eq!(judge(&key, &headers), Err(AuthError::Timestamp));
}

/// Rule: `siderov1 identity fingerprint base64`, single spaces.
#[test]
fn the_signature_header_has_four_parts() {
    let key = key();
    let good = key.sign(at(NOW), METHOD).signature;
    let parts: Vec<&str> = good.split(' ').collect();
    let [version, name, fingerprint, signature] = parts[..] else {
        panic!("{good}");
    };
    let upper = fingerprint.to_uppercase();
    let form = || Err(AuthError::SignatureForm);
    let pgp = |error| Err(AuthError::Signature(error));
    for (header, expected) in [
        (good.clone(), Ok(identity())),
        (format!("{version}  {fingerprint} {signature}"), Ok(identity())),
        (format!("siderov2 {name} {fingerprint} {signature}"), form()),
        (format!("SideroV1 {name} {fingerprint} {signature}"), form()),
        (format!("{version} {name} {fingerprint}"), form()),
        (format!("{version} {name}  {fingerprint} {signature}"), form()),
        (format!("{good} x"), form()),
        (format!("{good} "), form()),
        (format!("{version} {name} {fingerprint} !"), form()),
        (format!("{version} {name} {fingerprint} {}", signature.trim_end_matches('=')), form()),
        (version.to_owned(), form()),
        (format!("{version} {name} {upper} {signature}"), Err(AuthError::UnknownKey)),
        (format!("{version} {name}  {signature}"), Err(AuthError::UnknownKey)),
        (format!("{version} {name} {fingerprint} "), pgp(PgpError::Unexpected)),
        (format!("{version} {name} {fingerprint} AAAA"), pgp(PgpError::Malformed)),
    ] {
        let mut headers = signed(&key, &[]);
        headers.insert(SIGNATURE_HEADER, header.parse().unwrap());
        // Parts that are left out can only be told by what then goes wrong.
        let header_has_form = header.split(' ').count() == 4;
        assert!(header_has_form || expected == form(), "{header}");
        assert_eq!(judge(&key, &headers), expected, "{header}");
    }
}

/// Rule: the key is stored and has not ended.
#[test]
fn a_key_that_is_unknown_ended_or_another_is_refused() {
    let (mine, other) = (key(), key());
    let headers = signed(&mine, &[]);
    assert_eq!(judge(&other, &headers), Err(AuthError::UnknownKey));
    let lookup = |expires, ed25519| move |_: &str| Some(PublicKey { identity: identity(), expires, ed25519 });
    let mine_bytes = *mine.certificate().ed25519();
    let after = at(NOW) + Duration::from_nanos(1);
    let judge = |key| verify(&headers, METHOD, at(NOW), key);
    assert_eq!(judge(lookup(after, mine_bytes)), Ok(identity()));
    assert_eq!(judge(lookup(at(NOW), mine_bytes)), Err(AuthError::Expired));
    let wrong = Err(AuthError::Signature(PgpError::Signature));
    assert_eq!(verify(&headers, METHOD, at(NOW), lookup(after, *other.certificate().ed25519())), wrong);
    assert_eq!(verify(&headers, METHOD, at(NOW), lookup(after, [0; 32])), wrong);
    assert_eq!(verify(&headers, METHOD, at(NOW), lookup(after, [0xff; 32])), wrong);
}

#[test]
fn a_signature_over_another_text_is_refused() {
    let key = key();
    let mut headers = signed(&key, &[]);
    let other = key.sign_text(b"{}", at(NOW));
    headers.insert(SIGNATURE_HEADER, other.parse().unwrap());
    assert_eq!(judge(&key, &headers), Err(AuthError::Signature(PgpError::Signature)));
}
