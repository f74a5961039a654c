//! Who calls: identities as Omni names them, and what they may do.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// What an identity of a service account ends with.
pub const SERVICE_ACCOUNT_SUFFIX: &str = "@serviceaccount.omni.sidero.dev";

/// What the identity of an infrastructure provider's service account ends with.
pub const INFRA_PROVIDER_SUFFIX: &str = "@infra-provider.serviceaccount.omni.sidero.dev";

/// What the name of an infrastructure provider's service account begins with.
pub const INFRA_PROVIDER_PREFIX: &str = "infra-provider:";

/// A longer name is no name: the base name becomes a resource id and part of a namespace.
const MAX_BASE_NAME: usize = 63;

/// What an identity may do; each role may do all that the ones before it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Nothing.
    #[default]
    None,
    /// What an infrastructure provider needs, for its own machines.
    InfraProvider,
    /// Read everything.
    Reader,
    /// Change clusters and machines.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// The role's name on Omni's wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::InfraProvider => "InfraProvider",
            Self::Reader => "Reader",
            Self::Operator => "Operator",
            Self::Admin => "Admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no role.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("not a role of Omni")]
pub struct UnknownRole;

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        match text {
            "None" => Ok(Self::None),
            "InfraProvider" => Ok(Self::InfraProvider),
            "Reader" => Ok(Self::Reader),
            "Operator" => Ok(Self::Operator),
            "Admin" => Ok(Self::Admin),
            _ => Err(UnknownRole),
        }
    }
}

/// Who a verified request comes from. Taken from the stored key, never from the request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The identity's name in the form of an e-mail address.
    pub id: String,
    /// What it may do.
    pub role: Role,
}

impl Identity {
    /// The id of the infrastructure provider this identity belongs to.
    #[must_use]
    pub fn provider_id(&self) -> Option<&str> {
        self.id.strip_suffix(INFRA_PROVIDER_SUFFIX).filter(|id| !id.is_empty())
    }
}

/// The name of a service account, as a key carries it and as Omni's users write it:
/// `infra-provider:<id>` for a provider, otherwise a bare name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccountName {
    base: String,
    infra_provider: bool,
}

/// A text that cannot be the name of a service account.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a service account name has 1 to {MAX_BASE_NAME} letters, digits, '.', '_' or '-'")]
pub struct BadAccountName;

impl AccountName {
    /// The account of the infrastructure provider with this id.
    ///
    /// # Errors
    /// When the id has characters that no name may have.
    pub fn infra_provider(id: &str) -> Result<Self, BadAccountName> {
        Self::new(id, true)
    }

    fn new(base: &str, infra_provider: bool) -> Result<Self, BadAccountName> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if base.is_empty() || base.len() > MAX_BASE_NAME || !base.bytes().all(plain) {
            return Err(BadAccountName);
        }
        Ok(Self { base: base.to_owned(), infra_provider })
    }

    /// The name without prefix; for a provider its id.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whether this is the account of an infrastructure provider.
    #[must_use]
    pub const fn is_infra_provider(&self) -> bool {
        self.infra_provider
    }

    /// The identity (in the form of an e-mail address) that Omni stores for this account.
    #[must_use]
    pub fn identity(&self) -> String {
        let suffix = if self.infra_provider { INFRA_PROVIDER_SUFFIX } else { SERVICE_ACCOUNT_SUFFIX };
        format!("{}{suffix}", self.base)
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.infra_provider {
            f.write_str(INFRA_PROVIDER_PREFIX)?;
        }
        f.write_str(&self.base)
    }
}

impl FromStr for AccountName {
    type Err = BadAccountName;

    fn from_str(name: &str) -> Result<Self, BadAccountName> {
        match name.strip_prefix(INFRA_PROVIDER_PREFIX) {
            Some(id) => Self::new(id, true),
            None => Self::new(name, false),
        }
    }
}

#[cfg(test)]
mod tests;
