//! The link to Omni: everything the appliance does as an infrastructure provider.
//!
//! * [`endpoint`]: where Omni is, and the channel to it.
//! * [`provider`]: the provider's registration and its heartbeat.
//! * [`view`]: a copy of every resource of ours, fed by watches. Decisions read it and never ask Omni.
//! * [`outbox`]: our writes until Omni has them; [`disk`]: both over a restart without Omni.
//! * [`tunnels`]: the reverse tunnels that agents keep open, and who may open one.
//! * [`agents`]: calls to an agent, each with its limit.
//! * [`controller`]: one task a machine: look at the view, decide (crate `provider`), act, write down.
//!
//! Invariants: what was done to a machine is on the disk before it is told to Omni, and told before the next
//! thing is done. Nothing is wiped, switched off or rebooted on a view that may be stale, and Omni is asked
//! once more before it is. Boots go on without Omni. The crate's driver is the appliance; against the
//! embedded hub it runs unchanged.

pub mod agents;
pub mod backoff;
pub mod controller;
pub mod disk;
pub mod endpoint;
pub mod happening;
pub mod health;
pub mod outbox;
pub mod provider;
pub mod tunnels;
pub mod view;

pub use happening::{Happening, Observer};
