//! The hub as a whole: on a real store, called over real gRPC.

mod accounts;
mod api;
mod crash;
mod flow;
mod joining;
mod limbo;
mod management;
mod mortal;
mod providers;
mod requests;
mod site;
mod wireguard;
