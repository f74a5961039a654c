//! Boot scripts, files and images over HTTP.
//!
//! | path | answer |
//! |---|---|
//! | `/ipxe/init.ipxe` | the first script |
//! | `/ipxe/boot.ipxe?uuid&mac&…` | what this machine boots, as the policy says |
//! | `/tftp/<name>` | the files of TFTP |
//! | `/config?u=<uuid>` | the configuration to join with, or a refusal |
//! | `/assets/<path>`, `/image/<schematic>/<version>/<file>` | files of the asset directory, images of the cache |
//!
//! GET and HEAD only; files can be read by ranges. A path that means anything but a plain name is not found.
//!
//! One decision (`answer`), two ways to it: HTTP/1 is read by a front of ours, which has the kernel move the
//! bodies of files; HTTP/2 and whatever is unusual is read by hyper and routed by axum, other services with it.

mod answer;
mod body;
mod files;
mod front;
mod head;
mod listen;
mod path;
mod range;
mod script;
mod server;
mod tls;
mod wire;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use netboot::boot::BootPolicy;
use netboot::journal::Sink;
use netboot_assets::{AssetDir, BootFiles};
use rustls::server::ResolvesServerCert;

use answer::{Boot, PATHS};
pub use listen::listen;
pub use server::{DRAIN, FIRST_REQUEST, MAX_CONNECTIONS, serve};
use tls::Tls;

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

/// The boot path, and what else is served on its port.
#[derive(Clone)]
pub struct Service {
    boot: Option<Arc<Boot>>,
    router: Router,
    tls: Option<Tls>,
}

impl Service {
    /// The boot path.
    #[must_use]
    pub fn new(config: HttpConfig) -> Self {
        let boot = Arc::new(Boot::new(config));
        let mut router = Router::new();
        for path in PATHS {
            router = router.route(path, get(files::handle));
        }
        Self { router: router.with_state(boot.clone()), boot: Some(boot), tls: None }
    }

    /// The same with other services, whose paths must be others.
    #[must_use]
    pub fn merge(mut self, other: Router) -> Self {
        self.router = self.router.merge(other);
        self
    }

    /// Services over TLS 1.3 and HTTP/2, with whatever certificate there is when a client comes.
    #[must_use]
    pub fn encrypted(router: Router, certificate: Arc<dyn ResolvesServerCert>) -> Self {
        Self { boot: None, router, tls: Some(Tls::new(certificate)) }
    }
}

impl From<Router> for Service {
    fn from(router: Router) -> Self {
        Self { boot: None, router, tls: None }
    }
}

/// The routes of the boot path alone, as hyper reaches them.
pub fn router(config: HttpConfig) -> Router {
    Service::new(config).router
}

type Peer = ConnectInfo<std::net::SocketAddr>;

/// The client's address; IPv4 as such, also on a socket that takes both.
fn address(ConnectInfo(peer): Peer) -> IpAddr {
    peer.ip().to_canonical()
}

/// For [`crate::fuzz`]: what a front does with bytes that come in two parts.
pub(crate) fn fuzz(bytes: &[u8], at: usize) {
    let mut searched = 0;
    if head::read(&bytes[..at], &mut searched) == head::Head::Partial
        && let head::Head::Request(request) = head::read(bytes, &mut searched)
    {
        let _ = path::plain(request.path, "/tftp/");
        let _ = range::wanted(request.range, 1_000);
        assert!(request.length <= bytes.len(), "a head lies in its bytes");
    }
}

#[cfg(test)]
mod tests;
