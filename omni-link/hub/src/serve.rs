//! Serving Omni's API on TCP.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};

/// A connection that has been silent for this long is asked whether it lives. Clients do the same every
/// minute.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
/// How long it may take to answer that.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls at once on one connection: a provider has a watch for each type and some calls for each machine.
const MAX_CALLS: u32 = 1024;
/// What a new connection may take until it speaks TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Certificate and key of the server.
#[derive(Clone)]
pub struct TlsFiles {
    /// The certificate chain, PEM.
    pub certificate: Arc<[u8]>,
    /// Its private key, PEM.
    pub key: Arc<[u8]>,
}

impl std::fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsFiles").finish_non_exhaustive()
    }
}

/// Why the API is not served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Certificate and key are not usable.
    #[error("the API's certificate or key is not usable")]
    Tls(#[source] tonic::transport::Error),
    /// The server broke.
    #[error("the API's server broke")]
    Serve(#[source] tonic::transport::Error),
}

/// A server that is ready to run: its certificate has been looked at.
#[derive(Debug)]
pub struct ApiServer {
    server: Server,
}

impl ApiServer {
    /// With TLS, or without: then only who may see everything should be able to reach it.
    ///
    /// # Errors
    /// When certificate and key are not usable.
    pub fn new(tls: Option<&TlsFiles>) -> Result<Self, ServeError> {
        let mut server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .max_concurrent_streams(MAX_CALLS)
            .tcp_nodelay(true);
        if let Some(files) = tls {
            let identity = Identity::from_pem(&files.certificate, &files.key);
            let config = ServerTlsConfig::new().identity(identity).timeout(HANDSHAKE_TIMEOUT);
            server = server.tls_config(config).map_err(ServeError::Tls)?;
        }
        Ok(Self { server })
    }

    /// Serves until `shutdown`. Watches end with it.
    ///
    /// # Errors
    /// When the server breaks.
    pub async fn run(
        mut self,
        listener: TcpListener,
        routes: Routes,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serve = self.server.add_routes(routes).serve_with_incoming(incoming);
        tokio::select! {
            // Cancel-safe: what a call has written is written, and a watch is asked for again.
            () = shutdown.cancelled() => Ok(()),
            result = serve => result.map_err(ServeError::Serve),
        }
    }
}

#[cfg(test)]
mod tests;
