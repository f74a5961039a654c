//! DHCP of one network, from its configuration.

use anyhow::Context;
use netboot::{Mac, Subnet};
use netboot_link::dhcp::{self, DhcpSocket, Mode};

use super::networks::Network;
use crate::config::{Config, DhcpMode};

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
    let subnet = network.prefix.and_then(|prefix| Subnet::new(network.address, prefix));
    let served = dhcp::Network {
        vlan: network.vlan,
        address: network.address,
        http_port: config.api.listen.port(),
        subnets: subnet.into_iter().collect(),
        mode,
    };
    let socket = dhcp::bind(interface, mac, vec![served]);
    socket.map(Some).with_context(|| format!("cannot answer DHCP on {network}"))
}
