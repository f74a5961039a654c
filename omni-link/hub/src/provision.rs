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
//! Limbo is a PendingMachine, named by the machine's public key and forgotten after a while. In the tunnel it is
//! given a unique token there, and after a conflict a UUID of its own, with which it comes back
//! ([`crate::pending`]). Whatever happens there, the Link of the machine that joined first is untouched.

mod request;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use agent_wire::link::{ProvisionRequest, ProvisionResponse};
use cosi::{Metadata, Missing, StateError};
use provider::resources::{LABEL_INFRA_PROVIDER_ID, SIDEROLINK_CONFIG_ID};
use provider::specs::{
    InfraMachineStatusSpec, InfraProviderSpec, ProviderJoinConfigSpec, SiderolinkConfigSpec, SiderolinkSpec,
};
use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;
use tonic::Status;

use crate::limits::MAX_MACHINE_ID;
use crate::setup::SUBNET_PREFIX;
use crate::token::{JoinToken, TokenError};
use crate::wireguard::PeerKind;
use crate::{Hub, HubEvent, HubEventKind, pending};
pub(crate) use request::Request;
use request::{Context, Verdict, authorize, machine_id};

/// Network of the names of streams of WireGuard over gRPC, and the port in them: as in Omni. Nothing is ever sent
/// there.
const VIRTUAL_PREFIX: [u16; 4] = [0xfdae, 0x41e4, 0x649b, 0x9304];
const VIRTUAL_PORT: u16 = 50889;

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
        let all_over_grpc = self.wireguard.as_ref().map(|wireguard| wireguard.over_grpc);
        let result = match Request::check(request, peer, all_over_grpc) {
            Ok(request) => self.admit(&request).await,
            Err(error) => Err(error),
        };
        if let Err(ProvisionError::Store(source)) = &result {
            tracing::error!(error = %source, "the store failed while a machine joined");
        }
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
        let installed = pending::installed(self, &request.public_key).await?;
        let context = Context { link, joined_with, wiped, installed };
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
        if context.link.is_none() && self.index.machines() >= self.room.machines {
            return Err(ProvisionError::TooMany);
        }
        let lot = match pending::lot(self, &request.public_key).await? {
            Some(lot) => lot,
            None => Lot::random()?,
        };
        let mut verdict = Ok(());
        let result = self
            .store
            .put::<SiderolinkSpec, _>(&request.machine, "", Missing::Create, |metadata, spec| {
                verdict = request.may_change(metadata, spec, context);
                if verdict.is_ok() {
                    request.apply(metadata, spec, context, &lot);
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
            (Ok(()), Ok(resource)) => {
                let link = crate::store::decode(&resource)?;
                self.index.seen(&request.machine, &link);
                if let Some(wireguard) = &self.wireguard {
                    wireguard.take(PeerKind::Link, &resource, &link);
                }
                Ok(Established::Link(link))
            }
        }
    }

    /// No other machine is at this machine's address any more: events are told apart by it.
    async fn claim_address(&self, request: &Request) -> Result<(), ProvisionError> {
        let Some(peer) = request.peer else { return Ok(()) };
        let address = peer.to_string();
        for hint in self.index.at(&address) {
            if hint.machine == request.machine {
                continue;
            }
            let change = |_: &mut Metadata, spec: &mut SiderolinkSpec| {
                if spec.remote_addr == address {
                    spec.remote_addr.clear();
                }
                Ok(())
            };
            match self.store.put::<SiderolinkSpec, _>(&hint.machine, "", Missing::Fail, change).await {
                Ok(_) | Err(StateError::NotFound(_)) => self.index.wrong(&address, &hint),
                // On its way out: it is no machine any more that events are taken from.
                Err(StateError::PhaseConflict(_)) => {}
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
            // In the stream it is the machine's own virtual address that stands for the hub, as with Omni.
            server_endpoint: vec![if spec.virtual_addrport.is_empty() {
                config.wireguard_endpoint
            } else {
                spec.virtual_addrport.clone()
            }],
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

/// What a machine is given for good, unless it has it already.
pub(crate) struct Lot {
    /// Address in SideroLink's network, with its prefix length.
    pub(crate) subnet: String,
    /// Name of its stream when it comes over gRPC.
    pub(crate) virtual_addrport: String,
}

impl Lot {
    pub(crate) fn random() -> Result<Self, ProvisionError> {
        let subnet = random_address(SUBNET_PREFIX)?;
        let stream = random_address(VIRTUAL_PREFIX)?;
        Ok(Self { subnet: format!("{subnet}/64"), virtual_addrport: format!("[{stream}]:{VIRTUAL_PORT}") })
    }
}

fn random_address(prefix: [u16; 4]) -> Result<Ipv6Addr, ProvisionError> {
    let mut host = [0u8; 8];
    SystemRandom::new().fill(&mut host).map_err(|_| ProvisionError::Random)?;
    let [a, b, c, d] = prefix;
    let mut segments = [a, b, c, d, 0, 0, 0, 0];
    for (segment, pair) in segments[4..].iter_mut().zip(host.chunks_exact(2)) {
        *segment = u16::from_be_bytes([pair[0], pair[1]]);
    }
    Ok(segments.into())
}

#[cfg(test)]
mod tests;
