//! How a machine joins.
//!
//! ```text
//! Talos before 1.6, or no version     valid join token             -> Link
//! with a unique token                 valid join token             -> Link, token stored
//!   known: same token                 no join token needed         -> Link updated
//!          same fingerprint           join token, not force-valid  -> Link updated, token replaced
//!          same fingerprint           force-valid                  -> refused
//!          other fingerprint          join token                   -> limbo: UUID conflict
//! without a unique token              valid join token             -> limbo
//! ```
//!
//! Limbo is a PendingMachine, named by the machine's public key and forgotten after a while. Whatever happens
//! there, the Link of the machine that joined first is untouched.

use std::collections::BTreeMap;
use std::net::IpAddr;

use agent_wire::link::{ProvisionRequest, ProvisionResponse};
use agent_wire::token::NodeUniqueToken;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cosi::{Metadata, Missing, Phase, StateError};
use provider::resources::{
    ANNOTATION_FORCE_VALID_TOKEN, INFRA_MACHINE_OWNER, LABEL_INFRA_PROVIDER_ID, LABEL_MACHINE_REQUEST,
    SIDEROLINK_CONFIG_ID,
};
use provider::specs::{
    InfraMachineStatusSpec, InfraProviderSpec, ProviderJoinConfigSpec, SiderolinkConfigSpec, SiderolinkSpec,
};
use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;
use tonic::Status;

use crate::limits::{
    MAX_JOIN_TOKEN, MAX_MACHINE_ID, MAX_MACHINES, MAX_PUBLIC_KEY, MAX_TALOS_VERSION, MAX_UNIQUE_TOKEN,
};
use crate::setup::SUBNET_PREFIX;
use crate::store::{Typed, kind};
use crate::token::{JoinToken, TokenError};
use crate::{Hub, HubEvent, HubEventKind, pending};

/// The first Talos that keeps a unique token.
const UNIQUE_TOKENS_SINCE: (u64, u64) = (1, 6);
/// Length of a WireGuard key.
const KEY_LENGTH: usize = 32;

/// Why a machine does not join.
#[derive(Debug, Error)]
pub enum ProvisionError {
    /// A field is not what it should be.
    #[error("{0}")]
    InvalidArgument(String),
    /// The join token is broken.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// Neither a valid join token nor the machine's own unique token.
    #[error("unauthorized")]
    Unauthorized,
    /// The token's provider does not exist, or is being removed.
    #[error("infra provider {0:?} does not exist")]
    NoProvider(String),
    /// The machine is being removed.
    #[error("the machine with the same UUID is already registered and is in the tearing down phase")]
    TearingDown,
    /// There are too many machines.
    #[error("too many machines")]
    TooMany,
    /// No random address.
    #[error("the system gives no random numbers")]
    Random,
    /// The store failed.
    #[error("the hub's store failed")]
    Store(#[from] StateError),
}

impl From<ProvisionError> for Status {
    fn from(error: ProvisionError) -> Self {
        let text = error.to_string();
        match error {
            ProvisionError::InvalidArgument(_) => Self::invalid_argument(text),
            ProvisionError::Token(_) | ProvisionError::Unauthorized => Self::permission_denied(text),
            ProvisionError::NoProvider(_) => Self::not_found(text),
            ProvisionError::TearingDown => Self::already_exists(text),
            ProvisionError::TooMany => Self::resource_exhausted(text),
            ProvisionError::Random | ProvisionError::Store(_) => Self::internal("internal server error"),
        }
    }
}

/// A request whose fields are what they should be.
pub(crate) struct Request {
    pub(crate) machine: String,
    pub(crate) public_key: String,
    join_token: String,
    unique_token: Option<UniqueToken>,
    keeps_unique_token: bool,
    pub(crate) peer: Option<IpAddr>,
}

struct UniqueToken {
    text: String,
    parsed: NodeUniqueToken,
}

/// What is known about who is asking.
struct Context {
    link: Option<Typed<SiderolinkSpec>>,
    /// Extra data of a valid join token.
    joined_with: Option<BTreeMap<String, String>>,
    /// The machine's disks were wiped since it got its token.
    wiped: bool,
}

/// What became of the link.
enum Established {
    Link(SiderolinkSpec),
    Conflict { reason: String },
}

impl Hub {
    /// A machine introduces itself from `peer`.
    ///
    /// # Errors
    /// When it may not join. The observer is told why.
    pub async fn provision(
        &self,
        request: ProvisionRequest,
        peer: Option<IpAddr>,
    ) -> Result<ProvisionResponse, ProvisionError> {
        let machine = machine_id(&request.node_uuid);
        let result = match Request::check(request, peer) {
            Ok(request) => self.admit(&request).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            // A stranger's text is only repeated when it is a possible id.
            let machine = machine.unwrap_or_default();
            let kind = HubEventKind::JoinRefused { reason: error.to_string() };
            self.emit(HubEvent { machine, peer, kind });
        }
        result
    }

    async fn admit(&self, request: &Request) -> Result<ProvisionResponse, ProvisionError> {
        let joined_with = self.verify(&request.join_token).await?;
        let link = self.store.find::<SiderolinkSpec>(&request.machine).await?;
        let wiped = match &link {
            Some(link) if !link.spec.node_unique_token.is_empty() => self
                .store
                .find::<InfraMachineStatusSpec>(&request.machine)
                .await?
                .is_some_and(|status| status.spec.wiped_node_unique_token == link.spec.node_unique_token),
            Some(_) | None => false,
        };
        let context = Context { link, joined_with, wiped };
        authorize(request, &context)?;
        if request.keeps_unique_token && request.unique_token.is_none() {
            return self.limbo(request, None).await;
        }
        match self.establish(request, &context).await? {
            Established::Link(spec) => {
                pending::forget(self, &request.public_key).await?;
                self.claim_address(request).await?;
                self.tell(request, HubEventKind::Joined);
                self.answer(&spec).await
            }
            Established::Conflict { reason } => self.limbo(request, Some(reason)).await,
        }
    }

    /// Checks the join token. Its extra data when it is valid, `None` when it is not.
    async fn verify(&self, text: &str) -> Result<Option<BTreeMap<String, String>>, ProvisionError> {
        let token = JoinToken::parse(text)?;
        let (valid, extra_data) = match &token {
            JoinToken::V2(signed) => {
                let provider = signed.extra_data.get(LABEL_INFRA_PROVIDER_ID).cloned().unwrap_or_default();
                self.require_provider(&provider).await?;
                let config = self.store.find::<ProviderJoinConfigSpec>(&provider).await?;
                let valid = config.is_some_and(|config| token.valid(&config.spec.join_token));
                (valid, signed.extra_data.clone())
            }
            JoinToken::V1(_) | JoinToken::Plain(_) => {
                let config = self.store.find::<SiderolinkConfigSpec>(SIDEROLINK_CONFIG_ID).await?;
                let valid = config.is_some_and(|config| token.valid(&config.spec.join_token));
                let extra_data = match &token {
                    JoinToken::V1(signed) => signed.extra_data.clone(),
                    JoinToken::Plain(_) | JoinToken::V2(_) => BTreeMap::new(),
                };
                if let (true, Some(provider)) = (valid, extra_data.get(LABEL_INFRA_PROVIDER_ID)) {
                    self.require_provider(provider).await?;
                }
                (valid, extra_data)
            }
        };
        Ok(valid.then_some(extra_data))
    }

    async fn require_provider(&self, id: &str) -> Result<(), ProvisionError> {
        match self.store.find::<InfraProviderSpec>(id).await? {
            Some(provider) if !provider.tearing_down() => Ok(()),
            Some(_) | None => Err(ProvisionError::NoProvider(id.chars().take(MAX_MACHINE_ID).collect())),
        }
    }

    /// Creates or updates the machine's link.
    async fn establish(&self, request: &Request, context: &Context) -> Result<Established, ProvisionError> {
        if context.link.is_none() && self.store.list(&kind::<SiderolinkSpec>()).await?.len() >= MAX_MACHINES {
            return Err(ProvisionError::TooMany);
        }
        let limbo_subnet = pending::subnet(self, &request.public_key).await?;
        let subnet = match limbo_subnet {
            Some(subnet) => subnet,
            None => random_subnet()?,
        };
        let mut verdict = Ok(());
        let result = self
            .store
            .put::<SiderolinkSpec, _>(&request.machine, "", Missing::Create, |metadata, spec| {
                verdict = request.may_change(metadata, spec, context);
                if verdict.is_ok() {
                    request.apply(metadata, spec, context, &subnet);
                }
                // Refused: changed nothing, so nothing is written. A link that is gone meanwhile comes back
                // only for a machine that may create one, which `may_change` sees too.
                match &verdict {
                    Err(Verdict::Create) => Err(StateError::NotFound(request.machine.clone())),
                    Ok(()) | Err(Verdict::Conflict(_) | Verdict::Refused | Verdict::TearingDown) => Ok(()),
                }
            })
            .await;
        match (verdict, result) {
            (Err(Verdict::Conflict(reason)), _) => Ok(Established::Conflict { reason }),
            (Err(Verdict::Refused | Verdict::Create), _) => Err(ProvisionError::Unauthorized),
            (Err(Verdict::TearingDown), _) | (Ok(()), Err(StateError::PhaseConflict(_))) => {
                Err(ProvisionError::TearingDown)
            }
            (Ok(()), Err(error)) => Err(error.into()),
            (Ok(()), Ok(resource)) => Ok(Established::Link(crate::store::decode(&resource)?)),
        }
    }

    /// No other machine is at this machine's address any more: events are told apart by it.
    async fn claim_address(&self, request: &Request) -> Result<(), ProvisionError> {
        let Some(peer) = request.peer else { return Ok(()) };
        let address = peer.to_string();
        for resource in self.store.list(&kind::<SiderolinkSpec>()).await? {
            let spec: SiderolinkSpec = crate::store::decode(&resource)?;
            if resource.id() == request.machine || spec.remote_addr != address {
                continue;
            }
            let change = |_: &mut Metadata, spec: &mut SiderolinkSpec| {
                if spec.remote_addr == address {
                    spec.remote_addr.clear();
                }
                Ok(())
            };
            match self.store.put::<SiderolinkSpec, _>(resource.id(), "", Missing::Fail, change).await {
                Ok(_) | Err(StateError::NotFound(_) | StateError::PhaseConflict(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn limbo(
        &self,
        request: &Request,
        conflict: Option<String>,
    ) -> Result<ProvisionResponse, ProvisionError> {
        let spec = pending::put(self, request, conflict.is_some()).await?;
        self.tell(
            request,
            match conflict {
                Some(reason) => HubEventKind::UuidConflict { reason },
                None => HubEventKind::Limbo,
            },
        );
        self.answer(&spec).await
    }

    async fn answer(&self, spec: &SiderolinkSpec) -> Result<ProvisionResponse, ProvisionError> {
        let missing = || StateError::NotFound("the SideroLink configuration is gone".to_owned());
        let config = self.store.find::<SiderolinkConfigSpec>(SIDEROLINK_CONFIG_ID).await?;
        let config = config.ok_or_else(missing)?.spec;
        Ok(ProvisionResponse {
            server_endpoint: vec![config.wireguard_endpoint],
            server_public_key: config.public_key,
            node_address_prefix: spec.node_subnet.clone(),
            server_address: config.server_address,
            grpc_peer_addr_port: spec.virtual_addrport.clone(),
        })
    }

    fn tell(&self, request: &Request, kind: HubEventKind) {
        self.emit(HubEvent { machine: request.machine.clone(), peer: request.peer, kind });
    }
}

/// Why a link stays as it is.
enum Verdict {
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
    /// Checks what came over the wire.
    fn check(request: ProvisionRequest, peer: Option<IpAddr>) -> Result<Self, ProvisionError> {
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
        Ok(Self { machine, public_key, join_token, unique_token, keeps_unique_token, peer })
    }

    /// Whether this request may change this link, asked at each attempt to write it.
    fn may_change(
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
    fn apply(&self, metadata: &mut Metadata, spec: &mut SiderolinkSpec, context: &Context, subnet: &str) {
        if let Some(extra_data) = &context.joined_with {
            for key in [LABEL_INFRA_PROVIDER_ID, LABEL_MACHINE_REQUEST] {
                if let Some(value) = extra_data.get(key) {
                    metadata.labels.insert(key.to_owned(), value.clone());
                }
            }
        }
        if context.wiped {
            metadata.annotations.remove(ANNOTATION_FORCE_VALID_TOKEN);
        }
        if metadata.labels.contains_key(LABEL_INFRA_PROVIDER_ID)
            && !metadata.finalizers.iter().any(|name| name == INFRA_MACHINE_OWNER)
        {
            // From the first write on the link cannot vanish before its InfraMachine does.
            metadata.finalizers.push(INFRA_MACHINE_OWNER.to_owned());
        }
        self.fill(spec, subnet);
    }

    /// The fields that a link and a machine in limbo have in common.
    pub(crate) fn fill(&self, spec: &mut SiderolinkSpec, subnet: &str) {
        if spec.node_subnet.is_empty() {
            subnet.clone_into(&mut spec.node_subnet);
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
fn authorize(request: &Request, context: &Context) -> Result<(), ProvisionError> {
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
fn machine_id(text: &str) -> Option<String> {
    if text.is_empty() || text.len() > MAX_MACHINE_ID || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    Some(uuid::Uuid::try_parse(text).map_or_else(|_| text.to_owned(), |uuid| uuid.to_string()))
}

fn public_key(text: &str) -> Result<String, ProvisionError> {
    let decoded = if text.len() <= MAX_PUBLIC_KEY { STANDARD.decode(text).ok() } else { None };
    match decoded {
        Some(bytes) if bytes.len() == KEY_LENGTH => Ok(text.to_owned()),
        Some(_) | None => Err(ProvisionError::InvalidArgument(
            "error parsing WireGuard key: not 32 bytes in base64".to_owned(),
        )),
    }
}

/// `v1.6.0` and later; what cannot be read counts as old.
fn keeps_unique_token(version: &str) -> bool {
    let mut parts = version.trim().trim_start_matches('v').split(['.', '-', '+']);
    let mut number = || parts.next()?.parse::<u64>().ok();
    matches!((number(), number()), (Some(major), Some(minor)) if (major, minor) >= UNIQUE_TOKENS_SINCE)
}

/// A random address in SideroLink's network, with its prefix length.
pub(crate) fn random_subnet() -> Result<String, ProvisionError> {
    let mut host = [0u8; 8];
    SystemRandom::new().fill(&mut host).map_err(|_| ProvisionError::Random)?;
    let [a, b, c, d] = SUBNET_PREFIX;
    let mut segments = [a, b, c, d, 0, 0, 0, 0];
    for (segment, pair) in segments[4..].iter_mut().zip(host.chunks_exact(2)) {
        *segment = u16::from_be_bytes([pair[0], pair[1]]);
    }
    Ok(format!("{}/64", std::net::Ipv6Addr::from(segments)))
}

#[cfg(test)]
mod tests;
