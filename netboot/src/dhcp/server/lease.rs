//! Leases, and how one is written down: a line with its own checksum, so that a line that a crash cut off is
//! known and everything before it stands.
//!
//! ```text
//! b 1800000000 52:54:00:88:00:01 192.0.2.100 5d0f3a11
//! │ until (Unix) machine         address     CRC-32 of what stands before it
//! └ b = bound, r = released, d = declined
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::Mac;

/// The longest line, with its end.
pub const LINE_MAX: usize = 80;

/// What became of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// The machine has it until then.
    Bound,
    /// The machine gave it back; it gets it again if it can.
    Released,
    /// The machine found somebody else with it: nobody gets it until then.
    Declined,
}

/// An address and who has, or had, it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What became of it.
    pub state: LeaseState,
    /// Until when, in seconds since 1970.
    pub until: u64,
    /// The machine.
    pub mac: Mac,
    /// The address.
    pub address: Ipv4Addr,
}

impl Lease {
    /// Appends its line.
    pub fn write_to(&self, out: &mut String) {
        let start = out.len();
        let state = match self.state {
            LeaseState::Bound => 'b',
            LeaseState::Released => 'r',
            LeaseState::Declined => 'd',
        };
        let _ = write!(out, "{state} {} {} {}", self.until, self.mac, self.address);
        let sum = crc32(&out.as_bytes()[start..]);
        let _ = writeln!(out, " {sum:08x}");
    }

    /// Reads a line, without its end; `None` when it is not whole.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (text, sum) = line.rsplit_once(' ')?;
        if sum.len() != 8 || u32::from_str_radix(sum, 16).ok()? != crc32(text.as_bytes()) {
            return None;
        }
        let mut words = text.split(' ');
        let state = match words.next()? {
            "b" => LeaseState::Bound,
            "r" => LeaseState::Released,
            "d" => LeaseState::Declined,
            _ => return None,
        };
        let until = words.next()?.parse().ok()?;
        let mac = words.next()?.parse().ok()?;
        let address = words.next()?.parse().ok()?;
        words.next().is_none().then_some(Self { state, until, mac, address })
    }

    /// Whether nobody else can have the address now.
    pub(super) const fn holds(&self, unix: u64) -> bool {
        match self.state {
            LeaseState::Bound | LeaseState::Declined => self.until > unix,
            LeaseState::Released => false,
        }
    }
}

/// CRC-32 as Ethernet and zip have it; lines are short and rare.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// All leases: one for each address, and at most one address for each machine.
#[derive(Debug, Default)]
pub(super) struct Leases {
    by_address: BTreeMap<Ipv4Addr, Lease>,
    by_mac: BTreeMap<Mac, Ipv4Addr>,
}

impl Leases {
    pub(super) fn get(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.by_address.get(&address)
    }

    /// What the machine has or last had.
    pub(super) fn of(&self, mac: Mac) -> Option<&Lease> {
        self.by_address.get(self.by_mac.get(&mac)?)
    }

    /// Takes the place of what was known of the address and of the machine.
    pub(super) fn set(&mut self, lease: Lease) {
        if let Some(old) = self.by_address.insert(lease.address, lease)
            && self.by_mac.get(&old.mac) == Some(&lease.address)
        {
            self.by_mac.remove(&old.mac);
        }
        if lease.state == LeaseState::Declined {
            return;
        }
        if let Some(former) = self.by_mac.insert(lease.mac, lease.address)
            && former != lease.address
        {
            self.by_address.remove(&former);
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Lease> {
        self.by_address.values().copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lease(state: LeaseState, until: u64, mac: u8, last: u8) -> Lease {
        Lease { state, until, mac: Mac([2, 0, 0, 0, 0, mac]), address: [192, 0, 2, last].into() }
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    proptest! {
        #[test]
        fn a_line_reads_back(until: u64, mac: [u8; 6], address: u32, kind in 0..3_usize) {
            let state = [LeaseState::Bound, LeaseState::Released, LeaseState::Declined][kind];
            let lease = Lease { state, until, mac: Mac(mac), address: Ipv4Addr::from_bits(address) };
            let mut text = String::new();
            lease.write_to(&mut text);
            prop_assert!(text.len() <= LINE_MAX);
            let line = text.strip_suffix('\n').unwrap();
            prop_assert_eq!(Lease::parse(line), Some(lease));
            for cut in 0..line.len() {
                prop_assert_eq!(Lease::parse(&line[..cut]), None, "cut at {}", cut);
            }
        }

        #[test]
        fn a_changed_byte_is_seen(at in 0..40_usize, byte in 32..127_u8) {
            let mut text = String::new();
            lease(LeaseState::Bound, 1_800_000_000, 1, 100).write_to(&mut text);
            let mut line = text.trim_end().as_bytes().to_vec();
            let before = std::mem::replace(&mut line[at], byte);
            prop_assert!(before == byte || Lease::parse(std::str::from_utf8(&line).unwrap()).is_none());
        }
    }

    #[test]
    fn a_machine_has_one_address_and_an_address_one_machine() {
        let mut leases = Leases::default();
        leases.set(lease(LeaseState::Bound, 10, 1, 100));
        leases.set(lease(LeaseState::Bound, 10, 1, 101));
        assert_eq!(leases.get([192, 0, 2, 100].into()), None);
        leases.set(lease(LeaseState::Bound, 10, 2, 101));
        assert_eq!(leases.of(Mac([2, 0, 0, 0, 0, 1])), None);
        assert_eq!(leases.all().count(), 1);
        leases.set(lease(LeaseState::Declined, 10, 2, 101));
        assert_eq!(leases.of(Mac([2, 0, 0, 0, 0, 2])), None, "who declined gets another");
    }
}
