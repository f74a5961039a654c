//! Mode `server`: a small, whole DHCPv4 server (RFC 2131, 2132) for networks that have none.
//!
//! ```text
//! start ─ DISCOVER of our own ─┬─ somebody offers ─► refused for good
//!                              └─ silence, 4.5 s ──► serving
//!
//! DISCOVER ─────────────────────────────► OFFER  (an address that nobody answered for, see `pool`)
//! REQUEST, of our offer ────────────────► written down, then ACK; or NAK
//! REQUEST, of an address it had ────────► the same; silence when we know nothing of it
//! DECLINE, RELEASE ─────────────────────► written down
//! INFORM ───────────────────────────────► ACK without an address
//! ```
//!
//! One machine has one address, whatever runs on it: a lease is known by the interface's MAC and not by the client
//! identifier (option 61), which firmware, loader and operating system each choose anew. So all three get the same
//! address, and none of them waits for a probe.

mod answer;
pub mod config;
pub mod lease;
mod pool;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use answer::Reply;
pub use config::{Holder, Reservation, ServerConfig, ServerConfigError};
pub use lease::{Lease, LeaseState};
use pool::Pool;
use uuid::Uuid;

use super::boot::Plan;
use super::codec::{Message, Op, option};
use super::limiter::{Bucket, mix};
use super::outcome::{IgnoreReason, Port, Seen};
use super::proxy::ProxyConfig;
use super::request::{self, Class, MessageType, is_host};
use super::responder::{Event, Link, Out, Transmit};
use crate::{Mac, Time};

/// DISCOVERs of our own before the first answer, and the pauses between them.
const SEARCHES: u8 = 3;
const SEARCH_PAUSE: Duration = Duration::from_secs(1);
/// How long other servers are listened for: dnsmasq tries an address for 3 s before it offers it.
const SEARCH_FOR: Duration = Duration::from_millis(4_500);
/// How long an address that a client declined is given to nobody.
const DECLINED_SECS: u64 = 3_600;
/// Leases written down in a second: two racks boot in one, and a disk on a small box keeps up.
const LEASE_RATE: u32 = 200;
/// Leases at once.
const LEASE_BURST: u32 = 1_000;
/// The broadcast bit of the flags.
const BROADCAST: u16 = 0x8000;

#[derive(Clone, Copy, Debug)]
enum Phase {
    Searching { sent: u8, next: Time, until: Time },
    Serving,
    Refused,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Server {
    config: ServerConfig,
    boot: ProxyConfig,
    own: Ipv4Addr,
    mac: Mac,
    phase: Phase,
    search_xid: u32,
    leases: lease::Leases,
    pool: Pool,
    written: Bucket,
    started: Time,
    unix_start: u64,
}

/// What a REQUEST comes to.
enum Verdict {
    Grant(Ipv4Addr),
    Deny(Ipv4Addr),
    Silence(IgnoreReason),
}

impl Server {
    pub(super) fn new(
        now: Time,
        config: ServerConfig,
        boot: ProxyConfig,
        mac: Mac,
        known: Vec<Lease>,
        unix_start: u64,
        seed: u64,
    ) -> Self {
        let mut leases = lease::Leases::default();
        let is_ours = |address: Ipv4Addr| {
            let reserved = config.reservations.iter().any(|reservation| reservation.address == address);
            reserved || config.in_ranges(address)
        };
        known.into_iter().filter(|lease| is_ours(lease.address)).for_each(|lease| leases.set(lease));
        let pool = Pool::new(now, config.ranges.clone(), mix(seed));
        let (own, search_xid) = (boot.server, mix(seed ^ 0x5eed) as u32);
        let phase = Phase::Searching { sent: 0, next: now, until: now + SEARCH_FOR };
        let written = Bucket::full(now, LEASE_BURST);
        Self { config, boot, own, mac, phase, search_xid, leases, pool, written, started: now, unix_start }
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = Lease> {
        self.leases.all()
    }

    const fn unix(&self, now: Time) -> u64 {
        self.unix_start + now.since(self.started).as_secs()
    }

    /// An answer on port 68: to our own DISCOVER?
    pub(super) fn hear_answer(&mut self, now: Time, message: &Message, source: SocketAddrV4, out: &mut Out) {
        let ours = message.xid == self.search_xid && message.hardware_address() == self.mac.0;
        let offer = request::message_type(message) == Some(MessageType::Offer);
        // A proxy that offers boot files only gives no address.
        if matches!(self.phase, Phase::Searching { .. }) && ours && offer && is_host(message.yiaddr) {
            let server = request::address(message, option::SERVER_ID).unwrap_or(*source.ip());
            self.phase = Phase::Refused;
            out.tell(now, Event::OtherServer { server });
        }
    }

    fn search(&self, out: &mut Out) {
        let mut discover = Message::new(Op::Request);
        discover.xid = self.search_xid;
        discover.flags = BROADCAST;
        discover.chaddr[..6].copy_from_slice(&self.mac.0);
        discover.options.push(option::MESSAGE_TYPE, &[MessageType::Discover.number()]);
        discover.options.push(option::PARAMETERS, &[option::SUBNET_MASK, option::ROUTER]);
        let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, Port::Server67.number());
        out.transmit.push_back(Transmit::Datagram(super::responder::Datagram {
            payload: discover.emit(),
            from_port: 68,
            to: everybody,
            link: Link::Everybody,
        }));
    }

    pub(super) fn handle_timeout(&mut self, now: Time, out: &mut Out) {
        if let Phase::Searching { sent, next, until } = self.phase {
            if now >= until {
                self.phase = Phase::Serving;
                out.tell(now, Event::Serving);
            } else if now >= next && sent < SEARCHES {
                self.phase = Phase::Searching { sent: sent + 1, next: now + SEARCH_PAUSE, until };
                self.search(out);
            }
        }
        if matches!(self.phase, Phase::Refused) {
            return;
        }
        let unix = self.unix(now);
        let Self { pool, leases, config, own, .. } = self;
        let free = |address: Ipv4Addr| is_free(leases, config, *own, unix, address);
        pool.handle_timeout(now, free, |address| out.transmit.push_back(Transmit::ArpProbe(address)));
    }

    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let search = match self.phase {
            Phase::Searching { sent, next, until } => Some(if sent < SEARCHES { next } else { until }),
            Phase::Serving => None,
            Phase::Refused => return None,
        };
        [search, self.pool.poll_timeout()].into_iter().flatten().min()
    }

    pub(super) fn handle_arp(&mut self, now: Time, address: Ipv4Addr, mac: Mac, out: &mut Out) {
        if self.pool.handle_arp(now, address, mac) {
            out.tell(now, Event::Conflict { address, by: mac });
        }
    }

    pub(super) fn handle_request(
        &mut self,
        now: Time,
        from: Mac,
        message: &Message,
        mut seen: Seen,
        class: Option<Class>,
        out: &mut Out,
    ) {
        // What boots from the network gets its boot file; when there is none, an address all the same.
        let plan = class.and_then(|class| {
            let plan = Plan::new(&self.boot, message, class);
            if let Err(reason) = plan {
                out.tell(now, Event::Ignored { seen, reason });
            }
            plan.ok()
        });
        if let Some(plan) = &plan {
            seen.firmware = Some(plan.firmware);
        }
        if let Err(reason) = self.serve(now, from, message, seen, plan.as_ref(), out) {
            out.ignore(now, seen, reason);
        }
    }

    fn serve(
        &mut self,
        now: Time,
        from: Mac,
        message: &Message,
        seen: Seen,
        plan: Option<&Plan>,
        out: &mut Out,
    ) -> Result<(), IgnoreReason> {
        if !matches!(self.phase, Phase::Serving) {
            return Err(IgnoreReason::NotServing);
        }
        // Our addresses are those of one network.
        if !message.giaddr.is_unspecified() && !self.config.subnet.contains(message.giaddr) {
            return Err(IgnoreReason::NoAddress);
        }
        let reply = Reply { from, message, plan };
        match seen.message_type {
            MessageType::Discover => {
                let wanted = request::address(message, option::REQUESTED_IP);
                let address = self.choose(now, seen, wanted).ok_or(IgnoreReason::NoAddress)?;
                self.send(&reply, MessageType::Offer, Some(address), out);
                out.counters.offers += 1;
                self.tell_offered(now, seen, plan, out);
            }
            MessageType::Request => match self.judge(now, message, seen) {
                Verdict::Grant(address) => {
                    if !self.written.take(now, LEASE_RATE, LEASE_BURST) {
                        return Err(IgnoreReason::Busy);
                    }
                    self.grant(now, seen, address, out);
                    self.send(&reply, MessageType::Ack, Some(address), out);
                    out.counters.acks += 1;
                    out.tell(now, Event::Leased { mac: seen.mac, uuid: seen.uuid, address });
                }
                Verdict::Deny(address) => {
                    self.send(&reply, MessageType::Nak, None, out);
                    out.tell(now, Event::Denied { mac: seen.mac, address });
                }
                Verdict::Silence(reason) => return Err(reason),
            },
            MessageType::Inform if is_host(message.ciaddr) => {
                self.send(&reply, MessageType::Ack, None, out);
                out.counters.acks += 1;
                self.tell_offered(now, seen, plan, out);
            }
            MessageType::Decline => self.handle_decline(now, message, seen, out)?,
            MessageType::Release => self.handle_release(message, seen, out)?,
            _ => return Err(IgnoreReason::NotForBootServer),
        }
        Ok(())
    }

    fn tell_offered(&self, now: Time, seen: Seen, plan: Option<&Plan>, out: &mut Out) {
        if let Some(plan) = plan {
            out.tell(now, Event::Offered { seen, offered: plan.offered(Port::Server67) });
        }
    }

    /// Its reservation; what it has or had; what the pool has.
    fn choose(&mut self, now: Time, seen: Seen, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        if let Some(reserved) = self.reserved_for(seen.mac, seen.uuid) {
            return Some(reserved);
        }
        let unix = self.unix(now);
        if let Some(lease) = self.leases.of(seen.mac).copied()
            && self.may_have(now, seen.mac, lease.address)
        {
            return Some(lease.address);
        }
        let Self { pool, leases, config, own, .. } = self;
        pool.offer(now, seen.mac, wanted, |address| is_free(leases, config, *own, unix, address))
    }

    fn reserved_for(&self, mac: Mac, uuid: Option<Uuid>) -> Option<Ipv4Addr> {
        let is = |holder: Holder| match holder {
            Holder::Mac(known) => known == mac,
            Holder::Uuid(known) => Some(known) == uuid,
        };
        let found = self.config.reservations.iter().find(|reservation| is(reservation.holder));
        found.map(|reservation| reservation.address)
    }

    /// Whether a machine may have (or keep) an address that is not reserved for it.
    fn may_have(&self, now: Time, mac: Mac, address: Ipv4Addr) -> bool {
        let unix = self.unix(now);
        let reservation = self.config.reservations.iter().find(|known| known.address == address);
        let lease = self.leases.get(address);
        let its_own = lease.is_some_and(|lease| lease.mac == mac && lease.state != LeaseState::Declined);
        if let Some(reservation) = reservation {
            // An operating system does not tell its UUID: by the lease that its firmware got.
            return matches!(reservation.holder, Holder::Uuid(_)) && its_own;
        }
        let elsewhere = lease.is_some_and(|lease| lease.mac != mac && lease.holds(unix));
        let declined = lease.is_some_and(|lease| lease.state == LeaseState::Declined && lease.holds(unix));
        let used = self.pool.taken_by(now, address).is_some_and(|user| user != mac);
        let given = address != self.own && !self.config.routers.contains(&address);
        given && self.config.in_ranges(address) && !elsewhere && !declined && !used
    }

    /// RFC 2131, 4.3.2: the kinds of REQUEST by what they carry.
    fn judge(&self, now: Time, message: &Message, seen: Seen) -> Verdict {
        let requested = request::address(message, option::REQUESTED_IP);
        let mine = |address: Ipv4Addr| {
            self.reserved_for(seen.mac, seen.uuid) == Some(address) || self.may_have(now, seen.mac, address)
        };
        if let Some(server) = request::address(message, option::SERVER_ID) {
            // It chose an offer.
            if server != self.own {
                return Verdict::Silence(IgnoreReason::OtherServer);
            }
            let Some(address) = requested.or(Some(message.ciaddr)).filter(|address| is_host(*address)) else {
                return Verdict::Silence(IgnoreReason::BadAddress);
            };
            return if mine(address) { Verdict::Grant(address) } else { Verdict::Deny(address) };
        }
        // It has an address and wants to keep it, or had one before it was switched off.
        let Some(address) = requested.or(Some(message.ciaddr)).filter(|address| is_host(*address)) else {
            return Verdict::Silence(IgnoreReason::BadAddress);
        };
        if !self.config.subnet.contains(address) {
            return Verdict::Deny(address);
        }
        let known = self.leases.get(address).is_some_and(|lease| lease.mac == seen.mac);
        let reserved = self.reserved_for(seen.mac, seen.uuid);
        if (known || reserved == Some(address)) && mine(address) {
            return Verdict::Grant(address);
        }
        if known || reserved.is_some() || self.leases.of(seen.mac).is_some() {
            // We know the machine, and the address is not its any longer.
            return Verdict::Deny(address);
        }
        Verdict::Silence(IgnoreReason::UnknownAddress)
    }

    fn grant(&mut self, now: Time, seen: Seen, address: Ipv4Addr, out: &mut Out) {
        let until = self.unix(now) + self.config.lease_time.as_secs();
        self.pool.take_out(address);
        self.write(Lease { state: LeaseState::Bound, until, mac: seen.mac, address }, out);
    }

    fn write(&mut self, lease: Lease, out: &mut Out) {
        self.leases.set(lease);
        out.records.push_back(lease);
    }

    fn handle_decline(
        &mut self,
        now: Time,
        message: &Message,
        seen: Seen,
        out: &mut Out,
    ) -> Result<(), IgnoreReason> {
        let address = request::address(message, option::REQUESTED_IP).ok_or(IgnoreReason::BadAddress)?;
        let lease = self.leases.get(address).filter(|lease| lease.mac == seen.mac);
        if lease.is_none_or(|lease| lease.state != LeaseState::Bound) {
            return Err(IgnoreReason::UnknownAddress);
        }
        let until = self.unix(now) + DECLINED_SECS;
        self.write(Lease { state: LeaseState::Declined, until, mac: seen.mac, address }, out);
        // It is not known who has it; the machine says that it is not itself.
        out.tell(now, Event::Conflict { address, by: seen.mac });
        Ok(())
    }

    fn handle_release(&mut self, message: &Message, seen: Seen, out: &mut Out) -> Result<(), IgnoreReason> {
        let lease = self.leases.get(message.ciaddr).copied();
        let lease = lease.filter(|lease| lease.mac == seen.mac && lease.state == LeaseState::Bound);
        let lease = lease.ok_or(IgnoreReason::UnknownAddress)?;
        self.write(Lease { state: LeaseState::Released, ..lease }, out);
        Ok(())
    }
}

/// Whether an address of a range can be given to a stranger, as far as is written down.
fn is_free(
    leases: &lease::Leases,
    config: &ServerConfig,
    own: Ipv4Addr,
    unix: u64,
    address: Ipv4Addr,
) -> bool {
    let reserved = config.reservations.iter().any(|reservation| reservation.address == address);
    let special = address == own || config.routers.contains(&address) || !config.subnet.has_host(address);
    !reserved && !special && leases.get(address).is_none_or(|lease| !lease.holds(unix))
}

#[cfg(test)]
mod tests;
