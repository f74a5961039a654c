use std::net::{IpAddr, Ipv4Addr};

use super::views::*;
use crate::view::MachineView;
use crate::{Admission, Refusal, TunnelClaim, UniqueToken, tunnel_admission};

fn peer(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))
}

fn claim(fingerprint: Option<&str>) -> TunnelClaim {
    TunnelClaim { fingerprint: fingerprint.map(str::to_owned), peer: peer(1) }
}

fn joined_with(fingerprint: &str) -> MachineView {
    let token = UniqueToken { fingerprint: fingerprint.to_owned(), token: "t".to_owned() };
    accepted().with(|spec| spec.node_unique_token = token.to_json())
}

#[test]
fn only_the_machine_that_joined_gets_a_tunnel() {
    let strict = |mut view: MachineView| {
        view.policy.fingerprint_required = true;
        view
    };
    let connected = |mut view: MachineView, from: u8| {
        view.agent_peer = Some(peer(from));
        view
    };
    let other = Refusal::OtherFingerprint { claimed: "bb".to_owned(), known: "aa".to_owned() };
    let rows = [
        ("unknown machine", MachineView::unknown(), claim(Some("aa")), None),
        ("unknown machine, no proof", MachineView::unknown(), claim(None), None),
        ("same", joined_with("aa"), claim(Some("aa")), None),
        ("same, other case", joined_with("aa"), claim(Some("AA")), None),
        ("same, moved", connected(joined_with("aa"), 9), claim(Some("aa")), None),
        ("other", joined_with("aa"), claim(Some("bb")), Some(other)),
        ("no token", accepted(), claim(Some("aa")), None),
        ("no proof", joined_with("aa"), claim(None), None),
        ("empty proof", joined_with("aa"), claim(Some("")), None),
        ("no proof, demanded", strict(joined_with("aa")), claim(None), Some(Refusal::NoFingerprint)),
        ("no proof, again", connected(joined_with("aa"), 1), claim(None), None),
        (
            "no proof, second machine",
            connected(joined_with("aa"), 9),
            claim(None),
            Some(Refusal::OtherPeer { connected: peer(9) }),
        ),
        (
            "broken token",
            accepted().with(|spec| spec.node_unique_token = "{".to_owned()),
            claim(Some("aa")),
            Some(Refusal::UnreadableToken),
        ),
    ];
    for (name, view, claim, refused) in rows {
        let expected = refused.map_or(Admission::Admit, Admission::Refuse);
        assert_eq!(tunnel_admission(&view, &claim), expected, "{name}");
    }
}

#[test]
fn a_token_reads_what_it_writes() {
    let token = UniqueToken { fingerprint: "ab".to_owned(), token: "cd".to_owned() };
    assert_eq!(token.to_json(), r#"{"Fingerprint":"ab","Token":"cd"}"#);
    assert_eq!(UniqueToken::parse(&token.to_json()).unwrap(), token);
    assert!(token.same_fingerprint("AB"));
    assert!(!UniqueToken { fingerprint: String::new(), ..token }.same_fingerprint(""));
}
