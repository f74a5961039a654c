//! Whoever just asked what to boot may fetch the configuration to join with.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use uuid::Uuid;

use super::Refusal;
use crate::{Mac, Time};

/// How long a boot vouches: firmware, a slow link and 200 MB of images take minutes, not tens of them.
pub const VALID_FOR: Duration = Duration::from_mins(10);
/// How many boots in progress are remembered; the oldest makes room.
pub const VOUCHERS_MAX: usize = 4096;
/// How many machines one address can vouch for at a time. One is honest; a lease that moves on, or a NAT in
/// front of a small rack, needs some more. It keeps one host from pushing the others out of the table.
pub const PER_ADDRESS_MAX: usize = 16;
/// How often one boot can fetch its configuration. Talos asks once or twice and repeats after errors.
pub const CHECKS_MAX: u32 = 30;

/// Why a boot does not vouch for somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No machine with that UUID has asked what to boot.
    #[error("this machine did not ask what to boot")]
    NeverAsked,
    /// It did, too long ago.
    #[error("this machine asked what to boot too long ago")]
    Expired,
    /// It did, from another address.
    #[error("this machine asked what to boot from another address")]
    OtherAddress,
    /// It has fetched the configuration too often already.
    #[error("this machine has asked for its configuration too often")]
    TooMany,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::TooMany => Self::TooMany,
            Reason::NeverAsked | Reason::Expired | Reason::OtherAddress => {
                Self::Forbidden(reason.to_string())
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Voucher {
    at: Time,
    mac: Option<Mac>,
    peer: IpAddr,
    /// Where DHCP saw the machine move to: the system it booted may get another lease than its firmware.
    moved_to: Option<IpAddr>,
    checks: u32,
}

/// The boots in progress, bounded.
#[derive(Clone, Debug, Default)]
pub struct Vouchers {
    by_uuid: BTreeMap<Uuid, Voucher>,
}

impl Vouchers {
    /// Nobody boots yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The machine asked what to boot: it may fetch its configuration for the next ten minutes, from the
    /// address that it asked from.
    ///
    /// Asking again renews the voucher but not, within its life, the number of fetches that are left.
    pub fn vouch(&mut self, now: Time, uuid: Uuid, mac: Option<Mac>, peer: IpAddr) {
        let checks = match self.by_uuid.get(&uuid) {
            Some(old) if old.peer == peer && now - old.at < VALID_FOR => old.checks,
            _ => 0,
        };
        if !self.by_uuid.contains_key(&uuid) {
            let same_peer = self.by_uuid.values().filter(|voucher| voucher.peer == peer).count();
            if same_peer >= PER_ADDRESS_MAX {
                self.drop_oldest(|voucher| voucher.peer == peer);
            } else if self.by_uuid.len() >= VOUCHERS_MAX {
                self.drop_oldest(|_| true);
            }
        }
        self.by_uuid.insert(uuid, Voucher { at: now, mac, peer, moved_to: None, checks });
    }

    /// The machine asked the site's DHCP server for this address: its voucher holds there too. The system that
    /// a firmware starts often names itself differently and gets another lease.
    pub fn moved(&mut self, mac: Mac, address: IpAddr) {
        for voucher in self.by_uuid.values_mut().filter(|voucher| voucher.mac == Some(mac)) {
            if voucher.peer != address {
                voucher.moved_to = Some(address);
            }
        }
    }

    /// Whether a boot in progress vouches for this machine at this address. Counts against its limit.
    ///
    /// # Errors
    ///
    /// The [`Reason`] why not.
    pub fn check(&mut self, now: Time, uuid: Uuid, peer: IpAddr) -> Result<(), Reason> {
        let voucher = self.by_uuid.get_mut(&uuid).ok_or(Reason::NeverAsked)?;
        if now - voucher.at >= VALID_FOR {
            return Err(Reason::Expired);
        }
        if voucher.peer != peer && voucher.moved_to != Some(peer) {
            return Err(Reason::OtherAddress);
        }
        if voucher.checks >= CHECKS_MAX {
            return Err(Reason::TooMany);
        }
        voucher.checks += 1;
        Ok(())
    }

    /// The interface that the machine last booted from, while its voucher is kept.
    #[must_use]
    pub fn mac(&self, uuid: Uuid) -> Option<Mac> {
        self.by_uuid.get(&uuid).and_then(|voucher| voucher.mac)
    }

    /// How many boots are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_uuid.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_uuid.is_empty()
    }

    fn drop_oldest(&mut self, among: impl Fn(&Voucher) -> bool) {
        let candidates = self.by_uuid.iter().filter(|(_, voucher)| among(voucher));
        if let Some(uuid) = candidates.min_by_key(|(_, voucher)| voucher.at).map(|(uuid, _)| *uuid) {
            self.by_uuid.remove(&uuid);
        }
    }
}

#[cfg(test)]
mod tests;
