use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::*;

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn seeds(first: u8) -> Seeds {
    Seeds { ed25519: Zeroizing::new([first; 32]), x25519: Zeroizing::new([first + 1; 32]) }
}

fn test_key() -> ServiceAccountKey {
    let account = AccountName::infra_provider("bare-metal").unwrap();
    ServiceAccountKey::from_seeds(&account, at(1_790_000_000), 60 * YEAR, &seeds(7)).unwrap()
}

fn env_of(json: &Value) -> String {
    STANDARD.encode(json.to_string())
}

/// The key's JSON, with its armored key changed.
fn env_with_armored(change: impl FnOnce(&str) -> String) -> String {
    let key = test_key();
    env_of(&json!({"name": key.name(), "pgp_key": change(&key.armored)}))
}

/// The key's JSON, with the octets within the armor changed.
fn env_with_packets(change: impl FnOnce(&mut Vec<u8>)) -> String {
    env_with_armored(|armored| {
        let body: String = armored.lines().filter(|line| !line.starts_with(['-', '='])).collect();
        let mut packets = STANDARD.decode(body).unwrap();
        change(&mut packets);
        format!(
            "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{}\n-----END PGP PRIVATE KEY BLOCK-----\n",
            STANDARD.encode(packets)
        )
    })
}

/// Where the protection of the secret stands: after a header of 2 octets and the 51 of
/// an Ed25519 public key.
const PROTECTION: usize = 2 + 51;

#[test]
fn what_is_made_stays_what_other_implementations_have_read() {
    let key = test_key();
    let calls: Vec<Value> = ["/cosi.resource.State/Get", "/cosi.resource.State/Watch"]
        .into_iter()
        .map(|method| {
            let signed = key.sign(at(1_790_000_060), method);
            json!({"method": method, "headers": {
                "x-sidero-timestamp": [signed.timestamp],
                "x-sidero-payload": [signed.payload],
                "x-sidero-signature": [signed.signature],
            }})
        })
        .collect();
    let made = json!({
        "note": "A key for tests only, made from a fixed seed; what bootlace makes and signs.",
        "env": *key.encode(),
        "public": key.public_armored(),
        "fingerprint": key.fingerprint(),
        "calls": calls,
    });
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/bootlace.json");
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(path, format!("{made:#}\n")).unwrap();
    }
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(made, kept);
}

#[test]
fn a_made_key_reads_back_as_itself() {
    let now = at(1_800_000_000);
    let key = ServiceAccountKey::generate("bare-metal", now, YEAR).unwrap();
    let read = ServiceAccountKey::from_env_value(&format!(" {}\n", *key.encode())).unwrap();
    assert_eq!(read.name(), "infra-provider:bare-metal");
    assert_eq!(read.name(), key.name());
    assert_eq!(read.certificate(), key.certificate());
    assert_eq!(read.expires_at(), Some(now + YEAR));
    assert_eq!(read.certificate().created(), now);
    assert_eq!(
        read.certificate().user_id(),
        "bare-metal (bootlace) <bare-metal@infra-provider.serviceaccount.omni.sidero.dev>"
    );
    assert_eq!(*read.encode(), *key.encode());
    assert_eq!(read.sign(now, "/a.B/C"), key.sign(now, "/a.B/C"));
    let public = Certificate::from_armored(&read.public_armored()).unwrap();
    assert_eq!(&public, key.certificate());
}

#[test]
fn two_made_keys_differ() {
    let now = at(1_800_000_000);
    let one = ServiceAccountKey::generate("a", now, YEAR).unwrap();
    let other = ServiceAccountKey::generate("a", now, YEAR).unwrap();
    assert_ne!(one.fingerprint(), other.fingerprint());
}

#[test]
fn keys_are_made_for_any_account_but_not_for_names_that_are_none() {
    let now = at(1_800_000_000);
    let admin = ServiceAccountKey::generate_for(&"admin".parse().unwrap(), now, YEAR).unwrap();
    assert_eq!(admin.name(), "admin");
    assert_eq!(admin.certificate().user_id(), "admin (bootlace) <admin@serviceaccount.omni.sidero.dev>");
    for id in ["", "a b", "infra-provider:x", "a>b"] {
        let refused = ServiceAccountKey::generate(id, now, YEAR).unwrap_err();
        assert_eq!(refused, KeyError::AccountName(BadAccountName), "{id:?}");
    }
}

#[test]
fn a_lifetime_of_nothing_or_past_the_end_of_time_is_refused() {
    for (now, lifetime) in [
        (1_800_000_000, Duration::ZERO),
        (1_800_000_000, Duration::from_millis(999)),
        (1_800_000_000, 200 * YEAR),
        (u64::from(u32::MAX), Duration::from_secs(1)),
    ] {
        let refused = ServiceAccountKey::generate("a", at(now), lifetime).unwrap_err();
        assert_eq!(refused, KeyError::Lifetime, "{now} {lifetime:?}");
    }
}

#[test]
fn values_that_are_no_key_are_refused_with_their_reason() {
    let armored = test_key().armored.to_string();
    let public = test_key().public_armored();
    let long_name = "n".repeat(MAX_NAME + 1);
    for (value, expected) in [
        (String::new(), KeyError::Json),
        ("!".to_owned(), KeyError::Base64),
        ("A".repeat(MAX_ENV_VALUE + 1), KeyError::TooLong),
        (STANDARD.encode("[]"), KeyError::Json),
        (STANDARD.encode([0xff, 0xfe]), KeyError::Json),
        (env_of(&json!({"name": "a"})), KeyError::Json),
        (env_of(&json!({"pgp_key": armored})), KeyError::Json),
        (env_of(&json!({"name": "", "pgp_key": armored})), KeyError::Name),
        (env_of(&json!({"name": "a b", "pgp_key": armored})), KeyError::Name),
        (env_of(&json!({"name": "a\r\nb", "pgp_key": armored})), KeyError::Name),
        (env_of(&json!({"name": "é", "pgp_key": armored})), KeyError::Name),
        (env_of(&json!({"name": long_name, "pgp_key": armored})), KeyError::Name),
        (env_of(&json!({"name": "a", "pgp_key": ""})), PgpError::Armor.into()),
        (env_of(&json!({"name": "a", "pgp_key": public})), PgpError::Armor.into()),
        (env_with_armored(|it| it.replacen("=", "", 1)), PgpError::Armor.into()),
        (env_with_armored(|it| it[..it.len() - 40].to_owned()), PgpError::Armor.into()),
        // A damaged character within: the checksum of the armor tells.
        (env_with_armored(|it| it.replacen("\nx", "\ny", 1)), PgpError::Armor.into()),
        (env_with_packets(Vec::clear), PgpError::Unexpected.into()),
        (env_with_packets(|it| it.truncate(60)), PgpError::Malformed.into()),
        (env_with_packets(|it| it[0] = 0xc6), PgpError::Unexpected.into()),
        (env_with_packets(|it| it[2] = 6), PgpError::Algorithm.into()),
        (env_with_packets(|it| it[7] = 1), PgpError::Algorithm.into()),
        (env_with_packets(|it| it[PROTECTION] = 254), PgpError::Locked.into()),
        // The secret's last octet, and the checksum with it: another key's secret.
        (
            env_with_packets(|it| {
                it[PROTECTION + 3 + 31] += 1;
                it[PROTECTION + 3 + 33] += 1;
            }),
            PgpError::Mismatch.into(),
        ),
        (env_with_packets(|it| it[PROTECTION + 3] ^= 1), PgpError::Malformed.into()),
        // The creation time: no signature fits any more.
        (env_with_packets(|it| it[3] ^= 1), PgpError::NoUserId.into()),
    ] {
        let refused = ServiceAccountKey::from_env_value(&value).unwrap_err();
        assert_eq!(refused, expected, "{value}");
    }
}

#[test]
fn neither_debug_nor_errors_show_a_secret() {
    let key = test_key();
    let shown = format!("{key:?} {key:#?}");
    assert!(shown.contains("infra-provider:bare-metal") && shown.contains(key.fingerprint()));
    for line in key.armored.lines().filter(|line| line.len() == 64) {
        assert!(!shown.contains(&line[..16]));
    }
    assert!(!shown.contains("7, 7, 7") && !shown.contains("070707"));
    // A JSON whose key is of the wrong type: the parser would quote it.
    for broken in [
        json!({"name": "a", "pgp_key": ["hunter2"]}),
        json!({"name": {"hunter2": 1}, "pgp_key": "hunter2"}),
        json!({"name": "hunter2 hunter2", "pgp_key": "hunter2"}),
        json!({"name": "a", "pgp_key": "hunter2"}),
    ] {
        let error = ServiceAccountKey::from_env_value(&env_of(&broken)).unwrap_err();
        let mut text = format!("{error} {error:?}");
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            text.push_str(&format!("{error} {error:?}"));
            source = error.source();
        }
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_payload_is_ascii_and_repeats_the_headers_that_must_be_signed() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("nodes", "a"),
        ("nodes", "b"),
        ("cluster", "\"é😀\u{7f}"),
        ("other", "x"),
        ("x-sidero-timestamp", "1"),
        ("fieldselectors", "f"),
    ] {
        let value = http::HeaderValue::from_bytes(value.as_bytes());
        headers.append(name, value.unwrap_or(http::HeaderValue::from_static("bad")));
    }
    let signed = test_key().sign_request(at(1_790_000_000), "/a.B/C", &headers);
    assert_eq!(
        signed.payload,
        r#"{"headers":{"cluster":["bad"],"nodes":["a","b"],"x-sidero-timestamp":["1790000000"]},"method":"/a.B/C"}"#
    );
    let odd = test_key().sign(at(1_790_000_000), "/é😀\u{7f}/\"");
    assert_eq!(
        odd.payload,
        r#"{"headers":{"x-sidero-timestamp":["1790000000"]},"method":"/\u00e9\ud83d\ude00\u007f/\""}"#
    );
    let mut carried = HeaderMap::new();
    odd.apply(&mut carried);
    assert_eq!(carried.len(), 3);
}

#[test]
fn a_clock_before_1970_signs_with_1970() {
    let before = UNIX_EPOCH - Duration::from_secs(9);
    assert_eq!(test_key().sign(before, "/a.B/C").timestamp, "0");
}
