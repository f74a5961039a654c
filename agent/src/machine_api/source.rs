//! The inventory with what META adds to it.

use std::sync::Arc;

use agent_wire::inventory::{PLATFORM_METADATA, SYSTEM_INFORMATION};
use agent_wire::talos::hardware::SystemInformationSpec;
use agent_wire::talos::runtime::{MetaKeySpec, PlatformMetadataSpec, UniqueMachineTokenSpec};

use crate::inventory::spec::Spec;
use crate::inventory::{Item, Source};
use crate::meta::{Meta, UNIQUE_MACHINE_TOKEN};

/// The machine, and its META.
#[derive(Debug)]
pub(super) struct WithMeta<S> {
    pub(super) machine: Arc<S>,
    pub(super) meta: Meta,
}

impl<S: Source> Source for WithMeta<S> {
    fn items(&self) -> Vec<Item> {
        let entries = self.meta.entries();
        let mut items = self.machine.items();
        if let Some(uuid) = entries.uuid_override() {
            let uuid = uuid.to_string();
            for item in &mut items {
                if (item.namespace, item.kind) == SYSTEM_INFORMATION {
                    change(item, |spec: &mut SystemInformationSpec| spec.uuid.clone_from(&uuid));
                } else if (item.namespace, item.kind) == PLATFORM_METADATA {
                    change(item, |spec: &mut PlatformMetadataSpec| spec.instance_id.clone_from(&uuid));
                }
            }
        }
        for (key, value) in &entries.values {
            let value = String::from_utf8_lossy(value).into_owned();
            if *key == UNIQUE_MACHINE_TOKEN {
                items.push(Item::new(
                    "unique-machine-token",
                    &UniqueMachineTokenSpec { token: value.clone() },
                ));
            }
            items.push(Item::new(&format!("{key:#04x}"), &MetaKeySpec { value }));
        }
        items
    }

    fn generation(&self) -> u64 {
        self.machine.generation().wrapping_add(self.meta.entries().generation)
    }
}

fn change<T: Spec + Default>(item: &mut Item, change: impl FnOnce(&mut T)) {
    if let Ok(mut spec) = T::decode(&item.spec[..]) {
        change(&mut spec);
        *item = Item::new(&item.id, &spec);
    }
}

#[cfg(test)]
mod tests {
    use agent_wire::inventory::{META_KEYS, UNIQUE_TOKEN};

    use super::*;
    use crate::meta::UUID_OVERRIDE;

    const NEW: &str = "11111111-2222-4333-8444-555555555555";

    #[test]
    fn an_overridden_uuid_is_the_machines_uuid() {
        let machine = || {
            let uuid = "4c4c4544-0031-3010-8034-c2c04f4e5131".to_owned();
            let system = SystemInformationSpec { uuid: uuid.clone(), ..Default::default() };
            let platform = PlatformMetadataSpec { instance_id: uuid, ..Default::default() };
            vec![Item::new("systeminformation", &system), Item::new("platformmetadata", &platform)]
        };
        let source = WithMeta { machine: Arc::new(machine), meta: Meta::default() };
        assert!(source.items().iter().all(|item| !item.shown.text().contains(NEW)));
        let before = source.generation();
        source.meta.write(UUID_OVERRIDE, NEW.as_bytes()).unwrap();
        assert_ne!(source.generation(), before);
        let items = source.items();
        assert_eq!(items.iter().filter(|item| item.shown.text().contains(NEW)).count(), 3);
        assert!(items.iter().any(|item| (item.kind, item.id.as_str()) == (META_KEYS.1, "0x0f")));
    }

    #[test]
    fn the_token_is_a_resource_of_its_own_too() {
        let source = WithMeta { machine: Arc::new(Vec::new), meta: Meta::default() };
        source.meta.write(UNIQUE_MACHINE_TOKEN, b"{}").unwrap();
        let kinds: Vec<_> = source.items().iter().map(|item| (item.namespace, item.kind)).collect();
        assert_eq!(kinds, [UNIQUE_TOKEN, META_KEYS]);
        source.meta.delete(UNIQUE_MACHINE_TOKEN);
        assert!(source.items().is_empty());
    }
}
