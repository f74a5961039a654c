//! What users may ask of providers that make machines.

use cosi::{Resource, StateError};
use provider::resources::LABEL_IS_STATIC_INFRA_PROVIDER;
use provider::specs::{InfraProviderStatusSpec, MachineClassSpec, MachineRequestSetSpec, MachineRequestSpec};

use super::{readable, text, version_like};
use crate::limits::{MAX_KERNEL_ARG, MAX_KERNEL_ARGS, MAX_PROVIDER_DATA};
use crate::schema::{self, SchemaError};
use crate::store::Store;

fn invalid<T>(text: impl Into<String>) -> Result<T, StateError> {
    Err(StateError::InvalidArgument(text.into()))
}

/// A set of requests: of a provider that makes machines, and as it wants to be asked.
pub(super) async fn check_set(store: &Store, new: &Resource) -> Result<(), StateError> {
    let spec: MachineRequestSetSpec = readable(new)?;
    if spec.provider_id.is_empty() {
        return invalid("provider id can not be empty");
    }
    let old = store.find::<MachineRequestSetSpec>(new.id()).await?.map(|old| old.spec);
    // A provider that changed its schema does not make stored sets unchangeable.
    if old.is_none_or(|old| {
        (old.provider_id, old.provider_data) != (spec.provider_id.clone(), spec.provider_data.clone())
    }) {
        check_data(store, &spec.provider_id, &spec.provider_data).await?;
    }
    kernel_args(&spec.kernel_args)?;
    talos_version(&spec.talos_version)
}

/// A machine class that has its machines made.
pub(super) async fn check_class(store: &Store, new: &Resource) -> Result<(), StateError> {
    let spec: MachineClassSpec = readable(new)?;
    let Some(made) = spec.auto_provision else {
        return if spec.match_labels.is_empty() {
            invalid("machine class should either have auto provision or match labels set")
        } else {
            Ok(())
        };
    };
    if !spec.match_labels.is_empty() {
        return invalid("can't set both auto provision and match labels at the same time");
    }
    if made.provider_id.is_empty() {
        return invalid("provider id can not be empty");
    }
    let old = store.find::<MachineClassSpec>(new.id()).await?.and_then(|old| old.spec.auto_provision);
    if old
        .is_none_or(|old| (&old.provider_id, &old.provider_data) != (&made.provider_id, &made.provider_data))
    {
        check_data(store, &made.provider_id, &made.provider_data).await?;
    }
    kernel_args(&made.kernel_args)
}

/// A single request: it says what it says for as long as it lives.
pub(super) async fn check_request(store: &Store, new: &Resource) -> Result<(), StateError> {
    let spec: MachineRequestSpec = readable(new)?;
    match store.find::<MachineRequestSpec>(new.id()).await? {
        Some(old) if old.spec != spec => invalid("machine request spec is immutable"),
        Some(_) => Ok(()),
        None => talos_version(&spec.talos_version),
    }
}

/// The provider's data by the provider's schema.
async fn check_data(store: &Store, provider: &str, data: &str) -> Result<(), StateError> {
    let Some(status) = store.find::<InfraProviderStatusSpec>(provider).await? else {
        return invalid(format!("infra provider {provider:?} has not registered yet"));
    };
    if status.label(LABEL_IS_STATIC_INFRA_PROVIDER).is_some() {
        return invalid(format!("infra provider {provider:?} is static: it makes no machines"));
    }
    if data.len() > MAX_PROVIDER_DATA {
        return invalid(format!("provider data is larger than {MAX_PROVIDER_DATA} bytes"));
    }
    if status.spec.schema.is_empty() {
        return Ok(());
    }
    schema::check(&status.spec.schema, data).map_err(|error| {
        StateError::InvalidArgument(match error {
            SchemaError::Schema(_) | SchemaError::TooMuch => {
                format!("the schema of infra provider {provider:?} is not usable: {error}")
            }
            SchemaError::Data(_) => format!("provider data of infra provider {provider:?}: {error}"),
            SchemaError::Violated(_) => error.to_string(),
        })
    })
}

fn talos_version(version: &str) -> Result<(), StateError> {
    if version_like(version) {
        Ok(())
    } else {
        invalid(format!("invalid talos version format: {version:?}; write one like 1.13.7"))
    }
}

fn kernel_args(args: &[String]) -> Result<(), StateError> {
    if args.len() > MAX_KERNEL_ARGS {
        return invalid(format!("kernel args has too many entries: {} (max {MAX_KERNEL_ARGS})", args.len()));
    }
    args.iter()
        .enumerate()
        .try_for_each(|(index, arg)| text(&format!("kernel args[{index}]"), arg, MAX_KERNEL_ARG))
}
