//! Which networks are served, each by which stack and from which of its addresses.

use std::fmt;
use std::net::Ipv4Addr;

use anyhow::{Context, anyhow, bail};
use netboot::Subnet;
use netboot::dhcp::server::ServerConfig;
use netboot_link::frames::VlanId;
use netboot_link::raw;
use nix::net::if_::if_nametoindex;

use crate::config::{Config, DhcpMode, Interface, Ipv6, Profile, Stack};

/// The MTU-sized network that an address without a prefix is taken to be in, where only a check needs one.
const USUAL_PREFIX: u8 = 24;

/// An address of this host's kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KernelAddress {
    pub(super) interface: String,
    pub(super) address: Ipv4Addr,
    pub(super) prefix: u8,
}

/// A network that is served.
#[derive(Debug, Clone)]
pub(super) struct Network {
    /// Where DHCP is answered; absent when it is answered nowhere.
    pub(super) interface: Option<String>,
    pub(super) vlan: Option<VlanId>,
    /// Our address there, as machines reach it.
    pub(super) address: Ipv4Addr,
    /// Bits of its prefix, when known.
    pub(super) prefix: Option<u8>,
    /// Other networks that the kernel has addresses of on the same interface.
    pub(super) neighbours: Vec<Subnet>,
    /// The raw stack's network; the kernel serves when absent.
    pub(super) raw: Option<raw::Network>,
    /// Why this stack.
    pub(super) reason: String,
    pub(super) profile: Profile,
    pub(super) dhcp: DhcpMode,
    /// What a DHCP server gives.
    pub(super) server: Option<Box<ServerConfig>>,
    /// What is served over IPv6, on the kernel's stack.
    pub(super) ipv6: Ipv6,
}

impl Network {
    /// The networks that machines have addresses of; empty, for all, when the own one is not known: the advertised
    /// address is not this host's, or it is routed as one address.
    pub(super) fn subnets(&self, routed: &[Subnet]) -> Vec<Subnet> {
        let own = self.prefix.filter(|prefix| *prefix < 32);
        let Some(own) = own.and_then(|prefix| Subnet::new(self.address, prefix)) else { return Vec::new() };
        let more = if self.raw.is_some() { &[][..] } else { &self.neighbours[..] };
        [own].iter().chain(more).chain(routed).copied().collect()
    }

    /// For logs.
    pub(super) fn stack(&self) -> &'static str {
        if self.raw.is_some() { "raw" } else { "kernel" }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.interface.as_deref().unwrap_or("no interface"))?;
        self.vlan.map_or(Ok(()), |vlan| write!(f, ".{vlan}"))
    }
}

/// The networks of the configuration's tables; none when it has no tables.
pub(super) fn of_tables(config: &Config) -> anyhow::Result<Vec<Network>> {
    if config.netboot.interfaces.is_empty() {
        return Ok(Vec::new());
    }
    let addresses = kernel_addresses()?;
    let mut networks: Vec<Network> = Vec::new();
    for interface in &config.netboot.interfaces {
        is_there(&interface.name)?;
        let chosen = choose(interface, &addresses)
            .map_err(|hint| anyhow!(hint))
            .with_context(|| format!("cannot serve {}", interface.name))?;
        let vlans: Vec<_> = match interface.vlans.as_slice() {
            [] => vec![None],
            vlans => vlans.iter().copied().map(Some).collect(),
        };
        networks.extend(vlans.into_iter().map(|vlan| Network { vlan, ..chosen.clone() }));
    }
    Ok(networks)
}

fn is_there(interface: &str) -> anyhow::Result<()> {
    match if_nametoindex(interface) {
        Ok(_) => Ok(()),
        Err(error) => {
            bail!("cannot serve {interface}: {}; `ip link` shows those that are there", error.desc())
        }
    }
}

/// The stack for a network, our address there, and why.
fn choose(interface: &Interface, addresses: &[KernelAddress]) -> Result<Network, String> {
    let own: Vec<_> = addresses.iter().filter(|own| own.interface == interface.name).collect();
    let has = |address: Ipv4Addr| own.iter().find(|own| own.address == address).copied();
    let tagged = !interface.vlans.is_empty();
    let by_kernel = match (interface.stack, interface.address) {
        (Stack::Raw, _) => None,
        (Stack::Auto, _) if tagged => None,
        (_, Some(address)) => has(address),
        (_, None) => own.first().copied(),
    };
    let network = |address, prefix, raw, reason: &str| Network {
        interface: Some(interface.name.clone()),
        vlan: None,
        address,
        prefix,
        neighbours: neighbours(addresses, address),
        raw,
        reason: reason.to_owned(),
        profile: interface.profile.clone(),
        dhcp: interface.dhcp,
        server: interface.server.clone(),
        ipv6: interface.ipv6,
    };
    if let Some(kernel) = by_kernel {
        let reason = match interface.stack {
            Stack::Kernel => "as configured",
            Stack::Auto | Stack::Raw => {
                "the interface has the address, and the kernel's own path is the cheapest"
            }
        };
        return Ok(network(kernel.address, Some(kernel.prefix), None, reason));
    }
    match (interface.stack, interface.address, interface.network) {
        (Stack::Kernel, Some(address), _) => {
            Err(format!("the interface has no address {address}: give it one, or use stack = \"raw\""))
        }
        (Stack::Kernel, None, _) => Err("the interface has no IPv4 address: give it one, or use stack = \
                                         \"raw\" with an address of its own"
            .into()),
        (Stack::Raw, Some(address), _) if has(address).is_some() => {
            Err(format!("{address} is the kernel's: the raw stack needs an address that nobody has"))
        }
        (_, Some(address), Some(raw)) => {
            let reason = match interface.stack {
                Stack::Raw => "as configured",
                Stack::Auto | Stack::Kernel if tagged => "it is a tagged VLAN of a trunk",
                Stack::Auto | Stack::Kernel if own.is_empty() => "the interface has no address",
                Stack::Auto | Stack::Kernel => "the interface has other addresses, not this one",
            };
            Ok(network(address, Some(raw.prefix()), Some(raw), reason))
        }
        (_, address, _) => {
            let example = address.unwrap_or(Ipv4Addr::new(192, 0, 2, 10));
            Err(format!(
                "the interface does not have the address, and the raw stack needs one with its prefix: \
                 address = \"{example}/{USUAL_PREFIX}\""
            ))
        }
    }
}

/// The networks of the interface that has the address.
pub(super) fn neighbours(addresses: &[KernelAddress], address: Ipv4Addr) -> Vec<Subnet> {
    let own = addresses.iter().find(|own| own.address == address);
    let on_it = addresses.iter().filter(|other| own.is_some_and(|own| own.interface == other.interface));
    on_it.filter_map(|other| Subnet::new(other.address, other.prefix)).collect()
}

/// All IPv4 addresses of this host.
pub(super) fn kernel_addresses() -> anyhow::Result<Vec<KernelAddress>> {
    let all = nix::ifaddrs::getifaddrs().context("cannot list the network interfaces")?;
    Ok(all
        .filter_map(|entry| {
            let address = entry.address?.as_sockaddr_in()?.ip();
            let mask = entry.netmask.and_then(|mask| Some(mask.as_sockaddr_in()?.ip()));
            let prefix = mask.map_or(32, |mask| mask.to_bits().leading_ones());
            Some(KernelAddress {
                interface: entry.interface_name,
                address,
                prefix: u8::try_from(prefix).unwrap_or(32),
            })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_is_named_with_what_to_do() {
        is_there("lo").unwrap();
        let told = is_there("no-such-link").unwrap_err().to_string();
        assert!(told.contains("no-such-link: No such device; `ip link` shows"), "{told}");
    }

    const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
    const FREE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 5);

    fn interface(stack: Stack, address: Option<(Ipv4Addr, u8)>, vlans: &[u16]) -> Interface {
        Interface {
            name: "eth0".into(),
            vlans: vlans.iter().filter_map(|vlan| VlanId::new(*vlan)).collect(),
            stack,
            address: address.map(|(address, _)| address),
            network: address.and_then(|(address, prefix)| raw::Network::new(address, prefix)),
            profile: Profile::default(),
            dhcp: DhcpMode::Proxy,
            server: None,
            ipv6: Ipv6::default(),
        }
    }

    fn of_kernel(with: &[Ipv4Addr]) -> Vec<KernelAddress> {
        let of = |name: &str, address| KernelAddress { interface: name.into(), address, prefix: 24 };
        let other = of("eth1", Ipv4Addr::new(10, 9, 0, 1));
        [other].into_iter().chain(with.iter().map(|address| of("eth0", *address))).collect()
    }

    #[test]
    fn the_stack_that_suits_is_chosen_and_says_why() {
        for (stack, address, vlans, has, raw, why) in [
            (Stack::Auto, None, &[][..], &[KERNEL][..], false, "cheapest"),
            (Stack::Auto, Some((KERNEL, 24)), &[], &[KERNEL], false, "cheapest"),
            (Stack::Auto, Some((FREE, 24)), &[], &[KERNEL], true, "other addresses"),
            (Stack::Auto, Some((FREE, 24)), &[], &[], true, "no address"),
            (Stack::Auto, Some((KERNEL, 24)), &[10], &[KERNEL], true, "tagged VLAN"),
            (Stack::Raw, Some((FREE, 24)), &[], &[KERNEL], true, "as configured"),
            (Stack::Kernel, None, &[], &[KERNEL], false, "as configured"),
        ] {
            let chosen = choose(&interface(stack, address, vlans), &of_kernel(has)).unwrap();
            assert_eq!(chosen.raw.is_some(), raw, "{stack:?} {address:?}");
            assert!(chosen.reason.contains(why), "{}", chosen.reason);
            assert_eq!(chosen.address, address.map_or(KERNEL, |(address, _)| address));
        }
    }

    #[test]
    fn machines_of_the_interfaces_networks_and_of_named_ones_are_served() {
        let other = KernelAddress { interface: "eth0".into(), address: [10, 2, 0, 1].into(), prefix: 16 };
        let addresses: Vec<_> = of_kernel(&[KERNEL]).into_iter().chain([other]).collect();
        let routed: Vec<Subnet> = vec!["198.51.100.0/24".parse().unwrap()];
        let network = choose(&interface(Stack::Kernel, None, &[]), &addresses).unwrap();
        let has = |network: &Network, routed: &[Subnet], address: [u8; 4]| {
            network.subnets(routed).iter().any(|subnet| subnet.has_host(address.into()))
        };
        assert!(has(&network, &[], [10, 1, 0, 9]) && has(&network, &[], [10, 2, 3, 4]));
        assert!(!has(&network, &[], [10, 9, 0, 9]), "another interface's");
        assert!(!has(&network, &[], [198, 51, 100, 9]) && has(&network, &routed, [198, 51, 100, 9]));
        let unknown = Network { prefix: None, ..network.clone() };
        let single = Network { prefix: Some(32), ..network };
        assert!(unknown.subnets(&routed).is_empty() && single.subnets(&routed).is_empty());
    }

    #[test]
    fn what_cannot_be_served_says_what_to_write() {
        for (stack, address, has, words) in [
            (Stack::Auto, None, &[][..], "address = \"192.0.2.10/24\""),
            (Stack::Auto, Some((FREE, 0)), &[KERNEL][..], "address = \"10.1.0.5/24\""),
            (Stack::Kernel, Some((FREE, 24)), &[KERNEL], "has no address 10.1.0.5"),
            (Stack::Kernel, None, &[], "no IPv4 address"),
            (Stack::Raw, Some((KERNEL, 24)), &[KERNEL], "is the kernel's"),
        ] {
            let error = choose(&interface(stack, address, &[]), &of_kernel(has)).unwrap_err();
            assert!(error.contains(words), "{stack:?} {address:?}: {error}");
        }
    }
}
