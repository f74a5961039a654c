//! Which of this host's addresses and interfaces serve.

use std::net::Ipv4Addr;

use anyhow::{Context, bail};

use crate::config::Config;

/// The configured address, or the only one that other machines can reach.
pub(super) fn advertise_address(config: &Config) -> anyhow::Result<Ipv4Addr> {
    if let Some(address) = config.api.advertise {
        return Ok(address);
    }
    let found: Vec<(String, Ipv4Addr)> = ipv4_addresses()?
        .into_iter()
        .filter(|(_, address)| !address.is_loopback() && !address.is_link_local())
        .collect();
    match found.as_slice() {
        [(_, address)] => Ok(*address),
        [] => bail!("no interface has a routable IPv4 address; set --api-advertise-address"),
        several => {
            let list: Vec<String> =
                several.iter().map(|(name, address)| format!("{address} ({name})")).collect();
            bail!(
                "several addresses could be advertised: {}; choose one by --api-advertise-address",
                list.join(", ")
            )
        }
    }
}

fn interface_of(address: Ipv4Addr) -> anyhow::Result<String> {
    ipv4_addresses()?.into_iter().find_map(|(name, found)| (found == address).then_some(name)).with_context(
        || format!("no interface has {address}; name the one for DHCP by --dhcp-proxy-iface-or-ip"),
    )
}

fn ipv4_addresses() -> anyhow::Result<Vec<(String, Ipv4Addr)>> {
    let all = nix::ifaddrs::getifaddrs().context("cannot list the network interfaces")?;
    Ok(all
        .filter_map(|entry| {
            let address = entry.address?.as_sockaddr_in()?.ip();
            Some((entry.interface_name, address))
        })
        .collect())
}

/// The interface that answers DHCP; none when DHCP is switched off.
pub(super) fn dhcp_interface(config: &Config, advertise: Ipv4Addr) -> anyhow::Result<Option<String>> {
    Ok(match (&config.netboot.interface, config.netboot.dhcp_proxy) {
        (_, false) => None,
        (None, true) => Some(interface_of(advertise)?),
        (Some(name), true) => Some(match name.parse() {
            Ok(address) => interface_of(address)?,
            Err(_) => name.clone(),
        }),
    })
}
