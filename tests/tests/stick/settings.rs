//! What `[box]` says is done: addresses, VLANs, the time.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use testbed::{Bed, Firmware, LIMIT, MachineSpec, ROUTER_ADDRESS, Role, Trunk, TrunkVlan};

use crate::{MEMORY_MIB, box_of, configure, serves, stick, wait};

const PORT: u16 = 50042;
/// Seconds from 1900 to 1970.
const NTP_EPOCH: u64 = 2_208_988_800;

/// What the box answers over HTTP: whatever it is, its head has the box's time.
fn head(bed: &Bed, from: Role, address: Ipv4Addr) -> Result<String> {
    let mut stream = bed
        .net()
        .inside(from, || Ok(TcpStream::connect_timeout(&SocketAddrV4::new(address, PORT).into(), LIMIT)?))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 "), "{answer:?} is no answer");
    Ok(answer)
}

#[test]
fn a_box_with_an_address_of_its_own_asks_no_dhcp_server() -> Result<()> {
    let bed = Bed::start()?;
    let stick = stick(&bed, "bootlace.img", "stick.img")?;
    configure(&stick, "[box]\ninterface = \"eth0\"\naddress = \"10.88.0.77/24\"\ngateway = \"10.88.0.2\"\n")?;
    let edge = box_of(&bed, "box", Firmware::Bios, &stick)?;
    serves(&edge)?;
    wait(&edge, "Serves on: http://10.88.0.77:50042/")?;
    head(&bed, Role::Router, Ipv4Addr::new(10, 88, 0, 77))?;
    ensure!(!bed.router_log().contains("DHCPDISCOVER"), "it asked for an address:\n{}", bed.router_log());
    Ok(())
}

#[test]
fn a_box_on_a_vlan_speaks_with_its_tag() -> Result<()> {
    let bed = Bed::start()?;
    let trunk = Trunk::for_machines(bed.net(), &[TrunkVlan { id: 20, bridge: "br20" }])?;
    bed.net().ip(Role::Switch, "addr add 10.88.20.1/24 dev br20")?;
    let stick = stick(&bed, "bootlace.img", "stick.img")?;
    configure(&stick, "[box]\ninterface = \"eth0\"\nvlan = 20\naddress = \"10.88.20.10/24\"\n")?;
    let edge = box_of(&bed, "box", Firmware::Bios, &stick)?;
    serves(&edge)?;
    wait(&edge, "Addresses: eth0.20 10.88.20.10")?;
    // There is no way to this network but by tagged frames.
    head(&bed, Role::Switch, Ipv4Addr::new(10, 88, 20, 10))?;
    ensure!(trunk.untagged() == 0, "{} frames had no tag", trunk.untagged());
    Ok(())
}

/// Answers who asks for the time (RFC 4330), for as long as the test runs.
fn serve_time(bed: &Bed) -> Result<()> {
    let socket = bed.net().inside(Role::Router, || Ok(UdpSocket::bind((ROUTER_ADDRESS, 123))?))?;
    std::thread::spawn(move || {
        let mut message = [0; 48];
        while let Ok((_, from)) = socket.recv_from(&mut message) {
            // Version 4, server, next to a clock; the client's time comes back as that of the question.
            (message[0], message[1]) = (4 << 3 | 4, 1);
            message.copy_within(40..48, 24);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let seconds = u32::try_from(now.as_secs() + NTP_EPOCH).unwrap_or_default();
            message[40..44].copy_from_slice(&seconds.to_be_bytes());
            message[44..].copy_from_slice(&[0; 4]);
            let _ = socket.send_to(&message, from);
        }
    });
    Ok(())
}

#[test]
fn a_box_whose_clock_is_years_behind_gets_the_time() -> Result<()> {
    let bed = Bed::start()?;
    serve_time(&bed)?;
    let stick = stick(&bed, "bootlace.img", "stick.img")?;
    configure(
        &stick,
        &format!("[box]\naddress = \"10.88.0.77/24\"\ntime_servers = [\"{ROUTER_ADDRESS}\"]\n"),
    )?;
    let spec = MachineSpec::new("box", Firmware::Bios).memory_mib(MEMORY_MIB).stick(&stick);
    let edge = bed.machine(spec.qemu("-rtc base=2020-02-02T02:02:02"))?;
    serves(&edge)?;
    let line = wait(&edge, "time set by")?;
    println!("{}", line.text);
    let answer = head(&bed, Role::Router, Ipv4Addr::new(10, 88, 0, 77))?;
    let date =
        answer.lines().find_map(|line| line.strip_prefix("date: ")).context("the answer has no date")?;
    let output = Command::new("date").args(["-u", "+%s", "-d", date]).output()?;
    let told = Duration::from_secs(String::from_utf8(output.stdout)?.trim().parse()?);
    let off = told.abs_diff(SystemTime::now().duration_since(UNIX_EPOCH)?);
    println!("the box says {date}, {:.1} s off", off.as_secs_f32());
    ensure!(off < Duration::from_secs(30), "{date} is {} s off", off.as_secs());
    Ok(())
}
