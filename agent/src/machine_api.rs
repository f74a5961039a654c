//! The machine API of a machine in maintenance: what Omni asks a machine through the SideroLink tunnel.
//!
//! gRPC over TLS 1.3, as Talos' apid: [`agent_wire::machine`]'s Version, Hostname, MetaWrite and MetaDelete,
//! [`agent_wire::storage`]'s Disks, and the [inventory](crate::inventory) as COSI state. Docs:
//! `docs/decisions/007-machine-api.md`.
//!
//! Invariant: it changes nothing but [`Meta`], and listens nowhere by itself: [`serve`] takes connections from
//! whoever runs the tunnel, so only peers in the tunnel reach it. Every connection, stream, message and wait
//! has its limit in `connection` and here.

mod connection;
mod services;
mod source;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use agent_wire::certificate::{Certificate, Randomness, Validity};
use agent_wire::machine::machine_service_server::MachineServiceServer;
use agent_wire::storage::storage_service_server::StorageServiceServer;
use futures_util::{Stream, StreamExt};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{AbortHandle, JoinSet};
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use crate::inventory::registry::Registry;
use crate::inventory::{Inventory, Source};
use crate::meta::Meta;
use crate::{say, sys};
use connection::Shared;
use services::Services;
use source::WithMeta;

/// Where Talos' machine API listens.
pub const PORT: u16 = 50000;

/// Whose certificate it is. It is made anew at each start, so nobody verifies it: whom one talks to is settled by the
/// WireGuard tunnel that the API is reached through.
const NAME: &str = "bootlace-agent";
/// Connections at once. Omni keeps one open, and people few.
const MAX_CONNECTIONS: usize = 16;
/// Bytes of a message that writes to META: far more than a token or labels.
const MAX_META_MESSAGE: usize = 72 << 10;
/// Bytes of any other message: names of resources.
const MAX_MESSAGE: usize = 16 << 10;
/// After a connection that could not be taken: the reason may last.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two looks whether the kernel has randomness.
const RANDOM_PAUSE: Duration = Duration::from_millis(200);

/// The API, ready to be served; clones are the same machine with the same certificate.
#[derive(Clone)]
pub struct MachineApi(Shared);

/// The API cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the certificate is of no use")]
pub struct MachineApiError(#[from] rustls::Error);

impl MachineApi {
    /// Waits until the kernel has randomness, without which TLS would stand still, and makes a certificate.
    pub async fn new<S: Source>(machine: Arc<S>, meta: Meta) -> Result<Self, MachineApiError> {
        let certificate = loop {
            let mut random = [0; size_of::<Randomness>()];
            match sys::random(&mut random, true) {
                Ok(()) => break Certificate::self_signed(NAME, Validity::FOREVER, &random),
                Err(_) => tokio::time::sleep(RANDOM_PAUSE).await,
            }
        };
        Ok(Self(Shared::new(tls(certificate)?, routes(machine, meta))))
    }
}

/// TLS 1.3 only, without client certificates, as Talos in maintenance; nothing is kept between connections.
fn tls(certificate: Certificate) -> Result<rustls::ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(certificate.certificate)],
            PrivatePkcs8KeyDer::from(certificate.key).into(),
        )?;
    tls.alpn_protocols = vec![b"h2".to_vec()];
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(tls)
}

/// The API's services, without TLS and limits of their own.
pub fn routes<S: Source>(machine: Arc<S>, meta: Meta) -> Routes {
    let source = Arc::new(WithMeta { machine, meta: meta.clone() });
    let registry = Arc::new(Registry::new(source));
    let services = Services { registry: registry.clone(), meta };
    let machine = MachineServiceServer::new(services.clone()).max_decoding_message_size(MAX_META_MESSAGE);
    let storage = StorageServiceServer::new(services).max_decoding_message_size(MAX_MESSAGE);
    let state = Inventory::over(registry).max_decoding_message_size(MAX_MESSAGE);
    Routes::new(InterceptedService::new(machine, not_for_others))
        .add_service(InterceptedService::new(storage, not_for_others))
        .add_service(InterceptedService::new(state, not_for_others))
}

/// Talos can pass requests on to other machines; one in maintenance does not.
fn not_for_others(request: Request<()>) -> Result<Request<()>, Status> {
    let metadata = request.metadata();
    if metadata.contains_key("node") || metadata.contains_key("nodes") {
        return Err(Status::permission_denied("no request forwarding"));
    }
    Ok(request)
}

/// A connection that is being served.
struct Served {
    task: AbortHandle,
    /// Past the handshake.
    established: Arc<AtomicBool>,
}

/// Serves every connection that comes in, until `shutdown` or the end of `incoming`; then all end.
pub async fn serve<I, IO>(incoming: I, api: MachineApi, shutdown: impl Future<Output = ()>)
where
    I: Stream<Item = io::Result<IO>>,
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut incoming = pin!(incoming);
    let mut shutdown = pin!(shutdown);
    let mut connections = JoinSet::new();
    let mut served: Vec<Served> = Vec::new();
    loop {
        // Cancel-safe: a stream and a set keep what is not taken.
        let next = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            next = incoming.next() => next,
        };
        match next {
            None => break,
            Some(Err(error)) => {
                say!("machine API: a connection cannot be taken: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Some(Ok(io)) => {
                if !has_room(&mut served) {
                    continue;
                }
                let established = Arc::new(AtomicBool::new(false));
                // How it ends is the client's business: garbage is no news.
                let task = connections.spawn(api.0.clone().serve(io, established.clone()));
                served.push(Served { task, established });
            }
        }
    }
    connections.shutdown().await;
}

/// Makes room for one more connection. Who does not get on with the handshake goes first, the oldest of them.
fn has_room(served: &mut Vec<Served>) -> bool {
    served.retain(|one| !one.task.is_finished());
    if served.len() < MAX_CONNECTIONS {
        return true;
    }
    let Some(at) = served.iter().position(|one| !one.established.load(Ordering::Relaxed)) else {
        return false;
    };
    served.remove(at).task.abort();
    true
}

#[cfg(test)]
mod tests;
