//! COSI resources: the envelope types, the [`State`] trait, and its three implementations.
//!
//! A resource is metadata that the store understands and a spec that it does not: opaque protobuf bytes.
//! Whoever holds a [`State`] cannot tell whether it is Omni, the hub in the same process or the local
//! cache:
//!
//! - [`embedded::EmbeddedState`]: one file (redb), durable, with watches;
//! - [`client::GrpcState`]: a `cosi.resource.State` service elsewhere;
//! - [`server::StateService`]: offers any [`State`] as that service.
//!
//! Invariants: an update is always a compare and swap on the version; an answered write is on the disk; a
//! watch either delivers every change in order or says that it cannot; a slow reader never holds a writer
//! up. The crate knows no resource type of Omni, no signature and no address: its users drive it.

mod error;
mod modify;
mod query;
mod resource;
mod state;
mod wire;

pub mod client;
pub mod database;
pub mod embedded;
pub mod server;

pub use error::StateError;
pub use modify::{
    Missing, ModifyOptions, add_finalizer, modify, modify_with, remove_finalizer, teardown_and_destroy,
};
pub use query::{LabelOp, LabelQuery, LabelTerm, ListOptions};
pub use resource::{
    Kind, Metadata, ParsePhaseError, ParseVersionError, Phase, Pointer, Resource, Spec, Version,
};
pub use state::{Event, EventStream, EventType, State, UpdateOptions, WatchOptions, WatchTarget};

/// Largest message that client and server take, the same as Omni's (32 MiB).
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;
