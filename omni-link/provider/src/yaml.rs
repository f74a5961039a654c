//! How the values of the messages are written out for people.

use prost_types::Timestamp;
use serde::{Serialize, Serializer};

/// An enum of the wire with the names that the proto files give its values.
pub(crate) trait Named: TryFrom<i32> {
    /// The name in the proto file.
    fn proto_name(&self) -> &'static str;
}

macro_rules! named {
    ($($path:path),+ $(,)?) => {
        $(impl Named for $path {
            fn proto_name(&self) -> &'static str {
                self.as_str_name()
            }
        })+
    };
}

named!(
    crate::specs::infra_machine_config_spec::AcceptanceStatus,
    crate::specs::infra_machine_config_spec::MachinePowerState,
    crate::specs::infra_machine_spec::MachinePowerState,
    crate::specs::infra_machine_status_spec::MachinePowerState,
    crate::specs::machine_request_status_spec::Stage,
    crate::specs::machine_status_spec::Role,
    crate::specs::public_key_spec::Type,
    crate::specs::resource_definition_spec::Sensitivity,
    crate::specs::GrpcTunnelMode,
    crate::private::PowerState,
);

/// RFC 3339, or nothing.
pub(crate) fn timestamp<S: Serializer>(value: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(serializer)
}

/// The value's name; a number that we do not know stays a number.
pub(crate) fn name<S: Serializer, E: Named>(value: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    match E::try_from(*value) {
        Ok(known) => serializer.serialize_str(known.proto_name()),
        Err(_) => serializer.serialize_i32(*value),
    }
}
