//! An IPv4 network.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A network, written `192.0.2.0/24`; host bits are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    network: u32,
    prefix: u8,
}

impl Subnet {
    /// The network of an address; `None` when the prefix is longer than 32.
    #[must_use]
    pub const fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        if prefix > 32 {
            return None;
        }
        Some(Self { network: address.to_bits() & mask(prefix), prefix })
    }

    /// Whether the address is in it.
    #[must_use]
    pub const fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network
    }

    /// Whether a host can have the address: neither the network's own nor the broadcast address.
    #[must_use]
    pub fn has_host(self, address: Ipv4Addr) -> bool {
        let ends = address == self.network() || address == self.broadcast();
        self.contains(address) && (self.prefix >= 31 || !ends)
    }

    /// The first address.
    #[must_use]
    pub const fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network)
    }

    /// The last address.
    #[must_use]
    pub const fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network | !mask(self.prefix))
    }

    /// The mask.
    #[must_use]
    pub const fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask(self.prefix))
    }

    /// The length of the mask.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }
}

const fn mask(prefix: u8) -> u32 {
    if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

/// Text that is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a network; write 192.0.2.0/24")]
pub struct ParseSubnetError;

impl FromStr for Subnet {
    type Err = ParseSubnetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = text.split_once('/').ok_or(ParseSubnetError)?;
        let address = address.parse().map_err(|_| ParseSubnetError)?;
        Self::new(address, prefix.parse().map_err(|_| ParseSubnetError)?).ok_or(ParseSubnetError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_knows_its_hosts() {
        let net: Subnet = "192.0.2.77/24".parse().unwrap();
        assert_eq!(net.to_string(), "192.0.2.0/24");
        assert_eq!((net.mask(), net.broadcast()), ([255, 255, 255, 0].into(), [192, 0, 2, 255].into()));
        assert!(net.has_host([192, 0, 2, 1].into()) && !net.has_host([192, 0, 3, 1].into()));
        assert!(!net.has_host(net.network()) && !net.has_host(net.broadcast()));
        let pair: Subnet = "192.0.2.0/31".parse().unwrap();
        assert!(pair.has_host(pair.network()) && pair.has_host(pair.broadcast()));
        let all: Subnet = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains([8, 8, 8, 8].into()));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "192.0.2.0", "192.0.2.0/33", "192.0.2/24", "192.0.2.0/-1", "/24"] {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
    }
}
