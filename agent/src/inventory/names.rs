//! The words that Talos writes for the kernel's numbers.

/// The word for a number, or the number itself where there is none.
fn word(table: &[(i32, &'static str)], number: i32) -> String {
    table
        .iter()
        .find(|(known, _)| *known == number)
        .map_or_else(|| number.to_string(), |(_, word)| (*word).to_owned())
}

/// The words of the bits that are set, from the lowest; `first` is the first word's bit. Others are left out.
fn bits(words: &[&str], first: u32, flags: u32) -> String {
    let set: Vec<&str> =
        (first..).zip(words).filter(|(bit, _)| flags >> bit & 1 == 1).map(|(_, word)| *word).collect();
    set.join(",")
}

/// `ARPHRD_*`
pub(super) fn link_type(number: i32) -> String {
    const TABLE: &[(i32, &str)] = &[
        (0, "netrom"),
        (1, "ether"),
        (24, "ieee1394"),
        (27, "eui64"),
        (32, "infiniband"),
        (280, "can"),
        (512, "ppp"),
        (768, "ipip"),
        (769, "tunnel6"),
        (772, "loopback"),
        (774, "fddi"),
        (776, "sit"),
        (778, "gre"),
        (801, "ieee802.11"),
        (823, "ip6gre"),
        (824, "netlink"),
        (65534, "nohdr"),
        (65535, "void"),
    ];
    word(TABLE, number)
}

/// RFC 2863
pub(super) fn operational_state(number: i32) -> String {
    const TABLE: &[(i32, &str)] = &[
        (0, "unknown"),
        (1, "notPresent"),
        (2, "down"),
        (3, "lowerLayerDown"),
        (4, "testing"),
        (5, "dormant"),
        (6, "up"),
    ];
    word(TABLE, number)
}

/// `PORT_*` of ethtool
pub(super) fn port(number: i32) -> String {
    const TABLE: &[(i32, &str)] = &[
        (0, "TwistedPair"),
        (1, "AUI"),
        (2, "MII"),
        (3, "Fibre"),
        (4, "BNC"),
        (5, "DirectAttach"),
        (0xef, "None"),
        (0xff, "Other"),
    ];
    word(TABLE, number)
}

/// `DUPLEX_*` of ethtool
pub(super) fn duplex(number: i32) -> String {
    word(&[(0, "Half"), (1, "Full"), (0xff, "Unknown")], number)
}

/// `AF_*`
pub(super) fn family(number: i32) -> String {
    word(&[(2, "inet4"), (10, "inet6")], number)
}

/// `RT_SCOPE_*`
pub(super) fn scope(number: i32) -> String {
    word(&[(0, "global"), (200, "site"), (253, "link"), (254, "host"), (255, "nowhere")], number)
}

/// `RT_TABLE_*`
pub(super) fn table(number: i32) -> String {
    word(&[(0, "unspec"), (253, "default"), (254, "main"), (255, "local")], number)
}

/// `RTN_*`
pub(super) fn route_type(number: i32) -> String {
    const WORDS: [&str; 12] = [
        "unspec",
        "unicast",
        "local",
        "broadcast",
        "anycast",
        "multicast",
        "blackhole",
        "unreachable",
        "prohibit",
        "throw",
        "nat",
        "xresolve",
    ];
    let known = usize::try_from(number).ok().and_then(|at| WORDS.get(at));
    known.map_or_else(|| number.to_string(), |word| (*word).to_owned())
}

/// `RTPROT_*`
pub(super) fn route_protocol(number: i32) -> String {
    const TABLE: &[(i32, &str)] = &[
        (0, "unspec"),
        (1, "redirect"),
        (2, "kernel"),
        (3, "boot"),
        (4, "static"),
        (9, "ra"),
        (10, "mrt"),
        (11, "zebra"),
        (12, "bird"),
        (13, "dnrouted"),
        (14, "xorp"),
        (15, "ntk"),
        (16, "dhcp"),
        (17, "mrtd"),
        (18, "keepalived"),
        (42, "babel"),
        (99, "openr"),
        (186, "bgp"),
        (187, "isis"),
        (188, "ospf"),
        (189, "rip"),
        (192, "eigrp"),
    ];
    word(TABLE, number)
}

/// `IFF_*`
pub(super) fn link_flags(flags: u32) -> String {
    const WORDS: [&str; 19] = [
        "UP",
        "BROADCAST",
        "DEBUG",
        "LOOPBACK",
        "POINTTOPOINT",
        "NOTRAILERS",
        "RUNNING",
        "NOARP",
        "PROMISC",
        "ALLMULTI",
        "MASTER",
        "SLAVE",
        "MULTICAST",
        "PORTSEL",
        "AUTOMEDIA",
        "DYNAMIC",
        "LOWER_UP",
        "DORMANT",
        "ECHO",
    ];
    bits(&WORDS, 0, flags)
}

/// `IFA_F_*`
pub(super) fn address_flags(flags: u32) -> String {
    const WORDS: [&str; 12] = [
        "temporary",
        "nodad",
        "optimistic",
        "dadfailed",
        "homeaddress",
        "deprecated",
        "tentative",
        "permanent",
        "mngmtmpaddr",
        "noprefixroute",
        "mcautojoin",
        "stableprivacy",
    ];
    bits(&WORDS, 0, flags)
}

/// `RTM_F_*`
pub(super) fn route_flags(flags: u32) -> String {
    const WORDS: [&str; 8] =
        ["notify", "cloned", "equalize", "prefix", "lookup_table", "fib_match", "offload", "trap"];
    bits(&WORDS, 8, flags)
}

/// What a machine is doing
pub(super) fn stage(number: i32) -> String {
    const TABLE: &[(i32, &str)] = &[(0, "unknown"), (1, "booting"), (3, "maintenance"), (4, "running")];
    word(TABLE, number)
}

/// How SELinux is
pub(super) fn selinux(number: i32) -> String {
    word(&[(0, "disabled"), (1, "enabled, permissive"), (2, "enabled, enforcing")], number)
}

/// How FIPS 140 is
pub(super) fn fips(number: i32) -> String {
    word(&[(0, "disabled"), (1, "enabled"), (2, "enabled, strict")], number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_numbers_are_words_and_unknown_ones_stay() {
        assert_eq!((link_type(1).as_str(), link_type(4711).as_str()), ("ether", "4711"));
        assert_eq!((route_type(1).as_str(), route_type(-1).as_str()), ("unicast", "-1"));
        assert_eq!((table(254).as_str(), table(7).as_str()), ("main", "7"));
    }

    #[test]
    fn flags_are_named_from_the_lowest() {
        assert_eq!(link_flags(0x1_1043), "UP,BROADCAST,RUNNING,MULTICAST,LOWER_UP");
        assert_eq!(address_flags(0x80), "permanent");
        assert_eq!(route_flags(0x4100), "notify,offload");
        assert_eq!(link_flags(0), "");
        assert_eq!(bits(&["a"], 0, u32::MAX), "a");
    }
}
