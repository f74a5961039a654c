//! The kinds of resources in the view, and the differences between two sights of a machine.

use cosi::{Kind, Metadata, Phase, Resource, Version};
use prost::Message;
use provider::private::{
    BmcConfigurationSpec, InventorySpec, PowerOperationSpec, RebootStatusSpec, WipeStatusSpec,
};
use provider::resources::{self as names, PrivateSpec, ResourceSpec};
use provider::specs::{InfraMachineSpec, InfraMachineStatusSpec, ProviderJoinConfigSpec};

use crate::happening::Happening;

/// A resource with its spec read.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<T> {
    /// The metadata as stored.
    pub metadata: Metadata,
    /// The spec.
    pub spec: T,
}

/// What is known of one machine; each part has one resource of the machine's id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Machine {
    /// What Omni wants.
    pub infra: Option<Entry<InfraMachineSpec>>,
    /// What we told Omni.
    pub status: Option<Entry<InfraMachineStatusSpec>>,
    /// How to switch it.
    pub bmc: Option<Entry<BmcConfigurationSpec>>,
    /// Which wipe was done last.
    pub wipe: Option<Entry<WipeStatusSpec>>,
    /// Which power operation was done last.
    pub power: Option<Entry<PowerOperationSpec>>,
    /// Which reboot was done last.
    pub reboot: Option<Entry<RebootStatusSpec>>,
    /// What hardware its agent found.
    pub inventory: Option<Entry<InventorySpec>>,
}

/// A kind of resource in the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `InfraMachines`
    Infra,
    /// `InfraMachineStatuses`
    Status,
    /// `BMCConfiguration`, private
    Bmc,
    /// `WipeStatus`, private
    Wipe,
    /// `PowerOperation`, private
    Power,
    /// `RebootStatus`, private
    Reboot,
    /// `Inventory`, private
    Inventory,
    /// `ProviderJoinConfigs`
    JoinConfig,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Infra,
        Self::Status,
        Self::Bmc,
        Self::Wipe,
        Self::Power,
        Self::Reboot,
        Self::Inventory,
        Self::JoinConfig,
    ];

    /// Namespace and type.
    pub fn kind(self, provider_id: &str) -> Kind {
        fn shared<T: ResourceSpec>() -> Kind {
            Kind::new(T::NAMESPACE, T::TYPE)
        }
        fn private<T: PrivateSpec>(provider_id: &str) -> Kind {
            Kind::new(names::private_namespace(provider_id), T::resource_type(provider_id))
        }
        match self {
            Self::Infra => shared::<InfraMachineSpec>(),
            Self::Status => shared::<InfraMachineStatusSpec>(),
            Self::JoinConfig => shared::<ProviderJoinConfigSpec>(),
            Self::Bmc => private::<BmcConfigurationSpec>(provider_id),
            Self::Wipe => private::<WipeStatusSpec>(provider_id),
            Self::Power => private::<PowerOperationSpec>(provider_id),
            Self::Reboot => private::<RebootStatusSpec>(provider_id),
            Self::Inventory => private::<InventorySpec>(provider_id),
        }
    }

    /// The owner that a resource of this kind is created with: the peer's, so that one can take over from
    /// the other.
    pub fn owner(self, provider_id: &str) -> String {
        let controller = match self {
            Self::Infra => return names::INFRA_MACHINE_OWNER.to_owned(),
            Self::JoinConfig => return names::PROVIDER_JOIN_CONFIG_OWNER.to_owned(),
            Self::Status => "InfraMachineStatus",
            Self::Bmc => "BMCConfiguration",
            Self::Wipe => "WipeStatus",
            Self::Power => "PowerOperation",
            Self::Reboot => "RebootStatus",
            Self::Inventory => "Inventory",
        };
        format!("{provider_id}.{controller}Controller")
    }
}

impl Machine {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the part is there.
    pub fn has(&self, part: Part) -> bool {
        self.metadata(part).is_some()
    }

    /// The stored metadata of a part.
    pub fn metadata(&self, part: Part) -> Option<&Metadata> {
        match part {
            Part::Infra => self.infra.as_ref().map(|entry| &entry.metadata),
            Part::Status => self.status.as_ref().map(|entry| &entry.metadata),
            Part::Bmc => self.bmc.as_ref().map(|entry| &entry.metadata),
            Part::Wipe => self.wipe.as_ref().map(|entry| &entry.metadata),
            Part::Power => self.power.as_ref().map(|entry| &entry.metadata),
            Part::Reboot => self.reboot.as_ref().map(|entry| &entry.metadata),
            Part::Inventory => self.inventory.as_ref().map(|entry| &entry.metadata),
            Part::JoinConfig => None,
        }
    }

    /// Replaces a part. `Ok(false)` when that changes nothing or the resource is older than what is known
    /// (the watch brings an own write a second time).
    pub fn set(&mut self, part: Part, resource: Option<&Resource>) -> Result<bool, prost::DecodeError> {
        match part {
            Part::Infra => replace(&mut self.infra, resource),
            Part::Status => replace(&mut self.status, resource),
            Part::Bmc => replace(&mut self.bmc, resource),
            Part::Wipe => replace(&mut self.wipe, resource),
            Part::Power => replace(&mut self.power, resource),
            Part::Reboot => replace(&mut self.reboot, resource),
            Part::Inventory => replace(&mut self.inventory, resource),
            Part::JoinConfig => Ok(false),
        }
    }
}

fn replace<T: Message + Default + PartialEq>(
    entry: &mut Option<Entry<T>>,
    resource: Option<&Resource>,
) -> Result<bool, prost::DecodeError> {
    let Some(resource) = resource else {
        return Ok(entry.take().is_some());
    };
    if let Some(known) = entry
        && is_older_or_same(&resource.metadata, &known.metadata)
    {
        return Ok(false);
    }
    let spec = T::decode(resource.spec.proto.clone())?;
    *entry = Some(Entry { metadata: resource.metadata.clone(), spec });
    Ok(true)
}

/// A destroyed and recreated resource starts at version 1 again: its creation time tells.
fn is_older_or_same(new: &Metadata, known: &Metadata) -> bool {
    match (&new.version, &known.version) {
        (Version::Number(new_version), Version::Number(known_version)) => {
            new.created == known.created && new_version <= known_version
        }
        _ => false,
    }
}

/// The join documents of a `ProviderJoinConfig`.
pub(super) fn join_config(resource: &Resource) -> Option<String> {
    match ProviderJoinConfigSpec::decode(resource.spec.proto.clone()) {
        Ok(spec) => spec.config.map(|config| config.config).filter(|text| !text.is_empty()),
        Err(error) => {
            tracing::warn!(%error, "passing over a join configuration that cannot be read");
            None
        }
    }
}

/// What happened between two sights of an `InfraMachine`.
pub(super) fn news(
    old: Option<&Entry<InfraMachineSpec>>,
    new: Option<&Entry<InfraMachineSpec>>,
) -> Vec<Happening> {
    use provider::specs::infra_machine_config_spec::AcceptanceStatus;
    let Some(new) = new else {
        return old.map(|_| Happening::Removed).into_iter().collect();
    };
    let mut news = Vec::new();
    let before = old.map(|entry| &entry.spec);
    if before.map(InfraMachineSpec::acceptance_status) != Some(new.spec.acceptance_status())
        && new.metadata.phase == Phase::Running
    {
        news.push(match new.spec.acceptance_status() {
            AcceptanceStatus::Pending => Happening::Pending,
            AcceptanceStatus::Accepted => Happening::Accepted,
            AcceptanceStatus::Rejected => Happening::Rejected,
        });
    }
    let version = before.map_or("", |spec| spec.cluster_talos_version.as_str());
    if version != new.spec.cluster_talos_version {
        news.push(if new.spec.cluster_talos_version.is_empty() {
            Happening::Released
        } else {
            Happening::Allocated {
                cluster: new.metadata.labels.get(names::LABEL_CLUSTER).cloned().unwrap_or_default(),
                talos_version: new.spec.cluster_talos_version.clone(),
            }
        });
    }
    if before.is_some_and(|spec| spec.install_event_id < new.spec.install_event_id) {
        news.push(Happening::Installed);
    }
    news
}
