//! What every state must do, and what the embedded one must survive.
#![allow(clippy::unwrap_used, reason = "tests")]

mod conformance;
mod crash;
mod model;
mod service;
mod support;
