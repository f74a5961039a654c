//! Everything that is bound before anything runs.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context;
use netboot_link::{dhcp, http, raw, tftp};
use tokio::net::{TcpListener, UdpSocket, UnixListener};

use super::networks::Network;
use crate::config::Config;
use crate::operator;

pub(super) struct Sockets {
    pub(super) operator: UnixListener,
    /// Only when the hub is this appliance's Omni.
    pub(super) hub: Option<HubSockets>,
    pub(super) boot: BootSockets,
}

pub(super) struct HubSockets {
    pub(super) api: TcpListener,
    /// The kernel's, and one for each network of a raw stack.
    pub(super) machine_api: Vec<TcpListener>,
    /// Empty unless machines are told to send them here. With WireGuard they come through it.
    pub(super) kernel_logs: Vec<TcpListener>,
    /// With WireGuard.
    pub(super) wireguard: Option<WireguardSocket>,
}

/// How machines reach WireGuard.
pub(super) struct WireguardSocket {
    pub(super) udp: UdpSocket,
    /// Machines on networks of a raw stack have no way to the kernel's UDP.
    pub(super) over_grpc: bool,
}

pub(super) struct BootSockets {
    pub(super) networks: Vec<NetworkSockets>,
    /// One for each interface with raw networks.
    pub(super) stacks: Vec<raw::Stack>,
}

/// What serves one network.
pub(super) struct NetworkSockets {
    pub(super) network: Network,
    pub(super) http: TcpListener,
    /// When tunnels are opened over TLS.
    pub(super) tls: Option<TcpListener>,
    pub(super) tftp: tftp::TftpSocket,
    /// When DHCP is answered there.
    pub(super) dhcp: Option<dhcp::DhcpSocket>,
    /// When anything is served over IPv6 there.
    pub(super) ipv6: Option<super::dhcp::Ipv6Sockets>,
}

/// Where the networks of raw stacks are.
struct RawPlace<'a> {
    stack: &'a raw::Stack,
    index: usize,
}

impl Sockets {
    pub(super) async fn bind(config: &Config, networks: Vec<Network>) -> anyhow::Result<Self> {
        let mut stacks = Vec::new();
        let mut raw = BTreeMap::new();
        for (interface, members) in raw_interfaces(&networks) {
            let wanted: Vec<_> =
                members.iter().filter_map(|at| Some((networks[*at].vlan, networks[*at].raw?))).collect();
            let stack = raw::bind(interface, &wanted, raw::Wire::Best)
                .with_context(|| format!("cannot serve {interface} by the raw stack"))?;
            raw.extend(members.into_iter().enumerate().map(|(index, at)| (at, (stacks.len(), index))));
            stacks.push(stack);
        }
        let place =
            |at: usize| raw.get(&at).map(|(stack, index)| RawPlace { stack: &stacks[*stack], index: *index });
        let tables = !config.netboot.interfaces.is_empty();
        let mut served = Vec::new();
        for (at, network) in networks.into_iter().enumerate() {
            served.push(NetworkSockets::bind(config, network, place(at), tables).await?);
        }
        let hub = match config.omni {
            Some(_) => None,
            None => {
                let raw: Vec<_> = (0..served.len()).filter_map(place).collect();
                let kernel = served.iter().any(|served| served.network.raw.is_none());
                Some(HubSockets::bind(config, &raw, kernel).await?)
            }
        };
        let operator = operator::bind(&config.socket())
            .with_context(|| format!("cannot take the operator socket {}", config.socket().display()))?;
        Ok(Self { operator, hub, boot: BootSockets { networks: served, stacks } })
    }
}

/// The interfaces that have raw networks, with the places of those in the list.
fn raw_interfaces(networks: &[Network]) -> BTreeMap<&str, Vec<usize>> {
    let mut interfaces: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, network) in networks.iter().enumerate() {
        if let (Some(name), Some(_)) = (&network.interface, network.raw) {
            interfaces.entry(name).or_default().push(at);
        }
    }
    interfaces
}

impl HubSockets {
    /// On the kernel's addresses as configured, when it serves any network, and on every raw one.
    async fn bind(config: &Config, raw: &[RawPlace<'_>], kernel: bool) -> anyhow::Result<Self> {
        let listen = config.api.listen.ip();
        let everywhere = |port: u16, what: &str, key: &str| -> anyhow::Result<Vec<TcpListener>> {
            let mut listeners = Vec::new();
            if kernel {
                listeners.push(tcp(SocketAddr::new(listen, port), what, key)?);
            }
            for place in raw {
                listeners.push(raw_tcp(place, port)?);
            }
            Ok(listeners)
        };
        Ok(Self {
            api: tcp(config.hub.api_listen, "the hub's API", "hub.api_listen")?,
            machine_api: everywhere(config.hub.machine_api_port, "the machine API", "hub.machine_api_port")?,
            kernel_logs: match config.hub.kernel_log_port {
                Some(port) if config.hub.wireguard.is_none() => {
                    everywhere(port, "kernel logs", "hub.kernel_log_port")?
                }
                _ => Vec::new(),
            },
            wireguard: match config.hub.wireguard {
                Some(wireguard) => Some(WireguardSocket {
                    udp: udp(SocketAddr::new(listen, wireguard.port), "WireGuard", "hub.wireguard_port")
                        .await?,
                    over_grpc: wireguard.over_grpc || !raw.is_empty(),
                }),
                None => None,
            },
        })
    }
}

impl NetworkSockets {
    /// With `tables`, HTTP listens on the network's own address, so that each network has its own scripts; without,
    /// where it is configured to.
    async fn bind(
        config: &Config,
        network: Network,
        raw: Option<RawPlace<'_>>,
        tables: bool,
    ) -> anyhow::Result<Self> {
        let (port, tftp_port) = (config.api.listen.port(), config.netboot.tftp_port);
        let dhcp = super::dhcp::bind(config, &network, raw.as_ref().map(|place| place.stack.mac()))?;
        if let Some(place) = raw {
            let http = raw_tcp(&place, port)?;
            let tls = config.tls.as_ref().map(|tls| raw_tcp(&place, tls.port)).transpose()?;
            let tftp = place.stack.tftp(place.index, tftp_port)?;
            return Ok(Self { network, http, tls, tftp, dhcp, ipv6: None });
        }
        let own = IpAddr::V4(network.address);
        let listen = if tables { SocketAddr::new(own, port) } else { config.api.listen };
        // A TFTP client drops what comes from another address than it asked.
        let tftp_ip = if listen.ip().is_unspecified() { own } else { listen.ip() };
        let tftp_address = SocketAddr::new(tftp_ip, tftp_port);
        let hint = "another server there? An address of its own makes the raw stack serve beside it";
        let tftp = tftp::bind(tftp_address)
            .with_context(|| format!("cannot listen on udp {tftp_address} for TFTP ({hint})"))?
            .only_for(network.subnets(&config.netboot.routed));
        // Beyond a router the path may be narrower than the interface.
        let tftp = match network.interface.as_deref().filter(|_| config.netboot.routed.is_empty()) {
            Some(interface) => tftp.only_by(interface),
            None => tftp,
        };
        let ipv6 = super::dhcp::bind_ipv6(&network, port).await?;
        let tls = match &config.tls {
            Some(tls) => Some(tcp(SocketAddr::new(listen.ip(), tls.port), "TLS", "tls.api_port")?),
            None => None,
        };
        Ok(Self { network, http: tcp(listen, "HTTP", "api.port")?, tls, tftp, dhcp, ipv6 })
    }
}

fn raw_tcp(place: &RawPlace<'_>, port: u16) -> anyhow::Result<TcpListener> {
    let listener = place.stack.listen(place.index, port)?;
    TcpListener::from_std(listener).context("cannot use a socket of the raw stack")
}

/// `key`: what names another port.
async fn udp(address: SocketAddr, what: &str, key: &str) -> anyhow::Result<UdpSocket> {
    let failed = || format!("cannot listen on udp {address} for {what} ({key} names another port)");
    UdpSocket::bind(address).await.with_context(failed)
}

/// `key`: what names another port.
fn tcp(address: SocketAddr, what: &str, key: &str) -> anyhow::Result<TcpListener> {
    listen(address)
        .with_context(|| format!("cannot listen on {address} for {what} ({key} names another port)"))
}

pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::from_std(http::listen(address)?)
}

/// The address that the appliance as a whole is known by: the configured one, or the first network's.
pub(super) fn main_address(config: &Config, networks: &[Network]) -> anyhow::Result<Ipv4Addr> {
    let first = networks.first().map(|network| network.address);
    config.api.advertise.or(first).context("no network is served")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_told_with_the_key_that_names_another() {
        let taken = listen("127.0.0.1:0".parse().unwrap()).unwrap().local_addr().unwrap();
        let _other = listen(taken).unwrap();
        let told = tcp(taken, "HTTP", "api.port").unwrap_err().to_string();
        assert_eq!(told, format!("cannot listen on {taken} for HTTP (api.port names another port)"));
    }
}
