//! Redfish: the BMC of a real machine, over HTTPS.
//!
//! [`wire`], `system` and [`dialogue`] have no I/O; the driver here has one connection a call, and one session,
//! which lasts over calls: a BMC writes every login into its log, and has room for a few sessions only.

pub mod dialogue;
mod system;
#[cfg(test)]
mod tests;
pub mod wire;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http_body_util::Full;
use ring::digest::{SHA256, digest};
use rustls::ClientConfig;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::http::{Connection, Failure, network};
use crate::{Bmc, PowerError, PxeMode};
use dialogue::{DialogueError, Done, Known, Order, carry_out, farewell};
use wire::{Answer, Login, Request, Target, Wire};

/// The longest that one exchange may take, connecting included: the peer's limit. BMCs of some years need
/// seconds for a ComputerSystem that they have not put together lately.
pub const EXCHANGE_LIMIT: Duration = Duration::from_secs(10);

/// The longest that one call may take, with all that has to be asked before.
pub const ORDER_LIMIT: Duration = Duration::from_secs(45);

/// The longest answer that is read. A ComputerSystem has some 10 to 30 KiB.
const ANSWER_LIMIT: usize = 256 * 1024;

/// How all BMCs of a site are spoken to.
#[derive(Clone)]
pub struct RedfishOptions {
    /// TLS, and whose certificates are believed; `None`: plain HTTP.
    pub tls: Option<Arc<ClientConfig>>,
    /// TCP port.
    pub port: u16,
    /// Whether the firmware personality is named when the boot source is set: some controllers want it not.
    pub set_boot_source_override_mode: bool,
}

/// One machine's BMC.
pub struct RedfishBmc {
    address: SocketAddr,
    login: Login,
    target: Target,
    tls: Option<Arc<ClientConfig>>,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    known: Known,
    /// SHA-256 of the certificate that was shown last.
    certificate: Option<[u8; 32]>,
}

impl fmt::Debug for RedfishBmc {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("RedfishBmc")
            .field("address", &self.address)
            .field("login", &self.login)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for RedfishBmc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redfish {}", self.address)
    }
}

impl RedfishBmc {
    /// The BMC at this address. `machine` tells which of a chassis' systems is meant. Nothing is sent yet.
    pub fn new(
        ip: IpAddr,
        user: &str,
        password: &str,
        machine: Option<Uuid>,
        options: &RedfishOptions,
    ) -> Self {
        let address = SocketAddr::new(ip, options.port);
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        Self {
            address,
            login: Login::new(user, password),
            target: Target {
                origin: format!("{scheme}://{address}"),
                machine,
                set_mode: options.set_boot_source_override_mode,
            },
            tls: options.tls.clone(),
            live: Mutex::default(),
        }
    }

    /// Where the BMC is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the BMC calls itself; empty before the first answer.
    pub async fn name(&self) -> String {
        self.live.lock().await.known.name.clone()
    }

    /// Carries out one order.
    pub(crate) async fn order(&self, order: Order) -> Result<Done, PowerError> {
        let mut live = self.live.lock().await;
        let Live { known, certificate } = &mut *live;
        let mut line = Line { bmc: self, connection: None, certificate };
        let dialogue = carry_out(&mut line, &self.login, &self.target, known, order);
        match timeout(ORDER_LIMIT, dialogue).await {
            Ok(done) => done.map_err(|error| self.error(error)),
            Err(elapsed) => Err(PowerError::Unreachable {
                address: self.address,
                request: format!("{order:?}"),
                source: elapsed.into(),
            }),
        }
    }

    fn error(&self, error: DialogueError<Failure>) -> PowerError {
        let address = self.address;
        match error {
            DialogueError::Wire { request, error: Failure::Network(source) } => {
                PowerError::Unreachable { address, request, source }
            }
            DialogueError::Wire { request, error: Failure::TooLong(most) } => {
                PowerError::Protocol { address, request, reason: format!("more than {most} bytes") }
            }
            DialogueError::Refused { request, status, detail } => {
                PowerError::Refused { address, request, status, detail }
            }
            DialogueError::Unauthorized { detail } => PowerError::Unauthorized { address, detail },
            DialogueError::Protocol { request, reason } => PowerError::Protocol { address, request, reason },
        }
    }
}

/// The connection of one call.
struct Line<'a> {
    bmc: &'a RedfishBmc,
    connection: Option<Connection>,
    certificate: &'a mut Option<[u8; 32]>,
}

impl Line<'_> {
    async fn connected(&mut self) -> Result<&mut Connection, Failure> {
        if self.connection.as_ref().is_none_or(|connection| !connection.is_open()) {
            let bmc = self.bmc;
            let connection = Connection::open(bmc.address, bmc.tls.as_ref(), EXCHANGE_LIMIT).await?;
            if let Some(shown) = connection.certificate()
                && let Some((before, now)) = another(self.certificate, shown)
            {
                let address = bmc.address;
                tracing::warn!(%address, before, now, "the BMC shows another certificate than before");
            }
            self.connection = Some(connection);
        }
        Ok(self.connection.as_mut().expect("it was just put there"))
    }
}

/// Whoever is believed without a check is at least compared with the last time: both fingerprints, when they differ.
/// BMCs make themselves new certificates when they are renamed or updated, so that it is no reason to stop.
fn another(before: &mut Option<[u8; 32]>, certificate: &[u8]) -> Option<(String, String)> {
    let mut now = [0; 32];
    now.copy_from_slice(digest(&SHA256, certificate).as_ref());
    let before = before.replace(now).filter(|before| *before != now)?;
    let hex = |print: [u8; 32]| print.map(|byte| format!("{byte:02x}")).concat();
    Some((hex(before), hex(now)))
}

impl Wire for Line<'_> {
    type Error = Failure;

    async fn ask(&mut self, request: &Request) -> Result<Answer, Failure> {
        tracing::debug!(address = %self.bmc.address, %request, "power call");
        let reused = self.connection.as_ref().is_some_and(Connection::is_open);
        let message = message(request)?;
        let connection = self.connected().await?;
        let mut answer = connection.exchange(message.clone(), ANSWER_LIMIT, EXCHANGE_LIMIT).await;
        if answer.is_err() {
            self.connection = None;
        }
        if reused && answer.as_ref().is_err_and(Failure::is_closed) {
            // As some do after each answer, or while we asked.
            answer = self.connected().await?.exchange(message, ANSWER_LIMIT, EXCHANGE_LIMIT).await;
        }
        answer
    }

    async fn pause(&mut self, time: Duration) {
        sleep(time).await;
    }
}

/// The request as it is sent.
fn message(request: &Request) -> Result<http::Request<Full<Bytes>>, Failure> {
    let body = request.body.as_ref().map(|body| Bytes::from(body.to_string()));
    let mut message = http::Request::new(Full::new(body.clone().unwrap_or_default()));
    *message.method_mut() = request.method.clone();
    *message.uri_mut() = request.path.parse().map_err(network)?;
    let headers = message.headers_mut();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert("odata-version", HeaderValue::from_static("4.0"));
    if body.is_some() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    if let Some(etag) = &request.if_match {
        headers.insert(header::IF_MATCH, etag.parse().map_err(network)?);
    }
    if let Some((name, value)) = request.auth.header() {
        headers.insert(name, value);
    }
    Ok(message)
}

#[async_trait]
impl Bmc for RedfishBmc {
    async fn is_powered_on(&self) -> Result<bool, PowerError> {
        Ok(self.order(Order::Look).await?.powered_on == Some(true))
    }

    async fn power_on(&self) -> Result<(), PowerError> {
        self.order(Order::On).await.map(drop)
    }

    async fn power_off(&self) -> Result<(), PowerError> {
        self.order(Order::Off).await.map(drop)
    }

    async fn reboot(&self) -> Result<(), PowerError> {
        self.order(Order::Restart).await.map(drop)
    }

    async fn set_pxe_boot_once(&self, mode: PxeMode) -> Result<(), PowerError> {
        let done = self.order(Order::BootNetwork(mode)).await?;
        // The boot decides in the end.
        if let Some(doubt) = done.doubt {
            tracing::warn!(address = %self.address, doubt, "the BMC does not show the boot source that it was given");
        }
        Ok(())
    }

    async fn reset_boot_device(&self) -> Result<(), PowerError> {
        self.order(Order::BootAsConfigured).await.map(drop)
    }

    async fn close(&self) {
        let mut live = self.live.lock().await;
        let Some(request) = farewell(&live.known) else { return };
        live.known.auth = None;
        let mut line = Line { bmc: self, connection: None, certificate: &mut live.certificate };
        // It need not hear it.
        drop(line.ask(&request).await);
    }
}
