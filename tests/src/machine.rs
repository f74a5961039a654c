//! A machine: firmware, NIC, disks, a serial console and a power switch.
//!
//! ```text
//!          On                    Off, guest powers off
//!   off --------> on (QEMU) ------------------------------> off
//!                 on -- Reboot, guest reboots --> on (same QEMU, reset)
//! ```
//!
//! One thread per machine carries out the orders one after the other, whoever gives them: the appliance over HTTP
//! or the test directly.

mod bmc;
mod console;
mod power;
mod qemu;
mod qmp;
mod redfish;
mod spec;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use uuid::Uuid;

pub use bmc::{BMC_PASSWORD, BMC_USER};
pub use console::{Console, Line};
pub(crate) use power::Server as PowerServer;
pub use power::{Call, Fault};
pub use spec::{BootOrder, Bus, Disk, DiskSpec, Firmware, MachineSpec, Nic, Snapshot};

use crate::net::Net;
use crate::remains::Remains;
use crate::wait::{TimedOut, Watched};
use qemu::{Hardware, Qemu};

/// How long an order given directly may take.
const ORDER_LIMIT: Duration = Duration::from_secs(60);

/// A machine of a bed; clones are the same machine.
#[derive(Debug, Clone)]
pub struct Machine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    hardware: Hardware,
    console: Console,
    power: Watched<Power>,
    orders: Mutex<mpsc::Sender<Order>>,
    switch: OnceLock<SocketAddr>,
    redfish: OnceLock<SocketAddr>,
}

#[derive(Debug, Default)]
struct Power {
    on: bool,
    cycles: u32,
    since: Option<Instant>,
    fault: Option<Fault>,
    calls: Vec<Call>,
}

/// What a power switch can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    On,
    Off,
    Reboot,
    /// The next boot tries the network first, once.
    PxeNext,
    /// QEMU of that cycle has ended by itself.
    Ended(u32),
}

#[derive(Debug)]
struct Order {
    action: Action,
    done: Option<mpsc::Sender<Result<()>>>,
}

impl Machine {
    /// Builds the machine `number` (from 1): files, tap and power switch. It is off.
    pub(crate) fn build(
        spec: MachineSpec,
        number: u8,
        net: &Arc<Net>,
        remains: &Arc<Remains>,
        power_dir: Option<&Path>,
    ) -> Result<(Self, power::Server)> {
        let name = spec.name.clone();
        let file = |suffix: &str| remains.dir().join(format!("{name}.{suffix}"));
        let disk =
            |(index, disk)| Disk::create(file(&format!("disk{index}.raw")), disk, &format!("{name}-{index}"));
        let disks = spec.disks.iter().enumerate().map(disk).collect::<Result<Vec<_>>>()?;
        let vars = file("vars.fd");
        if let Some((_, shipped)) = spec.firmware.flash() {
            let from = spec.secure_boot.as_deref().unwrap_or(Path::new(shipped));
            fs::copy(from, &vars).with_context(|| format!("cannot copy {}", from.display()))?;
        }
        let tap = format!("tap{number}");
        net.add_tap(&tap)?;
        // No two bytes alike at the front, so that a swapped UUID shows.
        let own = Uuid::from_u128(0xb007_1ace_8801_4e0f_a000_5254_0088_0000 | u128::from(number));
        let uuid = spec.uuid.unwrap_or(own);
        let mac = format!("52:54:00:88:00:{number:02x}");
        let (orders, received) = mpsc::channel();
        let bmc = if spec.bmc { Some(bmc::Bmc::plan(number)?) } else { None };
        let inner = Inner {
            hardware: Hardware { spec, uuid, mac, tap, disks, vars, bmc },
            console: Console::new(file("console.log")),
            power: Watched::default(),
            orders: Mutex::new(orders),
            switch: OnceLock::new(),
            redfish: OnceLock::new(),
        };
        let machine = Self { inner: Arc::new(inner) };
        machine.start_thread(received, Arc::clone(net), Arc::clone(remains))?;
        let server = power::Server::start(net, machine.clone())?;
        machine.inner.switch.get_or_init(|| server.address());
        if let Some(bmc) = &machine.inner.hardware.bmc {
            bmc.start(&file("bmc"), server.address(), net, remains)?;
        }
        if machine.inner.hardware.spec.redfish {
            let address = bmc::Bmc::plan(number)?.address;
            redfish::start(&file("redfish"), address, uuid, server.address(), net, remains)?;
            machine.inner.redfish.get_or_init(|| SocketAddr::from((address, redfish::REDFISH_PORT)));
        }
        if let Some(dir) = power_dir {
            power::write_config(dir, &name, uuid, server.address())?;
        }
        Ok((machine, server))
    }

    /// Its name in this bed.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.hardware.spec.name
    }

    /// Its firmware.
    #[must_use]
    pub fn firmware(&self) -> Firmware {
        self.inner.hardware.spec.firmware
    }

    /// Its SMBIOS UUID.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.inner.hardware.uuid
    }

    /// Its MAC address, lower case with colons.
    #[must_use]
    pub fn mac(&self) -> &str {
        &self.inner.hardware.mac
    }

    /// Its disks.
    #[must_use]
    pub fn disks(&self) -> &[Disk] {
        &self.inner.hardware.disks
    }

    /// Its serial console.
    #[must_use]
    pub fn console(&self) -> &Console {
        &self.inner.console
    }

    /// Where its power switch listens (reachable from the appliance's namespace).
    #[must_use]
    pub fn power_address(&self) -> SocketAddr {
        *self.inner.switch.get().expect("set when the machine was built")
    }

    /// Where its Redfish service is, if it has one.
    #[must_use]
    pub fn redfish_address(&self) -> Option<SocketAddr> {
        self.inner.redfish.get().copied()
    }

    /// Where its BMC is in the network, if it has one.
    #[must_use]
    pub fn bmc_address(&self) -> Option<Ipv4Addr> {
        self.inner.hardware.bmc.as_ref().map(|bmc| bmc.address)
    }

    /// Whether it is powered on.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.inner.power.lock().on
    }

    /// How often it has been powered on.
    #[must_use]
    pub fn power_cycles(&self) -> u32 {
        self.inner.power.lock().cycles
    }

    /// When it was last powered on.
    #[must_use]
    pub fn powered_on_at(&self) -> Option<Instant> {
        self.inner.power.lock().since
    }

    /// Powers it on and returns when QEMU runs; nothing when it is on.
    pub fn power_on(&self) -> Result<()> {
        self.do_now(Action::On)
    }

    /// Pulls the plug; nothing when it is off.
    pub fn power_off(&self) -> Result<()> {
        self.do_now(Action::Off)
    }

    /// Presses the reset button; powers on when it is off.
    pub fn reboot(&self) -> Result<()> {
        self.do_now(Action::Reboot)
    }

    /// Makes the next boot, and only that, try the network first.
    pub fn pxe_next(&self) -> Result<()> {
        self.do_now(Action::PxeNext)
    }

    /// Waits until it is powered on or off.
    pub fn wait_power(&self, limit: Duration, on: bool) -> Result<(), TimedOut> {
        let what = format!("{} to be {}", self.name(), if on { "on" } else { "off" });
        self.inner.power.wait(limit, &what, |power| (power.on == on).then_some(()))
    }

    /// Waits for the given power-on, counted from 1.
    pub fn wait_power_cycle(&self, limit: Duration, cycle: u32) -> Result<(), TimedOut> {
        let what = format!("power-on {cycle} of {}", self.name());
        self.inner.power.wait(limit, &what, |power| (power.cycles >= cycle).then_some(()))
    }

    /// Breaks the power switch, or repairs it. Orders already taken are carried out.
    pub fn set_power_fault(&self, fault: Option<Fault>) {
        self.inner.power.change(|power| power.fault = fault);
    }

    /// Every request to the power switch so far.
    #[must_use]
    pub fn power_calls(&self) -> Vec<Call> {
        self.inner.power.lock().calls.clone()
    }

    /// What the power switch was ordered so far: all but questions.
    #[must_use]
    pub fn power_orders(&self) -> Vec<&'static str> {
        self.power_calls().iter().map(|call| call.path).filter(|path| *path != "/status").collect()
    }

    /// Waits for a request to the power switch, including those before.
    pub fn wait_power_call(&self, limit: Duration, path: &str) -> Result<Call, TimedOut> {
        let what = format!("{path} of {}", self.name());
        let wanted = |power: &Power| power.calls.iter().find(|call| call.path == path).cloned();
        self.inner.power.wait(limit, &what, wanted)
    }

    fn called(&self, path: &'static str) -> Option<Fault> {
        self.inner.power.change(|power| {
            power.calls.push(Call { at: Instant::now(), path });
            power.fault
        })
    }

    fn do_now(&self, action: Action) -> Result<()> {
        let (done, answer) = mpsc::channel();
        self.order(action, Some(done))?;
        answer
            .recv_timeout(ORDER_LIMIT)
            .with_context(|| format!("{}: {action:?} takes too long", self.name()))?
    }

    fn order(&self, action: Action, done: Option<mpsc::Sender<Result<()>>>) -> Result<()> {
        let orders = self.inner.orders.lock().unwrap_or_else(PoisonError::into_inner);
        orders.send(Order { action, done }).map_err(|_| anyhow!("{} is scrapped", self.name()))
    }

    /// The thread lives as long as somebody can give orders; it does not keep the machine alive.
    fn start_thread(
        &self,
        orders: mpsc::Receiver<Order>,
        net: Arc<Net>,
        remains: Arc<Remains>,
    ) -> Result<()> {
        let weak = Arc::downgrade(&self.inner);
        let run = move || {
            let mut bench = Bench { net, remains, running: None, pxe_next: false };
            for Order { action, done } in orders {
                let Some(inner) = weak.upgrade() else { break };
                let result = bench.act(&Machine { inner }, action);
                match (done, result) {
                    (Some(done), result) => drop(done.send(result)),
                    (None, Err(error)) => eprintln!("testbed: {action:?}: {error:#}"),
                    (None, Ok(())) => {}
                }
            }
            if let Some(qemu) = bench.running {
                qemu.stop();
            }
        };
        thread::Builder::new().name(format!("machine {}", self.name())).spawn(run)?;
        Ok(())
    }
}

/// What the thread of a machine holds.
struct Bench {
    net: Arc<Net>,
    remains: Arc<Remains>,
    running: Option<Qemu>,
    pxe_next: bool,
}

impl Bench {
    fn act(&mut self, machine: &Machine, action: Action) -> Result<()> {
        match action {
            Action::On if self.running.is_some() => Ok(()),
            Action::On => self.power_on(machine),
            Action::Off => {
                self.power_off(machine);
                Ok(())
            }
            Action::Reboot => self.reboot(machine),
            Action::PxeNext => {
                self.pxe_next = true;
                Ok(())
            }
            Action::Ended(cycle) => {
                if machine.power_cycles() == cycle {
                    self.power_off(machine);
                }
                Ok(())
            }
        }
    }

    fn power_on(&mut self, machine: &Machine) -> Result<()> {
        let since = Instant::now();
        let cycle = machine.power_cycles() + 1;
        let (first, default) = self.next_order(machine);
        let orders = machine.inner.orders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // The machine may be gone by then, and so may its thread.
        let ended = move || drop(orders.send(Order { action: Action::Ended(cycle), done: None }));
        let hardware = &machine.inner.hardware;
        let console = (machine.console(), cycle, since);
        let mut qemu = Qemu::start(hardware, first, &self.net, &self.remains, console, ended)?;
        if first != default {
            qemu.boot_order(hardware, default)?;
        }
        self.running = Some(qemu);
        // Should it have ended already, that order waits behind this one.
        machine
            .inner
            .power
            .change(|power| (power.on, power.cycles, power.since) = (true, cycle, Some(since)));
        Ok(())
    }

    fn power_off(&mut self, machine: &Machine) {
        if let Some(qemu) = self.running.take() {
            qemu.stop();
        }
        machine.inner.power.change(|power| power.on = false);
    }

    fn reboot(&mut self, machine: &Machine) -> Result<()> {
        let (first, default) = self.next_order(machine);
        let Some(qemu) = &mut self.running else {
            self.pxe_next = first != default;
            return self.power_on(machine);
        };
        let hardware = &machine.inner.hardware;
        if first == default { qemu.reset() } else { qemu.reset_once(hardware, first, default) }
    }

    /// The order of the boot that begins now, and the one after it.
    fn next_order(&mut self, machine: &Machine) -> (BootOrder, BootOrder) {
        let default = machine.inner.hardware.spec.boot_order;
        let first = if std::mem::take(&mut self.pxe_next) { BootOrder::NetworkFirst } else { default };
        (first, default)
    }
}
