use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::ParsedCertificate;

use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1));
const DAY: Duration = Duration::from_secs(24 * 3600);

fn config(certificates: Source) -> Tls {
    Tls { port: 50043, agent_skip_verify: false, certificates }
}

fn own_config() -> Tls {
    config(Source::Own { ca_ttl: 3650 * DAY, cert_ttl: DAY })
}

fn own(certificates: &Certificates) -> MutexGuard<'_, Own> {
    match certificates {
        Certificates::Own(own) => lock(own),
        Certificates::Given { .. } => panic!("no authority"),
    }
}

/// Whether whoever trusts `ca` takes `shown` for `address`.
fn taken(ca: &str, shown: &CertifiedKey, address: IpAddr, now: SystemTime) -> Result<(), rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let parsed = ParsedCertificate::try_from(&shown.cert[0]).unwrap();
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap());
    let algorithms = default_provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &shown.cert[1..], now, algorithms)?;
    verify_server_name(&parsed, &ServerName::from(address))
}

#[test]
fn the_authority_is_made_once_and_for_the_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let open = || Certificates::open(&own_config(), directory.path(), vec![HERE]).unwrap();
    let first = open();
    let path = directory.path().join(CA_NAME);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let second = open();
    assert_eq!(first.ca(), second.ca());
    let shown = own(&second).current(SystemTime::now()).unwrap();
    let ca = first.ca().unwrap();
    taken(&ca, &shown, HERE, SystemTime::now()).unwrap();
    taken(&ca, &shown, HERE, SystemTime::now() - DAY / 2).unwrap();
    assert!(taken(&ca, &shown, [10, 88, 0, 2].into(), SystemTime::now()).is_err());
    assert!(taken(&ca, &shown, HERE, SystemTime::now() + 2 * DAY).is_err());
    assert!(!ca.contains("PRIVATE"), "the key stays here");
}

#[test]
fn a_half_written_authority_is_never_seen_and_a_damaged_one_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(CA_NAME);
    // A kill within the first write leaves this.
    fs::write(path.with_extension("new"), "-----BEGIN CERT").unwrap();
    let ca = Certificates::open(&own_config(), directory.path(), vec![HERE]).unwrap().ca();
    let whole = fs::read(&path).unwrap();
    for damaged in [&whole[..whole.len() / 2], b"", b"garbage"] {
        fs::write(&path, damaged).unwrap();
        let error = Certificates::open(&own_config(), directory.path(), vec![HERE]).unwrap_err().to_string();
        assert!(error.contains(CA_NAME) && error.contains("remove it"), "{error}");
    }
    fs::write(&path, whole).unwrap();
    assert_eq!(Certificates::open(&own_config(), directory.path(), vec![HERE]).unwrap().ca(), ca);
}

#[test]
fn what_ends_soon_is_renewed_and_whoever_trusts_the_old_authority_trusts_the_new() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = Certificates::open(&own_config(), directory.path(), vec![HERE]).unwrap();
    let old = certificates.ca().unwrap();
    let mut own = own(&certificates);
    let now = SystemTime::now();
    let serial = |shown: &CertifiedKey| shown.cert[0].to_vec();
    let first = serial(&own.current(now).unwrap());
    assert_eq!(serial(&own.current(now + DAY * 8 / 10).unwrap()), first);
    let second = own.current(now + DAY * 95 / 100).unwrap();
    assert_ne!(serial(&second), first);

    // Nine tenths of ten years on.
    let later = now + 3300 * DAY;
    let shown = own.current(later).unwrap();
    let new = pem("CERTIFICATE", &own.authority.certificate().certificate);
    assert_ne!(new, old);
    for ca in [&old, &new] {
        taken(ca, &shown, HERE, later).unwrap();
    }
    let written = read_authority(&own.path).unwrap().unwrap();
    assert_eq!(written.certificate(), own.authority.certificate());
    // A clock that went back: the certificate of the future is no use, the authority stays.
    let early = own.current(now - 400 * DAY).unwrap();
    taken(&new, &early, HERE, now - 400 * DAY).unwrap();
    assert_eq!(pem("CERTIFICATE", &own.authority.certificate().certificate), new);
}

#[test]
fn certificates_from_elsewhere_are_checked_before_a_machine_sees_them() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let now = SystemTime::now();
    let authority = |seed| Authority::generate(validity(now, DAY), &[seed; 48]);
    let ca = |seed| pem("CERTIFICATE", &authority(seed).certificate().certificate);
    let issued = authority(1).issue(&[HERE], validity(now, DAY), &[3; 48]);
    // A key beside the authority's certificate, as careless people have it.
    let ca_file = write("ca.pem", &(pem("PRIVATE KEY", &authority(1).certificate().key) + &ca(1)));
    let other_ca = write("other-ca.pem", &ca(2));
    let cert = write("cert.pem", &pem("CERTIFICATE", &issued.certificate));
    let key = write("key.pem", &pem("PRIVATE KEY", &issued.key));
    let other_key = write("other-key.pem", &pem("PRIVATE KEY", &authority(2).certificate().key));
    let read = |ca: &Path, cert: &Path, key: &Path, address, now| {
        given::read(Some(ca), cert, key, &[address], now).map_err(|error| format!("{error:#}"))
    };
    let good = read(&ca_file, &cert, &key, HERE, now).unwrap();
    assert_eq!(good.ca(), Some(ca(1)));
    // Its time is over, or not here yet: told, and served.
    assert!(read(&ca_file, &cert, &key, HERE, now + 3 * DAY).is_ok());
    for (ca, cert, key, address, words) in [
        (&ca_file, &cert, &other_key, HERE, "of no use together"),
        (&ca_file, &cert, &key, [10, 88, 0, 2].into(), "is not for 10.88.0.2"),
        (&other_ca, &cert, &key, HERE, "is not signed by"),
        (&ca_file, &key, &key, HERE, "has no certificate"),
        (&ca_file, &cert, &cert, HERE, "no private key"),
        (&directory.path().join("none"), &cert, &key, HERE, "none"),
    ] {
        let error = read(ca, cert, key, address, now).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}
