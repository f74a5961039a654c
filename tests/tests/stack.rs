//! The raw stack with real firmware: an interface without any kernel address, a trunk with two VLANs, and beside a
//! DHCP and TFTP server of the same host.
//!
//! They need root and what `make images` builds. Each test has a bed of its own.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testbed::{
    Appliance, ApplianceSpec, Bed, DiskSpec, Entry, Firmware, LIMIT, Machine, MachineSpec, Role, Trunk,
    TrunkVlan, wait_until,
};

/// Starting a server of the test.
const SOON: Duration = Duration::from_secs(15);

fn appliance(bed: &Bed, tables: &str) -> Result<Appliance> {
    bed.appliance(ApplianceSpec::built()?.config(tables))
}

/// Whether the kernel has an IPv4 address on the appliance's interface.
fn kernel_addresses(bed: &Bed) -> Result<String> {
    let output =
        bed.net().command(Role::Appliance, "ip").args(["-4", "-o", "addr", "show", "eth0"]).output()?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Boots machines together until they are pending: firmware, boot files, script, kernel, agent, machine API.
fn boot(appliance: &Appliance, machines: &[&Machine]) -> Result<()> {
    let journal = appliance.journal()?;
    let begin = Instant::now();
    for machine in machines {
        machine.power_on()?;
    }
    for machine in machines {
        for step in ["script_served", "asset_served", "joined", "pending"] {
            // Machines share two cores without KVM: each has the time it has alone.
            journal.wait_step(LIMIT * machines.len() as u32, machine, step)?;
            println!("{:<10} {step:<16} at {:.1} s", machine.name(), begin.elapsed().as_secs_f32());
        }
    }
    Ok(())
}

fn machine(bed: &Bed, name: &str, firmware: Firmware) -> Result<Machine> {
    bed.machine(MachineSpec::new(name, firmware).disk(DiskSpec::blank(16)))
}

#[test]
fn an_interface_without_any_kernel_address_boots_bios_and_uefi_machines() -> Result<()> {
    let bed = Bed::start()?;
    bed.net().ip(Role::Appliance, "addr flush dev eth0")?;
    let tables = "[[netboot.interface]]\nname = \"eth0\"\naddress = \"10.88.0.1/24\"\n";
    let appliance = appliance(&bed, tables)?;
    let bios = machine(&bed, "bios", Firmware::Bios)?;
    let uefi = machine(&bed, "uefi", Firmware::UefiPxe)?;
    boot(&appliance, &[&bios, &uefi])?;
    ensure!(kernel_addresses(&bed)?.is_empty(), "still without an address");
    let raw = |entry: &Entry| entry.step == "network_served" && entry.detail("stack") == "raw";
    let told = appliance.journal()?.wait(SOON, "word of the stack", raw)?;
    ensure!(told.detail("reason").contains("no address"), "with its reason: {told}");
    Ok(())
}

#[test]
fn a_trunk_boots_a_machine_in_each_of_two_vlans() -> Result<()> {
    let bed = Bed::start()?;
    let net = bed.net();
    let trunk =
        Trunk::start(net, &[TrunkVlan { id: 10, bridge: "br0" }, TrunkVlan { id: 20, bridge: "br20" }])?;
    // The second network has a router of its own.
    let inside = net.namespace(Role::Router);
    net.ip(Role::Switch, &format!("link add router20 type veth peer name eth1 netns {inside}"))?;
    net.ip(Role::Switch, "link set router20 master br20 up")?;
    net.ip(Role::Router, "link set eth1 up")?;
    net.ip(Role::Router, "addr add 10.89.0.2/24 dev eth1")?;
    net.ip(Role::Router, "addr add fd89::2/64 dev eth1 nodad")?;
    let _router = Dnsmasq::start(&bed, Role::Router, "eth1", "10.89.0", "fd89::", "")?;
    let tables = "[[netboot.interface]]\nname = \"eth0\"\nvlans = [10]\naddress = \"10.88.0.1/24\"\n\
                  [[netboot.interface]]\nname = \"eth0\"\nvlans = [20]\naddress = \"10.89.0.1/24\"\n\
                  profile = \"lab\"\n[profile.lab]\nagent_extra_kernel_args = [\"vlan20.was.here\"]\n";
    let appliance = appliance(&bed, tables)?;
    let ten = machine(&bed, "ten", Firmware::Bios)?;
    let twenty = machine(&bed, "twenty", Firmware::UefiHttp)?;
    net.ip(Role::Switch, "link set tap2 master br20")?;
    boot(&appliance, &[&ten, &twenty])?;
    let line = |machine: &Machine| machine.console().wait(LIMIT, "Command line:").map(|line| line.text);
    ensure!(!line(&ten)?.contains("vlan20"), "each network has its profile");
    ensure!(line(&twenty)?.contains("talos.config=http://10.89.0.1:50042/"), "and our address there");
    ensure!(line(&twenty)?.contains("vlan20.was.here"), "each network has its profile");
    ensure!(trunk.untagged() == 0, "nothing leaves the trunk without a tag");
    Ok(())
}

#[test]
fn a_dhcp_and_tftp_server_of_the_same_host_on_the_same_interface_works_beside() -> Result<()> {
    let bed = Bed::start()?;
    let net = bed.net();
    // The only DHCP server is the one beside the appliance.
    net.ip(Role::Router, "link set eth0 down")?;
    net.ip(Role::Appliance, "addr add fd88::1/64 dev eth0 nodad")?;
    let root = bed.dir().join("tftp");
    fs::create_dir(&root)?;
    fs::write(root.join("theirs"), "served by dnsmasq")?;
    let tftp = format!("enable-tftp\ntftp-root={}\n", root.display());
    let beside = Dnsmasq::start(&bed, Role::Appliance, "eth0", "10.88.0", "fd88::", &tftp)?;
    let tables = "[[netboot.interface]]\nname = \"eth0\"\naddress = \"10.88.0.5/24\"\n";
    let appliance = appliance(&bed, tables)?;
    let bios = machine(&bed, "bios", Firmware::Bios)?;
    boot(&appliance, &[&bios])?;
    ensure!(beside.log().contains("DHCPACK(eth0) 10.88.0.1"), "their address:\n{}", beside.log());
    ensure!(beside.log().contains(bios.mac()), "for our machine:\n{}", beside.log());
    ensure!(read_tftp(&bed, Ipv4Addr::new(10, 88, 0, 1), "theirs")? == b"served by dnsmasq");
    ensure!(read_tftp(&bed, Ipv4Addr::new(10, 88, 0, 5), "undionly.kpxe")?.len() == 512);
    Ok(())
}

/// The first block of a file.
fn read_tftp(bed: &Bed, server: Ipv4Addr, name: &str) -> Result<Vec<u8>> {
    let socket = bed.net().inside(Role::Switch, || Ok(UdpSocket::bind((Ipv4Addr::new(10, 88, 0, 3), 0))?))?;
    socket.set_read_timeout(Some(SOON))?;
    socket.send_to(format!("\0\x01{name}\0octet\0").as_bytes(), (server, 69))?;
    let mut packet = [0; 600];
    let (length, _) = socket.recv_from(&mut packet).with_context(|| format!("no {name} from {server}"))?;
    ensure!(packet[..4] == [0, 3, 0, 1], "not the first block: {:?}", &packet[..4]);
    Ok(packet[4..length].to_vec())
}

/// A DHCP server of the test's own, without any PXE option, that advertises a router for nothing: iPXE waits for one.
struct Dnsmasq {
    child: Child,
    log: PathBuf,
}

impl Dnsmasq {
    fn start(bed: &Bed, role: Role, interface: &str, network: &str, v6: &str, more: &str) -> Result<Self> {
        let file = |suffix: &str| bed.dir().join(format!("{interface}-{network}.{suffix}"));
        let (config, log) = (file("conf"), file("log"));
        fs::write(&config, Self::config(interface, network, v6, &file("leases"), &file("pid"), more))?;
        let mut command = bed.net().command(role, "dnsmasq");
        command.arg("-C").arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(fs::File::create(&log)?).spawn().context("cannot run dnsmasq")?;
        let started = Self { child, log };
        wait_until(SOON, "dnsmasq", || started.log().contains("router advertisement on").then_some(()))
            .with_context(|| started.log())?;
        Ok(started)
    }

    fn config(interface: &str, network: &str, v6: &str, leases: &Path, pid: &Path, more: &str) -> String {
        format!(
            "port=0\ninterface={interface}\nbind-interfaces\nexcept-interface=lo\nuser=root\ngroup=root\n\
             pid-file={}\ndhcp-range={network}.100,{network}.200,255.255.255.0,1h\ndhcp-leasefile={}\n\
             dhcp-option=3\ndhcp-option=6\nno-ping\nenable-ra\ndhcp-range={v6},ra-only,64\n\
             ra-param={interface},10,0\nlog-dhcp\nlog-facility=-\nkeep-in-foreground\n{more}",
            pid.display(),
            leases.display(),
        )
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
