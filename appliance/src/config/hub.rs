//! `[hub]`: the embedded control plane, and that every part has a port of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::check::Checker;
use super::file;
use super::tls::Tls;
use super::{ConfigError, Hub, Wireguard};

/// The hub's API is for this host unless told otherwise.
const HUB_API_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50044);
/// Omni's usual one.
const WIREGUARD_PORT: u16 = 50180;

impl Checker<'_> {
    pub(super) fn hub(&self, table: &file::Hub) -> Result<Hub, ConfigError> {
        let hub = Hub {
            api_listen: table.api_listen.unwrap_or(HUB_API_LISTEN),
            machine_api_port: table.machine_api_port.unwrap_or(8090),
            kernel_log_port: Some(table.kernel_log_port.unwrap_or(8092)).filter(|port| *port != 0),
            wireguard: table.wireguard.unwrap_or(true).then_some(Wireguard {
                port: table.wireguard_port.unwrap_or(WIREGUARD_PORT),
                over_grpc: table.wireguard_over_grpc,
            }),
        };
        if hub.wireguard.is_some_and(|wireguard| wireguard.port == 0) {
            return Err(self.wrong(
                "hub.wireguard_port",
                "machines have to be told a port above 0; `wireguard = false` needs none".to_owned(),
            ));
        }
        Ok(hub)
    }

    /// `port`: that of `[api]`.
    pub(super) fn ports_are_distinct(
        &self,
        port: u16,
        hub: &Hub,
        tls: Option<&Tls>,
    ) -> Result<(), ConfigError> {
        let ports = [port, hub.machine_api_port, hub.api_listen.port()];
        if let Some(taken) = hub.kernel_log_port.filter(|log| ports.contains(log)) {
            return Err(self.wrong(
                "hub.kernel_log_port",
                format!("port {taken} is taken by another part of this file; 0 takes no kernel logs"),
            ));
        }
        let tls_port = tls.map(|tls| tls.port);
        if let Some(taken) = tls_port.filter(|tls| ports.contains(tls) || hub.kernel_log_port == Some(*tls)) {
            return Err(
                self.wrong("tls.api_port", format!("port {taken} is taken by another part of this file"))
            );
        }
        let distinct = ports.iter().collect::<BTreeSet<_>>().len() == ports.len();
        if !distinct || ports.contains(&0) {
            return Err(self.wrong(
                "api.port",
                format!(
                    "api.port ({}), hub.machine_api_port ({}) and the port of hub.api_listen ({}) must be three \
                     ports above 0",
                    ports[0], ports[1], ports[2]
                ),
            ));
        }
        Ok(())
    }
}
