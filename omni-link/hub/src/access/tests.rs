//! Every row of the table.

use omni_auth::INFRA_PROVIDER_SUFFIX;

use super::*;

const READS: [Verb; 3] = [Verb::Get, Verb::List, Verb::Watch];
const WRITES: [Verb; 4] = [Verb::Create, Verb::Update, Verb::Destroy, Verb::Teardown];

fn provider() -> Identity {
    Identity { id: format!("metal{INFRA_PROVIDER_SUFFIX}"), role: Role::InfraProvider }
}

fn with(role: Role) -> Identity {
    Identity { id: "somebody@serviceaccount.omni.sidero.dev".to_owned(), role }
}

/// How a row of the table reads: for reads, create, update, destroy, teardown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum May {
    All,
    Private,
    Own,
    Finalizers,
    Denied,
    Invalid,
}

fn may(identity: &Identity, verb: Verb, namespace: &str, typ: &str, id: &str) -> May {
    match access(identity, verb, &Kind::new(namespace, typ), Some(id)) {
        Ok(Grant::All) => May::All,
        Ok(Grant::Private { provider }) => {
            assert_eq!(provider, "metal");
            May::Private
        }
        Ok(Grant::Own { provider, write }) => {
            assert_eq!(provider, "metal");
            match write {
                Write::All => May::Own,
                Write::Finalizers => May::Finalizers,
            }
        }
        Err(StateError::PermissionDenied(_)) => May::Denied,
        Err(StateError::InvalidArgument(_)) => May::Invalid,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_provider_may_do_what_omni_lets_it() {
    use May::{All, Denied, Finalizers, Invalid, Own, Private};
    let shared = "infra-provider";
    let ephemeral = "infra-provider-ephemeral";
    let private = "infra-provider:metal";
    // Namespace, type, id; reads, create, update, destroy and teardown.
    let table = [
        (shared, "InfraProviderStatuses.omni.sidero.dev", "metal", [Own, Own, Own, Own]),
        (shared, "InfraProviderStatuses.omni.sidero.dev", "other", [Own, Invalid, Own, Own]),
        (shared, "InfraProviders.omni.sidero.dev", "metal", [Own, Own, Own, Own]),
        (shared, "InfraProviders.omni.sidero.dev", "other", [Own, Invalid, Own, Own]),
        (ephemeral, "InfraProviderHealthStatuses.omni.sidero.dev", "metal", [Own, Own, Own, Own]),
        (ephemeral, "InfraProviderHealthStatuses.omni.sidero.dev", "other", [Own, Invalid, Own, Own]),
        (shared, "MachineRequestStatuses.omni.sidero.dev", "any", [Own, Own, Own, Own]),
        (shared, "InfraMachineStatuses.omni.sidero.dev", "any", [Own, Own, Own, Own]),
        (shared, "ConfigPatchRequests.omni.sidero.dev", "any", [Own, Own, Own, Own]),
        (shared, "InfraMachines.omni.sidero.dev", "any", [Finalizers, Denied, Finalizers, Finalizers]),
        (shared, "MachineRequests.omni.sidero.dev", "any", [Finalizers, Denied, Finalizers, Finalizers]),
        (
            shared,
            "InfraMachineRegistrations.omni.sidero.dev",
            "any",
            [Finalizers, Denied, Finalizers, Finalizers],
        ),
        (
            shared,
            "ProviderJoinConfigs.omni.sidero.dev",
            "metal",
            [Finalizers, Denied, Finalizers, Finalizers],
        ),
        (shared, "BMCConfigs.omni.sidero.dev", "any", [Finalizers, Denied, Finalizers, Finalizers]),
        ("default", "InfraMachines.omni.sidero.dev", "any", [Denied; 4]),
        ("default", "InfraMachineStatuses.omni.sidero.dev", "any", [Denied; 4]),
        (shared, "Anythings.omni.sidero.dev", "any", [Denied; 4]),
        (private, "WipeStatus.metal.infraprovider.sidero.dev", "any", [Private; 4]),
        (private, "Lease.metal.infraprovider.sidero.dev", "any", [Private; 4]),
        (private, "WipeStatus.other.infraprovider.sidero.dev", "any", [Invalid; 4]),
        (private, ".metal.infraprovider.sidero.dev", "any", [Invalid; 4]),
        (private, "InfraMachines.omni.sidero.dev", "any", [Invalid; 4]),
        ("infra-provider:other", "WipeStatus.other.infraprovider.sidero.dev", "any", [Denied; 4]),
        ("infra-provider:other", "WipeStatus.metal.infraprovider.sidero.dev", "any", [Denied; 4]),
        ("default", "Machines.omni.sidero.dev", "any", [All, Denied, Denied, Denied]),
        ("default", "SiderolinkAPIConfigs.omni.sidero.dev", "any", [All, Denied, Denied, Denied]),
        ("default", "ConnectionParams.omni.sidero.dev", "any", [All, Denied, Denied, Denied]),
        ("default", "FeaturesConfigs.omni.sidero.dev", "any", [All, Denied, Denied, Denied]),
        ("default", "TalosVersions.omni.sidero.dev", "any", [All, Denied, Denied, Denied]),
        ("default", "KubernetesVersions.omni.sidero.dev", "any", [All, Denied, Denied, Denied]),
        ("default", "TalosExtensions.omni.sidero.dev", "any", [All, Denied, Denied, Denied]),
        ("default", "InstallationMedias.omni.sidero.dev", "any", [All, Denied, Denied, Denied]),
        ("meta", "ResourceDefinitions.meta.cosi.dev", "any", [All, Denied, Denied, Denied]),
        ("ephemeral", "SysVersions.system.sidero.dev", "current", [All, Denied, Denied, Denied]),
        ("default", "Links.omni.sidero.dev", "any", [Denied; 4]),
        ("default", "MachineStatuses.omni.sidero.dev", "any", [Denied; 4]),
        ("default", "Clusters.omni.sidero.dev", "any", [Denied; 4]),
        ("default", "InfraMachineConfigs.omni.sidero.dev", "any", [Denied; 4]),
        ("ephemeral", "PendingMachines.omni.sidero.dev", "any", [Denied; 4]),
        ("default", "NodeUniqueTokens.omni.sidero.dev", "any", [Denied; 4]),
        ("default", "PublicKeys.omni.sidero.dev", "any", [Denied; 4]),
        ("default", "Identities.omni.sidero.dev", "any", [Denied; 4]),
        ("default", "Users.omni.sidero.dev", "any", [Denied; 4]),
        ("default", "Configs.omni.sidero.dev", "any", [Denied; 4]),
        ("default", "InfraMachineBMCConfigs.omni.sidero.dev", "any", [Denied; 4]),
        ("default", "MachineRequestSets.omni.sidero.dev", "any", [Denied; 4]),
        ("anywhere", "os/path", "any", [Denied; 4]),
    ];
    for (namespace, typ, id, [read, create, update, destroy]) in table {
        let may = |verb| may(&provider(), verb, namespace, typ, id);
        for verb in READS {
            assert_eq!(may(verb), read, "{verb:?} {typ} in {namespace}");
        }
        assert_eq!(may(Verb::Create), create, "create {typ} {id} in {namespace}");
        assert_eq!(may(Verb::Update), update, "update {typ} in {namespace}");
        assert_eq!(may(Verb::Destroy), destroy, "destroy {typ} in {namespace}");
        assert_eq!(may(Verb::Teardown), destroy, "tear down {typ} in {namespace}");
    }
}

#[test]
fn users_read_all_but_secrets_and_operators_write_what_users_write() {
    use May::{All, Denied};
    // Namespace, type; a reader's read, an operator's create, update, destroy.
    let table = [
        ("default", "Clusters.omni.sidero.dev", All, [All, All, All]),
        ("default", "InfraMachineConfigs.omni.sidero.dev", All, [All, All, All]),
        ("default", "MachineRequestSets.omni.sidero.dev", All, [All, All, All]),
        ("default", "Links.omni.sidero.dev", All, [Denied, Denied, All]),
        ("ephemeral", "PendingMachines.omni.sidero.dev", All, [Denied, Denied, All]),
        ("default", "SiderolinkAPIConfigs.omni.sidero.dev", All, [Denied; 3]),
        ("ephemeral", "InfraProviderCombinedStatuses.omni.sidero.dev", All, [Denied; 3]),
        ("infra-provider", "InfraMachines.omni.sidero.dev", All, [Denied; 3]),
        ("infra-provider", "InfraMachineStatuses.omni.sidero.dev", All, [Denied; 3]),
        ("infra-provider", "InfraProviders.omni.sidero.dev", All, [Denied; 3]),
        ("infra-provider", "MachineRequests.omni.sidero.dev", All, [All, All, All]),
        ("infra-provider", "BMCConfigs.omni.sidero.dev", Denied, [Denied; 3]),
        ("infra-provider:metal", "BMCConfiguration.metal.infraprovider.sidero.dev", Denied, [Denied; 3]),
        ("default", "PublicKeys.omni.sidero.dev", Denied, [Denied; 3]),
        ("default", "Configs.omni.sidero.dev", Denied, [Denied; 3]),
        ("default", "NodeUniqueTokens.omni.sidero.dev", Denied, [Denied; 3]),
        ("anywhere", "os/path", Denied, [Denied; 3]),
    ];
    for (namespace, typ, read, operator) in table {
        for verb in READS {
            assert_eq!(may(&with(Role::Reader), verb, namespace, typ, "x"), read, "{verb:?} {typ}");
            assert_eq!(may(&with(Role::Operator), verb, namespace, typ, "x"), read, "{verb:?} {typ}");
        }
        for verb in WRITES {
            assert_eq!(may(&with(Role::Reader), verb, namespace, typ, "x"), Denied, "{verb:?} {typ}");
        }
        for (verb, wanted) in [Verb::Create, Verb::Update, Verb::Destroy].into_iter().zip(operator) {
            assert_eq!(may(&with(Role::Operator), verb, namespace, typ, "x"), wanted, "{verb:?} {typ}");
        }
    }
}

#[test]
fn an_admin_may_do_everything_and_nobody_nothing() {
    for verb in READS.into_iter().chain(WRITES) {
        for typ in ["PublicKeys.omni.sidero.dev", "InfraMachines.omni.sidero.dev", "os/path"] {
            assert_eq!(may(&with(Role::Admin), verb, "default", typ, "x"), May::All);
            assert_eq!(may(&with(Role::None), verb, "default", typ, "x"), May::Denied);
        }
    }
}

#[test]
fn the_role_of_a_provider_without_the_name_of_one_is_worth_nothing() {
    for verb in READS.into_iter().chain(WRITES) {
        let identity = with(Role::InfraProvider);
        assert_eq!(may(&identity, verb, "infra-provider", "InfraMachines.omni.sidero.dev", "x"), May::Denied);
    }
}
