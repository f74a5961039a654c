//! Everything that is bound before anything runs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context;
use netboot_link::{dhcp, tftp};
use tokio::net::{TcpListener, UnixListener};

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
    pub(super) machine_api: TcpListener,
    /// Only when machines are told to send them here.
    pub(super) kernel_logs: Option<TcpListener>,
}

pub(super) struct BootSockets {
    pub(super) http: TcpListener,
    pub(super) tftp: tftp::TftpSocket,
    pub(super) dhcp: Option<dhcp::DhcpSocket>,
}

impl Sockets {
    pub(super) async fn bind(
        config: &Config,
        advertise: Ipv4Addr,
        dhcp_interface: Option<&str>,
    ) -> anyhow::Result<Self> {
        let listen = config.api.listen;
        // A TFTP client drops what comes from another address than it asked.
        let tftp_ip = if listen.ip().is_unspecified() { IpAddr::V4(advertise) } else { listen.ip() };
        let tftp_address = SocketAddr::new(tftp_ip, config.netboot.tftp_port);
        let hub = match config.omni {
            Some(_) => None,
            None => Some(HubSockets {
                api: tcp(config.hub.api_listen, "the hub's API").await?,
                machine_api: tcp(
                    SocketAddr::new(listen.ip(), config.hub.machine_api_port),
                    "the machine API",
                )
                .await?,
                kernel_logs: match config.hub.kernel_log_port {
                    Some(port) => Some(tcp(SocketAddr::new(listen.ip(), port), "kernel logs").await?),
                    None => None,
                },
            }),
        };
        Ok(Self {
            operator: operator::bind(&config.socket())
                .with_context(|| format!("cannot take the operator socket {}", config.socket().display()))?,
            hub,
            boot: BootSockets {
                http: tcp(listen, "HTTP").await?,
                tftp: tftp::bind(tftp_address)
                    .with_context(|| format!("cannot listen on udp {tftp_address} for TFTP"))?,
                dhcp: match dhcp_interface {
                    Some(name) => Some(
                        dhcp::bind(name)
                            .with_context(|| format!("cannot open a raw socket on {name} for DHCP"))?,
                    ),
                    None => None,
                },
            },
        })
    }
}

async fn tcp(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} for {what}"))
}
