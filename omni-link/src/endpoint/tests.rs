use super::*;

fn options() -> EndpointOptions {
    EndpointOptions::default()
}

fn parsed(url: &str) -> Result<String, String> {
    Endpoint::parse(url, &options()).map(|endpoint| endpoint.to_string()).map_err(|error| error.to_string())
}

#[test]
fn schemes_have_their_ports() {
    let rows = [
        ("https://omni.example.com", "https://omni.example.com:443"),
        ("https://omni.example.com:8099/", "https://omni.example.com:8099"),
        ("https://10.0.0.1", "https://10.0.0.1:443"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("grpc://127.0.0.1:50044", "grpc://127.0.0.1:50044"),
        ("http://localhost", "grpc://localhost:80"),
        (" grpc://[::1]:50044 ", "grpc://[::1]:50044"),
    ];
    for (url, expected) in rows {
        assert_eq!(parsed(url).as_deref(), Ok(expected), "{url}");
    }
}

#[test]
fn what_is_no_address_of_omni_is_refused_with_a_reason() {
    let rows = [
        ("", "is no URL of Omni"),
        ("omni.example.com", "is no URL of Omni"),
        ("omni.example.com:443", "is no URL of Omni"),
        ("https://", "is no URL of Omni"),
        ("ftp://omni.example.com", "is no scheme"),
        ("https://omni.example.com/api", "only scheme, host and port"),
        ("https://omni.example.com?a=b", "only scheme, host and port"),
        ("https://me:secret@omni.example.com", "only scheme, host and port"),
        ("https://omni_.example..com", "is no URL of Omni"),
    ];
    for (url, expected) in rows {
        let error = parsed(url).unwrap_err();
        assert!(error.contains(expected), "{url}: {error}");
    }
}

#[test]
fn plaintext_leaves_this_machine_only_when_that_is_said() {
    for url in ["grpc://10.0.0.1:50044", "http://omni.example.com", "grpc://0.0.0.0", "grpc://localhost.evil"]
    {
        let error = Endpoint::parse(url, &options()).unwrap_err();
        assert!(matches!(error, EndpointError::Plaintext { .. }), "{url}: {error}");
        let allowed = EndpointOptions { allow_plaintext: true, ..options() };
        assert!(Endpoint::parse(url, &allowed).is_ok(), "{url}");
    }
}

#[test]
fn a_ca_file_must_hold_a_certificate_and_needs_tls() {
    let dir = tempfile::tempdir().unwrap();
    let with = |path: PathBuf| EndpointOptions { ca_file: Some(path), ..EndpointOptions::default() };
    let missing = with(dir.path().join("none.pem"));
    let error = Endpoint::parse("https://omni", &missing).unwrap_err();
    assert!(matches!(error, EndpointError::Tls(TlsError::CaFile { .. })), "{error}");
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "no certificate\n").unwrap();
    let error = Endpoint::parse("https://omni", &with(empty.clone())).unwrap_err();
    assert!(matches!(error, EndpointError::Tls(TlsError::NoCertificate(_))), "{error}");
    let error = Endpoint::parse("grpc://127.0.0.1", &with(empty)).unwrap_err();
    assert!(matches!(error, EndpointError::NoTls(_)), "{error}");
}

#[test]
fn a_key_is_warned_about_four_weeks_ahead() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let days = |days: u64| Duration::from_secs(days * DAY);
    assert_eq!(key_warning(now, now + days(29)), None);
    let soon = key_warning(now, now + days(20)).unwrap();
    assert!(soon.starts_with("the service account key expires in 20 days"), "{soon}");
    let late = key_warning(now, now - days(2)).unwrap();
    assert!(late.starts_with("the service account key expired 2 days ago"), "{late}");
}
