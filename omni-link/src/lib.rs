//! The link to Omni: everything the appliance does as an infrastructure provider.
//!
//! * [`view`]: a copy of every resource of ours, fed by watches. Decisions read it and never ask Omni.
//! * [`tunnels`]: the reverse tunnels that agents keep open, and who may open one.
//! * [`agents`]: calls to an agent, each with its limit.
//! * [`controller`]: one task a machine: look at the view, decide (crate `provider`), act, write down.
//!
//! The crate holds no state of its own: the view is rebuilt from Omni at every start, and what was done
//! to a machine is written to Omni before the next thing is done. It never wipes on a view that may be
//! stale. Its driver is the appliance; against the embedded hub it runs unchanged.

pub mod agents;
pub mod controller;
pub mod happening;
pub mod tunnels;
pub mod view;

pub use happening::{Happening, Observer};
