use super::*;

/// Tue, 17 Nov 2026 10:00:00 GMT.
const NOON: u64 = 1_794_909_600;

fn headers(status: &'static str, date: Option<&'static str>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(GRPC_STATUS, HeaderValue::from_static(status));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static("invalid signature"));
    if let Some(date) = date {
        headers.insert(DATE, HeaderValue::from_static(date));
    }
    headers
}

fn message(mut headers: HeaderMap, now: u64) -> String {
    name_skew(&mut headers, SystemTime::UNIX_EPOCH + Duration::from_secs(now));
    headers[GRPC_MESSAGE].to_str().unwrap().to_owned()
}

#[test]
fn a_refused_signature_names_a_clock_that_is_off() {
    let date = Some("Tue, 17 Nov 2026 10:00:00 GMT");
    assert_eq!(
        message(headers("16", date), NOON + 600),
        "invalid signature; the clock here is 600 s ahead of Omni's: set it"
    );
    assert_eq!(
        message(headers("16", date), NOON - 900),
        "invalid signature; the clock here is 900 s behind Omni's: set it"
    );
}

#[test]
fn a_clock_that_is_right_or_unknown_is_not_blamed() {
    for (status, date, now) in [
        ("16", Some("Tue, 17 Nov 2026 10:00:00 GMT"), NOON + 59),
        ("16", None, NOON + 600),
        ("16", Some("noon"), NOON + 600),
        ("7", Some("Tue, 17 Nov 2026 10:00:00 GMT"), NOON + 600),
    ] {
        assert_eq!(message(headers(status, date), now), "invalid signature");
    }
}

#[test]
fn the_whole_chain_of_an_error_is_told_once() {
    #[derive(Debug, thiserror::Error)]
    #[error("transport error")]
    struct Outer(#[source] std::io::Error);
    let error = Outer(std::io::Error::other("connection refused"));
    let told = told(error).downcast::<Status>().unwrap();
    assert_eq!((told.code(), told.message()), (Code::Unavailable, "transport error: connection refused"));
}
