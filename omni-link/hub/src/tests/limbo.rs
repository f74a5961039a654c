//! What machines in limbo are given: the machine API of a real agent, through a real tunnel.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use agent_wire::talos::network::LinkStatusSpec;
use agent_wire::token::NodeUniqueToken;
use bootlace_agent::inventory::Item;
use bootlace_agent::machine_api::{self, MachineApi};
use bootlace_agent::meta::{Entries, Meta};
use cosi::Resource;
use provider::resources::{ANNOTATION_FORCE_VALID_TOKEN, LABEL_MACHINE_UUID};
use provider::specs::{InfraMachineSpec, PendingMachineStatusSpec, SiderolinkSpec};
use siderolink::{Endpoint, PeerConfig, PrivateKey, PublicKey, Tunnel, TunnelConfig};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::site::*;
use crate::store::pointer;
use crate::{HubConfig, HubEventKind, WireguardConfig};

/// A hub with WireGuard.
async fn tunnelled(disk: &Disk) -> (Site, SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let udp = socket.local_addr().unwrap();
    let wireguard = WireguardConfig { endpoint: udp.to_string(), over_grpc: false };
    let config = HubConfig { wireguard: Some(wireguard), ..config() };
    let site = Site::start_with(config, disk.open().await).await;
    let hub = site.hub.clone();
    let serve = async move { hub.serve_wireguard(&socket, CancellationToken::new()).await.unwrap() };
    (site, udp, tokio::spawn(serve))
}

/// A machine whose firmware has no unique token, as Talos at its first boot.
struct Talos {
    key: PrivateKey,
    meta: Meta,
    parts: Vec<JoinHandle<()>>,
}

impl Talos {
    fn new(seed: u8) -> Self {
        Self { key: PrivateKey::from_bytes([seed; 32]), meta: Meta::default(), parts: Vec::new() }
    }

    fn provision(&self, machine: &str, join_token: &str) -> agent_wire::link::ProvisionRequest {
        agent_wire::link::ProvisionRequest {
            node_public_key: self.key.public().to_string(),
            node_unique_token: self.meta.entries().unique_token().map(|token| token.encode()),
            ..request(machine, Some(join_token.to_owned()), None)
        }
    }

    /// Joins, and answers in the tunnel from then on.
    async fn comes(&mut self, site: &Site, udp: SocketAddr, machine: &str, mac: u8) {
        let request = self.provision(machine, &site.join_token().await);
        let answer = site.provision(address(3), request).await.unwrap();
        let own: Ipv6Addr = answer.node_address_prefix.split('/').next().unwrap().parse().unwrap();
        let tunnel =
            Tunnel::new(TunnelConfig { key: self.key.clone(), address: own, max_streams: 8, seed: 7 });
        let server = PublicKey::from_base64(&answer.server_public_key).unwrap();
        let config = PeerConfig {
            address: answer.server_address.parse().unwrap(),
            endpoint: Some(Endpoint::Udp(udp)),
            keepalive: Some(std::time::Duration::from_secs(1)),
        };
        tunnel.set_peer(server, config).unwrap();
        tunnel.initiate(&server);
        let links = move || {
            let ethernet = |last| LinkStatusSpec {
                r#type: 1,
                hardware_addr: vec![2, 0, 0, 0, mac, last].into(),
                ..LinkStatusSpec::default()
            };
            let bridge = LinkStatusSpec { kind: "bridge".to_owned(), ..ethernet(9) };
            vec![Item::new("eth1", &ethernet(2)), Item::new("eth0", &ethernet(1)), Item::new("br0", &bridge)]
        };
        let api = MachineApi::new(Arc::new(links), self.meta.clone()).await.unwrap();
        let listener = tunnel.listen(machine_api::PORT).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        self.parts.push(tokio::spawn(async move { tunnel.run(Some(&socket)).await }));
        self.parts.push(tokio::spawn(machine_api::serve(listener, api, std::future::pending())));
    }

    async fn until(&self, holds: impl Fn(&Entries) -> bool) -> Entries {
        let mut changes = self.meta.subscribe();
        soon("an entry in META", changes.wait_for(|entries| holds(entries))).await.unwrap().clone()
    }
}

impl Drop for Talos {
    fn drop(&mut self) {
        for part in &self.parts {
            part.abort();
        }
    }
}

/// As Omni computes it of these two.
fn fingerprint(mac: u8) -> String {
    let input = agent_wire::token::fingerprint_input(&[[2, 0, 0, 0, mac, 2], [2, 0, 0, 0, mac, 1]]);
    agent_wire::token::hex(ring::digest::digest(&ring::digest::SHA256, &input).as_ref())
}

#[tokio::test]
async fn a_talos_without_a_token_is_given_one_and_joins_with_it() {
    let disk = Disk::new();
    let (mut site, udp, serving) = tunnelled(&disk).await;
    let mut talos = Talos::new(5);
    talos.comes(&site, udp, MACHINE, 1).await;
    let entries = talos.until(|entries| entries.unique_token().is_some()).await;
    let token = entries.unique_token().unwrap();
    assert_eq!(token.fingerprint, fingerprint(1));
    assert!(entries.uuid_override().is_none());
    site.told(&HubEventKind::TokenGiven).await;
    let key = talos.key.public().to_string();
    let status = site.until::<PendingMachineStatusSpec>(&key, |status| !status.spec.token.is_empty()).await;
    assert_eq!(status.spec.token, token.encode());
    assert_eq!(status.label(LABEL_MACHINE_UUID), None);
    assert_eq!(status.metadata.annotations[LABEL_MACHINE_UUID], MACHINE);
    let again = talos.provision(MACHINE, &site.join_token().await);
    site.provision(address(3), again).await.unwrap();
    let machine = site.until::<InfraMachineSpec>(MACHINE, |_| true).await;
    assert_eq!(machine.spec.node_unique_token, token.encode());
    assert!(
        site.find::<PendingMachineStatusSpec>(&key).await.is_none(),
        "it left limbo with all that was its"
    );
    let link = site.find::<SiderolinkSpec>(MACHINE).await.unwrap();
    assert!(
        !link.metadata.annotations.contains_key(ANNOTATION_FORCE_VALID_TOKEN),
        "nothing is installed on it"
    );
    serving.abort();
    site.kill().await;
}

#[tokio::test]
async fn a_second_machine_with_the_uuid_of_the_first_is_given_one_of_its_own_once() {
    let disk = Disk::new();
    let (site, udp, serving) = tunnelled(&disk).await;
    let first = unique(&fingerprint(1), "first");
    site.join(address(2), MACHINE, &first).await;
    let mut second = Talos::new(6);
    second.comes(&site, udp, MACHINE, 2).await;
    let token = second.until(|entries| entries.unique_token().is_some()).await.unique_token().unwrap();
    assert_eq!(token.fingerprint, fingerprint(2));
    // With its token it is known to be another machine.
    let request = second.provision(MACHINE, &site.join_token().await);
    site.provision(address(3), request).await.unwrap();
    let other = second.until(|entries| entries.uuid_override().is_some()).await.uuid_override().unwrap();
    assert_ne!(other.to_string(), MACHINE);
    let request = second.provision(&other.to_string(), &site.join_token().await);
    site.provision(address(3), request).await.unwrap();
    let machine = site.until::<InfraMachineSpec>(&other.to_string(), |_| true).await;
    assert_eq!(machine.spec.node_unique_token, token.encode());
    let link = site.find::<SiderolinkSpec>(MACHINE).await.unwrap().spec;
    let theirs = NodeUniqueToken::decode(&link.node_unique_token).unwrap();
    assert_eq!(theirs.token, "first", "the first machine is where it was");
    serving.abort();
    site.kill().await;
}

#[tokio::test]
async fn a_machine_that_has_talos_on_its_disk_keeps_its_token_until_it_is_wiped() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let given = unique("f", "given");
    // What a visit found.
    let status = PendingMachineStatusSpec { token: given.to_json(), talos_installed: true };
    let found = Resource::empty(&pointer::<PendingMachineStatusSpec>(&public_key(1))).with_spec(&status);
    site.state.create(found, "PendingMachineStatusController").await.unwrap();
    site.join(address(2), MACHINE, &given).await;
    let link = site.find::<SiderolinkSpec>(MACHINE).await.unwrap();
    assert!(link.metadata.annotations.contains_key(ANNOTATION_FORCE_VALID_TOKEN));
    let another = request(MACHINE, Some(site.join_token().await), Some(&unique("f", "made up")));
    let refused = site.provision(address(2), another).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    site.kill().await;
}
