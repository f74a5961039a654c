//! The hub as a whole: on a real store, called over real gRPC.

mod crash;
mod flow;
mod joining;
mod mortal;
mod site;
