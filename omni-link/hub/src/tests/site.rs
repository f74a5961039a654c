//! A hub that runs, machines that call it, users that write to it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent_wire::events::EventRequest;
use agent_wire::events::event_sink_service_client::EventSinkServiceClient;
use agent_wire::link::provision_service_client::ProvisionServiceClient;
use agent_wire::link::{ProvisionRequest, ProvisionResponse};
use agent_wire::machine::{SequenceError, SequenceEvent, sequence_event::Action};
use cosi::client::GrpcState;
use cosi::embedded::EmbeddedState;
use cosi::{Metadata, Missing, Resource, State, StateError, WatchOptions, WatchTarget};
use futures_util::StreamExt;
use omni_auth::{ServiceAccountKey, Signed};
use prost::Message;
use provider::UniqueToken;
use provider::resources::{LABEL_CLUSTER, LABEL_MACHINE_SET, LABEL_ROLE_WORKER, ResourceSpec};
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::{
    ClusterSpec, InfraMachineConfigSpec, InfraMachineStatusSpec, MachineSetNodeSpec, ProviderJoinConfigSpec,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::store::{Store, Typed, decode, pointer};
use crate::{Hub, HubConfig, HubEvent, HubEventKind};

pub(super) const PROVIDER: &str = "bare-metal";
pub(super) const MACHINE: &str = "5b0e1d4a-7d7f-4c8e-9a53-0f9f2b6f2f01";
pub(super) const OTHER: &str = "5b0e1d4a-7d7f-4c8e-9a53-0f9f2b6f2f02";
pub(super) const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Long on any machine; a test that waits this long has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Addresses on the loopback network, one for each machine.
pub(super) fn address(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// Takes what one who was killed may hold until the last of their connections has ended.
pub(super) async fn again<T, E, F: Future<Output = Result<T, E>>>(take: impl Fn() -> F) -> T {
    soon("what is still held", async {
        loop {
            match take().await {
                Ok(taken) => return taken,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await
}

pub(super) fn config() -> HubConfig {
    HubConfig {
        provider_id: PROVIDER.to_owned(),
        machine_api_url: "grpc://127.0.0.1:8090".to_owned(),
        event_endpoint: "127.0.0.1:8090".to_owned(),
        kernel_log_endpoint: Some("127.0.0.1:8092".to_owned()),
        wireguard: None,
        image_factory: None,
    }
}

/// A store in a directory that goes when the test ends.
pub(super) struct Disk(TempDir);

impl Disk {
    pub(super) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(super) async fn open(&self) -> Arc<EmbeddedState> {
        Arc::new(again(async || EmbeddedState::open(self.0.path().join("hub.redb"))).await)
    }
}

/// A running hub.
pub(super) struct Site {
    /// Where Omni's API is.
    pub(super) omni: SocketAddr,
    pub(super) hub: Hub,
    pub(super) state: Arc<dyn State>,
    pub(super) users: Users,
    api: SocketAddr,
    events: mpsc::UnboundedReceiver<HubEvent>,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Site {
    pub(super) async fn start(disk: &Disk) -> Self {
        Self::start_on(disk.open().await).await
    }

    pub(super) async fn start_on(state: Arc<dyn State>) -> Self {
        Self::start_with(config(), state).await
    }

    pub(super) async fn start_with(config: HubConfig, state: Arc<dyn State>) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let observer = Arc::new(move |event| {
            let _ = sender.send(event);
        });
        let hub = Hub::open(config, Arc::clone(&state), observer).await.unwrap();
        let shutdown = CancellationToken::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = listener.local_addr().unwrap();
        let omni_listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let omni = omni_listener.local_addr().unwrap();
        let serve_omni = crate::ApiServer::new(None).unwrap().run(omni_listener, hub.api(), shutdown.clone());
        let serve =
            tonic::transport::Server::builder().add_routes(hub.routes()).serve_with_incoming_shutdown(
                tokio_stream::wrappers::TcpListenerStream::new(listener),
                shutdown.clone().cancelled_owned(),
            );
        let tasks = vec![
            tokio::spawn(async move { serve.await.unwrap() }),
            tokio::spawn(async move { serve_omni.await.unwrap() }),
            tokio::spawn({
                let (hub, shutdown) = (hub.clone(), shutdown.clone());
                async move { hub.run(shutdown).await }
            }),
        ];
        let users = Users { state: hub.state() };
        Self { omni, hub, state, users, api, events, shutdown, tasks }
    }

    /// Stops everything without a goodbye to anybody.
    pub(super) async fn kill(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
    }

    pub(super) async fn channel(&self, from: IpAddr) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.api)).unwrap();
        endpoint.local_address(Some(from)).connect().await.unwrap()
    }

    pub(super) async fn provision(
        &self,
        from: IpAddr,
        request: ProvisionRequest,
    ) -> Result<ProvisionResponse, Status> {
        let mut client = ProvisionServiceClient::new(self.channel(from).await);
        Ok(client.provision(request).await?.into_inner())
    }

    pub(super) async fn publish(&self, from: IpAddr, event: &SequenceEvent) -> Result<(), Status> {
        let mut client = EventSinkServiceClient::new(self.channel(from).await);
        let data = prost_types::Any {
            type_url: agent_wire::SEQUENCE_EVENT_TYPE_URL.to_owned(),
            value: event.encode_to_vec(),
        };
        let request = EventRequest { data: Some(data), id: "1".to_owned(), actor_id: String::new() };
        client.publish(request).await.map(drop)
    }

    /// What calls of Omni's API are made with, signed with this key, or not at all.
    pub(super) async fn signed(&self, key: Option<ServiceAccountKey>) -> Signed<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.omni)).unwrap();
        Signed::new(endpoint.connect().await.unwrap(), key.map(Arc::new))
    }

    /// A client of Omni's API that signs with this key, or not at all.
    pub(super) async fn client(&self, key: Option<ServiceAccountKey>) -> GrpcState<Signed<Channel>> {
        GrpcState::new(self.signed(key).await)
    }

    /// A new provider's client.
    pub(super) async fn provider(&self, id: &str) -> GrpcState<Signed<Channel>> {
        let (_, key) = self.hub.create_provider(id, SystemTime::now(), YEAR).await.unwrap();
        self.client(Some(key)).await
    }

    /// The join token that machines get with their configuration.
    pub(super) async fn join_token(&self) -> String {
        self.join_token_of(PROVIDER, &[]).await
    }

    /// The join token of a provider, with more that it says of its machine.
    pub(super) async fn join_token_of(&self, provider: &str, more: &[(&str, &str)]) -> String {
        let config = self.find::<ProviderJoinConfigSpec>(provider).await.unwrap();
        let own = [(provider::resources::LABEL_INFRA_PROVIDER_ID, provider)];
        let extra = own.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        crate::JoinToken::sign_v2(&config.spec.join_token, &extra.collect())
    }

    /// A machine's first and every later call.
    pub(super) async fn join(&self, from: IpAddr, machine: &str, unique: &UniqueToken) -> ProvisionResponse {
        let request = request(machine, Some(self.join_token().await), Some(unique));
        self.provision(from, request).await.unwrap()
    }

    pub(super) async fn find<T: ResourceSpec>(&self, id: &str) -> Option<Typed<T>> {
        Store::new(Arc::clone(&self.state)).find(id).await.unwrap()
    }

    /// The resource once it fulfils the condition.
    pub(super) async fn until<T: ResourceSpec>(
        &self,
        id: &str,
        condition: impl Fn(&Typed<T>) -> bool,
    ) -> Typed<T> {
        until(&*self.state, id, condition).await
    }

    pub(super) async fn gone<T: ResourceSpec>(&self, id: &str) {
        gone::<T>(&*self.state, id).await;
    }

    /// The next event of that kind, whatever comes before it.
    pub(super) async fn told(&mut self, kind: &HubEventKind) -> HubEvent {
        let next = async {
            loop {
                let event = self.events.recv().await.expect("the hub lives");
                if std::mem::discriminant(&event.kind) == std::mem::discriminant(kind) {
                    return event;
                }
            }
        };
        soon(&format!("event {kind:?}"), next).await
    }

    /// Everything told so far.
    pub(super) fn told_so_far(&mut self) -> Vec<HubEventKind> {
        std::iter::from_fn(|| self.events.try_recv().ok()).map(|event| event.kind).collect()
    }
}

pub(super) async fn until<T: ResourceSpec>(
    state: &dyn State,
    id: &str,
    condition: impl Fn(&Typed<T>) -> bool,
) -> Typed<T> {
    let watch = async {
        let target = WatchTarget::resource(pointer::<T>(id));
        let mut events = state.watch(&target, &WatchOptions::default()).await.unwrap();
        while let Some(batch) = events.next().await {
            for event in batch.unwrap() {
                if event.typ == cosi::EventType::Destroyed {
                    continue;
                }
                let spec = decode(&event.resource).unwrap();
                let typed = Typed { metadata: event.resource.metadata, spec };
                if condition(&typed) {
                    return typed;
                }
            }
        }
        panic!("the watch ended");
    };
    soon(&format!("{} {id}", T::TYPE), watch).await
}

pub(super) async fn gone<T: ResourceSpec>(state: &dyn State, id: &str) {
    let watch = async {
        let target = WatchTarget::resource(pointer::<T>(id));
        let mut events = state.watch(&target, &WatchOptions::default()).await.unwrap();
        while let Some(batch) = events.next().await {
            if batch.unwrap().iter().any(|event| event.typ == cosi::EventType::Destroyed) {
                return;
            }
        }
        panic!("the watch ended");
    };
    soon(&format!("the end of {} {id}", T::TYPE), watch).await;
}

/// Those who write by the rules.
#[derive(Clone)]
pub(super) struct Users {
    pub(super) state: Arc<dyn State>,
}

impl Users {
    pub(super) fn of(state: Arc<dyn State>) -> Self {
        Self { state: Arc::new(crate::ValidatedState::new(state)) }
    }

    pub(super) async fn configure(
        &self,
        machine: &str,
        change: impl Fn(&mut InfraMachineConfigSpec) + Send + Sync,
    ) -> Result<Resource, StateError> {
        let change = |_: &mut Metadata, spec: &mut InfraMachineConfigSpec| {
            change(spec);
            Ok(())
        };
        Store::new(Arc::clone(&self.state)).put(machine, "", Missing::Create, change).await
    }

    pub(super) async fn decide(
        &self,
        machine: &str,
        acceptance: AcceptanceStatus,
    ) -> Result<Resource, StateError> {
        self.configure(machine, move |spec| spec.acceptance_status = acceptance as i32).await
    }

    pub(super) async fn cluster(&self, name: &str, talos_version: &str) -> Result<Resource, StateError> {
        let change = |_: &mut Metadata, spec: &mut ClusterSpec| {
            spec.talos_version = talos_version.to_owned();
            Ok(())
        };
        Store::new(Arc::clone(&self.state)).put(name, "", Missing::Create, change).await
    }

    pub(super) async fn allocate(&self, machine: &str, cluster: &str) -> Result<Resource, StateError> {
        let node = Resource::empty(&pointer::<MachineSetNodeSpec>(machine))
            .with_label(LABEL_CLUSTER, cluster)
            .with_label(LABEL_MACHINE_SET, format!("{cluster}-workers"))
            .with_label(LABEL_ROLE_WORKER, "");
        self.state.create(node, "").await
    }

    pub(super) async fn release(&self, machine: &str) -> Result<bool, StateError> {
        self.state.teardown(&pointer::<MachineSetNodeSpec>(machine), "").await
    }

    /// What the provider says when it wiped the machine.
    pub(super) async fn report_ready(&self, machine: &str) {
        let change = |_: &mut Metadata, spec: &mut InfraMachineStatusSpec| {
            spec.ready_to_use = true;
            Ok(())
        };
        let store = Store::new(Arc::clone(&self.state));
        store.put(machine, "bare-metal.MachineController", Missing::Create, change).await.unwrap();
    }
}

pub(super) fn unique(fingerprint: &str, token: &str) -> UniqueToken {
    UniqueToken { fingerprint: fingerprint.to_owned(), token: token.to_owned() }
}

pub(super) fn public_key(seed: u8) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, [seed; 32])
}

pub(super) fn request(
    machine: &str,
    join_token: Option<String>,
    unique: Option<&UniqueToken>,
) -> ProvisionRequest {
    ProvisionRequest {
        node_uuid: machine.to_owned(),
        node_public_key: public_key(1),
        join_token,
        node_unique_token: unique.map(UniqueToken::to_json),
        talos_version: Some("v1.13.7".to_owned()),
        wireguard_over_grpc: None,
    }
}

pub(super) fn boot_started() -> SequenceEvent {
    SequenceEvent { sequence: "boot".to_owned(), action: Action::Start as i32, error: None }
}

pub(super) fn installer_reboots() -> SequenceEvent {
    let error = SequenceError { code: 0, message: "unix.Reboot".to_owned() };
    SequenceEvent { sequence: "install".to_owned(), action: Action::Noop as i32, error: Some(error) }
}
