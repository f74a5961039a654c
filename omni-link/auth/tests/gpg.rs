//! GnuPG reads our keys and verifies our signatures, and we verify what it signs.
//!
//! Ignored where there may be no `gpg`: `cargo test -p omni-auth -- --ignored`.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use omni_auth::{
    Identity, PAYLOAD_HEADER, PublicKey, Role, SIGNATURE_HEADER, ServiceAccountKey, TIMESTAMP_HEADER, verify,
};
use serde_json::Value;

const METHOD: &str = "/cosi.resource.State/Get";

/// Runs gpg in a home of its own and gives back what it says.
fn gpg(home: &Path, args: &[&str]) -> String {
    let done = Command::new("gpg")
        .args(["--batch", "--yes", "--with-colons", "--status-fd", "1"])
        .args(args)
        .env("GNUPGHOME", home)
        .current_dir(home)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "gpg {args:?}: {text}{errors}");
    text
}

fn armored(key: &ServiceAccountKey) -> String {
    let json = STANDARD.decode(key.encode().as_bytes()).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    json["pgp_key"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs gpg"]
fn gnupg_imports_our_keys_and_both_verify_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path();
    let write = |name: &str, bytes: &[u8]| std::fs::write(home.join(name), bytes).unwrap();
    let now = SystemTime::now();
    let month = Duration::from_secs(30 * 24 * 60 * 60);
    let key = ServiceAccountKey::generate("bare-metal", now, month).unwrap();

    write("key.asc", armored(&key).as_bytes());
    gpg(home, &["--import", "key.asc"]);
    let fingerprint = key.fingerprint().to_uppercase();
    let listed = gpg(home, &["--check-sigs"]);
    assert!(listed.contains(&format!("fpr:::::::::{fingerprint}:")), "{listed}");
    let good = listed.lines().filter(|line| line.starts_with("sig:!:"));
    assert_eq!(good.count(), 2, "{listed}");
    let end = key.expires_at().unwrap();
    let end = end.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let ends = listed.lines().filter(|line| {
        (line.starts_with("pub:") || line.starts_with("sub:"))
            && line.split(':').nth(6) == Some(&end.to_string())
    });
    assert_eq!(ends.count(), 2, "{listed}");

    // Ours, by gpg.
    let signed = key.sign(now, METHOD);
    let signature = signed.signature.rsplit(' ').next().unwrap();
    write("payload", signed.payload.as_bytes());
    write("payload.sig", &STANDARD.decode(signature).unwrap());
    let verdict = gpg(home, &["--verify", "payload.sig", "payload"]);
    assert!(verdict.contains("GOODSIG"), "{verdict}");

    // Its own, by us, with each digest that we read.
    for digest in ["SHA256", "SHA384", "SHA512"] {
        gpg(home, &["--digest-algo", digest, "-o", "out.sig", "--detach-sign", "payload"]);
        let signature = STANDARD.encode(std::fs::read(home.join("out.sig")).unwrap());
        let mut headers = HeaderMap::new();
        headers.insert(TIMESTAMP_HEADER, signed.timestamp.parse().unwrap());
        headers.insert(PAYLOAD_HEADER, signed.payload.parse().unwrap());
        let header = format!("siderov1 x {} {signature}", key.fingerprint());
        headers.insert(SIGNATURE_HEADER, header.parse().unwrap());
        let identity = Identity { id: "x".to_owned(), role: Role::Reader };
        let stored = |_: &str| {
            Some(PublicKey {
                identity: identity.clone(),
                expires: now + month,
                ed25519: *key.certificate().ed25519(),
            })
        };
        assert_eq!(verify(&headers, METHOD, now, stored), Ok(identity.clone()), "{digest}");
    }

    // The subkey is a real one.
    gpg(home, &["--trust-model", "always", "-r", "bare-metal", "-o", "secret", "-e", "payload"]);
    gpg(home, &["-o", "plain", "-d", "secret"]);
    assert_eq!(std::fs::read(home.join("plain")).unwrap(), signed.payload.as_bytes());

    // The key as gpg writes it, in its own way.
    gpg(home, &["--armor", "-o", "exported.asc", "--export-secret-keys", "bare-metal"]);
    let exported = std::fs::read_to_string(home.join("exported.asc")).unwrap();
    let json = serde_json::json!({"name": "x", "pgp_key": exported});
    let read = ServiceAccountKey::from_env_value(&STANDARD.encode(json.to_string())).unwrap();
    assert_eq!(read.fingerprint(), key.fingerprint());
    assert_eq!(read.expires_at(), key.expires_at());
    let agent = Command::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", home).status();
    assert!(agent.unwrap().success());
}
