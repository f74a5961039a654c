//! What the boot journal is told of DHCP.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use netboot::Mac;
use netboot::dhcp::request::MessageType;
use netboot::dhcp::{Event, IgnoreReason, Offered, Seen};
use netboot::journal::{self, Sink, Step};
use uuid::Uuid;

use crate::clock::unix_ms;

/// Machines known to boot from the network, whose later requests for an address are told to the journal. As
/// many as the journal itself correlates.
const KNOWN_MAX: usize = journal::CORRELATED_MAX;

/// Tells the journal of machines that boot from the network, and the log of everything else worth a line.
pub(super) struct Teller {
    sink: Sink,
    known: BTreeSet<Mac>,
}

impl Teller {
    pub(super) const fn new(sink: Sink) -> Self {
        Self { sink, known: BTreeSet::new() }
    }

    pub(super) fn tell(&mut self, event: Event) {
        match event {
            Event::Offered { seen, offered } => self.tell_offered(&seen, offered),
            Event::Ignored { seen, reason } => self.tell_ignored(reason, &seen),
            Event::Leased { mac, uuid, address } => {
                if uuid.is_some() || self.known.contains(&mac) {
                    self.learn(mac);
                    let wanted = IpAddr::V4(address);
                    self.send(mac, uuid, Some(address), Step::AddressRequested { wanted });
                }
            }
            Event::Denied { mac, address } => {
                let reason = format!("the address {address} was refused");
                self.send(mac, None, None, Step::DhcpIgnored { reason });
            }
            Event::NoServer { mac } => {
                let reason = "the DHCP server of the site gave no answer".to_owned();
                self.send(mac, None, None, Step::DhcpIgnored { reason });
            }
            Event::Conflict { address, by } => {
                tracing::warn!(%address, %by, "an address is in use that was not given; it is left alone");
            }
            Event::OtherServer { server } => tracing::error!(%server, "another DHCP server answers here"),
            Event::Serving => tracing::info!("no other DHCP server answers: addresses are given"),
        }
    }

    fn tell_offered(&mut self, seen: &Seen, offered: Offered) {
        self.learn(seen.mac);
        if seen.message_type == MessageType::Discover {
            self.about(seen, Step::DhcpDiscover { firmware: offered.firmware });
        }
        self.about(seen, Step::DhcpOffer { file: offered.file, port: offered.port.number() });
    }

    /// Tells of machines that boot from the network only; what else asks on the segment is counted.
    fn tell_ignored(&mut self, reason: IgnoreReason, seen: &Seen) {
        let step = match reason {
            IgnoreReason::BadUuid
            | IgnoreReason::NoArchitecture
            | IgnoreReason::NoBinary(_)
            | IgnoreReason::BadAddress
            | IgnoreReason::RelayInformation
            | IgnoreReason::NoAddress
            | IgnoreReason::NotServing
            | IgnoreReason::Busy
            | IgnoreReason::Hops => {
                if seen.firmware.is_none() {
                    return;
                }
                self.learn(seen.mac);
                if let (MessageType::Discover, Some(firmware)) = (seen.message_type, seen.firmware) {
                    self.about(seen, Step::DhcpDiscover { firmware });
                }
                Step::DhcpIgnored { reason: reason.to_string() }
            }
            // The question for an address, which the site's DHCP server answers: who has which is worth
            // knowing, because everything after it comes from that address.
            IgnoreReason::NotForBootServer
            | IgnoreReason::OtherServer
            | IgnoreReason::NotNetboot
            | IgnoreReason::UnknownAddress => {
                let netboots = seen.firmware.is_some() || self.known.contains(&seen.mac);
                let Some(wanted) = seen.requested_ip.filter(|_| netboots) else { return };
                Step::AddressRequested { wanted: IpAddr::V4(wanted) }
            }
            IgnoreReason::Malformed(_)
            | IgnoreReason::NotARequest
            | IgnoreReason::NotEthernet
            | IgnoreReason::NoMessageType
            | IgnoreReason::Spoofed
            | IgnoreReason::TooOften => return,
        };
        self.about(seen, step);
    }

    fn learn(&mut self, mac: Mac) {
        if self.known.len() >= KNOWN_MAX && !self.known.contains(&mac) {
            // Forgetting only costs a correlation, and its machine comes back with its next DISCOVER.
            self.known.clear();
        }
        self.known.insert(mac);
    }

    fn about(&self, seen: &Seen, step: Step) {
        self.send(seen.mac, seen.uuid, seen.requested_ip, step);
    }

    fn send(&self, mac: Mac, uuid: Option<Uuid>, address: Option<Ipv4Addr>, step: Step) {
        let event = journal::Event::new(unix_ms(), step).with_mac(mac).with_uuid(uuid);
        (self.sink)(event.with_address(address.map(IpAddr::V4)));
    }
}
