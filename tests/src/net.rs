//! Network namespaces: a switch with the machines' taps, a router, the appliance.
//!
//! ```text
//!   <id>-router        <id>-switch                      <id>-appliance
//!   eth0 10.88.0.2 --- router |br0 10.88.0.3| appliance --- eth0 10.88.0.1
//!   (DHCP, RA)                 tap1 tap2 ..  (QEMU)         (bootlace)
//!                              power switches on 10.88.0.3
//! ```

use std::ffi::OsStr;
use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

/// The appliance's address.
pub const APPLIANCE_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// The router's address: plain DHCP and router advertisements.
pub const ROUTER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
/// Where the machines' power switches listen.
pub const POWER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 3);

/// Who lives in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The bridge, the machines and their power switches.
    Switch,
    /// The DHCP server that knows nothing of network boot.
    Router,
    /// The appliance under test.
    Appliance,
}

impl Role {
    pub(crate) const NAMES: [&str; 3] = ["switch", "router", "appliance"];

    fn name(self) -> &'static str {
        match self {
            Self::Switch => "switch",
            Self::Router => "router",
            Self::Appliance => "appliance",
        }
    }
}

/// The namespaces of one bed. It creates them; `Remains` deletes them.
#[derive(Debug)]
pub struct Net {
    id: String,
}

impl Net {
    /// Creates the three namespaces and connects them.
    pub(crate) fn up(id: &str) -> Result<Self> {
        let net = Self { id: id.into() };
        for role in [Role::Switch, Role::Router, Role::Appliance] {
            let name = net.namespace(role);
            run(&["netns", "add", &name])?;
            run(&["-n", &name, "link", "set", "lo", "up"])?;
        }
        let switch = net.namespace(Role::Switch);
        net.ip(Role::Switch, "link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0")?;
        net.ip(Role::Switch, "link set br0 up")?;
        net.ip(Role::Switch, &format!("addr add {POWER_ADDRESS}/24 dev br0"))?;
        for (role, address) in [(Role::Router, ROUTER_ADDRESS), (Role::Appliance, APPLIANCE_ADDRESS)] {
            let (port, inside) = (role.name(), net.namespace(role));
            run(&[
                "link", "add", port, "netns", &switch, "type", "veth", "peer", "name", "eth0", "netns",
                &inside,
            ])?;
            net.ip(Role::Switch, &format!("link set {port} master br0 up"))?;
            net.ip(role, "link set eth0 up")?;
            net.ip(role, &format!("addr add {address}/24 dev eth0"))?;
        }
        // dnsmasq advertises only prefixes that the interface has an address of.
        net.ip(Role::Router, "addr add fd88::2/64 dev eth0 nodad")?;
        Ok(net)
    }

    /// The namespace's name as `ip netns` shows it.
    #[must_use]
    pub fn namespace(&self, role: Role) -> String {
        format!("{}-{}", self.id, role.name())
    }

    /// A command that will run `program` in a namespace; `ip` execs it, so the child's pid is the program's.
    #[must_use]
    pub fn command(&self, role: Role, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(role)]).arg(program);
        command
    }

    /// Runs `work` on a thread that sits in the namespace. Sockets it creates stay there.
    pub fn inside<T: Send>(&self, role: Role, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = format!("/run/netns/{}", self.namespace(role));
        let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        thread::scope(|scope| {
            let enter_and_work = || {
                setns(&namespace, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("cannot enter {path}"))?;
                work()
            };
            scope.spawn(enter_and_work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Plugs a tap for a machine into the switch.
    pub(crate) fn add_tap(&self, name: &str) -> Result<()> {
        self.ip(Role::Switch, &format!("tuntap add {name} mode tap"))?;
        self.ip(Role::Switch, &format!("link set {name} master br0 up"))
    }

    /// Runs `ip <words>` in a namespace.
    pub fn ip(&self, role: Role, words: &str) -> Result<()> {
        let namespace = self.namespace(role);
        let mut args = vec!["-n", &namespace];
        args.extend(words.split_whitespace());
        run(&args)
    }
}

fn run(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("cannot run ip (package iproute2)")?;
    if !output.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
