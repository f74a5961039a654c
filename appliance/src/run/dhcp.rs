//! DHCP of one network, from its configuration.

use std::net::SocketAddr;

use anyhow::Context;
use netboot::Mac;
use netboot_link::dhcp::{self, DhcpSocket, Mode, v6};
use tokio::net::TcpListener;

use super::networks::Network;
use super::sockets::listen;
use crate::config::{Config, DhcpMode, Ipv6};

/// Where leases are written down, in the state directory: a file a network.
const LEASES: &str = "dhcp";

/// The socket of a network on which DHCP is answered; `mac` when that is one of a raw stack.
pub(super) fn bind(
    config: &Config,
    network: &Network,
    mac: Option<Mac>,
) -> anyhow::Result<Option<DhcpSocket>> {
    let Some(interface) = network.interface.as_deref() else { return Ok(None) };
    let mode = match network.dhcp {
        DhcpMode::Off => return Ok(None),
        DhcpMode::Proxy => Mode::Proxy,
        DhcpMode::Merge => Mode::Merge,
        DhcpMode::Server => Mode::Server {
            config: network.server.clone().context("dhcp = \"server\" without its settings")?,
            lease_file: config.state_dir.join(LEASES).join(format!("{network}.leases")),
        },
    };
    let served = dhcp::Network {
        vlan: network.vlan,
        address: network.address,
        http_port: config.api.listen.port(),
        subnets: network.subnets(&config.netboot.routed),
        mode,
    };
    let socket = dhcp::bind(interface, mac, vec![served]);
    socket.map(Some).with_context(|| format!("cannot answer DHCP on {network}"))
}

/// What serves one network over IPv6.
pub(super) struct Ipv6Sockets {
    /// DHCPv6 and router advertisements.
    pub(super) sockets: v6::Sockets,
    /// HTTP beside that over IPv4.
    pub(super) http: Option<TcpListener>,
}

/// The sockets of a network on which anything is served over IPv6.
pub(super) async fn bind_ipv6(network: &Network, http_port: u16) -> anyhow::Result<Option<Ipv6Sockets>> {
    let Ipv6 { address, advertise, prefix } = network.ipv6;
    let Some(interface) = network.interface.as_deref().filter(|_| network.ipv6 != Ipv6::default()) else {
        return Ok(None);
    };
    let http = match address {
        Some(address) => {
            let address = SocketAddr::from((address, http_port));
            Some(listen(address).with_context(|| format!("cannot listen on {address} for HTTP"))?)
        }
        None => None,
    };
    let settings = v6::Settings { address, http_port, advertise, prefix };
    let sockets = v6::bind(interface, settings).with_context(|| format!("cannot serve IPv6 on {network}"))?;
    Ok(Some(Ipv6Sockets { sockets, http }))
}
