//! Names: types, namespaces, labels, owners, finalizers, ids.

use prost::Message;

use crate::{private, specs};

/// Namespace of users' and Omni's own resources.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Namespace that providers share with Omni.
pub const INFRA_PROVIDER_NAMESPACE: &str = "infra-provider";
/// As the former, but lost when Omni restarts.
pub const INFRA_PROVIDER_EPHEMERAL_NAMESPACE: &str = "infra-provider-ephemeral";
/// Namespace of what Omni only remembers while it runs.
pub const EPHEMERAL_NAMESPACE: &str = "ephemeral";
/// Namespace of the descriptions of types.
pub const META_NAMESPACE: &str = "meta";

/// The prefix of all labels that belong to Omni.
pub const SYSTEM_LABEL_PREFIX: &str = "omni.sidero.dev/";
/// Names the provider that a resource belongs to.
pub const LABEL_INFRA_PROVIDER_ID: &str = "omni.sidero.dev/infra-provider-id";
/// Marks a provider status as that of a static provider.
pub const LABEL_IS_STATIC_INFRA_PROVIDER: &str = "omni.sidero.dev/is-static-infra-provider";
/// On an InfraMachine that waits for acceptance.
pub const LABEL_ACCEPT_PENDING: &str = "omni.sidero.dev/accept-pending";
/// The cluster of an allocation.
pub const LABEL_CLUSTER: &str = "omni.sidero.dev/cluster";
/// The machine set of an allocation.
pub const LABEL_MACHINE_SET: &str = "omni.sidero.dev/machine-set";
/// The machine is a control plane.
pub const LABEL_ROLE_CONTROLPLANE: &str = "omni.sidero.dev/role-controlplane";
/// The machine is a worker.
pub const LABEL_ROLE_WORKER: &str = "omni.sidero.dev/role-worker";
/// The machine request that a token was made for.
pub const LABEL_MACHINE_REQUEST: &str = "omni.sidero.dev/machine-request";
/// The set that a machine request belongs to.
pub const LABEL_MACHINE_REQUEST_SET: &str = "omni.sidero.dev/machine-request-set";
/// The machine that a machine request was answered with.
pub const LABEL_MACHINE: &str = "omni.sidero.dev/machine";
/// The UUID that a machine in limbo claims.
pub const LABEL_MACHINE_UUID: &str = "omni.sidero.dev/machine-uuid";
/// The labels that an allocation puts on an InfraMachine and that its status carries too.
pub const ALLOCATION_LABELS: [&str; 4] =
    [LABEL_CLUSTER, LABEL_MACHINE_SET, LABEL_ROLE_CONTROLPLANE, LABEL_ROLE_WORKER];

/// Names the user of a key or an identity.
pub const LABEL_USER_ID: &str = "user-id";
/// Marks the identity of a service account.
pub const LABEL_SERVICE_ACCOUNT: &str = "type-service-account";
/// Marks key, identity and user of a provider's service account.
pub const LABEL_INFRA_PROVIDER_ACCOUNT: &str = "omni.sidero.dev/infra-provider";

/// On a PendingMachine whose UUID another machine has.
pub const ANNOTATION_UUID_CONFLICT: &str = "siderolink.omni.sidero.dev/uuid-conflict";
/// On a Link whose unique token may not be replaced: Talos is installed.
pub const ANNOTATION_FORCE_VALID_TOKEN: &str = "siderolink.omni.sidero.dev/force-valid-node-unique-token";

/// Who owns the InfraMachines; also what a finalizer update must name.
pub const INFRA_MACHINE_OWNER: &str = "InfraMachineController";
/// Who owns the ProviderJoinConfigs.
pub const PROVIDER_JOIN_CONFIG_OWNER: &str = "ProviderJoinConfigController";

/// Id of the only SideroLink configuration.
pub const SIDEROLINK_CONFIG_ID: &str = "siderolink-config";
/// Id of the only features configuration.
pub const FEATURES_CONFIG_ID: &str = "features-config";
/// Id of the only version of the server.
pub const SYS_VERSION_ID: &str = "current";

/// What the namespace of a provider's private records begins with.
pub const PRIVATE_NAMESPACE_PREFIX: &str = "infra-provider:";
/// What the type of a provider's private records ends with, after the provider's id.
pub const PRIVATE_TYPE_SUFFIX: &str = ".infraprovider.sidero.dev";

/// The namespace of a provider's private records.
#[must_use]
pub fn private_namespace(provider_id: &str) -> String {
    format!("{PRIVATE_NAMESPACE_PREFIX}{provider_id}")
}

/// The owner of what a provider writes, and its one finalizer on an InfraMachine.
#[must_use]
pub fn provider_controller(provider_id: &str) -> String {
    format!("{provider_id}.MachineController")
}

/// A resource with one type name and one namespace.
pub trait ResourceSpec: Message + Default {
    /// The type's name.
    const TYPE: &'static str;
    /// Where resources of the type live.
    const NAMESPACE: &'static str;
}

/// A private record of a provider: type and namespace contain its id.
pub trait PrivateSpec: Message + Default {
    /// First part of the type's name.
    const NAME: &'static str;

    /// The type's name.
    #[must_use]
    fn resource_type(provider_id: &str) -> String {
        format!("{}.{provider_id}{PRIVATE_TYPE_SUFFIX}", Self::NAME)
    }
}

/// Defines a marker for a type whose message other types use too.
macro_rules! shared {
    ($($spec:ty, $typ:literal, $namespace:expr;)+) => {
        $(impl ResourceSpec for $spec {
            const TYPE: &'static str = $typ;
            const NAMESPACE: &'static str = $namespace;
        })+
    };
}

shared! {
    specs::InfraMachineSpec, "InfraMachines.omni.sidero.dev", INFRA_PROVIDER_NAMESPACE;
    specs::InfraMachineStatusSpec, "InfraMachineStatuses.omni.sidero.dev", INFRA_PROVIDER_NAMESPACE;
    specs::InfraProviderSpec, "InfraProviders.omni.sidero.dev", INFRA_PROVIDER_NAMESPACE;
    specs::InfraProviderStatusSpec, "InfraProviderStatuses.omni.sidero.dev", INFRA_PROVIDER_NAMESPACE;
    specs::InfraProviderHealthStatusSpec, "InfraProviderHealthStatuses.omni.sidero.dev",
        INFRA_PROVIDER_EPHEMERAL_NAMESPACE;
    specs::BmcConfigSpec, "BMCConfigs.omni.sidero.dev", INFRA_PROVIDER_NAMESPACE;
    specs::ProviderJoinConfigSpec, "ProviderJoinConfigs.omni.sidero.dev", INFRA_PROVIDER_NAMESPACE;
    specs::InfraMachineConfigSpec, "InfraMachineConfigs.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::InfraMachineBmcConfigSpec, "InfraMachineBMCConfigs.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::ClusterSpec, "Clusters.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::MachineSetNodeSpec, "MachineSetNodes.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::SiderolinkSpec, "Links.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::PendingMachineStatusSpec, "PendingMachineStatuses.omni.sidero.dev", EPHEMERAL_NAMESPACE;
    specs::MachineStatusSpec, "MachineStatuses.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::LinkStatusSpec, "LinkStatuses.omni.sidero.dev", EPHEMERAL_NAMESPACE;
    specs::SiderolinkConfigSpec, "Configs.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::SiderolinkApiConfigSpec, "SiderolinkAPIConfigs.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::ConnectionParamsSpec, "ConnectionParams.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::UserSpec, "Users.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::IdentitySpec, "Identities.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::PublicKeySpec, "PublicKeys.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::MachineClassSpec, "MachineClasses.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::MachineRequestSetSpec, "MachineRequestSets.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::MachineRequestSetStatusSpec, "MachineRequestSetStatuses.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::MachineRequestSpec, "MachineRequests.omni.sidero.dev", INFRA_PROVIDER_NAMESPACE;
    specs::MachineRequestStatusSpec, "MachineRequestStatuses.omni.sidero.dev", INFRA_PROVIDER_NAMESPACE;
    specs::MachineRegistrationSpec, "InfraMachineRegistrations.omni.sidero.dev", INFRA_PROVIDER_NAMESPACE;
    specs::SysVersionSpec, "SysVersions.system.sidero.dev", EPHEMERAL_NAMESPACE;
    specs::FeaturesConfigSpec, "FeaturesConfigs.omni.sidero.dev", DEFAULT_NAMESPACE;
    specs::InfraProviderCombinedStatusSpec, "InfraProviderCombinedStatuses.omni.sidero.dev",
        EPHEMERAL_NAMESPACE;
    specs::ResourceDefinitionSpec, "ResourceDefinitions.meta.cosi.dev", META_NAMESPACE;
    specs::NodeUniqueTokenSpec, "NodeUniqueTokens.omni.sidero.dev", DEFAULT_NAMESPACE;
}

/// Type of machines in limbo; its message is [`specs::SiderolinkSpec`], its id the machine's public key.
pub const PENDING_MACHINE_TYPE: &str = "PendingMachines.omni.sidero.dev";

macro_rules! private {
    ($($spec:ty, $name:literal;)+) => {
        $(impl PrivateSpec for $spec {
            const NAME: &'static str = $name;
        })+
    };
}

private! {
    private::BmcConfigurationSpec, "BMCConfiguration";
    private::MachineStatusSpec, "MachineStatus";
    private::PowerOperationSpec, "PowerOperation";
    private::RebootStatusSpec, "RebootStatus";
    private::TlsConfigSpec, "TLSConfig";
    private::WipeStatusSpec, "WipeStatus";
    private::InventorySpec, "Inventory";
}
