//! One power-on of a machine: a QEMU process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use uuid::Uuid;

use super::bmc::Bmc;
use super::console::Console;
use super::qmp::Qmp;
use super::spec::{BootOrder, Bus, Disk, Firmware, MachineSpec};
use crate::doctor::OVMF_SECURE_CODE;
use crate::net::{Net, Role};
use crate::remains::Remains;

/// SeaBIOS's second reset comes within 0.1 s; on a busy host later. None comes when the first was early in a boot.
const SECOND_RESET_LIMIT: Duration = Duration::from_secs(2);

/// The fixed things of a machine, from which each power-on is made.
#[derive(Debug)]
pub(crate) struct Hardware {
    pub(crate) spec: MachineSpec,
    pub(crate) uuid: Uuid,
    pub(crate) mac: String,
    pub(crate) tap: String,
    pub(crate) disks: Vec<Disk>,
    /// UEFI variables; they outlive power cycles.
    pub(crate) vars: PathBuf,
    pub(crate) bmc: Option<Bmc>,
}

#[derive(Debug)]
pub(crate) struct Qemu {
    child: Child,
    qmp: Qmp,
}

impl Qemu {
    pub(crate) fn start(
        hardware: &Hardware,
        first: BootOrder,
        net: &Net,
        remains: &Remains,
        console: (&Console, u32, Instant),
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let arm64 = hardware.spec.firmware.is_arm64();
        let program = if arm64 { "qemu-system-aarch64" } else { "qemu-system-x86_64" };
        let mut command = net.command(Role::Switch, program);
        arguments(&mut command, hardware, first);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = remains.spawn(&format!("qemu {}", hardware.spec.name), command)?;
        let (commands, output) = (child.stdin.take(), child.stdout.take());
        let serial = child.stderr.take().context("stderr is piped")?;
        let (console, cycle, since) = console;
        console.follow(cycle, since, serial)?;
        let qmp =
            Qmp::connect(commands.context("stdin is piped")?, output.context("stdout is piped")?, ended);
        match qmp {
            Ok(qmp) => Ok(Self { child, qmp }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error.context(format!("QEMU does not start:\n{}", console.tail(5))))
            }
        }
    }

    /// Sets what the next reset tries first. What runs now has already read its order.
    pub(crate) fn boot_order(&mut self, hardware: &Hardware, first: BootOrder) -> Result<()> {
        // Two devices must never have the same index, so all are unset before one is set.
        let order = boot_indexes(hardware, first);
        let unset = order.iter().map(|(device, _)| (device, -1));
        for (device, index) in unset.chain(order.iter().map(|(device, index)| (device, *index))) {
            let path = format!("/machine/peripheral/{device}");
            let arguments = json!({ "path": path, "property": "bootindex", "value": index });
            self.qmp.execute("qom-set", &arguments)?;
        }
        Ok(())
    }

    /// Presses the reset button.
    pub(crate) fn reset(&mut self) -> Result<()> {
        self.qmp.execute_until("system_reset", "RESET")
    }

    /// Presses the reset button for a boot with an order of its own.
    pub(crate) fn reset_once(
        &mut self,
        hardware: &Hardware,
        first: BootOrder,
        then: BootOrder,
    ) -> Result<()> {
        self.boot_order(hardware, first)?;
        self.reset()?;
        // SeaBIOS, when it had started before, finds its memory used and resets once more at once. Each reset reads
        // the order anew, so it must not change back between the two.
        if hardware.spec.firmware == Firmware::Bios {
            self.qmp.wait("RESET", SECOND_RESET_LIMIT);
        }
        self.boot_order(hardware, then)
    }

    /// Pulls the plug.
    pub(crate) fn stop(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn boot_indexes(hardware: &Hardware, first: BootOrder) -> Vec<(String, i32)> {
    let stick = hardware.spec.stick.iter().map(|_| "stick".to_owned());
    let disks = stick.chain((0..hardware.disks.len()).map(|index| format!("disk{index}")));
    let nic = "nic0".to_owned();
    let order: Vec<_> = match first {
        BootOrder::NetworkFirst => [nic].into_iter().chain(disks).collect(),
        BootOrder::DiskFirst => disks.chain([nic]).collect(),
    };
    order.into_iter().zip(0..).collect()
}

fn arguments(command: &mut Command, hardware: &Hardware, first: BootOrder) {
    let Hardware { spec, uuid, mac, tap, disks, vars, bmc } = hardware;
    let indexes = boot_indexes(hardware, first);
    let index = |device: &str| indexes.iter().find(|(name, _)| name == device).map_or(0, |(_, index)| *index);
    let mut arg = |words: &str| {
        command.args(words.split_whitespace());
    };
    arg(&format!("{} -smp 1 -m {}", board(spec), spec.memory_mib));
    arg("-nodefaults -no-user-config -nographic -monitor none");
    arg("-chardev stdio,id=qmp,signal=off -mon chardev=qmp,mode=control");
    // The console is read from QEMU's stderr, which also has what QEMU itself complains about.
    arg("-chardev file,id=serial,path=/dev/stderr -serial chardev:serial");
    arg(&format!("-uuid {uuid}"));
    arg(&format!("-smbios type=1,manufacturer=bootlace,product=testbed,serial=BL-{}", spec.name));
    arg("-object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng");
    arg(&format!("-netdev tap,id=net0,ifname={tap},script=no,downscript=no"));
    let (nic, order) = (spec.nic.device(), index("nic0"));
    // Under UEFI an empty ROM leaves the NIC to EDK2's own driver and PXE stack.
    let rom = if spec.firmware == Firmware::Bios { "" } else { ",romfile=" };
    arg(&format!("-device {nic},id=nic0,netdev=net0,mac={mac},bootindex={order}{rom}"));
    let mut ports = 0..;
    for (number, disk) in disks.iter().enumerate() {
        let (serial, order) = (disk.serial(), index(&format!("disk{number}")));
        let access = if disk.read_only { "readonly=on" } else { "discard=unmap" };
        command
            .arg("-drive")
            .arg(drive(&format!("if=none,id=drive{number},format=raw,cache=unsafe,{access}"), disk.path()));
        let driver = match disk.bus {
            Bus::Virtio => "virtio-blk-pci".to_owned(),
            Bus::Nvme => "nvme".to_owned(),
            // The board's controller has a bus for each port.
            Bus::Ahci => format!("ide-hd,bus=ide.{}", ports.next().unwrap_or(0)),
        };
        let device =
            format!("{driver},id=disk{number},drive=drive{number},serial={serial},bootindex={order}");
        command.args(["-device", &device]);
    }
    if let Some(bmc) = bmc {
        let socket = format!("socket,id=bmc,host=127.0.0.1,port={},reconnect=1", bmc.machine_port);
        command.args(["-chardev", &socket, "-device", "ipmi-bmc-extern,id=bmc0,chardev=bmc"]);
        command.args(["-device", "isa-ipmi-kcs,bmc=bmc0"]);
    }
    if let Some(stick) = &spec.stick {
        // Unlike the disks, what the guest has flushed outlives a QEMU that is killed, and the rest may not.
        command.arg("-drive").arg(drive("if=none,id=stick,format=raw,cache=writethrough", stick));
        command.args(["-device", "qemu-xhci"]);
        command.args([
            "-device",
            &format!("usb-storage,id=stick,drive=stick,removable=on,bootindex={}", index("stick")),
        ]);
    }
    if let Some((code, _)) = spec.firmware.flash() {
        let code = if spec.secure_boot.is_some() { OVMF_SECURE_CODE } else { code };
        if spec.secure_boot.is_some() {
            command.args(["-global", "driver=cfi.pflash01,property=secure,value=on"]);
        }
        command.arg("-drive").arg(drive("if=pflash,format=raw,unit=0,readonly=on", Path::new(code)));
        command.arg("-drive").arg(drive("if=pflash,format=raw,unit=1", vars));
        // Nobody here answers over IPv6, and OVMF would wait for that long before it tries the disk.
        command.args(["-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]);
    }
    command.args(&spec.more);
    if spec.firmware.is_http_only() {
        command.args(["-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n"]);
    }
}

fn board(spec: &MachineSpec) -> String {
    if spec.firmware.is_arm64() {
        // What `max` has beside this processor (pointer authentication) costs much under TCG. KVM needs an arm64 host.
        return "-machine virt,accel=tcg -cpu cortex-a57".to_owned();
    }
    // Never `kvm:tcg`: that does not fall back, it crawls. KVM is for hosts where it is known to work.
    let accelerator =
        if std::env::var_os("BOOTLACE_KVM").is_some_and(|on| on == "1") { "kvm" } else { "tcg" };
    let smm = if spec.secure_boot.is_some() { ",smm=on" } else { "" };
    format!("-machine q35,accel={accelerator}{smm} -cpu max")
}

/// A comma in a file name is doubled in QEMU's option language.
fn drive(options: &str, file: &Path) -> String {
    format!("{options},file={}", file.display().to_string().replace(',', ",,"))
}
