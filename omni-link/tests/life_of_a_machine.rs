//! The controller against a real store, a real tunnel over loopback and a real HTTP power API: accepted,
//! wiped, switched off, allocated, switched on. The agent and the BMC are fakes that misbehave on order.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use agent_wire::management::agent_service_server::{AgentService, AgentServiceServer};
use agent_wire::management::{
    GetPowerManagementRequest, GetPowerManagementResponse, HelloRequest, HelloResponse, RebootRequest,
    RebootResponse, SetPowerManagementRequest, SetPowerManagementResponse, WipeDisksRequest,
    WipeDisksResponse, get_power_management_response,
};
use agent_wire::tunnel::{self, TunnelService};
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::routing::{get, post};
use cosi::embedded::EmbeddedState;
use cosi::{Kind, Resource, State, StateError, UpdateOptions};
use omni_link::Happening;
use omni_link::agents::{Agents, Timeouts};
use omni_link::controller::Controller;
use omni_link::tunnels::Tunnels;
use omni_link::view::{self, Machine, View};
use power::PxeMode;
use power::api::AddressBook;
use provider::resources::{INFRA_MACHINE_OWNER, ResourceSpec};
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::infra_machine_status_spec::MachinePowerState;
use provider::specs::{InfraMachineSpec, InfraMachineStatusSpec};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

const ID: &str = "11111111-2222-3333-4444-555555555555";
const FINGERPRINT: &str = "aa";
const LIMIT: Duration = Duration::from_secs(30);

/// The fake agent: counts what it is told.
#[derive(Clone, Default)]
struct Agent {
    wipes: Arc<AtomicU32>,
    fail_wipes: Arc<AtomicU32>,
}

#[tonic::async_trait]
impl AgentService for Agent {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {}))
    }

    async fn get_power_management(
        &self,
        _: Request<GetPowerManagementRequest>,
    ) -> Result<Response<GetPowerManagementResponse>, Status> {
        let api = Some(get_power_management_response::Api {});
        Ok(Response::new(GetPowerManagementResponse { api, ..GetPowerManagementResponse::default() }))
    }

    async fn set_power_management(
        &self,
        _: Request<SetPowerManagementRequest>,
    ) -> Result<Response<SetPowerManagementResponse>, Status> {
        Ok(Response::new(SetPowerManagementResponse {}))
    }

    async fn reboot(&self, _: Request<RebootRequest>) -> Result<Response<RebootResponse>, Status> {
        Ok(Response::new(RebootResponse {}))
    }

    async fn wipe_disks(&self, _: Request<WipeDisksRequest>) -> Result<Response<WipeDisksResponse>, Status> {
        let failing =
            self.fail_wipes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if failing.is_ok() {
            return Err(Status::internal("sda: input/output error"));
        }
        self.wipes.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(WipeDisksResponse {}))
    }
}

/// The fake BMC.
#[derive(Clone, Default)]
struct Bmc {
    on: Arc<AtomicBool>,
    fail: Arc<AtomicU32>,
    log: Arc<Mutex<Vec<&'static str>>>,
}

impl Bmc {
    fn act(&self, name: &'static str) -> StatusCode {
        if self.fail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        self.log.lock().unwrap().push(name);
        match name {
            "poweron" => self.on.store(true, Ordering::SeqCst),
            "poweroff" => self.on.store(false, Ordering::SeqCst),
            _ => {}
        }
        StatusCode::OK
    }

    fn router(self) -> axum::Router {
        axum::Router::new()
            .route("/poweron", post(|Shared(bmc): Shared<Self>| async move { bmc.act("poweron") }))
            .route("/poweroff", post(|Shared(bmc): Shared<Self>| async move { bmc.act("poweroff") }))
            .route("/reboot", post(|Shared(bmc): Shared<Self>| async move { bmc.act("reboot") }))
            .route("/pxeboot", post(|Shared(bmc): Shared<Self>| async move { bmc.act("pxeboot") }))
            .route(
                "/status",
                get(|Shared(bmc): Shared<Self>| async move {
                    axum::Json(serde_json::json!({ "PoweredOn": bmc.on.load(Ordering::SeqCst) }))
                }),
            )
            .with_state(self)
    }
}

struct Site {
    dir: tempfile::TempDir,
    state: Arc<dyn State>,
    agent: Agent,
    bmc: Bmc,
    news: Arc<Mutex<Vec<Happening>>>,
}

/// One run of the appliance's link.
struct Link {
    view: Arc<View>,
    tunnel_address: SocketAddr,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Site {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state: Arc<dyn State> = Arc::new(EmbeddedState::open(dir.path().join("state.redb")).unwrap());
        let bmc = Bmc::default();
        bmc.on.store(true, Ordering::SeqCst);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = serde_json::json!({
            "NodeUUID": ID, "GatewayAddrs": ["127.0.0.1"], "APIPort": listener.local_addr().unwrap().port(),
        });
        std::fs::write(dir.path().join("m.config"), config.to_string()).unwrap();
        let router = bmc.clone().router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { dir, state, agent: Agent::default(), bmc, news: Arc::default() }
    }

    async fn link(&self) -> Link {
        let news = Arc::clone(&self.news);
        let observer: omni_link::Observer =
            Arc::new(move |_, happening| news.lock().unwrap().push(happening));
        let view = View::new("bare-metal", observer.clone());
        let tunnels = Tunnels::new(Arc::clone(&view), observer.clone());
        let second = Duration::from_secs(1);
        let timeouts = Timeouts { call: second * 5, fast_wipe: second * 5, zeroes_wipe: second * 5 };
        let controller = Controller {
            provider_id: "bare-metal".into(),
            state: Arc::clone(&self.state),
            view: Arc::clone(&view),
            tunnels: Arc::clone(&tunnels),
            agents: Agents::new(Arc::clone(&tunnels), timeouts, false),
            policy: provider::Policy::default(),
            pxe_mode: PxeMode::Uefi,
            power_apis: Some(AddressBook::new(self.dir.path())),
            observer,
            started: SystemTime::now(),
        };
        let shutdown = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tunnel_address = listener.local_addr().unwrap();
        let router =
            tonic::service::Routes::new(TunnelService::new(tunnels).into_server()).into_axum_router();
        let tasks = vec![
            tokio::spawn(view::run(Arc::clone(&view), Arc::clone(&self.state), shutdown.clone())),
            tokio::spawn(controller.run(shutdown.clone())),
            tokio::spawn({
                let shutdown = shutdown.clone();
                async move {
                    let router = router.into_make_service_with_connect_info::<SocketAddr>();
                    tokio::select! {
                        result = axum::serve(listener, router) => result.unwrap(),
                        () = shutdown.cancelled() => {}
                    }
                }
            }),
        ];
        Link { view, tunnel_address, shutdown, tasks }
    }

    /// Omni's side of a machine.
    async fn write(&self, change: impl FnOnce(&mut InfraMachineSpec)) {
        let pointer = Kind::new(InfraMachineSpec::NAMESPACE, InfraMachineSpec::TYPE).pointer(ID);
        let stored = self.state.get(&pointer).await;
        let mut resource = match &stored {
            Ok(resource) => resource.clone(),
            Err(_) => Resource::empty(&pointer),
        };
        let mut spec: InfraMachineSpec = resource.decode().unwrap();
        change(&mut spec);
        resource.encode(&spec);
        match stored {
            Ok(_) => self.state.update(resource, &UpdateOptions::owner(INFRA_MACHINE_OWNER)).await.unwrap(),
            Err(_) => self.state.create(resource, INFRA_MACHINE_OWNER).await.unwrap(),
        };
    }

    /// The controller writes the finalizer meanwhile: as Omni would, try again.
    async fn update(&self, change: impl Fn(&mut InfraMachineSpec) + Send + Sync) {
        let pointer = Kind::new(InfraMachineSpec::NAMESPACE, InfraMachineSpec::TYPE).pointer(ID);
        cosi::modify(self.state.as_ref(), &pointer, INFRA_MACHINE_OWNER, cosi::Missing::Fail, |resource| {
            let mut spec: InfraMachineSpec =
                resource.decode().map_err(|error| StateError::Unknown(error.to_string()))?;
            change(&mut spec);
            resource.encode(&spec);
            Ok(())
        })
        .await
        .unwrap();
    }

    fn news(&self) -> Vec<Happening> {
        self.news.lock().unwrap().clone()
    }

    fn happened(&self, happening: &Happening) -> usize {
        self.news().iter().filter(|seen| *seen == happening).count()
    }
}

impl Link {
    async fn until(&self, what: &str, holds: impl Fn(&Machine) -> bool) {
        let mut generation = self.view.generation();
        let waited = tokio::time::timeout(LIMIT, async {
            while !self.view.machine(ID).as_deref().is_some_and(&holds) {
                generation.changed().await.unwrap();
            }
        });
        assert!(waited.await.is_ok(), "{what}: {:#?}", self.view.machine(ID));
    }

    async fn until_status(&self, what: &str, holds: impl Fn(&InfraMachineStatusSpec) -> bool) {
        self.until(what, |machine| machine.status.as_ref().is_some_and(|status| holds(&status.spec))).await;
    }

    /// The machine's agent, dialling in.
    fn dial(
        &self,
        agent: &Agent,
        fingerprint: &'static str,
    ) -> JoinHandle<Result<tunnel::Ended, tunnel::ServeError>> {
        let uri = format!("http://{}", self.tunnel_address).parse().unwrap();
        let routes = tonic::service::Routes::new(AgentServiceServer::new(agent.clone()));
        tokio::spawn(async move {
            let channel = tunnel::connect(uri).await.unwrap();
            let mut metadata = tonic::metadata::MetadataMap::new();
            metadata.insert(tunnel::MACHINE_ID_HEADER, ID.parse().unwrap());
            metadata.insert(tunnel::FINGERPRINT_HEADER, fingerprint.parse().unwrap());
            tunnel::serve(channel, metadata, routes).await
        })
    }

    async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            tokio::time::timeout(LIMIT, task).await.expect("ends in time").unwrap();
        }
    }
}

fn token() -> String {
    format!("{{\"Fingerprint\":\"{FINGERPRINT}\",\"Token\":\"t\"}}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_machine_is_wiped_once_switched_off_and_switched_on_when_allocated() {
    let site = Site::new().await;
    let link = site.link().await;
    site.write(|spec| spec.node_unique_token = token()).await;
    link.dial(&site.agent, FINGERPRINT);
    link.until("held", |machine| {
        machine.infra.as_ref().is_some_and(|infra| !infra.metadata.finalizers.is_empty())
    })
    .await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 0, "nothing is wiped before acceptance");

    site.update(|spec| spec.acceptance_status = AcceptanceStatus::Accepted as i32).await;
    link.until_status("ready", |status| status.ready_to_use).await;
    link.until_status("off", |status| status.power_state() == MachinePowerState::PowerStateOff).await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1);
    assert_eq!(*site.bmc.log.lock().unwrap(), ["poweroff"]);
    let wiped = link.view.machine(ID).unwrap().status.as_ref().unwrap().spec.wiped_node_unique_token.clone();
    assert_eq!(wiped, token(), "a wiped machine may join with a new token");

    site.update(|spec| spec.cluster_talos_version = "1.13.9".into()).await;
    link.until_status("on", |status| status.power_state() == MachinePowerState::PowerStateOn).await;
    assert_eq!(*site.bmc.log.lock().unwrap(), ["poweroff", "pxeboot", "poweron"]);

    site.update(|spec| spec.install_event_id = 1).await;
    link.until_status("installed", |status| status.installed).await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wipe_that_fails_is_tried_again_and_told_once() {
    let site = Site::new().await;
    site.agent.fail_wipes.store(2, Ordering::SeqCst);
    let link = site.link().await;
    site.write(|spec| {
        spec.node_unique_token = token();
        spec.acceptance_status = AcceptanceStatus::Accepted as i32;
    })
    .await;
    link.dial(&site.agent, FINGERPRINT);
    link.until_status("ready", |status| status.ready_to_use).await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1);
    let failures =
        site.news().into_iter().filter(|news| matches!(news, Happening::WipeFailed { .. })).count();
    assert_eq!(failures, 1);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bmc_that_fails_delays_and_loses_nothing() {
    let site = Site::new().await;
    site.bmc.fail.store(2, Ordering::SeqCst);
    let link = site.link().await;
    site.write(|spec| {
        spec.node_unique_token = token();
        spec.acceptance_status = AcceptanceStatus::Accepted as i32;
    })
    .await;
    link.dial(&site.agent, FINGERPRINT);
    link.until_status("off", |status| status.power_state() == MachinePowerState::PowerStateOff).await;
    assert_eq!(*site.bmc.log.lock().unwrap(), ["poweroff"]);
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_goes_on_where_it_was() {
    let site = Site::new().await;
    let link = site.link().await;
    site.write(|spec| {
        spec.node_unique_token = token();
        spec.acceptance_status = AcceptanceStatus::Accepted as i32;
    })
    .await;
    link.dial(&site.agent, FINGERPRINT);
    link.until("wiped", |machine| machine.wipe.is_some()).await;
    link.stop().await;

    let link = site.link().await;
    link.dial(&site.agent, FINGERPRINT);
    link.until_status("off", |status| status.power_state() == MachinePowerState::PowerStateOff).await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1, "a done wipe is not done again");
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_machine_with_the_same_uuid_is_refused_and_never_wiped() {
    let site = Site::new().await;
    let link = site.link().await;
    site.write(|spec| {
        spec.node_unique_token = token();
        spec.acceptance_status = AcceptanceStatus::Accepted as i32;
    })
    .await;
    link.until("known", |machine| machine.infra.is_some()).await;
    let impostor = Agent::default();
    let refused =
        tokio::time::timeout(LIMIT, link.dial(&impostor, "bb")).await.expect("is told at once").unwrap();
    assert!(!matches!(&refused, Ok(ended) if ended.reason.is_empty()), "{refused:?}");
    link.dial(&site.agent, FINGERPRINT);
    link.until_status("ready", |status| status.ready_to_use).await;
    assert_eq!(impostor.wipes.load(Ordering::SeqCst), 0);
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 1);
    assert!(site.news().iter().any(|news| matches!(news, Happening::TunnelRefused { .. })));
    link.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rejected_machine_is_never_touched() {
    let site = Site::new().await;
    let link = site.link().await;
    site.write(|spec| spec.node_unique_token = token()).await;
    link.dial(&site.agent, FINGERPRINT);
    site.update(|spec| spec.acceptance_status = AcceptanceStatus::Rejected as i32).await;
    link.until("rejected", |machine| {
        machine.infra.as_ref().unwrap().spec.acceptance_status() == AcceptanceStatus::Rejected
    })
    .await;
    // An accepted neighbour would have been wiped by the time that this one's agent has answered.
    link.until("asked", |machine| {
        machine.infra.as_ref().is_some_and(|infra| !infra.metadata.finalizers.is_empty())
    })
    .await;
    link.stop().await;
    assert_eq!(site.agent.wipes.load(Ordering::SeqCst), 0);
    assert!(site.bmc.log.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_takes_our_records_before_our_finalizer() {
    let site = Site::new().await;
    let link = site.link().await;
    site.write(|spec| {
        spec.node_unique_token = token();
        spec.acceptance_status = AcceptanceStatus::Accepted as i32;
    })
    .await;
    link.dial(&site.agent, FINGERPRINT);
    link.until_status("ready", |status| status.ready_to_use).await;
    let pointer = Kind::new(InfraMachineSpec::NAMESPACE, InfraMachineSpec::TYPE).pointer(ID);
    assert!(!site.state.teardown(&pointer, INFRA_MACHINE_OWNER).await.unwrap(), "our finalizer holds it");
    link.until("let go", |machine| {
        machine.status.is_none()
            && machine.infra.as_ref().is_some_and(|infra| infra.metadata.finalizers.is_empty())
    })
    .await;
    site.state.destroy(&pointer, INFRA_MACHINE_OWNER).await.unwrap();
    let mut generation = link.view.generation();
    tokio::time::timeout(LIMIT, async {
        while link.view.machine(ID).is_some() {
            generation.changed().await.unwrap();
        }
    })
    .await
    .expect("nothing stays behind");
    assert_eq!(site.happened(&Happening::Removed), 1);
    link.stop().await;
}
