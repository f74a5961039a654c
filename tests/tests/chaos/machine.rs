//! Machines that boot what they are told: the agent over a real tunnel, or a system that reports itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent_wire::events::EventRequest;
use agent_wire::events::event_sink_service_client::EventSinkServiceClient;
use agent_wire::link::ProvisionRequest;
use agent_wire::link::provision_service_client::ProvisionServiceClient;
use agent_wire::machine::{SequenceError, SequenceEvent, sequence_event::Action};
use agent_wire::management::agent_service_server::AgentServiceServer;
use agent_wire::tunnel;
use prost::Message;
use provider::{BootMode, InfraMachine, MachineView, UniqueToken};
use testbed::agent::{Conduct, FakeAgent};
use testbed::seed::Seed;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::site::Site;

/// How long a machine waits before it tries again what failed.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a wipe takes.
const WIPE: Duration = Duration::from_millis(30);
/// An answer that was given this long ago is taken note of, and so on a disk: the time for two wakeups and an fsync
/// on a machine that is busy with 200 others.
const HEARD: Duration = Duration::from_millis(500);

/// What is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// Somebody's data.
    Foreign,
    Blank,
    Talos,
}

#[derive(Clone, Copy)]
enum Wipe {
    /// It is being done.
    InFlight,
    /// It was answered just now.
    Answered(Instant),
    /// There is none, or it was taken note of.
    Heard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Power {
    on: bool,
    /// Counts up at each power-on and reset.
    boot: u64,
}

pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) token: UniqueToken,
    /// How many notes people write on it.
    pub(crate) notes: usize,
    /// How many wipes somebody asked for so far.
    pub(crate) wipes_asked: AtomicU32,
    /// How many were done.
    pub(crate) wipes_done: AtomicU32,
    /// How many were done whose answer cannot have been written down: they are done again.
    pub(crate) wipes_unheard: AtomicU32,
    /// A wipe whose answer may not have been heard yet.
    wipe: Mutex<Wipe>,
    power: watch::Sender<Power>,
    pub(crate) disk: Mutex<Disk>,
    /// What the BMC was told to do.
    pub(crate) orders: Mutex<Vec<String>>,
    bmc_failures: AtomicU32,
    /// Wipes whose answer is lost with the tunnel.
    pub(crate) lose_answers: AtomicU32,
    tunnel_breaks: Notify,
    chance: Mutex<Seed>,
    /// What must never happen.
    pub(crate) violations: Mutex<Vec<String>>,
}

impl Machine {
    pub(crate) fn new(index: u32, chance: Seed) -> Arc<Self> {
        let [_, _, high, low] = index.to_be_bytes();
        let id = format!("{index:08x}-0000-4000-8000-{index:012x}");
        Arc::new(Self {
            token: UniqueToken { fingerprint: format!("f{index:05x}"), token: format!("t-{id}") },
            id,
            notes: if index.is_multiple_of(3) { crate::NOTES } else { 0 },
            address: Ipv4Addr::new(127, 10, high, low),
            wipes_asked: AtomicU32::new(0),
            wipes_done: AtomicU32::new(0),
            wipes_unheard: AtomicU32::new(0),
            wipe: Mutex::new(Wipe::Heard),
            power: watch::Sender::new(Power { on: true, boot: 0 }),
            disk: Mutex::new(Disk::Foreign),
            orders: Mutex::default(),
            bmc_failures: AtomicU32::new(0),
            lose_answers: AtomicU32::new(0),
            tunnel_breaks: Notify::new(),
            chance: Mutex::new(chance),
            violations: Mutex::default(),
        })
    }

    pub(crate) fn is_on(&self) -> bool {
        self.power.borrow().on
    }

    pub(crate) fn fail_bmc(&self, times: u32) {
        self.bmc_failures.store(times, Ordering::SeqCst);
    }

    pub(crate) fn break_tunnel(&self) {
        self.tunnel_breaks.notify_waiters();
    }

    /// Who asked for the wipe may not hear its end: the tunnel or the link died.
    pub(crate) fn not_heard(&self) {
        let wipe = std::mem::replace(&mut *self.wipe.lock().unwrap(), Wipe::Heard);
        let unheard = match wipe {
            Wipe::InFlight => true,
            Wipe::Answered(at) => at.elapsed() < HEARD,
            Wipe::Heard => false,
        };
        if unheard {
            self.wipes_unheard.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(crate) fn bmc_obeys(&self) -> bool {
        self.bmc_failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_err()
    }

    pub(crate) fn bmc_lies(&self) -> bool {
        self.chance.lock().unwrap().once_in(2)
    }

    pub(crate) fn switch(&self, verb: &str) {
        self.orders.lock().unwrap().push(verb.to_owned());
        self.power.send_if_modified(|power| {
            let before = *power;
            match verb {
                "poweron" if !power.on => *power = Power { on: true, boot: power.boot + 1 },
                "poweroff" => power.on = false,
                "reboot" if power.on => power.boot += 1,
                _ => {}
            }
            *power != before
        });
    }

    fn violated(&self, what: String) {
        self.violations.lock().unwrap().push(what);
    }

    /// For ever: boot, until the power changes.
    pub(crate) async fn live(self: Arc<Self>, site: Arc<Site>) {
        let mut power = self.power.subscribe();
        loop {
            let on = power.borrow_and_update().on;
            // Who switches it has heard, if there was something to hear.
            let in_flight = |machine: &Self| matches!(*machine.wipe.lock().unwrap(), Wipe::InFlight);
            // Not cancel-safe, as a machine whose power goes is not.
            tokio::select! {
                () = self.boot(&site), if on => {}
                _ = power.changed() => {}
            }
            if in_flight(&self) {
                self.not_heard();
            }
        }
    }

    async fn boot(self: &Arc<Self>, site: &Site) {
        match self.ask_what_to_boot(site).await {
            BootMode::Agent => self.run_agent(site).await,
            mode @ (BootMode::Talos | BootMode::Disk) => {
                let disk = *self.disk.lock().unwrap();
                match (mode, disk) {
                    (BootMode::Disk, Disk::Blank) => self.violated("booted from a blank disk".to_owned()),
                    (_, Disk::Foreign) => std::future::pending().await,
                    (_, Disk::Blank) => {
                        self.join(site, "v1.13.9").await;
                        *self.disk.lock().unwrap() = Disk::Talos;
                        self.publish(site, &installer_reboots()).await;
                    }
                    (_, Disk::Talos) => self.join(site, "v1.13.9").await,
                }
                self.publish(site, &boot_started()).await;
                std::future::pending().await
            }
        }
    }

    /// As the appliance's boot policy answers it.
    async fn ask_what_to_boot(&self, site: &Site) -> BootMode {
        loop {
            let view = site.link_view().await;
            let mut generation = view.generation();
            match view.machine(&self.id) {
                None if !view.fresh() => {
                    let _ = tokio::time::timeout(PAUSE, generation.changed()).await;
                }
                known => {
                    let machine = known.as_deref().map_or_else(MachineView::unknown, |machine| MachineView {
                        fresh: true,
                        machine: machine.infra.as_ref().map(|infra| InfraMachine {
                            tearing_down: infra.metadata.phase == cosi::Phase::TearingDown,
                            spec: infra.spec.clone(),
                            ..InfraMachine::default()
                        }),
                        bmc: machine.bmc.as_ref().map(|entry| entry.spec.clone()),
                        wipe: machine.wipe.as_ref().map(|entry| entry.spec.clone()),
                        ..MachineView::unknown()
                    });
                    return provider::boot_mode(&machine).0;
                }
            }
        }
    }

    /// For ever.
    async fn run_agent(self: &Arc<Self>, site: &Site) {
        self.join(site, "v1.13.7").await;
        loop {
            let endpoint = Endpoint::from_shared(format!("http://{}", site.tunnel_address))
                .unwrap()
                .local_address(Some(self.address.into()))
                .http2_keep_alive_interval(Duration::from_secs(2))
                .keep_alive_timeout(Duration::from_secs(2));
            if let Ok(channel) = endpoint.connect().await {
                let mut metadata = tonic::metadata::MetadataMap::new();
                metadata.insert(tunnel::MACHINE_ID_HEADER, self.id.parse().unwrap());
                metadata.insert(tunnel::FINGERPRINT_HEADER, self.token.fingerprint.parse().unwrap());
                let agent = FakeAgent(Agent(Arc::clone(self)));
                let routes = tonic::service::Routes::new(AgentServiceServer::new(agent));
                // Not cancel-safe: that is how a tunnel breaks.
                tokio::select! {
                    _ = tunnel::serve(channel, metadata, routes) => {}
                    () = self.tunnel_breaks.notified() => {}
                }
                self.not_heard();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn channel(&self, to: SocketAddr) -> Result<Channel, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{to}")).unwrap();
        endpoint.local_address(Some(self.address.into())).timeout(Duration::from_secs(10)).connect().await
    }

    async fn join(&self, site: &Site, talos_version: &str) {
        loop {
            let request = ProvisionRequest {
                node_uuid: self.id.clone(),
                node_public_key: site.public_key.clone(),
                join_token: Some(site.join_token.clone()),
                node_unique_token: Some(self.token.to_json()),
                talos_version: Some(talos_version.to_owned()),
                wireguard_over_grpc: None,
            };
            if let Ok(channel) = self.channel(site.machine_api).await
                && ProvisionServiceClient::new(channel).provision(request).await.is_ok()
            {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Some events come twice.
    async fn publish(&self, site: &Site, event: &SequenceEvent) {
        let mut left = if self.chance.lock().unwrap().once_in(3) { 2 } else { 1 };
        while left > 0 {
            let data = prost_types::Any {
                type_url: agent_wire::SEQUENCE_EVENT_TYPE_URL.to_owned(),
                value: event.encode_to_vec(),
            };
            let request = EventRequest { data: Some(data), id: "1".to_owned(), actor_id: String::new() };
            if let Ok(channel) = self.channel(site.machine_api).await
                && EventSinkServiceClient::new(channel).publish(request).await.is_ok()
            {
                left -= 1;
            } else {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn boot_started() -> SequenceEvent {
    SequenceEvent { sequence: "boot".to_owned(), action: Action::Start as i32, error: None }
}

fn installer_reboots() -> SequenceEvent {
    let error = SequenceError { code: 0, message: "unix.Reboot".to_owned() };
    SequenceEvent { sequence: "install".to_owned(), action: Action::Noop as i32, error: Some(error) }
}

struct Agent(Arc<Machine>);

#[tonic::async_trait]
impl Conduct for Agent {
    async fn reboot(&self) {
        self.0.switch("reboot");
    }

    async fn wipe_disks(&self) -> Result<(), Status> {
        let machine = &self.0;
        *machine.wipe.lock().unwrap() = Wipe::InFlight;
        tokio::time::sleep(WIPE).await;
        *machine.disk.lock().unwrap() = Disk::Blank;
        let done = machine.wipes_done.fetch_add(1, Ordering::SeqCst) + 1;
        let asked = machine.wipes_asked.load(Ordering::SeqCst);
        let unheard = machine.wipes_unheard.load(Ordering::SeqCst);
        if done > asked + unheard {
            machine.violated(format!("wipe {done}, but {asked} were asked for and {unheard} unheard"));
        }
        let lost =
            machine.lose_answers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if lost.is_ok() {
            // Whoever sees the tunnel break counts the answer as unheard.
            machine.break_tunnel();
            std::future::pending::<()>().await;
        }
        *machine.wipe.lock().unwrap() = Wipe::Answered(Instant::now());
        Ok(())
    }
}
