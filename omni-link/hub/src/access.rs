//! Who may do what: Omni's rules as a function. No I/O.
//!
//! ```text
//! role            its own                           for it to read         nothing else
//! InfraProvider   statuses, health, requests'       InfraMachines, ...     Links, Clusters, ...
//!                 statuses, private namespace       (finalizers only)
//! Reader          -                                 all but secrets
//! Operator        clusters, machines' configs       all but secrets
//! Admin           everything
//! ```
//!
//! What is another provider's looks as if it were not there; that is the business of whoever carries a
//! [`Grant`] out.

use cosi::{Kind, StateError};
use omni_auth::{Identity, Role};
use provider::resources::{
    INFRA_PROVIDER_EPHEMERAL_NAMESPACE, INFRA_PROVIDER_NAMESPACE, PRIVATE_NAMESPACE_PREFIX,
    PRIVATE_TYPE_SUFFIX, private_namespace,
};

/// What a call does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Destroy,
    Teardown,
}

impl Verb {
    pub(crate) fn reads(self) -> bool {
        match self {
            Self::Get | Self::List | Self::Watch => true,
            Self::Create | Self::Update | Self::Destroy | Self::Teardown => false,
        }
    }
}

/// What a caller may do with what it asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Grant {
    /// Just that.
    All,
    /// Just that, if the provider is registered: it is its private namespace.
    Private { provider: String },
    /// Only with what carries the label of this provider, if it is registered.
    Own { provider: String, write: Write },
}

/// What a provider may write of what carries its label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Write {
    All,
    /// Updates that change finalizers and nothing else.
    Finalizers,
}

/// What a type is, for access.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Class {
    /// One per provider, written by it: the id is the provider's.
    ProvidersSelf,
    /// Written by providers.
    FromProviders,
    /// Written for providers.
    ForProviders,
    /// As the former, with passwords.
    ForProvidersSecret,
    /// A provider's private namespace.
    Private,
    /// What a provider has to read to have machines join.
    Joining,
    /// What everybody may read who has a key.
    Public,
    /// What users write.
    Users,
    /// What users may only read or remove.
    Removable,
    /// What the hub tells users.
    Told,
    /// Accounts and secrets.
    Secret,
    /// Nobody has heard of it.
    Unknown,
}

fn class(kind: &Kind) -> Class {
    if kind.namespace.starts_with(PRIVATE_NAMESPACE_PREFIX) {
        return Class::Private;
    }
    match kind.typ.as_str() {
        "ResourceDefinitions.meta.cosi.dev"
        | "Namespaces.meta.cosi.dev"
        | "SysVersions.system.sidero.dev" => Class::Public,
        other => other.strip_suffix(".omni.sidero.dev").map_or(Class::Unknown, omni_class),
    }
}

/// The class of a type of Omni, by the first part of its name.
fn omni_class(name: &str) -> Class {
    match name {
        "InfraProviders" | "InfraProviderStatuses" | "InfraProviderHealthStatuses" => Class::ProvidersSelf,
        "MachineRequestStatuses" | "InfraMachineStatuses" | "ConfigPatchRequests" => Class::FromProviders,
        "InfraMachines" | "MachineRequests" | "InfraMachineRegistrations" | "ProviderJoinConfigs" => {
            Class::ForProviders
        }
        "BMCConfigs" => Class::ForProvidersSecret,
        "Machines" | "SiderolinkAPIConfigs" | "ConnectionParams" => Class::Joining,
        "FeaturesConfigs"
        | "TalosVersions"
        | "TalosExtensions"
        | "KubernetesVersions"
        | "InstallationMedias"
        | "OngoingTasks"
        | "Notifications"
        | "MachineStatusMetrics"
        | "ClusterMetrics"
        | "ClusterStatusMetrics" => Class::Public,
        "Clusters"
        | "ConfigPatches"
        | "MachineClasses"
        | "MachineLabels"
        | "MachineSets"
        | "MachineSetNodes"
        | "ExtensionsConfigurations"
        | "KernelArgs"
        | "MachineRequestSets"
        | "InfraMachineConfigs" => Class::Users,
        "Links" | "PendingMachines" => Class::Removable,
        "InfraProviderCombinedStatuses"
        | "MachineRequestSetStatuses"
        | "MachineStatuses"
        | "LinkStatuses"
        | "ClusterStatuses"
        | "MachineSetStatuses"
        | "ClusterMachines"
        | "ClusterMachineStatuses" => Class::Told,
        "Users"
        | "Identities"
        | "PublicKeys"
        | "InfraMachineBMCConfigs"
        | "Configs"
        | "NodeUniqueTokens"
        | "PendingMachineStatuses" => Class::Secret,
        _ => Class::Unknown,
    }
}

/// Whether this identity may make this call, and with what.
///
/// # Errors
/// [`StateError::PermissionDenied`], or [`StateError::InvalidArgument`] where Omni says so.
pub(crate) fn access(
    identity: &Identity,
    verb: Verb,
    kind: &Kind,
    id: Option<&str>,
) -> Result<Grant, StateError> {
    let class = class(kind);
    match identity.role {
        Role::Admin => Ok(Grant::All),
        Role::Operator | Role::Reader => user(identity.role, verb, class, kind),
        Role::InfraProvider => match identity.provider_id() {
            Some(provider) => of_provider(provider, verb, class, kind, id),
            None => denied("an account that is no infrastructure provider's has the role of one"),
        },
        Role::None => denied("no role, no access"),
    }
}

fn denied<T>(text: impl Into<String>) -> Result<T, StateError> {
    Err(StateError::PermissionDenied(text.into()))
}

fn user(role: Role, verb: Verb, class: Class, kind: &Kind) -> Result<Grant, StateError> {
    let allowed = match class {
        Class::Public | Class::Joining | Class::Told | Class::ProvidersSelf | Class::FromProviders => {
            verb.reads()
        }
        Class::ForProviders => {
            verb.reads() || (role == Role::Operator && kind.typ == "MachineRequests.omni.sidero.dev")
        }
        Class::Users => verb.reads() || role == Role::Operator,
        Class::Removable => match verb {
            Verb::Get | Verb::List | Verb::Watch => true,
            Verb::Destroy | Verb::Teardown => role == Role::Operator,
            Verb::Create | Verb::Update => false,
        },
        // Passwords of BMCs and keys are in these.
        Class::ForProvidersSecret | Class::Private | Class::Secret | Class::Unknown => false,
    };
    if allowed { Ok(Grant::All) } else { denied(format!("role {role} may not {verb:?} {kind}")) }
}

fn of_provider(
    provider: &str,
    verb: Verb,
    class: Class,
    kind: &Kind,
    id: Option<&str>,
) -> Result<Grant, StateError> {
    let own = |write| Ok(Grant::Own { provider: provider.to_owned(), write });
    let refused = || denied(format!("infra providers may not {verb:?} {kind}"));
    match class {
        Class::Public | Class::Joining => {
            if verb.reads() {
                Ok(Grant::All)
            } else {
                refused()
            }
        }
        Class::Private => private(provider, kind),
        Class::ProvidersSelf | Class::FromProviders | Class::ForProviders | Class::ForProvidersSecret
            if kind.namespace != INFRA_PROVIDER_NAMESPACE
                && kind.namespace != INFRA_PROVIDER_EPHEMERAL_NAMESPACE =>
        {
            denied(format!("{kind} is in a namespace that is not for infra providers"))
        }
        Class::ProvidersSelf if verb == Verb::Create && id != Some(provider) => Err(
            StateError::InvalidArgument(format!("the id must be that of the infra provider, {provider:?}")),
        ),
        Class::ProvidersSelf | Class::FromProviders => own(Write::All),
        Class::ForProviders | Class::ForProvidersSecret => {
            if verb == Verb::Create {
                refused()
            } else {
                own(Write::Finalizers)
            }
        }
        Class::Users | Class::Removable | Class::Told | Class::Secret | Class::Unknown => refused(),
    }
}

/// The namespace of another provider is refused; in its own the types' names must end right.
fn private(provider: &str, kind: &Kind) -> Result<Grant, StateError> {
    if kind.namespace != private_namespace(provider) {
        return denied(format!("namespace {:?} is not that of infra provider {provider:?}", kind.namespace));
    }
    let suffix = format!(".{provider}{PRIVATE_TYPE_SUFFIX}");
    if kind.typ.strip_suffix(&suffix).is_none_or(str::is_empty) {
        return Err(StateError::InvalidArgument(format!(
            "types in namespace {:?} must end with {suffix:?}",
            kind.namespace
        )));
    }
    Ok(Grant::Private { provider: provider.to_owned() })
}

#[cfg(test)]
mod tests;
