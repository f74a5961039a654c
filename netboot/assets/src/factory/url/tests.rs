use super::*;

#[test]
fn base_urls_are_read() {
    for (text, host, port, joined) in [
        ("https://factory.talos.dev", "factory.talos.dev", 443, "https://factory.talos.dev/pxe"),
        ("https://factory.talos.dev/", "factory.talos.dev", 443, "https://factory.talos.dev/pxe"),
        ("http://10.0.0.1:8080/factory/", "10.0.0.1", 8080, "http://10.0.0.1:8080/factory/pxe"),
        ("http://[::1]:80", "::1", 80, "http://[::1]:80/pxe"),
        ("http://[::1]", "::1", 80, "http://[::1]/pxe"),
        ("https://u:p%40ss@h", "h", 443, "https://u:p%40ss@h/pxe"),
    ] {
        let url = BaseUrl::parse(text).unwrap();
        assert_eq!((url.host.as_str(), url.port, url.join("/pxe").as_str()), (host, port, joined));
    }
}

#[test]
fn what_is_no_base_url_is_refused() {
    for (text, error) in [
        ("", UrlError::Form),
        ("factory.talos.dev", UrlError::Form),
        ("/schematics", UrlError::Form),
        ("https://", UrlError::Form),
        ("https://h:99999", UrlError::Form),
        ("ftp://h", UrlError::Scheme),
        ("https://h?x=1", UrlError::Query),
        ("https://h/#x", UrlError::Query),
        ("https://h/a b", UrlError::NotPlain),
        ("https://h/${uuid}", UrlError::NotPlain),
        ("https://hö", UrlError::NotPlain),
    ] {
        assert_eq!(BaseUrl::parse(text), Err(error), "{text:?}");
    }
}

#[test]
fn credentials_are_sent_and_not_shown() {
    let url = BaseUrl::parse("https://user:p%40ss%@host/prefix").unwrap();
    assert_eq!(url.basic().unwrap(), format!("Basic {}", STANDARD.encode("user:p@ss%")));
    assert_eq!(format!("{url:?}"), "https://…@host/prefix");
    assert_eq!(url.authority, "host");
    assert_eq!(BaseUrl::parse("https://host").unwrap().basic(), None);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(https?://)?[ -~é]{0,40}") {
        if let Ok(url) = BaseUrl::parse(&text) {
            url.basic();
            url.join("/x");
        }
    }
}
