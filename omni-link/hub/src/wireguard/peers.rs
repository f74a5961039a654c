//! Which machines are peers, kept in step with the store.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::{Mutex, MutexGuard, PoisonError};

use provider::specs::SiderolinkSpec;
use siderolink::{Endpoint, PeerConfig, PeerStatus, PublicKey, Tunnel};

/// What a peer is in the store. A machine that leaves limbo is both for a moment, with the same key and address.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum PeerKind {
    Link,
    Pending,
}

type Id = (PeerKind, String);

/// A machine's Link as far as the device needs it.
#[derive(Clone, Debug)]
struct Member {
    version: u64,
    key: PublicKey,
    address: Ipv6Addr,
    relay: Option<SocketAddrV6>,
    connected: bool,
    last_endpoint: String,
}

/// What the Link of a machine should say and does not.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Observed {
    pub(super) machine: String,
    pub(super) connected: bool,
    pub(super) last_endpoint: String,
}

pub(super) struct Peers {
    tunnel: Tunnel,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    members: HashMap<Id, Member>,
    by_key: HashMap<PublicKey, Vec<Id>>,
    by_address: HashMap<Ipv6Addr, String>,
}

impl Member {
    fn read(version: u64, link: &SiderolinkSpec) -> Option<Self> {
        Some(Self {
            version,
            key: PublicKey::from_base64(&link.node_public_key).ok()?,
            address: address(link)?,
            relay: link.virtual_addrport.parse().ok(),
            connected: link.connected,
            last_endpoint: link.last_endpoint.clone(),
        })
    }

    fn endpoint(&self) -> Option<Endpoint> {
        match self.relay {
            Some(relay) => Some(Endpoint::Relay(relay)),
            None => self.last_endpoint.parse().ok().map(Endpoint::Udp),
        }
    }
}

/// The machine's address in the tunnel.
fn address(link: &SiderolinkSpec) -> Option<Ipv6Addr> {
    link.node_subnet.split('/').next()?.parse().ok()
}

impl Peers {
    pub(super) fn new(tunnel: Tunnel) -> Self {
        Self { tunnel, inner: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is stored, unless something newer is known. Says whether the device changed.
    pub(super) fn take(&self, kind: PeerKind, id: &str, version: u64, link: &SiderolinkSpec) -> bool {
        let Some(member) = Member::read(version, link) else {
            tracing::warn!(id, "a link has no usable key or address, it is no peer");
            return false;
        };
        let mut inner = self.lock();
        let id = (kind, id.to_owned());
        if let Some(known) = inner.members.get(&id) {
            if known.version >= version {
                return false;
            }
            let same = (known.key, known.address, known.relay) == (member.key, member.address, member.relay);
            if same {
                inner.members.insert(id, member);
                return false;
            }
            self.forget(&mut inner, &id);
        }
        if let Some(relay) = member.relay {
            self.tunnel.relay().allow(relay);
        }
        let config = PeerConfig { address: member.address, endpoint: member.endpoint(), keepalive: None };
        if let Err(error) = self.tunnel.set_peer(member.key, config) {
            tracing::warn!(id = id.1, %error, "a machine is no peer");
            return false;
        }
        if kind == PeerKind::Link {
            inner.by_address.insert(member.address, id.1.clone());
        }
        inner.by_key.entry(member.key).or_default().push(id.clone());
        inner.members.insert(id, member);
        true
    }

    /// It is stored no more.
    pub(super) fn remove(&self, kind: PeerKind, id: &str) {
        self.forget(&mut self.lock(), &(kind, id.to_owned()));
    }

    fn forget(&self, inner: &mut Inner, id: &Id) {
        let Some(member) = inner.members.remove(id) else { return };
        if inner.by_address.get(&member.address) == Some(&id.1) && id.0 == PeerKind::Link {
            inner.by_address.remove(&member.address);
        }
        let Some(same_key) = inner.by_key.get_mut(&member.key) else { return };
        same_key.retain(|other| other != id);
        let others: Vec<Id> = same_key.clone();
        if others.is_empty() {
            inner.by_key.remove(&member.key);
            self.tunnel.remove_peer(&member.key);
        }
        if let Some(relay) = member.relay {
            let used =
                others.iter().filter_map(|other| inner.members.get(other)?.relay).any(|used| used == relay);
            if !used {
                self.tunnel.relay().forbid(relay);
            }
        }
    }

    /// Forgets all of a kind that are not among these.
    pub(super) fn retain(&self, kind: PeerKind, there: &HashSet<String>) {
        let mut inner = self.lock();
        let gone: Vec<Id> =
            inner.members.keys().filter(|id| id.0 == kind && !there.contains(&id.1)).cloned().collect();
        for id in &gone {
            self.forget(&mut inner, id);
        }
    }

    pub(super) fn machine_at(&self, address: Ipv6Addr) -> Option<String> {
        self.lock().by_address.get(&address).cloned()
    }

    pub(super) fn address_of(&self, kind: PeerKind, id: &str) -> Option<Ipv6Addr> {
        self.lock().members.get(&(kind, id.to_owned())).map(|member| member.address)
    }

    /// Peers of which it is known where they were.
    pub(super) fn callable(&self) -> Vec<PublicKey> {
        let inner = self.lock();
        inner.members.values().filter(|member| member.endpoint().is_some()).map(|member| member.key).collect()
    }

    /// What has changed at the machines since their Links were written. A peer without any handshake counts only
    /// when `all` had the time for one.
    pub(super) fn observe(&self, all: bool) -> Vec<Observed> {
        let statuses: HashMap<PublicKey, PeerStatus> = self.tunnel.statuses().into_iter().collect();
        let inner = self.lock();
        let links = inner.members.iter().filter(|((kind, _), _)| *kind == PeerKind::Link);
        links
            .filter_map(|((_, machine), member)| {
                let status = statuses.get(&member.key)?;
                let connected = match status.last_handshake {
                    Some(at) => at.elapsed() < siderolink::PEER_DOWN,
                    None if all => false,
                    None => member.connected,
                };
                let last_endpoint = match status.endpoint {
                    Some(Endpoint::Udp(at)) => at.to_string(),
                    Some(Endpoint::Relay(at)) => at.to_string(),
                    None => member.last_endpoint.clone(),
                };
                let same = connected == member.connected && last_endpoint == member.last_endpoint;
                (!same).then(|| Observed { machine: machine.clone(), connected, last_endpoint })
            })
            .collect()
    }
}
