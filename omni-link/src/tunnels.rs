//! Which agents have a tunnel open, and who may open one.
//!
//! A machine has at most one tunnel. A second one for the same machine replaces the first when that is
//! dead (the machine rebooted) and is refused while it answers: two machines with one UUID are never
//! mistaken for one another, since the wrong one could be wiped.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use agent_wire::management::HelloRequest;
use agent_wire::management::agent_service_client::AgentServiceClient;
use agent_wire::tunnel::{Opened, TunnelChannel, TunnelHandler};
use provider::{Admission, InfraMachine, MachineView, TunnelClaim};
use tonic::Status;

use crate::happening::{Happening, Observer};
use crate::view::View;

/// How long an open tunnel may take to prove that it lives when another machine claims its place.
const PROOF_OF_LIFE: Duration = Duration::from_secs(3);
/// More tunnels than machines that one appliance serves.
const TUNNELS_MAX: usize = 8192;
/// An agent that is refused calls again every half minute: its refusal is told this often while the reason
/// stays the same. One that is told once and never again would be forgotten with the journal's beginning.
const REFUSAL_REPEATED: Duration = Duration::from_secs(600);
/// Refusals that are remembered. More at a time are an attack, which must not flood the journal.
const REFUSALS_MAX: usize = 256;
/// A machine id is a UUID; a longer text is nobody's.
const MACHINE_ID_MAX: usize = 64;

/// See the module.
pub struct Tunnels {
    view: Arc<View>,
    observer: Observer,
    live: Mutex<HashMap<String, Live>>,
    /// Refusals in the journal, and when they were told.
    told: Mutex<HashMap<Refusal, Instant>>,
}

/// Who says to be which machine, and why it is refused.
type Refusal = (String, Option<IpAddr>, String);

#[derive(Clone)]
struct Live {
    channel: TunnelChannel,
    claim: TunnelClaim,
    since: SystemTime,
}

impl Tunnels {
    /// No tunnels yet.
    pub fn new(view: Arc<View>, observer: Observer) -> Arc<Self> {
        Arc::new(Self { view, observer, live: Mutex::default(), told: Mutex::default() })
    }

    /// The machine's tunnel, if it is open and still belongs to that machine as far as Omni knows.
    pub fn channel(&self, id: &str) -> Option<TunnelChannel> {
        self.admitted(id).map(|live| live.channel)
    }

    /// Since when the machine's tunnel is open, and where it comes from.
    pub fn open_since(&self, id: &str) -> Option<(SystemTime, IpAddr)> {
        self.admitted(id).map(|live| (live.since, live.claim.peer))
    }

    /// Forgets the machine's tunnel: the machine was just switched off or reset.
    pub fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    fn admitted(&self, id: &str) -> Option<Live> {
        let live = self.live(id)?;
        match self.admission(id, &live.claim, None) {
            Admission::Admit => Some(live),
            Admission::Refuse(reason) => {
                tracing::warn!(machine = id, %reason, "the open tunnel is not this machine's");
                None
            }
        }
    }

    fn live(&self, id: &str) -> Option<Live> {
        self.lock().get(id).cloned()
    }

    fn admission(&self, id: &str, claim: &TunnelClaim, agent_peer: Option<IpAddr>) -> Admission {
        let machine = self.view.machine(id).and_then(|machine| {
            machine
                .infra
                .as_ref()
                .map(|infra| InfraMachine { spec: infra.spec.clone(), ..InfraMachine::default() })
        });
        provider::tunnel_admission(&MachineView { machine, agent_peer, ..MachineView::unknown() }, claim)
    }

    /// Tells the journal why a tunnel is refused, unless it was just told.
    fn tell_refusal(&self, id: &str, peer: Option<IpAddr>, reason: &str) {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.duration_since(*at) < REFUSAL_REPEATED);
        let refusal = (id.to_owned(), peer, reason.to_owned());
        if told.contains_key(&refusal) || told.len() >= REFUSALS_MAX {
            tracing::debug!(machine = id, ?peer, reason, "a tunnel was refused again");
            return;
        }
        told.insert(refusal, now);
        drop(told);
        (self.observer)(id, Happening::TunnelRefused { reason: reason.to_owned(), peer });
    }

    fn insert(&self, id: &str, live: Live) -> Result<(), Status> {
        let mut tunnels = self.lock();
        if tunnels.len() >= TUNNELS_MAX && !tunnels.contains_key(id) {
            return Err(Status::resource_exhausted("too many tunnels"));
        }
        tunnels.insert(id.to_owned(), live);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl TunnelHandler for Tunnels {
    async fn open(&self, opened: Opened) -> Result<(), Status> {
        let fingerprint = opened.fingerprint().map(str::to_owned);
        let id = opened.machine_id;
        let known_peer = opened.peer.map(|peer| peer.ip());
        if id.len() > MACHINE_ID_MAX || !id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
            let status = Status::invalid_argument("metadata machine-id is no UUID");
            self.tell_refusal("", known_peer, status.message());
            return Err(status);
        }
        let peer = opened.peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
        let claim = TunnelClaim { fingerprint, peer };
        let other = self.live(&id).filter(|live| live.claim.peer != peer);
        let connected = match other {
            Some(live) if answers(live.channel.clone()).await => Some(live.claim.peer),
            Some(_) | None => None,
        };
        if let Admission::Refuse(reason) = self.admission(&id, &claim, connected) {
            let reason = reason.to_string();
            self.tell_refusal(&id, known_peer, &reason);
            return Err(Status::permission_denied(reason));
        }
        let live = Live { channel: opened.channel, claim, since: SystemTime::now() };
        if let Err(status) = self.insert(&id, live) {
            self.tell_refusal(&id, known_peer, status.message());
            return Err(status);
        }
        (self.observer)(&id, Happening::TunnelOpened);
        self.view.wake(&id);
        Ok(())
    }

    async fn refused(&self, machine_id: &str, peer: Option<SocketAddr>, status: &Status) {
        self.tell_refusal(machine_id, peer.map(|peer| peer.ip()), status.message());
    }

    async fn closed(&self, machine_id: &str, channel: &TunnelChannel, reason: &str) {
        {
            let mut tunnels = self.lock();
            // Another one took its place, or it was forgotten: no news.
            if !tunnels.get(machine_id).is_some_and(|live| live.channel.same_tunnel(channel)) {
                return;
            }
            tunnels.remove(machine_id);
        }
        (self.observer)(machine_id, Happening::TunnelClosed { reason: reason.to_owned() });
        self.view.wake(machine_id);
    }
}

async fn answers(channel: TunnelChannel) -> bool {
    let mut client = AgentServiceClient::new(channel);
    matches!(tokio::time::timeout(PROOF_OF_LIFE, client.hello(HelloRequest {})).await, Ok(Ok(_)))
}
