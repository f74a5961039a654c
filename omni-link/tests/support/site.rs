//! A site: a store that plays Omni, one machine with its fake agent and fake BMC, and the appliance's link.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use agent_wire::WIPE_REPORT_HEADER;
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
use cosi::server::StateService;
use cosi::{Kind, Resource, State, StateError, UpdateOptions};
use omni_link::Happening;
use omni_link::agents::{Agents, Timeouts};
use omni_link::controller::{Controller, Redfish};
use omni_link::disk::Disk;
use omni_link::tunnels::Tunnels;
use omni_link::view::{self, Machine, View, ViewOptions};
use power::PxeMode;
use power::api::AddressBook;
use provider::resources::{INFRA_MACHINE_OWNER, ResourceSpec};
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::{InfraMachineSpec, InfraMachineStatusSpec};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::faulty::Faulty;

pub(crate) const ID: &str = "11111111-2222-3333-4444-555555555555";
pub(crate) const FINGERPRINT: &str = "aa";
pub(crate) const WIPED: &str = "sda (A1, 16 MiB) is blank: had ext; 2 KiB zeroed; took 0.1 s";
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// The fake agent: counts what it is told.
#[derive(Clone, Default)]
pub(crate) struct Agent {
    pub(crate) wipes: Arc<AtomicU32>,
    pub(crate) fail_wipes: Arc<AtomicU32>,
    /// Wipes begin, but do not end, while it is held.
    pub(crate) holding: Arc<tokio::sync::Mutex<()>>,
    /// It tells what hardware it found.
    pub(crate) tells_inventory: bool,
    /// It takes the question what hardware it found, and says nothing.
    pub(crate) keeps_inventory: bool,
    /// How it answers other questions.
    pub(crate) manner: Manner,
    /// The user that it made on its BMC, and the password.
    pub(crate) bmc_user: Arc<Mutex<Option<(String, String)>>>,
}

/// How the fake agent answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Manner {
    #[default]
    Well,
    /// Not at all.
    Never,
    /// With more bytes than anybody takes.
    TooLong,
    /// It has no such disk, and says so in many words.
    UnknownDisk,
    /// Its machine has a BMC on loopback, at this UDP port, which takes only passwords with special letters.
    Bmc(u16),
    /// Its machine has no BMC.
    NoBmc,
}

#[tonic::async_trait]
impl AgentService for Agent {
    async fn hello(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {}))
    }

    async fn get_power_management(
        &self,
        request: Request<GetPowerManagementRequest>,
    ) -> Result<Response<GetPowerManagementResponse>, Status> {
        match self.manner {
            Manner::Never => std::future::pending().await,
            Manner::TooLong => {
                let ipmi = get_power_management_response::Ipmi {
                    address: "x".repeat(5_000),
                    ..get_power_management_response::Ipmi::default()
                };
                return Ok(Response::new(GetPowerManagementResponse { ipmi: Some(ipmi), api: None }));
            }
            Manner::Bmc(port) => {
                assert_eq!(request.into_inner().ipmi.unwrap().check_username, "talos-agent");
                let ipmi = get_power_management_response::Ipmi {
                    address: "127.0.0.1".into(),
                    port: port.into(),
                    user_exists: false,
                };
                return Ok(Response::new(GetPowerManagementResponse { ipmi: Some(ipmi), api: None }));
            }
            Manner::NoBmc => return Ok(Response::new(GetPowerManagementResponse::default())),
            Manner::Well | Manner::UnknownDisk => {}
        }
        let api = Some(get_power_management_response::Api {});
        Ok(Response::new(GetPowerManagementResponse { api, ..GetPowerManagementResponse::default() }))
    }

    async fn set_power_management(
        &self,
        request: Request<SetPowerManagementRequest>,
    ) -> Result<Response<SetPowerManagementResponse>, Status> {
        if let Some(user) = request.into_inner().ipmi {
            if !user.password.contains(['-', '_', '.', '+']) {
                return Err(Status::invalid_argument("the BMC refuses this password"));
            }
            *self.bmc_user.lock().unwrap() = Some((user.username, user.password));
        }
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
        if self.manner == Manner::UnknownDisk {
            let text = format!("failed to wipe: nvme9n1: no such disk\n\x1b[31m{}", "?".repeat(2_000));
            return Err(Status::not_found(text));
        }
        drop(self.holding.lock().await);
        self.wipes.fetch_add(1, Ordering::SeqCst);
        let mut answer = Response::new(WipeDisksResponse {});
        answer.metadata_mut().append(WIPE_REPORT_HEADER, WIPED.parse().unwrap());
        Ok(answer)
    }
}

/// The fake BMC.
#[derive(Clone, Default)]
pub(crate) struct Bmc {
    pub(crate) on: Arc<AtomicBool>,
    pub(crate) fail: Arc<AtomicU32>,
    pub(crate) log: Arc<Mutex<Vec<&'static str>>>,
    /// How often it was asked for its state.
    pub(crate) polls: watch::Sender<u32>,
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
                    bmc.polls.send_modify(|polls| *polls += 1);
                    axum::Json(serde_json::json!({ "PoweredOn": bmc.on.load(Ordering::SeqCst) }))
                }),
            )
            .with_state(self)
    }
}

pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    /// Omni, as its own controllers and people have it.
    pub(crate) state: Arc<dyn State>,
    /// Omni, as the link reaches it.
    pub(crate) faulty: Faulty,
    pub(crate) disk: Arc<Disk>,
    pub(crate) grace: Duration,
    /// How long a call to the agent may take.
    pub(crate) call_limit: Duration,
    /// How BMCs are asked for Redfish: not at all.
    pub(crate) redfish: Redfish,
    pub(crate) agent: Agent,
    pub(crate) bmc: Bmc,
    pub(crate) bmc_address: SocketAddr,
    pub(crate) news: watch::Sender<Vec<Happening>>,
}

/// One run of the appliance's link.
pub(crate) struct Link {
    pub(crate) view: Arc<View>,
    pub(crate) tunnel_address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: Vec<JoinHandle<()>>,
}

impl Site {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state: Arc<dyn State> = Arc::new(EmbeddedState::open(dir.path().join("state.redb")).unwrap());
        let bmc = Bmc::default();
        bmc.on.store(true, Ordering::SeqCst);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bmc_address = listener.local_addr().unwrap();
        let config = serde_json::json!({
            "NodeUUID": ID, "GatewayAddrs": ["127.0.0.1"], "APIPort": listener.local_addr().unwrap().port(),
        });
        std::fs::write(dir.path().join("m.config"), config.to_string()).unwrap();
        let router = bmc.clone().router();
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            dir,
            faulty: Faulty::new(Arc::clone(&state)),
            state,
            disk: Arc::new(Disk::in_memory().unwrap()),
            grace: omni_link::view::GRACE,
            call_limit: Duration::from_secs(5),
            redfish: Redfish::off(),
            agent: Agent::default(),
            bmc,
            bmc_address,
            news: watch::Sender::default(),
        }
    }

    /// The link, over what [`Faulty`] lets through.
    pub(crate) async fn link(&self) -> Link {
        self.link_through(Arc::new(self.faulty.clone())).await
    }

    /// The link through another client of Omni.
    pub(crate) async fn link_through(&self, state: Arc<dyn State>) -> Link {
        let news = self.news.clone();
        let observer: omni_link::Observer =
            Arc::new(move |_, happening| news.send_modify(|news| news.push(happening)));
        let options = ViewOptions { disk: Arc::clone(&self.disk), origin: "omni".into(), grace: self.grace };
        let view = View::open("bare-metal", observer.clone(), options).unwrap();
        let tunnels = Tunnels::new(Arc::clone(&view), observer.clone());
        let limit = self.call_limit;
        let timeouts = Timeouts { call: limit, fast_wipe: limit, zeroes_wipe: limit };
        let controller = Controller {
            provider_id: "bare-metal".into(),
            state: Arc::clone(&state),
            view: Arc::clone(&view),
            tunnels: Arc::clone(&tunnels),
            agents: Agents::new(Arc::clone(&tunnels), timeouts, false),
            policy: provider::Policy::default(),
            pxe_mode: PxeMode::Uefi,
            redfish: self.redfish.clone(),
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
            tokio::spawn(view::run(Arc::clone(&view), state, shutdown.clone())),
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
    pub(crate) async fn write(&self, change: impl FnOnce(&mut InfraMachineSpec)) {
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

    /// The machine joined, and a person accepts it.
    pub(crate) async fn accept(&self) {
        self.write(|spec| {
            spec.node_unique_token = token();
            spec.acceptance_status = AcceptanceStatus::Accepted as i32;
        })
        .await;
    }

    /// The controller writes the finalizer meanwhile: as Omni would, try again.
    pub(crate) async fn update(&self, change: impl Fn(&mut InfraMachineSpec) + Send + Sync) {
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

    pub(crate) fn news(&self) -> Vec<Happening> {
        self.news.borrow().clone()
    }

    /// Until that was told.
    pub(crate) async fn until_news(&self, happening: &Happening) {
        let mut news = self.news.subscribe();
        let told = tokio::time::timeout(LIMIT, news.wait_for(|news| news.contains(happening))).await;
        assert!(told.is_ok(), "{happening:?} is not in {:?}", self.news());
    }

    /// Until something was told that this is true of.
    pub(crate) async fn until_told(&self, what: &str, holds: impl Fn(&Happening) -> bool) {
        let mut news = self.news.subscribe();
        let told = tokio::time::timeout(LIMIT, news.wait_for(|news| news.iter().any(&holds))).await;
        assert!(told.is_ok(), "{what} is not in {:?}", self.news());
    }

    pub(crate) fn happened(&self, happening: &Happening) -> usize {
        self.news().iter().filter(|seen| *seen == happening).count()
    }
}

impl Link {
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Machine) -> bool) {
        let mut generation = self.view.generation();
        let waited = tokio::time::timeout(LIMIT, async {
            while !self.view.machine(ID).as_deref().is_some_and(&holds) {
                generation.changed().await.unwrap();
            }
        });
        assert!(waited.await.is_ok(), "{what}: {:#?}", self.view.machine(ID));
    }

    /// Until the view as a whole is like that.
    pub(crate) async fn until_view(&self, what: &str, holds: impl Fn(&View) -> bool) {
        let mut generation = self.view.generation();
        let waited = tokio::time::timeout(LIMIT, async {
            while !holds(&self.view) {
                generation.changed().await.unwrap();
            }
        });
        assert!(waited.await.is_ok(), "{what}: {:#?}", self.view.stale());
    }

    pub(crate) async fn until_status(&self, what: &str, holds: impl Fn(&InfraMachineStatusSpec) -> bool) {
        self.until(what, |machine| machine.status.as_ref().is_some_and(|status| holds(&status.spec))).await;
    }

    /// The machine's agent, dialling in.
    pub(crate) fn dial(
        &self,
        agent: &Agent,
        fingerprint: &'static str,
    ) -> JoinHandle<Result<tunnel::Ended, tunnel::ServeError>> {
        let uri = format!("http://{}", self.tunnel_address).parse().unwrap();
        let mut routes = tonic::service::Routes::new(AgentServiceServer::new(agent.clone()));
        if agent.tells_inventory {
            let found = EmbeddedState::in_memory(cosi::embedded::Options::default()).unwrap();
            routes = routes.add_service(StateService::new(found).into_server());
        }
        if agent.keeps_inventory {
            let silence = axum::routing::any(std::future::pending::<StatusCode>);
            routes = routes.into_axum_router().route("/cosi.resource.State/{*method}", silence).into();
        }
        tokio::spawn(async move {
            let channel = tunnel::connect(uri).await.unwrap();
            let mut metadata = tonic::metadata::MetadataMap::new();
            metadata.insert(tunnel::MACHINE_ID_HEADER, ID.parse().unwrap());
            metadata.insert(tunnel::FINGERPRINT_HEADER, fingerprint.parse().unwrap());
            tunnel::serve(channel, metadata, routes).await
        })
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            tokio::time::timeout(LIMIT, task).await.expect("ends in time").unwrap();
        }
    }
}

pub(crate) fn token() -> String {
    format!("{{\"Fingerprint\":\"{FINGERPRINT}\",\"Token\":\"t\"}}")
}
