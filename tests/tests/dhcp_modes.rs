//! The DHCP modes beside a real DHCP server and without one: `merge` for firmware that ignores `ProxyDHCP`, `server`.
//!
//! They need root and what `make images` builds. Each test has a bed of its own. `BOOTLACE` names another
//! binary than the release one.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use netboot::Time;
use netboot::dhcp::codec::{Message, Op, option, text};
use netboot::dhcp::request::{self, MessageType};
use netboot::tftp;
use nix::sys::socket::{setsockopt, sockopt};
use testbed::{
    APPLIANCE_ADDRESS, Appliance, ApplianceSpec, Bed, DiskSpec, Firmware, LIMIT, Machine, MachineSpec,
    ROUTER_ADDRESS, Role, wait_until,
};

const SOON: Duration = Duration::from_secs(20);
/// How long offers are collected. EDK2 takes 3.5 s.
const COLLECT: Duration = Duration::from_secs(2);
const TABLE: &str = "[[netboot.interface]]\nname = \"eth0\"\naddress = \"10.88.0.1/24\"\n";
const SERVER: &str = "dhcp = \"server\"\n[netboot.interface.server]\nranges = [\"10.88.0.100 - 10.88.0.149\"]\n\
                      routers = [\"10.88.0.2\"]\nlease_time = \"1h\"\n\
                      [[netboot.interface.server.reservation]]\n\
                      mac = \"52:54:00:99:00:07\"\naddress = \"10.88.0.77\"\n";

fn spec(tables: &str) -> Result<ApplianceSpec> {
    Ok(ApplianceSpec::built()?.config(&format!("{TABLE}{tables}")))
}

/// Firmware at its strictest: it wants one offer that has an address *and* a boot file, drops all others, and goes
/// by the first ACK or NAK that comes.
struct Strict {
    socket: UdpSocket,
    mac: [u8; 6],
    netboots: bool,
    xid: u32,
    /// Who offered what: an address, a boot file.
    offers: BTreeMap<Ipv4Addr, (bool, bool)>,
    refusals: u32,
}

impl Strict {
    fn new(bed: &Bed, number: u8, netboots: bool) -> Result<Self> {
        let socket = bed.net().inside(Role::Switch, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
            setsockopt(&socket.as_fd(), sockopt::BindToDevice, &"br0".into())?;
            socket.set_broadcast(true)?;
            Ok(socket)
        })?;
        let (mac, offers) = ([0x52, 0x54, 0, 0x99, 0, number], BTreeMap::new());
        Ok(Self { socket, mac, netboots, xid: 0x1000 + u32::from(number), offers, refusals: 0 })
    }

    fn message(&self, kind: MessageType) -> Message {
        let mut message = Message::new(Op::Request);
        message.xid = self.xid;
        message.flags = 0x8000;
        message.chaddr[..6].copy_from_slice(&self.mac);
        message.options.push(option::MESSAGE_TYPE, &[kind.number()]);
        message.options.push(option::PARAMETERS, &[1, 3, 6, 43, 60, 66, 67]);
        message.options.push(option::MAX_MESSAGE_SIZE, &1_472_u16.to_be_bytes());
        if self.netboots {
            message.options.push(option::VENDOR_CLASS, b"PXEClient:Arch:00007:UNDI:003000");
            message.options.push(option::CLIENT_ARCH, &[0, 7]);
            message.options.push(option::CLIENT_NDI, &[1, 3, 0]);
        }
        message
    }

    fn send(&self, message: &Message) -> Result<()> {
        let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
        self.socket.send_to(&message.emit(), everybody).map(drop).context("cannot broadcast")
    }

    /// The next answer to us before `end`.
    fn answer(&self, end: Instant) -> Result<Option<Message>> {
        let mut buffer = [0; 2_048];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            };
            let Ok(message) = Message::parse(&buffer[..length]) else { continue };
            if message.op == Op::Reply && message.xid == self.xid && message.chaddr[..6] == self.mac {
                return Ok(Some(message));
            }
        }
    }

    /// One round: the ACK, or `None` when there was no offer to its taste or it was refused.
    fn round(&mut self) -> Result<Option<Message>> {
        self.xid += 0x100;
        self.send(&self.message(MessageType::Discover))?;
        let end = Instant::now() + COLLECT;
        let mut chosen = None;
        while let Some(offer) = self.answer(end)? {
            let server = request::address(&offer, option::SERVER_ID).context("an offer names its server")?;
            let (address, file) = (!offer.yiaddr.is_unspecified(), !text(&offer.file).is_empty());
            self.offers.insert(server, (address, file));
            if address && file == self.netboots && chosen.is_none() {
                chosen = Some((offer.yiaddr, server));
            }
        }
        let Some((address, server)) = chosen else { return Ok(None) };
        let mut choice = self.message(MessageType::Request);
        choice.options.push(option::REQUESTED_IP, &address.octets());
        choice.options.push(option::SERVER_ID, &server.octets());
        self.send(&choice)?;
        let first = self.answer(Instant::now() + SOON)?.context("the choice has no answer")?;
        match request::message_type(&first) {
            Some(MessageType::Ack) => Ok(Some(first)),
            Some(MessageType::Nak) => {
                self.refusals += 1;
                Ok(None)
            }
            other => bail!("{other:?} as the answer to a REQUEST"),
        }
    }

    fn boot(&mut self, rounds: u32) -> Result<Message> {
        for _ in 0..rounds {
            if let Some(ack) = self.round()? {
                return Ok(ack);
            }
        }
        bail!("no address in {rounds} rounds; offers: {:?}, refusals: {}", self.offers, self.refusals)
    }
}

/// Fetches a file by TFTP as firmware does; its length.
fn fetch(bed: &Bed, ack: &Message) -> Result<usize> {
    let socket = bed.net().inside(Role::Switch, || Ok(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?))?;
    let (start, mut buffer) = (Instant::now(), [0; 2_048]);
    let now = || Time::ZERO + start.elapsed();
    let options = tftp::Options { block_size: Some(1_468), window_size: Some(4), ..Default::default() };
    let wanted = tftp::Wanted {
        server: SocketAddrV4::new(ack.siaddr, 69),
        name: text(&ack.file),
        options,
        max_bytes: 16 << 20,
    };
    let mut client = tftp::Client::new(now(), wanted);
    loop {
        while let Some((to, bytes)) = client.poll_transmit() {
            socket.send_to(&bytes, to)?;
        }
        if let Some(outcome) = client.outcome() {
            return outcome.map(<[u8]>::len).map_err(|error| anyhow::anyhow!("{error}"));
        }
        let wait = client.poll_timeout().map_or(SOON, |deadline| deadline.since(now()));
        socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        match socket.recv_from(&mut buffer) {
            Ok((length, SocketAddr::V4(from))) => client.handle_packet(now(), from, &buffer[..length]),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                client.handle_timeout(now());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn machine(bed: &Bed, name: &str, firmware: Firmware) -> Result<Machine> {
    bed.machine(MachineSpec::new(name, firmware).disk(DiskSpec::blank(16)))
}

fn until(appliance: &Appliance, machine: &Machine, steps: &[&str]) -> Result<()> {
    let (journal, begin) = (appliance.journal()?, Instant::now());
    machine.power_on()?;
    for step in steps {
        journal.wait_step(LIMIT, machine, step)?;
        println!("{:<10} {step:<16} at {:.1} s", machine.name(), begin.elapsed().as_secs_f32());
    }
    Ok(())
}

/// The router with another DHCP server, which is configured otherwise.
struct Second(Child);

impl Second {
    fn start(bed: &Bed, more: &str) -> Result<Self> {
        let pid = fs::read_to_string(bed.dir().join("router.pid"))?;
        let pid = nix::unistd::Pid::from_raw(pid.trim().parse()?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        let config = fs::read_to_string(bed.dir().join("router.conf"))?.replace("/router.", "/second.");
        let (path, log) = (bed.dir().join("second.conf"), bed.dir().join("second.log"));
        fs::write(&path, format!("{config}{more}"))?;
        let serves = || fs::read_to_string(&log).unwrap_or_default().contains("router advertisement on");
        // The first one may hold its port for a moment.
        wait_until(SOON, "the second DHCP server", || {
            let mut command = bed.net().command(Role::Router, "dnsmasq");
            command.arg("-C").arg(&path).stdin(Stdio::null()).stdout(Stdio::null());
            let mut child = command.stderr(fs::File::create(&log).ok()?).spawn().ok()?;
            let begin = Instant::now();
            while begin.elapsed() < SOON {
                if serves() {
                    return Some(Self(child));
                }
                if !matches!(child.try_wait(), Ok(None)) {
                    return None;
                }
                std::thread::yield_now();
            }
            let _ = child.kill();
            None
        })
        .map_err(Into::into)
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn merge_boots_firmware_that_ignores_proxy_offers_and_leaves_others_alone() -> Result<()> {
    let bed = Bed::start()?;
    let appliance = bed.appliance(spec("dhcp = \"merge\"\n")?)?;
    let mut firmware = Strict::new(&bed, 1, true)?;
    let ack = firmware.boot(1)?;
    println!("offers: {:?}", firmware.offers);
    // The site's own offer came too, without a file; there is none without an address.
    ensure!(firmware.offers.get(&ROUTER_ADDRESS) == Some(&(true, false)), "{:?}", firmware.offers);
    ensure!(firmware.offers.get(&APPLIANCE_ADDRESS) == Some(&(true, true)), "{:?}", firmware.offers);
    ensure!(ack.options.value(option::LEASE_TIME) == Some(&3_600_u32.to_be_bytes()[..]), "the site's time");
    ensure!(ack.yiaddr.octets()[3] >= 100, "the site's address: {}", ack.yiaddr);
    let bytes = fetch(&bed, &ack)?;
    println!("{} from {}: {bytes} bytes", text(&ack.file), ack.siaddr);
    ensure!(bytes > 100_000, "the boot file");
    ensure!(bed.router_log().contains("DHCPACK(eth0)"), "the site's server knows the lease");
    drop(firmware);

    let mut other = Strict::new(&bed, 2, false)?;
    other.boot(1)?;
    ensure!(!other.offers.contains_key(&APPLIANCE_ADDRESS), "not ours to answer: {:?}", other.offers);
    drop(other);

    // The server goes: no answer of ours either.
    bed.net().ip(Role::Router, "link set eth0 down")?;
    let mut lost = Strict::new(&bed, 3, true)?;
    ensure!(lost.round()?.is_none() && lost.offers.is_empty(), "{:?}", lost.offers);
    let silent = |entry: &testbed::Entry| {
        entry.step == "dhcp_ignored" && entry.detail("reason").contains("gave no answer")
    };
    appliance.journal()?.wait(SOON, "word of the silent server", silent)?;
    Ok(())
}

#[test]
fn merge_gets_ahead_of_an_authoritative_server() -> Result<()> {
    let bed = Bed::start()?;
    // It refuses whatever is not for it.
    let _second = Second::start(&bed, "dhcp-authoritative\n")?;
    let _appliance = bed.appliance(spec("dhcp = \"merge\"\n")?)?;
    for number in 1..=5 {
        let mut firmware = Strict::new(&bed, number, true)?;
        let ack = firmware.boot(4)?;
        println!("machine {number}: {} after {} refusals", ack.yiaddr, firmware.refusals);
        ensure!(!text(&ack.file).is_empty(), "a whole answer");
    }
    Ok(())
}

#[test]
fn merge_boots_uefi_firmware() -> Result<()> {
    let bed = Bed::start()?;
    let appliance = bed.appliance(spec("dhcp = \"merge\"\n")?)?;
    let uefi = machine(&bed, "uefi", Firmware::UefiPxe)?;
    until(&appliance, &uefi, &["dhcp_offer", "tftp_finished", "script_served", "pending"])
}

#[test]
fn server_boots_machines_where_there_is_no_other_and_keeps_leases_over_a_sigkill() -> Result<()> {
    let bed = Bed::start()?;
    bed.net().ip(Role::Router, "link set eth0 down")?;
    let mut appliance = bed.appliance(spec(SERVER)?)?;
    let serving = |appliance: &Appliance, times| {
        wait_until(SOON, "the server", || {
            (appliance.log().matches("addresses are given").count() >= times).then_some(())
        })
    };
    serving(&appliance, 1)?;
    let bios = machine(&bed, "bios", Firmware::Bios)?;
    until(&appliance, &bios, &["dhcp_offer", "script_served", "joined", "pending"])?;

    let mut reserved = Strict::new(&bed, 7, true)?;
    ensure!(reserved.boot(1)?.yiaddr == Ipv4Addr::new(10, 88, 0, 77), "its reservation");
    drop(reserved);
    let mut first = Strict::new(&bed, 1, true)?;
    let before = first.boot(1)?;
    ensure!((100..150).contains(&before.yiaddr.octets()[3]), "of the range: {}", before.yiaddr);
    drop(first);
    appliance.restart()?;
    serving(&appliance, 2)?;
    // Another machine does not get it, the same one does.
    let mut second = Strict::new(&bed, 2, false)?;
    ensure!(second.boot(1)?.yiaddr != before.yiaddr, "the lease was forgotten");
    drop(second);
    let mut first = Strict::new(&bed, 1, false)?;
    ensure!(first.boot(1)?.yiaddr == before.yiaddr, "the same machine, the same address");
    Ok(())
}

/// The router with DHCPv6 that gives addresses and knows nothing of booting.
#[test]
fn firmware_boots_by_http_over_ipv6_beside_a_dhcpv6_server() -> Result<()> {
    let bed = Bed::start()?;
    let _second = Second::start(&bed, "dhcp-range=fd88::1000,fd88::1fff,64,1h\n")?;
    bed.net().ip(Role::Appliance, "addr add fd88::1/64 dev eth0 nodad")?;
    let appliance = bed.appliance(spec("dhcp = \"off\"\naddress6 = \"fd88::1\"\n")?)?;
    let uefi = machine(&bed, "uefi6", Firmware::UefiHttp)?;
    let journal = appliance.journal()?;
    uefi.power_on()?;
    // EDK2 tries IPv4 first, for a minute.
    journal.wait_step(LIMIT * 3, &uefi, "dhcp_offer")?;
    // From its address of the DHCPv6 server, which nothing tells us to be this machine's.
    let served = |entry: &testbed::Entry| entry.step == "file_served";
    journal.wait(LIMIT, "the boot file over IPv6", served)?;
    Ok(())
}

/// Linux believes the advertisement: an address of the prefix, and no way out.
#[test]
fn a_host_makes_itself_an_address_of_the_advertised_prefix_and_no_default_route() -> Result<()> {
    let bed = Bed::start()?;
    bed.net().ip(Role::Router, "link set eth0 down")?;
    bed.net().inside(Role::Switch, || {
        for (setting, value) in [("forwarding", "0"), ("accept_ra", "2"), ("autoconf", "1")] {
            fs::write(format!("/proc/sys/net/ipv6/conf/br0/{setting}"), value).context(setting)?;
        }
        Ok(())
    })?;
    let advertised =
        "router_advertisement = true\nprefix6 = \"fd88:1:2:7::/64\"\n[[netboot.interface.server.reserv";
    let _appliance =
        bed.appliance(spec(&SERVER.replace("[[netboot.interface.server.reserv", advertised))?)?;
    let shown = |words: &str| -> Result<String> {
        let mut command = bed.net().command(Role::Switch, "ip");
        Ok(String::from_utf8(command.args(words.split(' ')).output()?.stdout)?)
    };
    wait_until(LIMIT, "an address of the prefix", || {
        shown("-6 addr show dev br0")
            .ok()
            .filter(|addresses| addresses.contains("inet6 fd88:1:2:7:"))
            .map(drop)
    })?;
    ensure!(shown("-6 route show default")?.is_empty(), "a router that is none");
    Ok(())
}

#[test]
fn server_refuses_to_start_beside_another_server() -> Result<()> {
    let bed = Bed::start()?;
    let started = bed.appliance(spec(SERVER)?);
    let said = match &started {
        Ok(appliance) => {
            let refused = || appliance.log().contains("another DHCP server (10.88.0.2)").then_some(());
            wait_until(SOON, "the refusal", refused).with_context(|| appliance.log())?;
            appliance.log()
        }
        Err(error) => format!("{error:#}"),
    };
    ensure!(said.contains("answers on eth0; use proxy or merge beside it"), "it says what to do: {said}");
    let mut firmware = Strict::new(&bed, 1, true)?;
    ensure!(firmware.round()?.is_none(), "no answer of ours");
    ensure!(!firmware.offers.contains_key(&APPLIANCE_ADDRESS), "{:?}", firmware.offers);
    Ok(())
}
