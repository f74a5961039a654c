//! A request as a value, and what it may do to a link; no I/O.

use std::collections::BTreeMap;
use std::net::IpAddr;

use agent_wire::link::ProvisionRequest;
use agent_wire::token::NodeUniqueToken;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cosi::{Metadata, Phase};
use provider::resources::{
    ANNOTATION_FORCE_VALID_TOKEN, INFRA_MACHINE_OWNER, LABEL_INFRA_PROVIDER_ID, LABEL_MACHINE_REQUEST,
};
use provider::specs::SiderolinkSpec;

use super::{Lot, ProvisionError};
use crate::limits::{MAX_JOIN_TOKEN, MAX_MACHINE_ID, MAX_PUBLIC_KEY, MAX_TALOS_VERSION, MAX_UNIQUE_TOKEN};
use crate::store::Typed;

/// The first Talos that keeps a unique token.
const UNIQUE_TOKENS_SINCE: (u64, u64) = (1, 6);
/// Length of a WireGuard key.
pub(super) const KEY_LENGTH: usize = 32;

/// A request whose fields are what they should be.
pub(crate) struct Request {
    pub(crate) machine: String,
    pub(crate) public_key: String,
    pub(super) join_token: String,
    pub(super) unique_token: Option<UniqueToken>,
    pub(super) keeps_unique_token: bool,
    pub(crate) peer: Option<IpAddr>,
    /// WireGuard in a gRPC stream: the machine wants it, or the hub does.
    over_grpc: bool,
}

pub(super) struct UniqueToken {
    text: String,
    parsed: NodeUniqueToken,
}

/// What is known about who is asking.
pub(super) struct Context {
    pub(super) link: Option<Typed<SiderolinkSpec>>,
    /// Extra data of a valid join token.
    pub(super) joined_with: Option<BTreeMap<String, String>>,
    /// The machine's disks were wiped since it got its token.
    pub(super) wiped: bool,
    /// Talos was found on its disk while it was in limbo.
    pub(super) installed: bool,
}

/// Why a link stays as it is.
pub(super) enum Verdict {
    /// Other hardware.
    Conflict(String),
    /// The right hardware without the right token, and Talos is installed there.
    Refused,
    /// It is being removed.
    TearingDown,
    /// There is no link (any more), and without a join token none is made.
    Create,
}

impl Request {
    /// Checks what came over the wire. `all_over_grpc`: whether the hub wants all machines to come that way, `None`
    /// without WireGuard.
    pub(super) fn check(
        request: ProvisionRequest,
        peer: Option<IpAddr>,
        all_over_grpc: Option<bool>,
    ) -> Result<Self, ProvisionError> {
        let too_long = |what: &str| ProvisionError::InvalidArgument(format!("{what} is too long"));
        let machine = machine_id(&request.node_uuid).ok_or_else(|| {
            ProvisionError::InvalidArgument("node UUID is empty, too long or has odd characters".to_owned())
        })?;
        let public_key = public_key(&request.node_public_key)?;
        let join_token = request.join_token.unwrap_or_default();
        if join_token.len() > MAX_JOIN_TOKEN {
            return Err(too_long("join token"));
        }
        let talos_version = request.talos_version.unwrap_or_default();
        if talos_version.len() > MAX_TALOS_VERSION {
            return Err(too_long("Talos version"));
        }
        let unique_token = match request.node_unique_token.filter(|text| !text.is_empty()) {
            None => None,
            Some(text) if text.len() > MAX_UNIQUE_TOKEN => return Err(too_long("unique token")),
            Some(text) => {
                let parsed = NodeUniqueToken::decode(&text)
                    .map_err(|error| ProvisionError::InvalidArgument(format!("unique token: {error}")))?;
                Some(UniqueToken { text, parsed })
            }
        };
        let keeps_unique_token = keeps_unique_token(&talos_version);
        let peer = peer.map(|peer| peer.to_canonical());
        let wanted = request.wireguard_over_grpc.unwrap_or(false);
        let over_grpc = all_over_grpc.is_some_and(|all| all || wanted);
        Ok(Self { machine, public_key, join_token, unique_token, keeps_unique_token, peer, over_grpc })
    }

    /// Whether this request may change this link, asked at each attempt to write it.
    pub(super) fn may_change(
        &self,
        metadata: &Metadata,
        link: &SiderolinkSpec,
        context: &Context,
    ) -> Result<(), Verdict> {
        if metadata.version == cosi::Version::Undefined {
            return if context.joined_with.is_some() { Ok(()) } else { Err(Verdict::Create) };
        }
        if metadata.phase == Phase::TearingDown {
            return Err(Verdict::TearingDown);
        }
        if link.node_unique_token.is_empty() {
            return if context.joined_with.is_some() { Ok(()) } else { Err(Verdict::Refused) };
        }
        let Some(ours) = &self.unique_token else { return Err(Verdict::Refused) };
        let theirs = NodeUniqueToken::decode(&link.node_unique_token).map_err(|_| Verdict::Refused)?;
        if theirs.same_token(&ours.parsed) {
            return Ok(());
        }
        if !theirs.same_fingerprint(&ours.parsed) {
            return Err(Verdict::Conflict(format!(
                "its fingerprint is {}, that of the machine that joined is {}",
                ours.parsed.fingerprint, theirs.fingerprint
            )));
        }
        let forced = metadata.annotations.contains_key(ANNOTATION_FORCE_VALID_TOKEN) && !context.wiped;
        if forced || context.joined_with.is_none() { Err(Verdict::Refused) } else { Ok(()) }
    }

    /// Writes the request into the link.
    pub(super) fn apply(
        &self,
        metadata: &mut Metadata,
        spec: &mut SiderolinkSpec,
        context: &Context,
        lot: &Lot,
    ) {
        if let Some(extra_data) = &context.joined_with {
            for key in [LABEL_INFRA_PROVIDER_ID, LABEL_MACHINE_REQUEST] {
                if let Some(value) = extra_data.get(key) {
                    metadata.labels.insert(key.to_owned(), value.clone());
                }
            }
        }
        if context.wiped {
            metadata.annotations.remove(ANNOTATION_FORCE_VALID_TOKEN);
        } else if context.installed && spec.node_unique_token.is_empty() {
            metadata.annotations.insert(ANNOTATION_FORCE_VALID_TOKEN.to_owned(), String::new());
        }
        if metadata.labels.contains_key(LABEL_INFRA_PROVIDER_ID)
            && !metadata.finalizers.iter().any(|name| name == INFRA_MACHINE_OWNER)
        {
            // From the first write on the link cannot vanish before its InfraMachine does.
            metadata.finalizers.push(INFRA_MACHINE_OWNER.to_owned());
        }
        self.fill(spec, lot);
    }

    /// The fields that a link and a machine in limbo have in common.
    pub(crate) fn fill(&self, spec: &mut SiderolinkSpec, lot: &Lot) {
        if spec.node_subnet.is_empty() {
            lot.subnet.clone_into(&mut spec.node_subnet);
        }
        let other_key = spec.node_public_key != self.public_key;
        if !self.over_grpc {
            spec.virtual_addrport.clear();
        } else if spec.virtual_addrport.is_empty() || other_key {
            // The stream's name is its credential: it goes with the key.
            lot.virtual_addrport.clone_into(&mut spec.virtual_addrport);
        }
        if other_key {
            // It booted anew: its socket is another one.
            spec.last_endpoint.clear();
        }
        spec.node_public_key.clone_from(&self.public_key);
        spec.connected = true;
        if let Some(token) = &self.unique_token {
            spec.node_unique_token.clone_from(&token.text);
        }
        if let Some(peer) = self.peer {
            spec.remote_addr = peer.to_string();
        }
    }
}

/// Whether the caller may do anything at all.
pub(super) fn authorize(request: &Request, context: &Context) -> Result<(), ProvisionError> {
    let known = context.link.as_ref().filter(|link| !link.spec.node_unique_token.is_empty());
    if !request.keeps_unique_token && request.unique_token.is_none() {
        // An old Talos cannot prove that it is the machine that once had a token.
        return match (&context.joined_with, known) {
            (Some(_), None) => Ok(()),
            (None, _) | (Some(_), Some(_)) => Err(ProvisionError::Unauthorized),
        };
    }
    let proves_itself = match (&request.unique_token, known) {
        (Some(ours), Some(link)) => NodeUniqueToken::decode(&link.spec.node_unique_token)
            .is_ok_and(|theirs| theirs.same_token(&ours.parsed)),
        (_, None) | (None, _) => false,
    };
    if context.joined_with.is_some() || proves_itself { Ok(()) } else { Err(ProvisionError::Unauthorized) }
}

/// The id of a machine: a UUID in its usual form, or any short visible text, as Omni takes it.
pub(super) fn machine_id(text: &str) -> Option<String> {
    if text.is_empty() || text.len() > MAX_MACHINE_ID || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    Some(uuid::Uuid::try_parse(text).map_or_else(|_| text.to_owned(), |uuid| uuid.to_string()))
}

pub(super) fn public_key(text: &str) -> Result<String, ProvisionError> {
    let decoded = if text.len() <= MAX_PUBLIC_KEY { STANDARD.decode(text).ok() } else { None };
    match decoded {
        Some(bytes) if bytes.len() == KEY_LENGTH => Ok(text.to_owned()),
        Some(_) | None => Err(ProvisionError::InvalidArgument(
            "error parsing WireGuard key: not 32 bytes in base64".to_owned(),
        )),
    }
}

/// `v1.6.0` and later; what cannot be read counts as old.
pub(super) fn keeps_unique_token(version: &str) -> bool {
    let mut parts = version.trim().trim_start_matches('v').split(['.', '-', '+']);
    let mut number = || parts.next()?.parse::<u64>().ok();
    matches!((number(), number()), (Some(major), Some(minor)) if (major, minor) >= UNIQUE_TOKENS_SINCE)
}
