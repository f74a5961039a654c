//! The bed itself: what a test may rely on. These need root, see `make setup`.

#![allow(clippy::unwrap_used, reason = "a test and its helpers fail by panicking")]

mod appliance;
mod cleanup;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use testbed::{
    Bed, BootOrder, DiskSpec, Fault, Firmware, LIMIT, Machine, MachineSpec, ROUTER_ADDRESS, Role, wait_until,
};

/// An operation on the host, not a boot.
const SOON: Duration = Duration::from_secs(15);

/// The processes in the namespaces of a bed.
fn processes(id: &str) -> Vec<i32> {
    let in_namespace = |role| {
        let output = Command::new("ip").args(["netns", "pids", &format!("{id}-{role}")]).output().unwrap();
        let pids = String::from_utf8(output.stdout).unwrap();
        pids.lines().map(|pid| pid.trim().parse().unwrap()).collect::<Vec<i32>>()
    };
    ["switch", "router", "appliance"].into_iter().flat_map(in_namespace).collect()
}

/// One request to a machine's power switch, from where the appliance lives: status code and body.
fn call(
    bed: &Bed,
    machine: &Machine,
    method: &str,
    path: &str,
    limit: Duration,
) -> std::io::Result<(u16, String)> {
    let address = machine.power_address();
    let mut stream = bed.net().inside(Role::Appliance, || Ok(TcpStream::connect(address)?)).unwrap();
    stream.set_read_timeout(Some(limit))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: bmc\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    Ok((head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()))
}

/// A DHCPDISCOVER as a machine's PXE firmware sends it; the options of the answer.
fn discover(bed: &Bed) -> Vec<(u8, Vec<u8>)> {
    let socket = bed.net().inside(Role::Switch, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
        setsockopt(&socket, sockopt::BindToDevice, &"br0".into())?;
        Ok(socket)
    });
    let socket = socket.unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut packet = vec![0; 236];
    packet[..4].copy_from_slice(&[1, 1, 6, 0]);
    packet[4..8].copy_from_slice(b"test");
    packet[10] = 0x80;
    packet[28..34].copy_from_slice(&[0x52, 0x54, 0, 0x88, 0, 0xfe]);
    packet.extend([0x63, 0x82, 0x53, 0x63, 53, 1, 1, 55, 5, 1, 43, 60, 66, 67]);
    packet.extend([60, 9]);
    packet.extend(b"PXEClient");
    packet.push(255);
    socket.send_to(&packet, (Ipv4Addr::BROADCAST, 67)).unwrap();
    let mut reply = [0; 1500];
    let (length, from) = socket.recv_from(&mut reply).expect("the router offers an address");
    assert_eq!(from, SocketAddr::from((ROUTER_ADDRESS, 67)));
    assert_eq!(&reply[4..8], b"test");
    assert_eq!(reply[108], 0, "no boot file");
    let mut rest = &reply[240..length];
    let mut options = Vec::new();
    while let [code, length, tail @ ..] = rest {
        if *code == 255 {
            break;
        }
        let (value, tail) = tail.split_at(usize::from(*length));
        options.push((*code, value.to_vec()));
        rest = tail;
    }
    options
}

#[test]
fn the_router_answers_plain_dhcp_without_any_pxe_option() {
    let bed = Bed::start().unwrap();
    let options = discover(&bed);
    assert!(options.contains(&(53, vec![2])), "an offer: {options:?}");
    for pxe in [43, 60, 66, 67] {
        assert!(options.iter().all(|(code, _)| *code != pxe), "option {pxe} in {options:?}");
    }
}

#[test]
fn a_bios_machine_gets_an_address_and_nothing_to_boot() {
    let bed = Bed::start().unwrap();
    let machine = bed.machine(MachineSpec::new("bios", Firmware::Bios).disk(DiskSpec::blank(16))).unwrap();
    assert!(!machine.is_on());
    machine.power_on().unwrap();
    let console = machine.console();
    console.wait(LIMIT, "Configuring (net0 52:54:00:88:00:01)").unwrap();
    let dhcp = console.wait(LIMIT, "net0: 10.88.0.").unwrap();
    console.wait(LIMIT, "Nothing to boot").unwrap();
    println!("BIOS: address after {:.1} s", dhcp.at.as_secs_f64());
    assert!(bed.router_log().contains(machine.mac()));
    assert!(console.lines().iter().any(|line| line.text.contains(&machine.uuid().to_string())));
    // The next thing it tries is the disk, which is empty.
    console.wait(LIMIT, "not a bootable disk").unwrap();
    assert!(machine.disks()[0].is_blank().unwrap());
}

#[test]
fn a_uefi_machine_asks_for_pxe_and_one_set_to_http_asks_for_http() {
    let bed = Bed::start().unwrap();
    for (name, firmware, class) in [
        ("pxe", Firmware::UefiPxe, "PXEClient:Arch:00007:UNDI:003000"),
        ("http", Firmware::UefiHttp, "HTTPClient:Arch:00016:UNDI:003000"),
    ] {
        let machine = bed.machine(MachineSpec::new(name, firmware)).unwrap();
        machine.power_on().unwrap();
        let asked = || bed.router_log().contains(class).then(|| machine.powered_on_at().unwrap().elapsed());
        let after = wait_until(LIMIT, &format!("a DHCPDISCOVER of {class}"), asked).unwrap();
        println!("{name}: DHCPDISCOVER after {:.1} s", after.as_secs_f64());
        machine.power_off().unwrap();
    }
}

#[test]
fn the_power_switch_does_what_the_appliance_orders() {
    let bed = Bed::start().unwrap();
    let machine = bed.machine(MachineSpec::new("m", Firmware::Bios).memory_mib(96)).unwrap();
    let order = |method, path| call(&bed, &machine, method, path, SOON).unwrap();
    assert_eq!(order("GET", "/status"), (200, r#"{"PoweredOn":false}"#.into()));
    assert_eq!(order("POST", "/poweron").0, 200);
    machine.wait_power(SOON, true).unwrap();
    assert_eq!(order("GET", "/status"), (200, r#"{"PoweredOn":true}"#.into()));
    let firmware_starts =
        || machine.console().lines().iter().filter(|line| line.text.contains("SeaBIOS")).count();
    wait_until(SOON, "the firmware", || (firmware_starts() >= 1).then_some(())).unwrap();
    assert_eq!(order("POST", "/reboot").0, 200);
    wait_until(SOON, "a second start of the firmware", || (firmware_starts() >= 2).then_some(())).unwrap();
    assert_eq!(machine.power_cycles(), 1, "a reset is no power cycle");
    assert_eq!(order("POST", "/poweroff").0, 200);
    machine.wait_power(SOON, false).unwrap();
    assert_eq!(processes(bed.id()).len(), 1, "only dnsmasq is left");
    assert_eq!(order("POST", "/reboot").0, 200);
    machine.wait_power_cycle(SOON, 2).unwrap();
    assert_eq!(order("GET", "/poweron").0, 405);
    let paths: Vec<_> = machine.power_calls().iter().map(|call| call.path).collect();
    assert_eq!(paths, ["/status", "/poweron", "/status", "/reboot", "/poweroff", "/reboot"]);
}

#[test]
fn the_power_switch_misbehaves_on_order() {
    let bed = Bed::start().unwrap();
    let machine = bed.machine(MachineSpec::new("m", Firmware::Bios).memory_mib(96)).unwrap();
    machine.set_power_fault(Some(Fault::Error500));
    assert_eq!(call(&bed, &machine, "POST", "/poweron", SOON).unwrap().0, 500);
    machine.set_power_fault(Some(Fault::Hang));
    assert!(call(&bed, &machine, "POST", "/poweron", Duration::from_millis(300)).is_err());
    let slow = Duration::from_millis(400);
    machine.set_power_fault(Some(Fault::Slow(slow)));
    let asked = Instant::now();
    assert_eq!(call(&bed, &machine, "GET", "/status", SOON).unwrap(), (200, r#"{"PoweredOn":false}"#.into()));
    assert!(asked.elapsed() >= slow);
    machine.set_power_fault(None);
    assert_eq!(call(&bed, &machine, "POST", "/poweron", SOON).unwrap().0, 200);
    machine.wait_power(SOON, true).unwrap();
    assert_eq!(machine.power_cycles(), 1, "the lost orders stay lost");
}

#[test]
fn the_power_config_is_in_the_peers_format() {
    let bed = Bed::start().unwrap();
    let machine = bed.machine(MachineSpec::new("rack-7", Firmware::Bios)).unwrap();
    let text = std::fs::read(bed.power_dir().join("rack-7.config")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(config["NodeUUID"], machine.uuid().to_string());
    assert_eq!(config["GatewayAddrs"][0], "10.88.0.3");
    assert_eq!(config["APIPort"], machine.power_address().port());
    assert_eq!(config["APIBindAddress"]["IP"], "10.88.0.3");
    assert_eq!(config["APIBindAddress"]["Port"], machine.power_address().port());
    let twin = bed.machine(MachineSpec::new("twin", Firmware::Bios).uuid(machine.uuid())).unwrap();
    assert_eq!(twin.uuid(), machine.uuid());
    assert!(!bed.power_dir().join("twin.config").exists(), "one UUID, one power switch");
}

#[test]
fn a_disk_first_machine_tries_the_network_once_after_pxeboot() {
    let bed = Bed::start().unwrap();
    let spec = MachineSpec::new("m", Firmware::Bios).boot_order(BootOrder::DiskFirst);
    let machine = bed.machine(spec.memory_mib(96).disk(DiskSpec::blank(16))).unwrap();
    // SeaBIOS and iPXE name what they try, in the order they try it.
    let first_of = |boot: usize| {
        let what = format!("boot {boot} to try something");
        let tried = || {
            let lines = machine.console().lines();
            let boots: Vec<_> =
                lines.iter().enumerate().filter(|(_, line)| line.text.contains("SeaBIOS")).collect();
            let (start, _) = boots.get(boot)?;
            lines[*start..].iter().find_map(|line| {
                let network = line.text.contains("Booting from ROM");
                (network || line.text.contains("Booting from Hard Disk")).then_some(network)
            })
        };
        if wait_until(LIMIT, &what, tried).unwrap() { "network" } else { "disk" }
    };
    machine.pxe_next().unwrap();
    machine.power_on().unwrap();
    assert_eq!(first_of(0), "network");
    machine.reboot().unwrap();
    assert_eq!(first_of(1), "disk");
    machine.pxe_next().unwrap();
    machine.reboot().unwrap();
    assert_eq!(first_of(2), "network");
}
