use proptest::prelude::*;

use super::*;

/// An attribute as the kernel lays it out.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.resize(HEADER, 0);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn veth() -> Vec<u8> {
    let mut body = vec![0; LINK_HEADER];
    body[4] = 7;
    let info = [attribute(1, b"veth\0"), attribute(4, b"bridge\0")].concat();
    body.extend(attribute(3, b"veth0\0"));
    body.extend(attribute(5, &3u32.to_ne_bytes()));
    body.extend(attribute(6, b"noqueue\0"));
    body.extend(attribute(10, &9u32.to_ne_bytes()));
    // With the flag for nested attributes.
    body.extend(attribute(18 | 0x8000, &info));
    body.extend(attribute(52, &[attribute(53, b"enp0s1\0"), attribute(53, b"lan\0")].concat()));
    message(NEW_LINK, &body)
}

fn address() -> Vec<u8> {
    let mut body = vec![2, 24, 0x80, 0, 7, 0, 0, 0];
    body.extend(attribute(1, &[10, 0, 0, 5]));
    body.extend(attribute(2, &[10, 0, 0, 5]));
    body.extend(attribute(4, &[10, 0, 0, 255]));
    body.extend(attribute(8, &0x280u32.to_ne_bytes()));
    message(NEW_ADDRESS, &body)
}

fn default_route() -> Vec<u8> {
    let mut body = vec![2, 0, 0, 0, 254, 16, 0, 1, 0, 0, 0, 0];
    body.extend(attribute(4, &7u32.to_ne_bytes()));
    body.extend(attribute(5, &[10, 0, 0, 1]));
    body.extend(attribute(6, &1024u32.to_ne_bytes()));
    body.extend(attribute(8, &attribute(2, &1400u32.to_ne_bytes())));
    message(NEW_ROUTE, &body)
}

#[test]
fn a_link_is_told_with_its_kind_and_names() {
    let mut network = Network::default();
    assert_eq!(network.take_in(&[veth(), message(NLMSG_DONE, &[0; 4])].concat()), More::No);
    let link = &network.links[&7];
    assert_eq!(
        (link.name.as_str(), link.kind.as_str(), link.slave_kind.as_str()),
        ("veth0", "veth", "bridge")
    );
    assert_eq!((link.link_index, link.master_index, link.queue_disc.as_str()), (3, 9, "noqueue"));
    assert_eq!(link.alt_names, ["enp0s1", "lan"]);
    assert_eq!((network.link_name(7), network.link_name(8)), ("veth0", ""));
}

#[test]
fn addresses_and_routes_are_told_as_the_kernel_has_them() {
    let mut network = Network::default();
    assert_eq!(network.take_in(&[address(), default_route()].concat()), More::Yes);
    let address = &network.addresses[0];
    let with_prefix = address.address.clone().unwrap();
    assert_eq!((&with_prefix.ip[..], with_prefix.prefix_length), (&[10, 0, 0, 5][..], 24));
    assert_eq!((address.flags, address.link_index, address.family), (0x280, 7, 2));
    let route = &network.routes[0];
    assert_eq!(route.destination, None);
    assert_eq!(route.gateway.clone().unwrap().ip[..], [10, 0, 0, 1]);
    assert_eq!((route.table, route.protocol, route.r#type, route.priority), (254, 16, 1, 1024));
    assert_eq!((route.mtu, route.out_link_index), (1400, 7));
}

#[test]
fn a_refusal_ends_it_with_its_error() {
    let refusal = message(NLMSG_ERROR, &(-1i32).to_ne_bytes());
    assert_eq!(Network::default().take_in(&refusal), More::Refused(-1));
}

#[test]
fn no_more_is_kept_than_the_limit() {
    let mut network = Network::default();
    for _ in 0..MAX_ENTRIES + 10 {
        network.take_in(&[address(), default_route()].concat());
    }
    assert_eq!((network.addresses.len(), network.routes.len()), (MAX_ENTRIES, MAX_ENTRIES));
}

#[test]
fn the_kernel_of_this_machine_tells_its_loopback() {
    let network = read().unwrap();
    assert!(network.links.values().any(|link| link.name == "lo"));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in 0u16..60) {
        let mut network = Network::default();
        network.take_in(&bytes);
        network.take_in(&message(kind, &bytes));
    }

    #[test]
    fn what_is_cut_off_or_flipped_does_not_panic(cut in 0usize..400, at in 0usize..400, bit in 0u8..8) {
        let mut bytes = [veth(), address(), default_route()].concat();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        bytes.truncate(cut);
        Network::default().take_in(&bytes);
    }
}
