//! Boot scripts, files and images over HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/ipxe/init.ipxe` | the first script |
//! | `/ipxe/boot.ipxe?uuid&mac&…` | what this machine boots, as the policy says |
//! | `/tftp/<name>` | the files of TFTP |
//! | `/config?u=<uuid>` | the configuration to join with, or a refusal |
//! | `/assets/<path>`, `/image/<schematic>/<version>/<file>` | files of the asset directory |
//!
//! GET and HEAD only; files can be read by ranges. A path that means anything but a plain name is not found.

mod body;
mod files;
mod path;
mod range;
mod script;
mod server;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use bytes::Bytes;
use netboot::boot::BootPolicy;
use netboot::journal::Sink;
use netboot_assets::{AssetDir, BootFiles};

pub use server::{DRAIN, FIRST_REQUEST, MAX_CONNECTIONS, serve};

/// What the router answers from.
#[derive(Clone)]
pub struct HttpConfig {
    /// Decides what machines boot, and who gets the configuration.
    pub policy: Arc<dyn BootPolicy>,
    /// The files of TFTP.
    pub files: Arc<BootFiles>,
    /// Kernels and images.
    pub assets: AssetDir,
    /// The first script.
    pub init_script: String,
    /// Where what happened is told.
    pub sink: Sink,
}

/// What handlers share.
struct Shared {
    policy: Arc<dyn BootPolicy>,
    files: Arc<BootFiles>,
    assets: AssetDir,
    init_script: Bytes,
    sink: Sink,
}

/// The routes of the boot path. Other services can be merged into it; it has no fallback of its own.
pub fn router(config: HttpConfig) -> Router {
    let HttpConfig { policy, files, assets, init_script, sink } = config;
    let shared = Shared { policy, files, assets, init_script: init_script.into(), sink };
    Router::new()
        .route("/ipxe/init.ipxe", get(script::init))
        .route("/ipxe/boot.ipxe", get(script::boot))
        .route("/config", get(script::config))
        .route("/tftp/{*name}", get(files::boot_file))
        .route("/assets/{*path}", get(files::asset))
        .route("/image/{schematic}/{version}/{file}", get(files::asset))
        .with_state(Arc::new(shared))
}

type Peer = ConnectInfo<std::net::SocketAddr>;

/// The client's address; IPv4 as such, also on a socket that takes both.
fn address(ConnectInfo(peer): Peer) -> IpAddr {
    peer.ip().to_canonical()
}

#[cfg(test)]
mod tests;
