//! The head of an HTTP/1 request, as far as the front reads it; everything unusual is left to hyper.

/// Bytes of a head that the front waits for. iPXE and EDK2 send some 200.
pub(super) const HEAD_MAX: usize = 16 << 10;
/// Headers of a request; hyper's own limit is 100 and browsers send some 20.
const HEADERS_MAX: usize = 64;

/// What the bytes that came so far are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head<'a> {
    /// The beginning of a GET or HEAD; wait for more.
    Partial,
    /// A whole head that the front can answer.
    Request(Request<'a>),
    /// Something for hyper: another method, a body, HTTP/2, or nothing that is HTTP.
    Other,
}

/// A GET or HEAD without a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request<'a> {
    pub(super) head: bool,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) range: Option<&'a str>,
    /// Whether the connection stays open for another request.
    pub(super) keep: bool,
    /// HTTP/1.0: the client must be told that the connection stays.
    pub(super) old: bool,
    /// Bytes of the head.
    pub(super) length: usize,
}

/// Reads what came. `searched` bytes are known to hold no end of a head; it is moved on, so that a head that
/// comes byte by byte is not searched from its beginning each time.
pub(super) fn read<'a>(bytes: &'a [u8], searched: &mut usize) -> Head<'a> {
    let start = &bytes[..bytes.len().min(5)];
    if !b"GET /".starts_with(start) && !b"HEAD ".starts_with(start) {
        return Head::Other;
    }
    let from = searched.saturating_sub(3);
    let ends = |window: &[u8]| window.ends_with(b"\n\r\n") || window.ends_with(b"\n\n");
    let end = (from..bytes.len()).find(|at| bytes[*at] == b'\n' && ends(&bytes[..=*at]));
    *searched = bytes.len();
    match end {
        None => Head::Partial,
        Some(_) => {
            *searched = 0;
            parse(bytes).map_or(Head::Other, Head::Request)
        }
    }
}

/// `None` for whatever the front does not answer itself.
fn parse(bytes: &[u8]) -> Option<Request<'_>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = request.parse(bytes) else { return None };
    let head = match request.method? {
        "GET" => false,
        "HEAD" => true,
        _ => return None,
    };
    let old = request.version? == 0;
    let (mut keep, mut range) = (!old, None);
    for header in request.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            5 if is("range") => range = std::str::from_utf8(header.value).ok(),
            6 if is("expect") => return None,
            7 if is("upgrade") => return None,
            10 if is("connection") => keep = stays(header.value, keep)?,
            14 if is("content-length") && header.value != b"0" => return None,
            17 if is("transfer-encoding") => return None,
            _ => {}
        }
    }
    let target = request.path?;
    if !target.starts_with('/') {
        return None;
    }
    let target = target.split_once('#').map_or(target, |(target, _)| target);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Some(Request { head, path, query, range, keep, old, length })
}

/// Whether the connection stays by the words of `Connection`; `None` for an upgrade.
fn stays(value: &[u8], mut keep: bool) -> Option<bool> {
    for word in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if word.eq_ignore_ascii_case(b"close") {
            keep = false;
        } else if word.eq_ignore_ascii_case(b"keep-alive") {
            keep = true;
        } else if word.eq_ignore_ascii_case(b"upgrade") {
            return None;
        }
    }
    Some(keep)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(text: &str) -> Head<'_> {
        read(text.as_bytes(), &mut 0)
    }

    #[test]
    fn firmware_and_ipxe_are_read() {
        let ipxe = "GET /ipxe/boot.ipxe?uuid=1&mac=2 HTTP/1.1\r\nConnection: keep-alive\r\n\
                    User-Agent: iPXE/1.0.0\r\nHost: 10.0.0.1:50042\r\n\r\n";
        let Head::Request(request) = whole(ipxe) else { panic!("a request") };
        assert_eq!((request.path, request.query), ("/ipxe/boot.ipxe", "uuid=1&mac=2"));
        assert!(request.keep && !request.head && !request.old);
        assert_eq!(request.length, ipxe.len());
        let edk2 =
            "HEAD /tftp/snp.efi HTTP/1.1\r\nHost: 10.0.0.1\r\nAccept: */*\r\nRange: bytes=0-\r\n\r\nGET";
        let Head::Request(request) = whole(edk2) else { panic!("a request") };
        assert!(request.head);
        assert_eq!((request.range, request.length), (Some("bytes=0-"), edk2.len() - 3));
    }

    #[test]
    fn connections_stay_as_the_versions_say() {
        for (text, keep) in [
            ("GET / HTTP/1.1\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: foo, Keep-Alive\r\n\r\n", true),
        ] {
            let Head::Request(request) = whole(text) else { panic!("{text}") };
            assert_eq!(request.keep, keep, "{text}");
        }
    }

    #[test]
    fn what_is_unusual_is_hypers() {
        for text in [
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "P",
            "POST / HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            "GET / HTTP/1.1\r\nno header\r\n\r\n",
            "GET / HTTP/9\r\n\r\n",
            "\0\0",
        ] {
            assert_eq!(whole(text), Head::Other, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_head_that_comes_in_pieces_is_read_as_the_whole(cuts in prop::collection::vec(1_usize..9, 0..40)) {
            let text = b"GET /assets/a?b HTTP/1.1\r\nHost: x\r\nRange: bytes=1-2\r\n\r\nGET /next";
            let (mut searched, mut at) = (0, 0_usize);
            for step in cuts.into_iter().chain([usize::MAX]) {
                at = at.saturating_add(step).min(text.len());
                match read(&text[..at], &mut searched) {
                    Head::Partial => prop_assert!(at < text.len() - 9),
                    Head::Request(request) => {
                        prop_assert_eq!(request.length, text.len() - 9);
                        return Ok(());
                    }
                    Head::Other => prop_assert!(false, "a request"),
                }
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [b"GET /", &bytes[..], b"\r\n\r\n"].concat();
            if let Head::Request(request) = read(&bytes, &mut 0) {
                prop_assert!(request.length <= bytes.len() && request.path.starts_with('/'));
            }
        }
    }
}
