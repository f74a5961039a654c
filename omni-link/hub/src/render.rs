//! The YAML of specs, which the server makes: clients send protobuf and may leave it out.

use cosi::{Resource, StateError};
use prost::Message;
use provider::resources::{PENDING_MACHINE_TYPE, PRIVATE_NAMESPACE_PREFIX, ResourceSpec};
use provider::specs;
use serde::Serialize;

/// Fills in the YAML of a resource whose type is known; what is not known stays as it was sent.
///
/// # Errors
/// The spec of a known type is not its message.
pub(crate) fn fill(resource: &mut Resource) -> Result<(), StateError> {
    if resource.metadata.namespace.starts_with(PRIVATE_NAMESPACE_PREFIX) {
        return Ok(());
    }
    let Some(rendered) = known(&resource.metadata.typ, &resource.spec.proto) else { return Ok(()) };
    let rendered = rendered.map_err(|error| {
        StateError::InvalidArgument(format!("spec of {} cannot be read: {error}", resource.pointer()))
    })?;
    if !partial(&resource.metadata.typ) || resource.spec.yaml.is_empty() {
        resource.spec.yaml = rendered;
    }
    Ok(())
}

/// Types that have fields which only users care for: our rendering would leave them out.
fn partial(typ: &str) -> bool {
    [specs::ClusterSpec::TYPE, specs::FeaturesConfigSpec::TYPE, specs::MachineSetNodeSpec::TYPE]
        .contains(&typ)
}

type Rendered = Result<String, prost::DecodeError>;

fn render<T: ResourceSpec + Serialize>(proto: &[u8]) -> Rendered {
    Ok(yaml(&<T as Message>::decode(proto)?))
}

/// As Go writes it: an empty message is `{}`.
pub(crate) fn yaml<T: Serialize>(spec: &T) -> String {
    serde_yaml_ng::to_string(spec).unwrap_or_default()
}

macro_rules! known {
    ($($spec:ident),+ $(,)?) => {
        fn known(typ: &str, proto: &[u8]) -> Option<Rendered> {
            $(if typ == specs::$spec::TYPE {
                return Some(render::<specs::$spec>(proto));
            })+
            if typ == PENDING_MACHINE_TYPE {
                return Some(render::<specs::SiderolinkSpec>(proto));
            }
            None
        }
    };
}

known! {
    BmcConfigSpec,
    ClusterSpec,
    ConnectionParamsSpec,
    FeaturesConfigSpec,
    IdentitySpec,
    InfraMachineBmcConfigSpec,
    InfraMachineConfigSpec,
    InfraMachineSpec,
    InfraMachineStatusSpec,
    InfraProviderCombinedStatusSpec,
    InfraProviderHealthStatusSpec,
    InfraProviderSpec,
    InfraProviderStatusSpec,
    MachineClassSpec,
    MachineRegistrationSpec,
    MachineRequestSetSpec,
    MachineRequestSetStatusSpec,
    MachineRequestSpec,
    MachineRequestStatusSpec,
    MachineSetNodeSpec,
    MachineStatusSpec,
    NodeUniqueTokenSpec,
    PendingMachineStatusSpec,
    ProviderJoinConfigSpec,
    PublicKeySpec,
    SiderolinkApiConfigSpec,
    SiderolinkConfigSpec,
    SiderolinkSpec,
    SysVersionSpec,
    UserSpec,
}

#[cfg(test)]
mod tests;
