//! Hub and agent over real sockets: join, handshake, and what goes through the tunnel.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Instant;

use agent_wire::events::EventRequest;
use agent_wire::events::event_sink_service_client::EventSinkServiceClient;
use agent_wire::machine::SequenceEvent;
use bootlace_agent::config::JoinConfig;
use bootlace_agent::identity::Identity;
use bootlace_agent::inventory::collect::Machine;
use bootlace_agent::join::{self, Registration};
use bootlace_agent::machine_api::{self, MachineApi};
use bootlace_agent::meta::Meta;
use bootlace_agent::retry::Backoff;
use bootlace_agent::tls::Trust;
use bootlace_agent::wireguard::{Plan, Up, keep};
use cosi::State as _;
use hyper_util::rt::TokioIo;
use prost::Message;
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::{
    InfraMachineSpec, LinkStatusSpec, MachineStatusSpec, ProviderJoinConfigSpec, SiderolinkSpec,
};
use siderolink::{PrivateKey, Tunnel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::site::*;
use crate::collector::{Visit, visit};
use crate::store::{Store, Typed};
use crate::{Hub, HubConfig, HubEvent, HubEventKind, WireguardConfig};

type Events = tokio::sync::mpsc::UnboundedReceiver<HubEvent>;

/// A hub with WireGuard, at addresses that outlive it.
struct Tunnelled {
    hub: Hub,
    store: Store,
    events: Events,
    machine_api: SocketAddr,
    udp: SocketAddr,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

impl Tunnelled {
    async fn start(disk: &Disk, over_grpc: bool) -> Self {
        Self::start_at(disk, over_grpc, loopback(), loopback()).await
    }

    async fn start_at(disk: &Disk, over_grpc: bool, machine_api: SocketAddr, udp: SocketAddr) -> Self {
        let listener = again(|| TcpListener::bind(machine_api)).await;
        let socket = again(|| UdpSocket::bind(udp)).await;
        let (machine_api, udp) = (listener.local_addr().unwrap(), socket.local_addr().unwrap());
        let config = HubConfig {
            machine_api_url: format!("grpc://{machine_api}"),
            wireguard: Some(WireguardConfig { endpoint: udp.to_string(), over_grpc }),
            ..config()
        };
        let (sender, events) = tokio::sync::mpsc::unbounded_channel();
        let observer = Arc::new(move |event| {
            let _ = sender.send(event);
        });
        let state = disk.open().await;
        let hub = Hub::open(config, state.clone(), observer).await.unwrap();
        let shutdown = CancellationToken::new();
        let serve =
            tonic::transport::Server::builder().add_routes(hub.routes()).serve_with_incoming_shutdown(
                tokio_stream::wrappers::TcpListenerStream::new(listener),
                shutdown.clone().cancelled_owned(),
            );
        let (wireguard, controllers) = (hub.clone(), hub.clone());
        let (first, second) = (shutdown.clone(), shutdown.clone());
        let tasks = vec![
            tokio::spawn(async move { serve.await.unwrap() }),
            tokio::spawn(async move { wireguard.serve_wireguard(&socket, first).await.unwrap() }),
            tokio::spawn(async move { controllers.run(second).await }),
        ];
        Self { hub, store: Store::new(state), events, machine_api, udp, shutdown, tasks }
    }

    /// Nothing of it is left, and nobody was told.
    async fn kill(self) -> (SocketAddr, SocketAddr) {
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        self.shutdown.cancel();
        (self.machine_api, self.udp)
    }

    async fn join_config(&self) -> JoinConfig {
        let stored = self.store.find::<ProviderJoinConfigSpec>(PROVIDER).await.unwrap().unwrap();
        JoinConfig::parse(&stored.spec.config.unwrap().config).unwrap()
    }

    /// What the agent does.
    async fn register(&self, identity: &Identity) -> Registration {
        let config = self.join_config().await;
        let response = join::provision(&config, identity, join::TALOS_VERSION).await.unwrap();
        Registration { config, response }
    }

    async fn up(&self, identity: &Identity) -> Up {
        let registration = self.register(identity).await;
        Up::start(Plan::read(&registration).unwrap(), Trust::default(), &identity.wireguard).await.unwrap()
    }

    async fn accept(&self, machine: &str) {
        let users = Users { state: self.hub.state() };
        users.decide(machine, AcceptanceStatus::Accepted).await.unwrap();
        self.until::<InfraMachineSpec>(machine, |machine| {
            machine.spec.acceptance_status == AcceptanceStatus::Accepted as i32
        })
        .await;
    }

    async fn until<T: provider::resources::ResourceSpec>(
        &self,
        id: &str,
        condition: impl Fn(&Typed<T>) -> bool,
    ) -> Typed<T> {
        until(&*self.store.state(), id, condition).await
    }

    async fn link(&self, machine: &str) -> SiderolinkSpec {
        self.store.find::<SiderolinkSpec>(machine).await.unwrap().unwrap().spec
    }

    fn joined(&mut self) -> usize {
        let events = std::iter::from_fn(|| self.events.try_recv().ok());
        events.filter(|event| event.kind == HubEventKind::Joined).count()
    }
}

fn identity(machine: &str, key: u8) -> Identity {
    Identity {
        uuid: machine.to_owned(),
        fingerprint: "aa".to_owned(),
        token: agent_wire::token::NodeUniqueToken { fingerprint: "aa".to_owned(), token: "one".to_owned() },
        wireguard: PrivateKey::from_bytes([key; 32]),
    }
}

/// A channel whose connections go through the tunnel.
async fn channel(tunnel: &Tunnel, port: u16) -> Channel {
    let server = SocketAddrV6::new(crate::wireguard::server_address(), port, 0, 0);
    let tunnel = tunnel.clone();
    let connector = tower::service_fn(move |_| {
        let tunnel = tunnel.clone();
        async move { tunnel.connect(server).await.map(TokioIo::new) }
    });
    soon("the tunnel", Endpoint::from_static("http://tunnel").connect_with_connector(connector))
        .await
        .unwrap()
}

async fn publish(tunnel: &Tunnel, event: &SequenceEvent) -> Result<(), tonic::Status> {
    let data = prost_types::Any {
        type_url: agent_wire::SEQUENCE_EVENT_TYPE_URL.to_owned(),
        value: event.encode_to_vec(),
    };
    let request = EventRequest { data: Some(data), id: "1".to_owned(), actor_id: String::new() };
    let mut client = EventSinkServiceClient::new(channel(tunnel, 8090).await);
    soon("the event sink", client.publish(request)).await.map(drop)
}

#[tokio::test]
async fn a_machine_joins_and_its_events_are_known_by_its_address_in_the_tunnel() {
    let disk = Disk::new();
    let mut site = Tunnelled::start(&disk, false).await;
    let identity = identity(MACHINE, 1);
    let config = site.join_config().await;
    assert_eq!(config.event_endpoint.as_deref(), Some("[fdae:41e4:649b:9303::1]:8090"));
    let registration = site.register(&identity).await;
    let began = Instant::now();
    let up =
        Up::start(Plan::read(&registration).unwrap(), Trust::default(), &identity.wireguard).await.unwrap();
    let too_early = publish(up.tunnel(), &boot_started()).await.unwrap_err();
    println!("from Provision's answer to the first answer through the tunnel: {:?}", began.elapsed());
    assert!(too_early.message().starts_with("no machines found for address fdae:"), "{too_early:?}");

    site.accept(MACHINE).await;
    publish(up.tunnel(), &boot_started()).await.unwrap();
    let installed = |machine: &Typed<InfraMachineSpec>| machine.spec.install_event_id == 1;
    site.until::<InfraMachineSpec>(MACHINE, installed).await;
    assert_eq!(site.joined(), 1);
    let status = site.until::<LinkStatusSpec>(&format!("{MACHINE}/Links.omni.sidero.dev"), |_| true).await;
    assert_eq!(status.spec.node_public_key, identity.wireguard.public().to_string());
}

#[tokio::test]
async fn nobody_sends_events_past_the_tunnel() {
    let disk = Disk::new();
    let site = Tunnelled::start(&disk, false).await;
    let _up = site.up(&identity(MACHINE, 1)).await;
    site.accept(MACHINE).await;
    let uri = format!("http://{}", site.machine_api);
    let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
    let refused = EventSinkServiceClient::new(channel).publish(EventRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
}

#[tokio::test]
async fn streams_go_from_the_hub_to_the_machine_too() {
    let disk = Disk::new();
    let site = Tunnelled::start(&disk, false).await;
    let up = site.up(&identity(MACHINE, 1)).await;
    let mut listener = up.tunnel().listen(50000).unwrap();
    // The hub learns where the machine is from the machine's first datagram.
    let _ = publish(up.tunnel(), &boot_started()).await;
    let stream = soon("the machine", site.hub.connect_machine(MACHINE, 50000)).await.unwrap();
    let mut stream = stream.expect("the machine is known");
    let (mut accepted, from) = soon("the hub", listener.accept()).await.unwrap();
    assert_eq!(*from.ip(), crate::wireguard::server_address());
    stream.write_all(b"version?").await.unwrap();
    let mut text = [0; 8];
    soon("the question", accepted.read_exact(&mut text)).await.unwrap();
    assert_eq!(&text, b"version?");
    assert!(site.hub.connect_machine(OTHER, 50000).await.unwrap().is_none());
}

#[tokio::test]
async fn kernel_logs_come_through_the_tunnel() {
    let disk = Disk::new();
    let site = Tunnelled::start(&disk, false).await;
    let up = site.up(&identity(MACHINE, 1)).await;
    let logs = SocketAddrV6::new(crate::wireguard::server_address(), 8092, 0, 0);
    let mut stream = soon("the log port", up.tunnel().connect(logs)).await.unwrap();
    stream.write_all(b"{\"msg\":\"Linux version\"}\n").await.unwrap();
    let mut latest = site.hub.logs.latest();
    soon("the line", latest.wait_for(|number| *number > 0)).await.unwrap();
    assert_eq!(site.hub.logs.keys(), [MACHINE]);
}

#[tokio::test]
async fn a_hub_that_restarts_is_in_touch_again_without_a_second_join() {
    let disk = Disk::new();
    let site = Tunnelled::start(&disk, false).await;
    let up = site.up(&identity(MACHINE, 1)).await;
    site.accept(MACHINE).await;
    publish(up.tunnel(), &boot_started()).await.unwrap();
    // What the poll does every 30 s.
    site.hub.wireguard.as_ref().unwrap().report(&site.store, true).await.unwrap();
    let link = site.link(MACHINE).await;
    assert!(link.connected && link.last_endpoint.starts_with("127.0.0.1:"), "{link:?}");

    let (machine_api, udp) = site.kill().await;
    let mut site = Tunnelled::start_at(&disk, false, machine_api, udp).await;
    publish(up.tunnel(), &boot_started()).await.unwrap();
    let installed = |machine: &Typed<InfraMachineSpec>| machine.spec.install_event_id == 2;
    site.until::<InfraMachineSpec>(MACHINE, installed).await;
    assert_eq!(site.joined(), 0);
}

#[tokio::test]
async fn an_agent_that_restarts_has_a_new_key_and_the_same_link() {
    let disk = Disk::new();
    let site = Tunnelled::start(&disk, false).await;
    let before = site.up(&identity(MACHINE, 1)).await;
    site.accept(MACHINE).await;
    publish(before.tunnel(), &boot_started()).await.unwrap();
    let after = site.up(&identity(MACHINE, 2)).await;
    assert_eq!(after.plan().address, before.plan().address);
    publish(after.tunnel(), &boot_started()).await.unwrap();
    let installed = |machine: &Typed<InfraMachineSpec>| machine.spec.install_event_id == 2;
    site.until::<InfraMachineSpec>(MACHINE, installed).await;
    assert_eq!(site.link(MACHINE).await.node_public_key, identity(MACHINE, 2).wireguard.public().to_string());
}

#[tokio::test]
async fn talos_may_provision_twice_at_once_with_one_key_or_with_two() {
    let disk = Disk::new();
    let site = Tunnelled::start(&disk, false).await;
    let (one, two) = (identity(MACHINE, 1), identity(MACHINE, 2));
    let (first, second) = tokio::join!(site.register(&one), site.register(&one));
    assert_eq!(first.response, second.response);
    let (_, _) = tokio::join!(site.register(&one), site.register(&two));
    // Whichever was last, the stored key is the one that works.
    let stored = site.link(MACHINE).await.node_public_key;
    let winner = if stored == one.wireguard.public().to_string() { one } else { two };
    site.accept(MACHINE).await;
    let up = Up::start(Plan::read(&first).unwrap(), Trust::default(), &winner.wireguard).await.unwrap();
    publish(up.tunnel(), &boot_started()).await.unwrap();
}

#[tokio::test]
async fn a_key_that_never_joined_gets_no_handshake() {
    let disk = Disk::new();
    let site = Tunnelled::start(&disk, false).await;
    let registration = site.register(&identity(MACHINE, 1)).await;
    let plan = Plan::read(&registration).unwrap();
    let stranger = Up::start(plan.clone(), Trust::default(), &PrivateKey::from_bytes([9; 32])).await.unwrap();
    let own = Up::start(plan.clone(), Trust::default(), &PrivateKey::from_bytes([1; 32])).await.unwrap();
    let _ = publish(own.tunnel(), &boot_started()).await;
    assert!(own.tunnel().handshake_age(&plan.server).is_some());
    assert!(stranger.tunnel().handshake_age(&plan.server).is_none());
}

#[tokio::test]
async fn a_machine_that_is_removed_is_no_peer_any_more() {
    let disk = Disk::new();
    let site = Tunnelled::start(&disk, false).await;
    let _up = site.up(&identity(MACHINE, 1)).await;
    site.until::<InfraMachineSpec>(MACHINE, |_| true).await;
    assert!(
        site.hub.wireguard.as_ref().unwrap().machine_at(&address_of(&site.link(MACHINE).await)).is_some()
    );
    let link = crate::store::pointer::<SiderolinkSpec>(MACHINE);
    let address = address_of(&site.link(MACHINE).await);
    site.hub.state().teardown(&link, "").await.unwrap();
    gone::<SiderolinkSpec>(&*site.store.state(), MACHINE).await;
    gone::<LinkStatusSpec>(&*site.store.state(), &format!("{MACHINE}/Links.omni.sidero.dev")).await;
    assert_eq!(site.hub.wireguard.as_ref().unwrap().machine_at(&address), None);
}

fn address_of(link: &SiderolinkSpec) -> String {
    link.node_subnet.trim_end_matches("/64").to_owned()
}

#[tokio::test]
async fn over_grpc_no_udp_is_needed_and_the_hub_may_ask_for_it() {
    for all in [true, false] {
        let disk = Disk::new();
        let site = Tunnelled::start(&disk, all).await;
        let mut config = site.join_config().await;
        assert_eq!(config.over_grpc, all);
        config.over_grpc = true;
        let identity = identity(MACHINE, 1);
        let response = join::provision(&config, &identity, join::TALOS_VERSION).await.unwrap();
        assert!(response.grpc_peer_addr_port.starts_with("[fdae:41e4:649b:9304:"), "{response:?}");
        assert_eq!(response.server_endpoint, std::slice::from_ref(&response.grpc_peer_addr_port));
        let registration = Registration { config: config.clone(), response };
        let up = Up::start(Plan::read(&registration).unwrap(), Trust::default(), &identity.wireguard)
            .await
            .unwrap();
        site.accept(MACHINE).await;
        publish(up.tunnel(), &boot_started()).await.unwrap();
        // The same key keeps its stream's name, another key gets another one.
        let again = join::provision(&config, &identity, join::TALOS_VERSION).await.unwrap();
        assert_eq!(again, registration.response);
        let other = super::wireguard::identity(MACHINE, 2);
        let other = join::provision(&config, &other, join::TALOS_VERSION).await.unwrap();
        assert_ne!(other.grpc_peer_addr_port, again.grpc_peer_addr_port);
    }
}

#[tokio::test]
async fn a_machine_in_limbo_has_a_tunnel_and_keeps_its_address_when_it_comes_back() {
    let disk = Disk::new();
    let site = Tunnelled::start(&disk, false).await;
    let identity = identity(MACHINE, 1);
    let config = site.join_config().await;
    let mut request = join::request(&identity, &config, join::TALOS_VERSION);
    request.node_unique_token = None;
    let limbo = site.hub.provision(request, None).await.unwrap();
    let limbo = Registration { config: config.clone(), response: limbo };
    let up = Up::start(Plan::read(&limbo).unwrap(), Trust::default(), &identity.wireguard).await.unwrap();
    let nobody = publish(up.tunnel(), &boot_started()).await.unwrap_err();
    assert!(nobody.message().starts_with("no machines found"), "{nobody:?}");
    let back = site.register(&identity).await;
    assert_eq!(back.response, limbo.response);
    site.accept(MACHINE).await;
    publish(up.tunnel(), &boot_started()).await.unwrap();
}

#[tokio::test]
async fn the_agent_keeps_its_tunnel_and_registers_again_when_it_is_told_another_name() {
    let disk = Disk::new();
    let site = Tunnelled::start(&disk, false).await;
    let identity = identity(MACHINE, 1);
    let registered = std::cell::Cell::new(0);
    let served = std::cell::Cell::new(0);
    let rename = tokio::sync::Notify::new();
    let register = async || {
        registered.set(registered.get() + 1);
        site.register(&identity).await
    };
    let serve = async |tunnel: Tunnel| {
        served.set(served.get() + 1);
        let _ = publish(&tunnel, &boot_started()).await;
        rename.notify_one();
    };
    let done = async {
        while registered.get() < 2 {
            tokio::task::yield_now().await;
        }
    };
    let keep = keep(register, async || rename.notified().await, &identity.wireguard, serve, Backoff::new(1));
    soon("the second registration", async {
        tokio::select! {
            () = keep => {}
            () = done => {}
        }
    })
    .await;
    assert_eq!(served.get(), 1, "the tunnel is the same");
}

#[tokio::test]
async fn an_accepted_machine_is_asked_through_the_tunnel_what_it_is() {
    let disk = Disk::new();
    let site = Tunnelled::start(&disk, false).await;
    let up = site.up(&identity(MACHINE, 1)).await;
    let _ = publish(up.tunnel(), &boot_started()).await;
    let machine = Machine { settle: false, ..Machine::default() };
    let api = MachineApi::new(Arc::new(machine), Meta::default()).await.unwrap();
    let listener = up.tunnel().listen(machine_api::PORT).unwrap();
    let ask = async {
        let link = site.store.find::<SiderolinkSpec>(MACHINE).await.unwrap().unwrap();
        assert_eq!(visit(&site.hub, MACHINE, &link).await.unwrap(), Visit::LeftAlone);
        assert!(site.store.find::<MachineStatusSpec>(MACHINE).await.unwrap().is_none());
        site.accept(MACHINE).await;
        assert_eq!(visit(&site.hub, MACHINE, &link).await.unwrap(), Visit::Told);
        let status = site.store.find::<MachineStatusSpec>(MACHINE).await.unwrap().unwrap().spec;
        assert!(status.schematic.unwrap().in_agent_mode && status.connected && status.maintenance);
        assert!(status.management_address.starts_with("fdae:"));
    };
    tokio::select! {
        () = machine_api::serve(listener, api, std::future::pending()) => unreachable!("it never ends"),
        () = soon("the answers", ask) => {}
    }
}
