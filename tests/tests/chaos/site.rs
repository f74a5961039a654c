//! One Omni, one link with a bad line between them, and 200 machines.
//!
//! ```text
//! machines --Provision, events--> Omni (hub) <--FaultProxy, signed-- link --tunnel--> agents, --HTTP--> BMCs
//! operator ---------------------> Omni
//! ```
//!
//! Omni and the link have a runtime each: to kill one is to drop its runtime, after which nothing of it runs,
//! as after SIGKILL. Both come back at the addresses that they had, on the disks that they had.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use agent_wire::tunnel::TunnelService;
use cosi::client::GrpcState;
use cosi::embedded::EmbeddedState;
use cosi::server::StateService;
use cosi::{Pointer, Resource, State, StateError};
use hub::{Hub, HubConfig};
use omni_auth::ServiceAccountKey;
use omni_link::agents::{Agents, Timeouts};
use omni_link::controller::{Controller, Redfish};
use omni_link::disk::Disk;
use omni_link::endpoint::{Endpoint as OmniEndpoint, EndpointOptions, connect};
use omni_link::provider::{Provider, ProviderInfo};
use omni_link::tunnels::Tunnels;
use omni_link::view::{self, View, ViewOptions};
use power::PxeMode;
use power::api::AddressBook;
use provider::resources::{LABEL_INFRA_PROVIDER_ID, ResourceSpec};
use provider::specs::ProviderJoinConfigSpec;
use testbed::fault_proxy::FaultProxy;
use testbed::seed::Seed;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::machine::Machine;

pub(crate) const PROVIDER: &str = "bare-metal";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Between two tries of what must work in the end.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);
/// A machine that does not show up for this long is power-cycled.
const BOOT_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) struct Site {
    dir: tempfile::TempDir,
    pub(crate) machines: Vec<Arc<Machine>>,
    pub(crate) proxy: FaultProxy,
    pub(crate) machine_api: SocketAddr,
    /// For providers; signed.
    omni_api: SocketAddr,
    /// For operators.
    operator_api: SocketAddr,
    key: Option<Arc<ServiceAccountKey>>,
    pub(crate) tunnel_address: SocketAddr,
    pub(crate) join_token: String,
    pub(crate) public_key: String,
    /// Omni as its users reach it: over a good line.
    pub(crate) omni: Arc<dyn State>,
    /// What users see of it.
    pub(crate) mirror: Arc<View>,
    omni_process: Mutex<Option<Runtime>>,
    link_process: Mutex<Option<Runtime>>,
    link_view: watch::Sender<Option<Arc<View>>>,
    /// How far Omni's clock is ahead of ours.
    pub(crate) skew: Arc<Mutex<Duration>>,
}

/// A port that nobody is given by chance while it is closed: outside of Linux' ephemeral ports.
async fn free_port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::SeqCst);
        let process = u16::try_from(std::process::id() % 20_000).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 10_000 + (process + step) % 20_000));
        if TcpListener::bind(address).await.is_ok() {
            return address;
        }
    }
}

fn channel(to: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{to}"))
        .unwrap()
        .connect_timeout(Duration::from_secs(5))
        .tcp_nodelay(true)
        .connect_lazy()
}

fn process() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Waits until nothing of it runs any more.
async fn kill(process: Runtime) {
    tokio::task::spawn_blocking(move || process.shutdown_timeout(Duration::from_secs(10))).await.unwrap();
}

impl Site {
    pub(crate) async fn start(machines: u32, mut seed: Seed) -> Arc<Self> {
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let machines: Vec<_> = (1..=machines).map(|index| Machine::new(index, seed.fork())).collect();
        crate::bmc::serve(&machines, dir.path()).await;
        let (omni_api, operator_api) = (free_port().await, free_port().await);
        let (machine_api, tunnel_address) = (free_port().await, free_port().await);
        let omni: Arc<dyn State> = Arc::new(GrpcState::new(channel(operator_api)));
        let mut site = Self {
            proxy: FaultProxy::start(omni_api, seed.fork()).await.unwrap(),
            dir,
            machines,
            machine_api,
            omni_api,
            operator_api,
            key: None,
            tunnel_address,
            join_token: String::new(),
            public_key: "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=".to_owned(),
            mirror: View::new(PROVIDER, Arc::new(|_, _| ())),
            omni,
            omni_process: Mutex::default(),
            link_process: Mutex::default(),
            link_view: watch::Sender::new(None),
            skew: Arc::default(),
        };
        site.key = site.start_omni().await.map(Arc::new);
        let pointer = pointer::<ProviderJoinConfigSpec>(PROVIDER);
        let config: ProviderJoinConfigSpec = site.omni.get(&pointer).await.unwrap().decode().unwrap();
        let extra = [(LABEL_INFRA_PROVIDER_ID.to_owned(), PROVIDER.to_owned())].into();
        site.join_token = hub::JoinToken::sign_v2(&config.join_token, &extra);
        tokio::spawn(view::run(Arc::clone(&site.mirror), Arc::clone(&site.omni), CancellationToken::new()));
        site.start_link().await;
        let site = Arc::new(site);
        for machine in &site.machines {
            tokio::spawn(Arc::clone(machine).live(Arc::clone(&site)));
        }
        site
    }

    /// Answers the provider's key when it was made.
    async fn start_omni(&self) -> Option<ServiceAccountKey> {
        let process = process();
        let path = self.dir.path().join("hub.redb");
        let (omni_api, operator_api, machine_api) = (self.omni_api, self.operator_api, self.machine_api);
        let new = self.key.is_none();
        let skew = Arc::clone(&self.skew);
        let started = process.spawn(async move {
            let state: Arc<dyn State> = Arc::new(EmbeddedState::open(path).unwrap());
            let config = HubConfig {
                provider_id: PROVIDER.to_owned(),
                machine_api_url: format!("grpc://{machine_api}"),
                event_endpoint: machine_api.to_string(),
                kernel_log_endpoint: None,
                wireguard: None,
                image_factory: None,
            };
            let hub = Hub::open(config, state, Arc::new(|_| ())).await.unwrap();
            let hub = hub.with_clock(Arc::new(move || SystemTime::now() + *skew.lock().unwrap()));
            let users = tonic::service::Routes::new(StateService::new(hub.state()).into_server());
            serve(operator_api, users).await;
            serve(omni_api, hub.api()).await;
            // Machines call from addresses of their own, so all of loopback is listened on.
            serve(SocketAddr::from(([0, 0, 0, 0], machine_api.port())), hub.routes()).await;
            let key = if new {
                Some(hub.create_provider(PROVIDER, SystemTime::now(), DAY).await.unwrap().1)
            } else {
                None
            };
            tokio::spawn(async move { hub.run(CancellationToken::new()).await });
            key
        });
        let key = started.await.unwrap();
        *self.omni_process.lock().unwrap() = Some(process);
        key
    }

    async fn start_link(&self) {
        let process = process();
        let directory = self.dir.path().to_owned();
        let (omni, tunnel_address) = (self.proxy.address(), self.tunnel_address);
        let key = self.key.clone();
        let started = process.spawn(async move {
            let endpoint =
                OmniEndpoint::parse(&format!("grpc://{omni}"), &EndpointOptions::default()).unwrap();
            let state = connect(&endpoint, key);
            let observer: omni_link::Observer = Arc::new(|_, _| ());
            let options = ViewOptions {
                disk: Arc::new(Disk::open(directory.join("view.redb")).unwrap()),
                origin: endpoint.to_string(),
                grace: view::GRACE,
            };
            let view = View::open(PROVIDER, observer.clone(), options).unwrap();
            let tunnels = Tunnels::new(Arc::clone(&view), observer.clone());
            let call = Duration::from_secs(5);
            let timeouts = Timeouts { call, fast_wipe: call, zeroes_wipe: call };
            let controller = Controller {
                provider_id: PROVIDER.to_owned(),
                state: Arc::clone(&state),
                view: Arc::clone(&view),
                tunnels: Arc::clone(&tunnels),
                agents: Agents::new(Arc::clone(&tunnels), timeouts, false),
                policy: provider::Policy { boot_deadline: BOOT_DEADLINE, ..provider::Policy::default() },
                pxe_mode: PxeMode::Uefi,
                redfish: Redfish::off(),
                power_apis: Some(AddressBook::new(directory)),
                observer,
                started: SystemTime::now(),
            };
            let routes = tonic::service::Routes::new(TunnelService::new(tunnels).into_server());
            serve(SocketAddr::from(([0, 0, 0, 0], tunnel_address.port())), routes).await;
            let info = ProviderInfo {
                id: PROVIDER.to_owned(),
                name: "chaos".to_owned(),
                description: String::new(),
                version: "0".to_owned(),
                key_expires: None,
            };
            let provider = Provider::new(info, Arc::clone(&state), Arc::clone(&view));
            tokio::spawn(view::run(Arc::clone(&view), state, CancellationToken::new()));
            tokio::spawn(controller.run(CancellationToken::new()));
            tokio::spawn(provider.run(CancellationToken::new()));
            view
        });
        let view = started.await.unwrap();
        *self.link_process.lock().unwrap() = Some(process);
        self.link_view.send_replace(Some(view));
    }

    /// SIGKILL, and started again at once.
    pub(crate) async fn restart_omni(&self) {
        let process = self.omni_process.lock().unwrap().take().unwrap();
        kill(process).await;
        self.start_omni().await;
    }

    /// SIGKILL, and started again at once.
    pub(crate) async fn restart_link(&self) {
        let process = self.link_process.lock().unwrap().take().unwrap();
        self.link_view.send_replace(None);
        kill(process).await;
        for machine in &self.machines {
            machine.not_heard();
        }
        self.start_link().await;
    }

    /// The view of the link that runs.
    pub(crate) async fn link_view(&self) -> Arc<View> {
        let mut views = self.link_view.subscribe();
        let view = views.wait_for(Option::is_some).await.unwrap();
        Arc::clone(view.as_ref().unwrap())
    }

    /// Tries until Omni took it: users are patient, too.
    pub(crate) async fn insist<T, F>(&self, what: &str, call: impl Fn(Arc<dyn State>) -> F) -> T
    where
        F: Future<Output = Result<T, StateError>>,
    {
        loop {
            match call(Arc::clone(&self.omni)).await {
                Ok(done) => return done,
                Err(error @ StateError::OwnerConflict(_)) => panic!("{what}: {error}"),
                // A refusal may be about what somebody else wrote meanwhile: read it and try again.
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Changes a resource of a user, or of Omni.
    pub(crate) async fn change<T: ResourceSpec>(
        &self,
        id: &str,
        owner: &str,
        change: impl Fn(&mut Resource, &mut T) + Send + Sync,
    ) {
        let pointer = &pointer::<T>(id);
        let change = &|resource: &mut Resource| {
            let mut spec: T = resource.decode().map_err(|error| StateError::Unknown(error.to_string()))?;
            change(resource, &mut spec);
            resource.encode(&spec);
            Ok(())
        };
        self.insist(T::TYPE, |state| async move {
            cosi::modify(state.as_ref(), pointer, owner, cosi::Missing::Create, change).await
        })
        .await;
    }
}

pub(crate) fn pointer<T: ResourceSpec>(id: &str) -> Pointer {
    Pointer::new(T::NAMESPACE, T::TYPE, id)
}

async fn serve(address: SocketAddr, routes: tonic::service::Routes) {
    let listener = TcpListener::bind(address).await.unwrap();
    let service = routes.into_axum_router().into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
}

impl Drop for Site {
    fn drop(&mut self) {
        for process in [&self.omni_process, &self.link_process] {
            if let Some(process) = process.lock().unwrap().take() {
                process.shutdown_background();
            }
        }
    }
}
