//! The machine's own BMC, asked from inside through `/dev/ipmi0`: where it is in the network, whether a user
//! exists, and making that user.
//!
//! [`message`] is the wire (IPMI 2.0 revision 1.1), [`user`] the procedure that makes a user and reads
//! everything back, over [`Bmc`]; the only real BMC is [`device::Device`]. BMCs lie, forget and refuse: what
//! was not read back is not believed.

pub mod device;
pub mod message;
pub mod user;

use std::net::Ipv4Addr;

use message::{Answer, Request};

pub use user::{Made, SetupError, ensure_user};

/// The port of RMCP when the BMC tells none.
pub const DEFAULT_PORT: u16 = 623;
/// How often a request is repeated that the BMC was too busy for.
const BUSY_RETRIES: usize = 5;
/// LAN channels have numbers from here
const FIRST_CHANNEL: u8 = 1;
/// up to here; the numbers above mean other things.
const LAST_CHANNEL: u8 = 0xb;

/// A BMC that answers one request after the other.
pub trait Bmc {
    /// Sends a request and waits for its answer: the completion code, then data.
    fn exchange(&mut self, request: &Request) -> Result<Vec<u8>, LinkError>;

    /// Waits a moment, for a BMC that is busy.
    fn pause(&mut self);
}

/// The BMC was not reached.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The driver refused.
    #[error("BMC driver: {0}")]
    Driver(#[source] std::io::Error),
    /// No answer came in time.
    #[error("BMC did not answer")]
    Timeout,
}

/// A request failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It did not get through.
    #[error("{request}: {source}")]
    Link {
        /// Which.
        request: &'static str,
        /// Why.
        #[source]
        source: LinkError,
    },
    /// The BMC refused.
    #[error("{request}: BMC refused: {} ({code:#04x})", message::completion(*code))]
    Refused {
        /// Which.
        request: &'static str,
        /// Completion code.
        code: u8,
    },
    /// The answer makes no sense.
    #[error("{request}: BMC's answer is too short or makes no sense")]
    Nonsense {
        /// Which.
        request: &'static str,
    },
}

/// Asks, repeats while the BMC is busy, and reads the answer.
pub fn call<A: Answer>(bmc: &mut (impl Bmc + ?Sized), request: &Request) -> Result<A, CallError> {
    let name = request.name();
    let mut tries = 0;
    loop {
        let answer = bmc.exchange(request).map_err(|source| CallError::Link { request: name, source })?;
        let (code, data) = answer.split_first().ok_or(CallError::Nonsense { request: name })?;
        match *code {
            message::OK => return A::parse(data).ok_or(CallError::Nonsense { request: name }),
            message::BUSY | message::TIMED_OUT if tries < BUSY_RETRIES => {
                tries += 1;
                bmc.pause();
            }
            code => return Err(CallError::Refused { request: name, code }),
        }
    }
}

/// What a BMC tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its IPv4 address; 0.0.0.0 while it has none.
    pub address: Ipv4Addr,
    /// Its RMCP port.
    pub port: u16,
    /// Whether the user that was asked for exists.
    pub user_exists: bool,
}

/// Asks where the BMC is, and whether it knows a user.
pub fn ask(bmc: &mut (impl Bmc + ?Sized), user: &str) -> Result<Told, CallError> {
    let (channel, address) = lan_channel(bmc)?;
    // Many BMCs do not tell it.
    let port = call::<message::Port>(bmc, &Request::LanPort { channel }).map_or(0, |port| port.0);
    let user_exists = !user.is_empty() && user::find(bmc, channel, user)?.ours.is_some();
    Ok(Told { address, port: if port == 0 { DEFAULT_PORT } else { port }, user_exists })
}

/// The LAN channel, with its address: the first that has one, else the first that there is.
pub fn lan_channel(bmc: &mut (impl Bmc + ?Sized)) -> Result<(u8, Ipv4Addr), CallError> {
    let mut first = None;
    for channel in FIRST_CHANNEL..=LAST_CHANNEL {
        match call::<message::ChannelInfo>(bmc, &Request::ChannelInfo { channel }) {
            Ok(info) if info.is_lan() => {}
            Err(error @ CallError::Link { .. }) => return Err(error),
            Ok(_) | Err(_) => continue,
        }
        let address = call::<message::Address>(bmc, &Request::LanAddress { channel })
            .map_or(Ipv4Addr::UNSPECIFIED, |address| address.0);
        if !address.is_unspecified() {
            return Ok((channel, address));
        }
        first = first.or(Some((channel, address)));
    }
    match first {
        Some(found) => Ok(found),
        // A BMC that does not tell of its channels has its LAN on the first.
        None => call::<message::Address>(bmc, &Request::LanAddress { channel: FIRST_CHANNEL })
            .map(|address| (FIRST_CHANNEL, address.0)),
    }
}

#[cfg(test)]
mod tests;
