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
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde::Deserialize;
use tokio::time::timeout;

pub use address_book::{AddressBook, AddressError};

use crate::http::{Connection, Failure, network, one_line};
use crate::{Bmc, CALL_LIMIT, PowerError, PxeMode};

/// The longest answer that is read. The real ones have some twenty bytes; an error page may have more.
const ANSWER_LIMIT: usize = 64 * 1024;

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
            Err(elapsed) => Err(network(elapsed)),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(Failure::Network(source)) => {
                return Err(PowerError::Unreachable { address: self.address, request, source });
            }
            Err(Failure::TooLong(most)) => {
                let reason = format!("more than {most} bytes");
                return Err(PowerError::Protocol { address: self.address, request, reason });
            }
        };
        if answer.status() != StatusCode::OK {
            let detail = one_line(answer.body());
            let status = answer.status().as_u16();
            return Err(PowerError::Refused { address: self.address, request, status, detail });
        }
        Ok(answer.into_body())
    }

    /// A connection of its own for each exchange: calls are seconds apart, and a controller that was restarted
    /// meanwhile has no stale connection to trip over.
    async fn exchange(&self, method: Method, path: &str) -> Result<Response<Bytes>, Failure> {
        let mut connection = Connection::open(self.address, None, CALL_LIMIT).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONNECTION, "close")
            .body(Full::default())
            .map_err(network)?;
        connection.exchange(request, ANSWER_LIMIT, CALL_LIMIT).await
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
