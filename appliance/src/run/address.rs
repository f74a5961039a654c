//! Which of this host's addresses and interfaces serve when the configuration has no tables of networks.

use std::net::Ipv4Addr;

use anyhow::{Context, bail};

use super::networks::{KernelAddress, Network, kernel_addresses, neighbours};
use crate::config::{Config, DhcpMode, Ipv6, Profile};

/// The one network that the flags of the peer name.
pub(super) fn of_flags(config: &Config) -> anyhow::Result<Network> {
    let addresses = kernel_addresses()?;
    let address = advertise_address(config, &addresses)?;
    let interface = dhcp_interface(config, address, &addresses)?;
    let prefix = addresses.iter().find(|own| own.address == address).map(|own| own.prefix);
    let dhcp = if interface.is_some() { DhcpMode::Proxy } else { DhcpMode::Off };
    Ok(Network {
        interface,
        vlan: None,
        address,
        prefix,
        neighbours: neighbours(&addresses, address),
        raw: None,
        reason: "there are no tables [[netboot.interface]]".into(),
        profile: Profile::default(),
        dhcp,
        server: None,
        ipv6: Ipv6::default(),
    })
}

/// The configured address, or the only one that other machines can reach.
fn advertise_address(config: &Config, addresses: &[KernelAddress]) -> anyhow::Result<Ipv4Addr> {
    if let Some(address) = config.api.advertise {
        return Ok(address);
    }
    let reachable = |own: &&KernelAddress| !own.address.is_loopback() && !own.address.is_link_local();
    let found: Vec<_> = addresses.iter().filter(reachable).collect();
    match found.as_slice() {
        [own] => Ok(own.address),
        [] => bail!("no interface has a routable IPv4 address; set --api-advertise-address"),
        several => {
            let list: Vec<String> =
                several.iter().map(|own| format!("{} ({})", own.address, own.interface)).collect();
            bail!(
                "several addresses could be advertised: {}; choose one by --api-advertise-address",
                list.join(", ")
            )
        }
    }
}

/// The interface that answers DHCP; none when DHCP is switched off.
fn dhcp_interface(
    config: &Config,
    advertise: Ipv4Addr,
    addresses: &[KernelAddress],
) -> anyhow::Result<Option<String>> {
    let of = |address: Ipv4Addr| {
        let own = addresses.iter().find(|own| own.address == address);
        own.map(|own| own.interface.clone()).with_context(|| {
            format!("no interface has {address}; name the one for DHCP by --dhcp-proxy-iface-or-ip")
        })
    };
    Ok(match (&config.netboot.interface, config.netboot.dhcp_proxy) {
        (_, false) => None,
        (None, true) => Some(of(advertise)?),
        (Some(name), true) => Some(match name.parse() {
            Ok(address) => of(address)?,
            Err(_) => name.clone(),
        }),
    })
}
