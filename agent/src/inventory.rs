//! What the machine is made of and how it is connected, in Talos' resource types, read-only through
//! `cosi.resource.State`.
//!
//! Everything comes from the kernel and the firmware ([`collect`]): nothing is guessed. It is read anew when it
//! is asked for, since disks and cables come and go; [`registry`] finds what changed, [`service`] serves it. The
//! appliance reads it through the reverse tunnel, Omni through the machine API.

pub mod collect;
mod definitions;
mod names;
pub mod registry;
pub mod rtnetlink;
pub mod service;
pub mod spec;

pub use service::Inventory;

use spec::{Kind, Shown, Spec};

/// A resource of the inventory.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Namespace.
    pub namespace: &'static str,
    /// Type.
    pub kind: &'static str,
    /// Id, unique within its type.
    pub id: String,
    /// The spec, encoded.
    pub spec: Vec<u8>,
    /// The spec as Talos shows it.
    pub shown: Shown,
}

impl Item {
    /// A resource of this spec's kind.
    pub fn new<S: Spec>(id: &str, spec: &S) -> Self {
        let (namespace, kind): Kind = S::KIND;
        Self { namespace, kind, id: id.to_owned(), spec: spec.encode_to_vec(), shown: spec.shown() }
    }
}

/// Where an inventory comes from: the machine, or a test.
pub trait Source: Send + Sync + 'static {
    /// All resources, as they are now.
    fn items(&self) -> Vec<Item>;

    /// Differs when it is known that something changed: what was read before is of no use then.
    fn generation(&self) -> u64 {
        0
    }
}

impl<F: Fn() -> Vec<Item> + Send + Sync + 'static> Source for F {
    fn items(&self) -> Vec<Item> {
        self()
    }
}
