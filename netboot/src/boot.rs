//! The two questions a booting machine asks over HTTP, and who may ask the second.
//!
//! First it asks what to boot ([`BootPolicy::boot`]), later the system that it booted asks for the
//! configuration to join with ([`BootPolicy::join_config`]). The configuration carries a join token, so it
//! goes only to a machine that a boot in progress vouches for ([`Vouchers`]) or that the policy knows.

use std::net::IpAddr;

use uuid::Uuid;

use crate::Mac;
use crate::firmware::Arch;
use crate::ipxe::{DiskMethod, Script, disk_script};

mod voucher;

pub use voucher::{CHECKS_MAX, PER_ADDRESS_MAX, Reason, VALID_FOR, VOUCHERS_MAX, Vouchers};

/// What iPXE tells when it asks what to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootRequest {
    /// The SMBIOS UUID.
    pub uuid: Uuid,
    /// The interface it boots from.
    pub mac: Option<Mac>,
    /// The host name that DHCP gave it.
    pub hostname: Option<String>,
    /// The SMBIOS serial number.
    pub serial: Option<String>,
    /// The domain that DHCP gave it.
    pub domain: Option<String>,
    /// Which kernels it can start.
    pub arch: Arch,
    /// The address it asks from.
    pub peer: IpAddr,
}

/// What a machine shall boot, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootAnswer {
    /// A word for the journal: `agent`, `talos`, `disk`, …
    pub mode: String,
    /// Why, for the operator.
    pub reason: String,
    /// What iPXE gets.
    pub body: BootBody,
}

/// What iPXE gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootBody {
    /// 200 with a script.
    Script(Script),
    /// 404 with a line of text: iPXE gives up and the firmware goes on to the next boot device.
    NotFound(String),
}

/// What makes a machine boot from its disk by this method.
#[must_use]
pub fn disk_body(method: DiskMethod) -> BootBody {
    match disk_script(method) {
        Some(script) => BootBody::Script(script),
        None => BootBody::NotFound("this machine boots from its disk\n".to_owned()),
    }
}

/// Why somebody does not get the configuration to join with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not for them (403).
    #[error("{0}")]
    Forbidden(String),
    /// They ask too often (429).
    #[error("asked too often")]
    TooMany,
    /// There is none at the moment (503).
    #[error("{0}")]
    Unavailable(String),
}

/// Who decides what machines boot. Implementations answer from memory, at once.
pub trait BootPolicy: Send + Sync {
    /// What shall this machine boot?
    fn boot(&self, request: &BootRequest) -> BootAnswer;

    /// The YAML documents for a machine that joins.
    ///
    /// # Errors
    ///
    /// A [`Refusal`] says what to answer instead.
    fn join_config(&self, uuid: Option<Uuid>, peer: IpAddr) -> Result<String, Refusal>;
}
