//! What the DHCP server gives.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;
use uuid::Uuid;

use crate::{Mac, Subnet};

/// Addresses in all ranges and reservations at most: a /16.
pub const ADDRESSES_MAX: usize = 65_536;
/// The shortest lease: below it clients do little else than renew.
pub const LEASE_MIN: Duration = Duration::from_secs(60);
/// The longest lease: 30 days.
pub const LEASE_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Search domains take one option at most, so that no client has to put two together.
const SEARCH_MAX: usize = 255;
/// Servers of one kind: what fits an option.
const SERVERS_MAX: usize = 8;

/// Whom an address is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// The machine with this interface.
    Mac(Mac),
    /// The machine with this SMBIOS UUID, as long as its firmware or loader asks; its operating system, which
    /// does not tell the UUID, keeps the address by its MAC.
    Uuid(Uuid),
}

/// An address that only one machine gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Which machine.
    pub holder: Holder,
    /// Which address.
    pub address: Ipv4Addr,
}

/// What the server gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// The network.
    pub subnet: Subnet,
    /// Addresses for whoever asks.
    pub ranges: Vec<RangeInclusive<Ipv4Addr>>,
    /// Addresses for known machines, inside of the ranges or not.
    pub reservations: Vec<Reservation>,
    /// Ways out of the network.
    pub routers: Vec<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// The domain of the machines.
    pub domain: Option<String>,
    /// Domains to look names up in.
    pub search: Vec<String>,
    /// How long an address is given for.
    pub lease_time: Duration,
    /// When a client asks to go on (T1); half of the lease when absent.
    pub renew_after: Option<Duration>,
    /// When it asks any server (T2); seven eighths of the lease when absent.
    pub rebind_after: Option<Duration>,
}

/// Why a server cannot be configured like this.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ServerConfigError {
    /// This host is not in the network.
    #[error("this host's address {0} is not in {1}")]
    Outside(Ipv4Addr, Subnet),
    /// An address is not one that a host of the network can have.
    #[error("{0} is no host address of {1}")]
    NoHost(Ipv4Addr, Subnet),
    /// A range ends before it begins.
    #[error("the range {0} - {1} is empty")]
    EmptyRange(Ipv4Addr, Ipv4Addr),
    /// Two ranges have an address in common.
    #[error("two ranges have {0}")]
    Overlap(Ipv4Addr),
    /// More than [`ADDRESSES_MAX`].
    #[error("more than {ADDRESSES_MAX} addresses")]
    TooMany,
    /// Nothing to give.
    #[error("neither a range nor a reservation")]
    Nothing,
    /// An address is kept for two, or is this host's or a router's.
    #[error("{0} is reserved twice, or is taken by this host or a router")]
    Taken(Ipv4Addr),
    /// A machine has two reservations.
    #[error("two reservations for one machine ({0})")]
    TwoAddresses(Ipv4Addr),
    /// The lease time is out of bounds.
    #[error("a lease lasts 1 minute to 30 days")]
    LeaseTime,
    /// T1 < T2 < lease does not hold.
    #[error("renew_after must be shorter than rebind_after, and that shorter than lease_time")]
    Times,
    /// Too many servers of a kind.
    #[error("at most {SERVERS_MAX} of a kind")]
    Servers,
    /// A name that is no domain.
    #[error("{0:?} is no domain name")]
    Domain(String),
    /// The search list is too long.
    #[error("the search list takes more than {SEARCH_MAX} bytes")]
    Search,
}

impl ServerConfig {
    /// T1.
    #[must_use]
    pub fn renew_after(&self) -> Duration {
        self.renew_after.unwrap_or(self.lease_time / 2)
    }

    /// T2.
    #[must_use]
    pub fn rebind_after(&self) -> Duration {
        self.rebind_after.unwrap_or(self.lease_time * 7 / 8)
    }

    /// Whether an address is one for whoever asks.
    #[must_use]
    pub fn in_ranges(&self, address: Ipv4Addr) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
    }

    /// Whether all of it makes sense for a host with this address.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self, own: Ipv4Addr) -> Result<(), ServerConfigError> {
        use ServerConfigError as Error;
        let host = |address: Ipv4Addr| {
            if self.subnet.has_host(address) { Ok(()) } else { Err(Error::NoHost(address, self.subnet)) }
        };
        if !self.subnet.has_host(own) {
            return Err(Error::Outside(own, self.subnet));
        }
        let mut addresses = self.reservations.len();
        let mut ranges = self.ranges.clone();
        ranges.sort_by_key(|range| *range.start());
        for range in &ranges {
            let (first, last) = (*range.start(), *range.end());
            if first > last {
                return Err(Error::EmptyRange(first, last));
            }
            host(first)?;
            host(last)?;
            addresses = addresses.saturating_add((last.to_bits() - first.to_bits()) as usize + 1);
        }
        if let Some(pair) = ranges.windows(2).find(|pair| pair[0].end() >= pair[1].start()) {
            return Err(Error::Overlap(*pair[1].start()));
        }
        match addresses {
            0 => return Err(Error::Nothing),
            1..=ADDRESSES_MAX => {}
            _ => return Err(Error::TooMany),
        }
        self.check_reservations(own, host)?;
        if !(LEASE_MIN..=LEASE_MAX).contains(&self.lease_time) {
            return Err(Error::LeaseTime);
        }
        if self.renew_after() >= self.rebind_after() || self.rebind_after() >= self.lease_time {
            return Err(Error::Times);
        }
        if [&self.routers, &self.dns, &self.ntp].iter().any(|servers| servers.len() > SERVERS_MAX) {
            return Err(Error::Servers);
        }
        for name in self.search.iter().chain(&self.domain) {
            if domain_on_wire(name).is_none() {
                return Err(Error::Domain(name.clone()));
            }
        }
        if self.search_on_wire().len() > SEARCH_MAX { Err(Error::Search) } else { Ok(()) }
    }

    fn check_reservations(
        &self,
        own: Ipv4Addr,
        host: impl Fn(Ipv4Addr) -> Result<(), ServerConfigError>,
    ) -> Result<(), ServerConfigError> {
        let mut taken: Vec<Ipv4Addr> = self.routers.iter().copied().chain([own]).collect();
        let mut holders = Vec::new();
        for reservation in &self.reservations {
            host(reservation.address)?;
            if taken.contains(&reservation.address) {
                return Err(ServerConfigError::Taken(reservation.address));
            }
            if holders.contains(&reservation.holder) {
                return Err(ServerConfigError::TwoAddresses(reservation.address));
            }
            taken.push(reservation.address);
            holders.push(reservation.holder);
        }
        Ok(())
    }

    /// The search list as option 119 has it (RFC 3397), without compression.
    pub(super) fn search_on_wire(&self) -> Vec<u8> {
        self.search.iter().filter_map(|name| domain_on_wire(name)).flatten().collect()
    }
}

/// A name as DNS writes it: labels with their lengths (RFC 1035).
fn domain_on_wire(name: &str) -> Option<Vec<u8>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() > 253 || !name.split('.').all(fits) {
        return None;
    }
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    Some(wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn config() -> ServerConfig {
        ServerConfig {
            subnet: "192.0.2.0/24".parse().unwrap(),
            ranges: vec![[192, 0, 2, 100].into()..=[192, 0, 2, 109].into()],
            reservations: Vec::new(),
            routers: vec![[192, 0, 2, 254].into()],
            dns: Vec::new(),
            ntp: Vec::new(),
            domain: None,
            search: Vec::new(),
            lease_time: Duration::from_secs(3_600),
            renew_after: None,
            rebind_after: None,
        }
    }

    const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn refused(change: impl FnOnce(&mut ServerConfig)) -> ServerConfigError {
        let mut config = config();
        change(&mut config);
        config.check(OWN).unwrap_err()
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        use ServerConfigError as Error;
        let mac = Holder::Mac(Mac([2, 0, 0, 0, 0, 1]));
        let reservation = |last| Reservation { holder: mac, address: [192, 0, 2, last].into() };
        assert_eq!(config().check(OWN), Ok(()));
        assert!(matches!(config().check([10, 0, 0, 1].into()), Err(Error::Outside(..))));
        for (error, want) in [
            (refused(|c| c.ranges = vec![[192, 0, 2, 9].into()..=[192, 0, 2, 8].into()]), "is empty"),
            (refused(|c| c.ranges = vec![[192, 0, 2, 9].into()..=[192, 0, 3, 8].into()]), "no host address"),
            (refused(|c| c.ranges.push([192, 0, 2, 105].into()..=[192, 0, 2, 120].into())), "two ranges"),
            (refused(|c| c.ranges.clear()), "neither"),
            (refused(|c| c.reservations = vec![reservation(1)]), "taken by this host"),
            (refused(|c| c.reservations = vec![reservation(254)]), "or a router"),
            (refused(|c| c.reservations = vec![reservation(7), reservation(8)]), "one machine"),
            (refused(|c| c.reservations = vec![reservation(255)]), "no host address"),
            (refused(|c| c.lease_time = Duration::from_secs(5)), "1 minute"),
            (refused(|c| c.renew_after = Some(Duration::from_secs(3_600))), "shorter"),
            (refused(|c| c.domain = Some("a..b".into())), "no domain"),
            (refused(|c| c.dns = vec![OWN; 9]), "at most 8"),
            (refused(|c| c.search = vec!["a".repeat(60); 6]), "search list"),
        ] {
            assert!(error.to_string().contains(want), "{error}");
        }
        let huge = |c: &mut ServerConfig| {
            c.subnet = "192.0.0.0/12".parse().unwrap();
            c.ranges = vec![[192, 0, 2, 0].into()..=[192, 3, 0, 0].into()];
        };
        assert_eq!(refused(huge), Error::TooMany);
    }

    #[test]
    fn search_domains_are_labels_with_lengths() {
        let config = ServerConfig { search: vec!["a.example".into(), "b.".into()], ..config() };
        assert_eq!(config.search_on_wire(), b"\x01a\x07example\0\x01b\0");
    }
}
