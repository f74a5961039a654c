//! The HTTP power API that `talosctl cluster create` gives its virtual machines, and our test bed too.
//!
//! `POST /poweron`, `/poweroff`, `/reboot`, `/pxeboot` with an empty body, `GET /status` answering
//! `{"PoweredOn": bool}`. There is no call that takes a network boot back: it is good for one boot anyway.

mod address_book;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use address_book::{AddressBook, AddressError};

use crate::{Bmc, CALL_LIMIT, PowerError, PxeMode};

/// The longest answer that is read. The real ones have some twenty bytes; an error page may have more.
const ANSWER_LIMIT: usize = 64 * 1024;

/// How much of a refusal's body goes into the error text, in characters: one line on a screen.
const DETAIL_LIMIT: usize = 200;

/// One machine behind the HTTP power API.
#[derive(Debug, Clone)]
pub struct ApiBmc {
    address: SocketAddr,
}

/// The answer of `GET /status`.
#[derive(Deserialize)]
struct Status {
    #[serde(rename = "PoweredOn")]
    powered_on: bool,
}

/// What went wrong in one exchange, before it is known which request it was.
enum Failure {
    Network(Box<dyn std::error::Error + Send + Sync>),
    TooLong,
}

impl ApiBmc {
    /// The controller at this address. Nothing is sent yet.
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Where the controller is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    async fn post(&self, path: &str) -> Result<(), PowerError> {
        self.call(Method::POST, path).await.map(|_| ())
    }

    /// One request and its answer's body, if the answer is 200.
    async fn call(&self, method: Method, path: &str) -> Result<Bytes, PowerError> {
        let request = format!("{method} {path}");
        tracing::debug!(address = %self.address, %request, "power call");

        let answer = match timeout(CALL_LIMIT, self.exchange(method, path)).await {
            Ok(answer) => answer,
            Err(elapsed) => Err(Failure::Network(Box::new(elapsed))),
        };
        let (status, body) = match answer {
            Ok(answer) => answer,
            Err(Failure::Network(source)) => {
                return Err(PowerError::Unreachable { address: self.address, request, source });
            }
            Err(Failure::TooLong) => {
                let reason = format!("more than {ANSWER_LIMIT} bytes");
                return Err(PowerError::Protocol { address: self.address, request, reason });
            }
        };
        if status != StatusCode::OK {
            let detail = one_line(&body);
            return Err(PowerError::Refused {
                address: self.address,
                request,
                status: status.as_u16(),
                detail,
            });
        }
        Ok(body)
    }

    /// A connection of its own for each exchange: calls are seconds apart, and a controller that was restarted
    /// meanwhile has no stale connection to trip over. The connection's future runs inside this one, so that
    /// nothing is left behind when the caller gives up.
    async fn exchange(&self, method: Method, path: &str) -> Result<(StatusCode, Bytes), Failure> {
        let stream = TcpStream::connect(self.address).await.map_err(network)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(network)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(network)?;

        let answer = async move {
            let response = sender.send_request(request).await.map_err(network)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() { Failure::TooLong } else { Failure::Network(error) }
            })?;
            Ok((status, body.to_bytes()))
        };
        // The connection ends after the answer, or with an error that the answer has told already.
        let (answer, _connection) = tokio::join!(answer, connection);
        answer
    }
}

#[async_trait]
impl Bmc for ApiBmc {
    async fn is_powered_on(&self) -> Result<bool, PowerError> {
        let body = self.call(Method::GET, "/status").await?;
        match serde_json::from_slice::<Status>(&body) {
            Ok(status) => Ok(status.powered_on),
            Err(error) => Err(PowerError::Protocol {
                address: self.address,
                request: "GET /status".to_owned(),
                reason: format!("no {{\"PoweredOn\": bool}} ({error})"),
            }),
        }
    }

    async fn power_on(&self) -> Result<(), PowerError> {
        self.post("/poweron").await
    }

    async fn power_off(&self) -> Result<(), PowerError> {
        self.post("/poweroff").await
    }

    async fn reboot(&self) -> Result<(), PowerError> {
        self.post("/reboot").await
    }

    /// The API knows no firmware mode: the machine boots from the network the way it was made.
    async fn set_pxe_boot_once(&self, _mode: PxeMode) -> Result<(), PowerError> {
        self.post("/pxeboot").await
    }

    /// Nothing to do, as with the peer: the API has no such call.
    async fn reset_boot_device(&self) -> Result<(), PowerError> {
        Ok(())
    }
}

impl fmt::Display for ApiBmc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "api {}", self.address)
    }
}

fn network(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::Network(Box::new(error))
}

/// The beginning of a body as one printable line.
fn one_line(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line: String =
        text.chars().take(DETAIL_LIMIT).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = line.trim();
    if line.is_empty() { "no explanation".to_owned() } else { line.to_owned() }
}
