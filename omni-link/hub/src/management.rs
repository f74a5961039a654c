//! Omni's management API, as far as there is something behind it here: service accounts (`omnictl infraprovider
//! create` and its like), schematics and images for providers, kernel logs.

mod assets;
mod logs;

use cosi::{ListOptions, StateError};
use omni_auth::{
    AccountName, Certificate, INFRA_PROVIDER_PREFIX, INFRA_PROVIDER_SUFFIX, Identity, Role,
    SERVICE_ACCOUNT_SUFFIX,
};
use provider::specs::{IdentitySpec, PublicKeySpec, UserSpec};
use tonic::{Request, Response, Status};

use crate::Hub;
use crate::accounts::{self, AccountError, NewKey};
use crate::limits::{MAX_ARMORED_KEY, MAX_KEY_LIFETIME};
use crate::store::{decode, kind};
pub use logs::machine_logs;
use wire::management as api;

pub(crate) mod wire {
    #![allow(missing_docs, unreachable_pub, clippy::allow_attributes_without_reason, reason = "generated")]
    pub(crate) mod common {
        tonic::include_proto!("common");
    }
    pub(crate) mod management {
        tonic::include_proto!("management");
    }
}

/// The service.
pub(crate) struct Management(pub(crate) Hub);

impl Management {
    /// Only admins manage accounts.
    fn admin<T>(request: &Request<T>) -> Result<(), Status> {
        match role(request)? {
            Role::Admin => Ok(()),
            role => Err(Status::permission_denied(format!("role {role} may not manage accounts"))),
        }
    }

    fn name(text: &str) -> Result<AccountName, Status> {
        text.parse().map_err(|error: omni_auth::BadAccountName| Status::invalid_argument(error.to_string()))
    }

    /// A key that somebody else made.
    fn key(&self, armored: String) -> Result<NewKey, Status> {
        if armored.len() > MAX_ARMORED_KEY {
            return Err(Status::invalid_argument("the key is too long"));
        }
        let certificate = Certificate::from_armored(&armored)
            .map_err(|error| Status::invalid_argument(format!("the key is not usable: {error}")))?;
        let Some(expires) = certificate.expires_at() else {
            return Err(Status::invalid_argument("a key must end some day"));
        };
        let latest = self.0.now().checked_add(MAX_KEY_LIFETIME);
        if latest.is_some_and(|latest| expires > latest) {
            return Err(Status::invalid_argument("a key may last for a year, this one lasts longer"));
        }
        Ok(NewKey { fingerprint: certificate.fingerprint().to_owned(), armored, expires: Some(expires) })
    }

    async fn refresh(&self) -> Result<(), Status> {
        Ok(self.0.keys.load(&self.0.store).await?)
    }

    async fn accounts(&self) -> Result<api::ListServiceAccountsResponse, StateError> {
        use api::list_service_accounts_response::ServiceAccount;
        use api::list_service_accounts_response::service_account::PgpPublicKey;
        let state = self.0.store.state();
        let keys = state.list(&kind::<PublicKeySpec>(), &ListOptions::default()).await?;
        let mut service_accounts = Vec::new();
        for identity in state.list(&kind::<IdentitySpec>(), &ListOptions::default()).await? {
            let Some(name) = account_name(identity.id()) else { continue };
            let spec: IdentitySpec = decode(&identity)?;
            let user = self.0.store.find::<UserSpec>(&spec.user_id).await?;
            let mut pgp_public_keys = Vec::new();
            for resource in &keys {
                let key: PublicKeySpec = decode(resource)?;
                if key.identity.is_some_and(|owner| owner.email == identity.id()) {
                    pgp_public_keys.push(PgpPublicKey {
                        id: resource.id().to_owned(),
                        armored: String::from_utf8_lossy(&key.public_key).into_owned(),
                        expiration: key.expiration,
                        created: Some(resource.metadata.created),
                        last_used: None,
                    });
                }
            }
            service_accounts.push(ServiceAccount {
                name,
                pgp_public_keys,
                role: user.map(|user| user.spec.role).unwrap_or_default(),
                last_active: String::new(),
            });
        }
        Ok(api::ListServiceAccountsResponse { service_accounts })
    }
}

/// The role of who calls. The layer before puts it there; without it nobody is let in.
fn role<T>(request: &Request<T>) -> Result<Role, Status> {
    let identity = request.extensions().get::<Identity>();
    identity
        .map(|identity| identity.role)
        .ok_or_else(|| Status::unauthenticated(omni_auth::INVALID_SIGNATURE))
}

/// The account that an identity is of, if it is one's.
fn account_name(identity: &str) -> Option<String> {
    if let Some(id) = identity.strip_suffix(INFRA_PROVIDER_SUFFIX) {
        return Some(format!("{INFRA_PROVIDER_PREFIX}{id}"));
    }
    identity.strip_suffix(SERVICE_ACCOUNT_SUFFIX).map(str::to_owned)
}

impl From<AccountError> for Status {
    fn from(error: AccountError) -> Self {
        let text = error.to_string();
        match error {
            AccountError::Name(_) | AccountError::Key(_) => Self::invalid_argument(text),
            AccountError::Exists(_) => Self::already_exists(text),
            AccountError::Missing(_) => Self::not_found(text),
            AccountError::Leaving { .. } => Self::deadline_exceeded(text),
            AccountError::Store(error) => error.into(),
        }
    }
}

#[tonic::async_trait]
impl api::management_service_server::ManagementService for Management {
    async fn create_service_account(
        &self,
        request: Request<api::CreateServiceAccountRequest>,
    ) -> Result<Response<api::CreateServiceAccountResponse>, Status> {
        Self::admin(&request)?;
        let request = request.into_inner();
        let account = Self::name(&request.name)?;
        let role = if request.use_user_role {
            Role::Admin
        } else {
            let role = request.role.parse::<Role>();
            role.map_err(|_| Status::invalid_argument(format!("role {:?} is not known", request.role)))?
        };
        if account.is_infra_provider() != (role == Role::InfraProvider) {
            let text = "accounts of infra providers, and only they, have the role InfraProvider";
            return Err(Status::invalid_argument(text));
        }
        let key = self.key(request.armored_pgp_public_key)?;
        accounts::create_account(&*self.0.store.state(), &account, role, &key).await?;
        self.refresh().await?;
        Ok(Response::new(api::CreateServiceAccountResponse { public_key_id: key.fingerprint }))
    }

    async fn renew_service_account(
        &self,
        request: Request<api::RenewServiceAccountRequest>,
    ) -> Result<Response<api::RenewServiceAccountResponse>, Status> {
        Self::admin(&request)?;
        let request = request.into_inner();
        let account = Self::name(&request.name)?;
        let key = self.key(request.armored_pgp_public_key)?;
        accounts::add_key(&*self.0.store.state(), &account, &key).await?;
        self.refresh().await?;
        Ok(Response::new(api::RenewServiceAccountResponse { public_key_id: key.fingerprint }))
    }

    async fn list_service_accounts(
        &self,
        request: Request<()>,
    ) -> Result<Response<api::ListServiceAccountsResponse>, Status> {
        Self::admin(&request)?;
        Ok(Response::new(self.accounts().await?))
    }

    async fn destroy_service_account(
        &self,
        request: Request<api::DestroyServiceAccountRequest>,
    ) -> Result<Response<()>, Status> {
        Self::admin(&request)?;
        let account = Self::name(&request.into_inner().name)?;
        if !accounts::delete_account(&*self.0.store.state(), &account).await? {
            return Err(AccountError::Missing(account.to_string()).into());
        }
        self.refresh().await?;
        Ok(Response::new(()))
    }

    type MachineLogsStream = logs::Logs;

    async fn create_schematic_from_raw(
        &self,
        request: Request<api::CreateSchematicFromRawRequest>,
    ) -> Result<Response<api::CreateSchematicResponse>, Status> {
        assets::create_schematic(self, request).await
    }

    async fn get_boot_asset_url(
        &self,
        request: Request<api::BootAssetUrlRequest>,
    ) -> Result<Response<api::BootAssetUrlResponse>, Status> {
        assets::boot_asset(self, request)
    }

    async fn machine_logs(
        &self,
        request: Request<api::MachineLogsRequest>,
    ) -> Result<Response<Self::MachineLogsStream>, Status> {
        logs::serve(self, request)
    }
}
