//! Addresses, routes and the machine's name.

use std::net::IpAddr;
use std::path::Path;

use agent_wire::common::NetIpPrefix;
use agent_wire::talos::network::{HostnameStatusSpec, LinkStatusSpec, NodeAddressSpec};

use super::NODE_ADDRESS_CURRENT_ID;
use crate::disks::attribute;
use crate::inventory::rtnetlink::Network;
use crate::inventory::spec::{ip, prefix};
use crate::inventory::{Item, names};

/// From this scope on an address is of no use beyond its link.
const SCOPE_LINK: i32 = 253;
/// The usual routing table.
const TABLE_MAIN: i32 = 254;
const FAMILY_INET6: i32 = 10;
const ARPHRD_ETHER: i32 = 1;
const OPER_UNKNOWN: i32 = 0;
const OPER_UP: i32 = 6;

pub(super) fn addresses(network: &Network) -> impl Iterator<Item = Item> {
    network.addresses.iter().map(|address| {
        let mut address = address.clone();
        address.link_name = network.link_name(address.link_index).to_owned();
        let id = format!("{}/{}", address.link_name, prefix(address.address.as_ref()));
        Item::new(&id, &address)
    })
}

pub(super) fn routes(network: &Network) -> impl Iterator<Item = Item> {
    network.routes.iter().map(|route| {
        let mut route = route.clone();
        route.out_link_name = network.link_name(route.out_link_index).to_owned();
        let mut id = String::new();
        if route.table != TABLE_MAIN {
            id = format!("{}/", names::table(route.table));
        }
        if route.family == FAMILY_INET6 {
            id = format!("{id}{}/", route.out_link_name);
        }
        let id = format!(
            "{id}{}/{}/{}/{}",
            names::family(route.family),
            ip(route.gateway.as_ref()),
            prefix(route.destination.as_ref()),
            route.priority
        );
        Item::new(&id, &route)
    })
}

/// The sets of addresses that others can reach the machine at.
pub(super) fn node_addresses(
    links: &[(String, LinkStatusSpec)],
    network: &Network,
) -> Vec<(&'static str, NodeAddressSpec)> {
    let up: Vec<u32> = links.iter().filter(|(_, link)| is_up(link)).map(|(_, link)| link.index).collect();
    let mut reachable: Vec<_> = network
        .addresses
        .iter()
        .filter(|address| address.scope < SCOPE_LINK)
        .filter_map(|address| {
            let prefix = address.address.clone()?;
            let text = ip_of(&prefix)?;
            let usable = !text.is_loopback() && !text.is_multicast() && !is_link_local(text);
            usable.then_some((text, prefix, address.link_index))
        })
        .collect();
    reachable.sort_by_key(|(address, prefix, _)| (*address, prefix.prefix_length));
    let set = |addresses| NodeAddressSpec { addresses, sort_algorithm: 0 };
    let mut sets = Vec::new();
    // The lowest address on the link that comes first by name.
    let first =
        reachable.iter().min_by_key(|(address, _, index)| (network.link_name(*index).to_owned(), *address));
    if let Some((_, prefix, _)) = first {
        sets.push(("default", set(vec![prefix.clone()])));
    }
    reachable.retain(|(_, _, index)| up.contains(index));
    let mut current: Vec<NetIpPrefix> = reachable.into_iter().map(|(_, prefix, _)| prefix).collect();
    current.dedup();
    if !network.addresses.is_empty() {
        sets.push((NODE_ADDRESS_CURRENT_ID, set(current)));
    }
    sets
}

fn ip_of(prefix: &NetIpPrefix) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(&prefix.ip[..]).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(&prefix.ip[..]).map(IpAddr::from)).ok()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Up as far as the kernel knows, and a card with a cable in it.
fn is_up(link: &LinkStatusSpec) -> bool {
    let physical = link.r#type == ARPHRD_ETHER && link.kind.is_empty();
    matches!(link.operational_state, OPER_UNKNOWN | OPER_UP) && (!physical || link.link_state)
}

/// What somebody called the machine; the kernel's own filler is no name.
pub(super) fn hostname(proc: &Path) -> Option<HostnameStatusSpec> {
    let read = |name: &str| {
        attribute(&proc.join("sys/kernel"), name)
            .filter(|name| !matches!(name.as_str(), "(none)" | "localhost"))
    };
    let full = read("hostname")?;
    let (hostname, rest) = full.split_once('.').unwrap_or((&full, ""));
    let domainname = if rest.is_empty() { read("domainname").unwrap_or_default() } else { rest.to_owned() };
    Some(HostnameStatusSpec { hostname: hostname.to_owned(), domainname })
}
