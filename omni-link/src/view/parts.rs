//! The kinds of resources in the view, and the differences between two sights of a machine.

use std::sync::Arc;

use bytes::Bytes;
use cosi::{Kind, Metadata, Phase, Resource, Spec, Version};
use prost::Message;
use provider::private::{
    BmcConfigurationSpec, InventorySpec, PowerOperationSpec, RebootStatusSpec, WipeStatusSpec,
};
use provider::resources::{self as names, PrivateSpec, ResourceSpec};
use provider::specs::{BmcConfigSpec, InfraMachineSpec, InfraMachineStatusSpec, ProviderJoinConfigSpec};

use crate::happening::Happening;

/// A resource with its spec read.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<T> {
    /// The metadata as stored.
    pub metadata: Metadata,
    /// The spec.
    pub spec: T,
    /// The spec as stored: a newer Omni may say more than we can read.
    pub raw: Spec,
    /// It is what we want stored, and waits to be sent.
    pub pending: bool,
    /// The generation of the view that brought it.
    since: u64,
}

/// What is known of one machine; each part has one resource of the machine's id. A sight of a machine shares
/// the parts that did not change with the sight before.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Machine {
    /// What Omni wants.
    pub infra: Option<Arc<Entry<InfraMachineSpec>>>,
    /// What we told Omni.
    pub status: Option<Arc<Entry<InfraMachineStatusSpec>>>,
    /// How to switch it.
    pub bmc: Option<Arc<Entry<BmcConfigurationSpec>>>,
    /// Which wipe was done last.
    pub wipe: Option<Arc<Entry<WipeStatusSpec>>>,
    /// Which power operation was done last.
    pub power: Option<Arc<Entry<PowerOperationSpec>>>,
    /// Which reboot was done last.
    pub reboot: Option<Arc<Entry<RebootStatusSpec>>>,
    /// What hardware its agent found.
    pub inventory: Option<Arc<Entry<InventorySpec>>>,
    /// How to switch it, as a person typed it in.
    pub user_bmc: Option<Arc<Entry<BmcConfigSpec>>>,
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
    /// `BMCConfigs`, a person's
    UserBmc,
    /// `ProviderJoinConfigs`
    JoinConfig,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Infra,
        Self::Status,
        Self::Bmc,
        Self::Wipe,
        Self::Power,
        Self::Reboot,
        Self::Inventory,
        Self::UserBmc,
        Self::JoinConfig,
    ];

    /// What we write ourselves: destroyed in this order when the machine goes. The status is the first: it
    /// says what the records hold.
    pub const OURS: [Self; 6] =
        [Self::Status, Self::Bmc, Self::Wipe, Self::Power, Self::Reboot, Self::Inventory];

    /// Its name in files; never changes.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Infra => "infra",
            Self::Status => "status",
            Self::Bmc => "bmc",
            Self::Wipe => "wipe",
            Self::Power => "power",
            Self::Reboot => "reboot",
            Self::Inventory => "inventory",
            Self::UserBmc => "user-bmc",
            Self::JoinConfig => "join-config",
        }
    }

    pub(crate) fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }

    /// Records of acts: losing one repeats the act.
    pub(crate) fn is_record(self) -> bool {
        match self {
            Self::Bmc | Self::Wipe | Self::Power | Self::Reboot => true,
            Self::Infra | Self::Status | Self::Inventory | Self::UserBmc | Self::JoinConfig => false,
        }
    }

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
            Self::UserBmc => shared::<BmcConfigSpec>(),
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
            Self::UserBmc => return String::new(),
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

/// How a resource comes into the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// Omni told: counts unless what is known is newer, or waits to be sent.
    Seen,
    /// We want it so, and it waits to be sent.
    Wanted,
    /// It is so, whatever is known.
    Certain,
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
        self.look(part).map(|look| look.metadata)
    }

    /// A part as it is stored, or is to be stored.
    pub fn resource(&self, part: Part) -> Option<Resource> {
        self.look(part).map(|look| Resource { metadata: look.metadata.clone(), spec: look.raw.clone() })
    }

    /// Whether the part waits to be sent.
    pub(super) fn pending(&self, part: Part) -> bool {
        self.look(part).is_some_and(|look| look.pending)
    }

    /// Whether the part is known since before that generation.
    pub(super) fn before(&self, part: Part, generation: u64) -> bool {
        self.look(part).is_some_and(|look| look.since <= generation)
    }

    fn look(&self, part: Part) -> Option<Look<'_>> {
        match part {
            Part::Infra => self.infra.as_deref().map(Entry::look),
            Part::Status => self.status.as_deref().map(Entry::look),
            Part::Bmc => self.bmc.as_deref().map(Entry::look),
            Part::Wipe => self.wipe.as_deref().map(Entry::look),
            Part::Power => self.power.as_deref().map(Entry::look),
            Part::Reboot => self.reboot.as_deref().map(Entry::look),
            Part::Inventory => self.inventory.as_deref().map(Entry::look),
            Part::UserBmc => self.user_bmc.as_deref().map(Entry::look),
            Part::JoinConfig => None,
        }
    }

    /// Replaces a part at that generation. `Ok(false)` when that changes nothing or the resource is older
    /// than what is known (the watch brings an own write a second time).
    pub(super) fn set(
        &mut self,
        part: Part,
        resource: Option<&Resource>,
        how: How,
        generation: u64,
    ) -> Result<bool, prost::DecodeError> {
        match part {
            Part::Infra => replace(&mut self.infra, resource, how, generation),
            Part::Status => replace(&mut self.status, resource, how, generation),
            Part::Bmc => replace(&mut self.bmc, resource, how, generation),
            Part::Wipe => replace(&mut self.wipe, resource, how, generation),
            Part::Power => replace(&mut self.power, resource, how, generation),
            Part::Reboot => replace(&mut self.reboot, resource, how, generation),
            Part::Inventory => replace(&mut self.inventory, resource, how, generation),
            Part::UserBmc => replace(&mut self.user_bmc, resource, how, generation),
            Part::JoinConfig => Ok(false),
        }
    }
}

/// A part without its type.
struct Look<'a> {
    metadata: &'a Metadata,
    raw: &'a Spec,
    pending: bool,
    since: u64,
}

impl<T> Entry<T> {
    fn look(&self) -> Look<'_> {
        Look { metadata: &self.metadata, raw: &self.raw, pending: self.pending, since: self.since }
    }
}

fn replace<T: Message + Default + PartialEq>(
    entry: &mut Option<Arc<Entry<T>>>,
    resource: Option<&Resource>,
    how: How,
    generation: u64,
) -> Result<bool, prost::DecodeError> {
    let Some(resource) = resource else {
        return Ok(entry.take().is_some());
    };
    if let Some(known) = entry
        && how == How::Seen
        && is_older_or_same(&resource.metadata, &known.metadata)
    {
        return Ok(false);
    }
    let spec = T::decode(resource.spec.proto.clone())?;
    // The bytes may be a part of a message of megabytes, which they would keep alive. The text is for people.
    let raw = Spec { proto: Bytes::copy_from_slice(&resource.spec.proto), yaml: String::new() };
    let metadata = resource.metadata.clone();
    let pending = how == How::Wanted;
    *entry = Some(Arc::new(Entry { metadata, spec, raw, pending, since: generation }));
    Ok(true)
}

/// A destroyed and recreated resource starts at version 1 again: its creation time tells.
pub(super) fn is_older_or_same(new: &Metadata, known: &Metadata) -> bool {
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
