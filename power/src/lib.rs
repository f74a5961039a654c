//! How a machine is switched on and off.
//!
//! A [`Bmc`] is the power switch of one machine, whatever is behind it: the BMC of a real machine by Redfish
//! ([`redfish::RedfishBmc`]) or IPMI ([`ipmi::IpmiBmc`]), whichever it serves ([`auto::AutoBmc`]), or the HTTP API
//! of a virtual one ([`api::ApiBmc`]).
//!
//! Invariant: a call is about one machine's controller, and each exchange of it ends within [`CALL_LIMIT`], or
//! Redfish's own [`redfish::EXCHANGE_LIMIT`].
//! Nothing is shared between machines here, so a controller that does not answer delays nobody else. What to do
//! about an error is decided by the caller, whose driver loop is in `omni-link`.

pub mod api;
pub mod auto;
mod http;
pub mod ipmi;
pub mod redfish;

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;

/// The longest that one call may take, connecting included. A controller on the same site answers within
/// milliseconds; five seconds are the peer's limit too.
pub const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Which firmware personality a one-time network boot is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PxeMode {
    /// Legacy BIOS boot.
    Bios,
    /// UEFI boot.
    Uefi,
}

/// The power switch of one machine.
///
/// Every call is idempotent: switching on a machine that is on is no error.
#[async_trait]
pub trait Bmc: Send + Sync {
    /// Whether the machine has power right now.
    async fn is_powered_on(&self) -> Result<bool, PowerError>;
    /// Switches the machine on.
    async fn power_on(&self) -> Result<(), PowerError>;
    /// Switches the machine off at once, without asking its operating system.
    async fn power_off(&self) -> Result<(), PowerError>;
    /// Resets the machine.
    async fn reboot(&self) -> Result<(), PowerError>;
    /// Makes the next boot, and only that one, a network boot.
    async fn set_pxe_boot_once(&self, mode: PxeMode) -> Result<(), PowerError>;
    /// Takes back a pending [`set_pxe_boot_once`](Bmc::set_pxe_boot_once).
    async fn reset_boot_device(&self) -> Result<(), PowerError>;
    /// Ends what is open with the controller, which has room for a few sessions only. The next call begins anew.
    async fn close(&self) {}
    /// What it is switched by and why, where that shows only when the controller is asked.
    fn choice(&self) -> Option<Choice> {
        None
    }
}

/// Which of several drivers is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// `redfish` or `ipmi`.
    pub driver: &'static str,
    /// Why.
    pub reason: String,
}

/// Why a power call failed. The text names the address and what to look at.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// No answer: no connection, a connection that broke, or [`CALL_LIMIT`] passed.
    #[error(
        "power controller {address} does not answer {request}: check that it runs and that {address} is reachable from here"
    )]
    Unreachable {
        /// Where the controller was expected.
        address: SocketAddr,
        /// The request, as method and path.
        request: String,
        /// What the network said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The controller answered, and the answer is no.
    #[error(
        "power controller {address} refused {request} with status {status}: {detail}; see the controller's own log"
    )]
    Refused {
        /// The controller.
        address: SocketAddr,
        /// The request, as method and path.
        request: String,
        /// The HTTP status of the answer, or IPMI's completion code.
        status: u16,
        /// The beginning of the answer's body, in one line.
        detail: String,
    },
    /// It does not take the user or the password over Redfish.
    #[error("power controller {address} does not take the user or the password over Redfish: {detail}")]
    Unauthorized {
        /// The controller.
        address: SocketAddr,
        /// The controller's words.
        detail: String,
    },
    /// The controller does not let us in.
    #[error("power controller {address} does not let us in: {reason}")]
    Login {
        /// The controller.
        address: SocketAddr,
        /// Why.
        reason: ipmi::session::LoginError,
    },
    /// Neither driver gets through.
    #[error("{redfish}; by IPMI: {ipmi}")]
    Neither {
        /// What Redfish met.
        redfish: Box<PowerError>,
        /// What IPMI met.
        ipmi: Box<PowerError>,
    },
    /// The controller answered something that is not its protocol.
    #[error(
        "power controller {address} answered {request} with {reason}: check that {address} is a power controller and its version"
    )]
    Protocol {
        /// The controller.
        address: SocketAddr,
        /// The request, as method and path.
        request: String,
        /// What was wrong with the answer.
        reason: String,
    },
}
