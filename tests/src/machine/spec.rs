//! What a machine is made of.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use uuid::Uuid;

use crate::doctor::{AAVMF_CODE, AAVMF_VARS, OVMF_CODE, OVMF_VARS};

/// Which firmware a machine starts with, and how that boots from the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS with QEMU's iPXE option ROM.
    Bios,
    /// OVMF with EDK2's own PXE stack; the NIC has no ROM.
    UefiPxe,
    /// OVMF that tries HTTP boot only.
    UefiHttp,
    /// An arm64 machine, QEMU's board `virt`: AAVMF with EDK2's own PXE stack. It has no SATA controller.
    Arm64Pxe,
    /// The same machine, which tries HTTP boot only.
    Arm64Http,
}

impl Firmware {
    pub(crate) fn is_arm64(self) -> bool {
        matches!(self, Self::Arm64Pxe | Self::Arm64Http)
    }

    /// Whether it tries no PXE.
    pub(crate) fn is_http_only(self) -> bool {
        matches!(self, Self::UefiHttp | Self::Arm64Http)
    }

    /// The firmware's code and its variables as shipped; QEMU itself has BIOS.
    pub(crate) fn flash(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Bios => None,
            Self::UefiPxe | Self::UefiHttp => Some((OVMF_CODE, OVMF_VARS)),
            Self::Arm64Pxe | Self::Arm64Http => Some((AAVMF_CODE, AAVMF_VARS)),
        }
    }
}

/// The network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nic {
    /// The only one Debian's cloud kernel drives.
    Virtio,
    /// Intel 82540EM.
    E1000,
    /// Intel 82574L.
    E1000e,
}

impl Nic {
    pub(crate) fn device(self) -> &'static str {
        match self {
            Self::Virtio => "virtio-net-pci",
            Self::E1000 => "e1000",
            Self::E1000e => "e1000e",
        }
    }
}

/// What the firmware tries first when nobody asked for a network boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootOrder {
    /// As datacenter machines ship.
    NetworkFirst,
    /// The network is tried once after `/pxeboot`, or when no disk boots.
    DiskFirst,
}

/// What a disk is plugged into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Bus {
    /// The only one that every kernel here drives.
    #[default]
    Virtio,
    /// A controller of its own.
    Nvme,
    /// The board's SATA controller, which has six ports.
    Ahci,
}

/// What a used disk holds.
const DATA: &[u8] = b"somebody's data, not ours; ";

/// A disk to create: raw and sparse.
#[derive(Debug, Clone)]
pub struct DiskSpec {
    size_mib: u64,
    serial: Option<String>,
    used: bool,
    bus: Bus,
    read_only: bool,
}

impl DiskSpec {
    /// An empty disk.
    #[must_use]
    pub fn blank(size_mib: u64) -> Self {
        Self { size_mib, serial: None, used: false, bus: Bus::Virtio, read_only: false }
    }

    /// A disk that somebody's data is on, which says so all over its first and last MiB.
    #[must_use]
    pub fn used(size_mib: u64) -> Self {
        Self { used: true, ..Self::blank(size_mib) }
    }

    /// The serial number the machine reads (up to 20 characters); by default `<machine>-<index>`.
    #[must_use]
    pub fn serial(mut self, serial: &str) -> Self {
        self.serial = Some(serial.into());
        self
    }

    /// Sets what it is plugged into; virtio by default.
    #[must_use]
    pub fn bus(mut self, bus: Bus) -> Self {
        self.bus = bus;
        self
    }

    /// The machine can only read it. It is on virtio then.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self.bus = Bus::Virtio;
        self
    }
}

/// A machine to build; [`crate::Bed::machine`] builds it.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    pub(crate) name: String,
    pub(crate) firmware: Firmware,
    pub(crate) memory_mib: u32,
    pub(crate) disks: Vec<DiskSpec>,
    pub(crate) nic: Nic,
    pub(crate) boot_order: BootOrder,
    pub(crate) uuid: Option<Uuid>,
    pub(crate) stick: Option<PathBuf>,
    pub(crate) secure_boot: Option<PathBuf>,
    pub(crate) more: Vec<String>,
    pub(crate) bmc: bool,
    pub(crate) redfish: bool,
}

impl MachineSpec {
    /// 256 MiB, a virtio NIC, no disk, network first.
    #[must_use]
    pub fn new(name: &str, firmware: Firmware) -> Self {
        Self {
            name: name.into(),
            firmware,
            memory_mib: 256,
            disks: Vec::new(),
            nic: Nic::Virtio,
            boot_order: BootOrder::NetworkFirst,
            uuid: None,
            stick: None,
            secure_boot: None,
            more: Vec::new(),
            bmc: false,
            redfish: false,
        }
    }

    /// Adds a disk.
    #[must_use]
    pub fn disk(mut self, disk: DiskSpec) -> Self {
        self.disks.push(disk);
        self
    }

    /// Sets the memory; UEFI network boot needs 192 MiB, BIOS 96.
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Sets the SMBIOS UUID, which by default is of this machine alone; vendors do ship duplicates. The appliance is
    /// not told the power switch of a second machine with the same UUID.
    #[must_use]
    pub fn uuid(mut self, uuid: Uuid) -> Self {
        self.uuid = Some(uuid);
        self
    }

    /// Plugs in a USB stick, an image that is written to, and boots from it first.
    #[must_use]
    pub fn stick(mut self, image: &Path) -> Self {
        self.stick = Some(image.to_owned());
        self.boot_order = BootOrder::DiskFirst;
        self
    }

    /// UEFI that checks signatures, with these variables: they hold the keys that it trusts.
    #[must_use]
    pub fn secure_boot(mut self, variables: &Path) -> Self {
        self.secure_boot = Some(variables.to_owned());
        self
    }

    /// Adds words to QEMU's command line: devices that few machines have.
    #[must_use]
    pub fn qemu(mut self, words: &str) -> Self {
        self.more.extend(words.split_whitespace().map(str::to_owned));
        self
    }

    /// Sets the network card.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nic = nic;
        self
    }

    /// Gives it a BMC, which it reaches through KCS and everybody else over the network: [`crate::BMC_USER`] may
    /// use it.
    #[must_use]
    pub fn bmc(mut self) -> Self {
        self.bmc = true;
        self
    }

    /// Gives it a BMC that speaks Redfish without TLS, and that it does not see itself: anybody may use it.
    #[must_use]
    pub fn redfish(mut self) -> Self {
        self.redfish = true;
        self
    }

    /// Sets the default boot order.
    #[must_use]
    pub fn boot_order(mut self, order: BootOrder) -> Self {
        self.boot_order = order;
        self
    }
}

/// A disk of a machine: a raw file that outlives power cycles.
#[derive(Debug, Clone)]
pub struct Disk {
    path: PathBuf,
    serial: String,
    size_mib: u64,
    pub(crate) bus: Bus,
    pub(crate) read_only: bool,
}

impl Disk {
    pub(crate) fn create(path: PathBuf, spec: &DiskSpec, default_serial: &str) -> Result<Self> {
        let file = File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        file.set_len(spec.size_mib << 20)?;
        if spec.used {
            let mib: Vec<u8> = DATA.iter().copied().cycle().take(1 << 20).collect();
            file.write_all_at(&mib, 0)?;
            file.write_all_at(&mib, (spec.size_mib << 20).saturating_sub(1 << 20))?;
        }
        let serial = spec.serial.as_deref().unwrap_or(default_serial).to_owned();
        Ok(Self { path, serial, size_mib: spec.size_mib, bus: spec.bus, read_only: spec.read_only })
    }

    /// The raw file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The serial number the machine reads.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The size.
    #[must_use]
    pub fn size_mib(&self) -> u64 {
        self.size_mib
    }

    /// Keeps a copy of the content, to compare with later.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut copy = tempfile::tempfile()?;
        let mut disk = File::open(&self.path)?;
        let mut chunk = vec![0; CHUNK];
        while let count @ 1.. = disk.read(&mut chunk)? {
            if chunk[..count].iter().all(|&byte| byte == 0) {
                copy.seek(SeekFrom::Current(i64::try_from(count)?))?;
            } else {
                copy.write_all(&chunk[..count])?;
            }
        }
        copy.set_len(disk.metadata()?.len())?;
        Ok(Snapshot { disk: self.path.clone(), copy })
    }

    /// The kinds of what `wipefs`, which is not ours, finds.
    pub fn signatures(&self) -> Result<Vec<String>> {
        let output =
            Command::new("wipefs").args(["-n", "--noheadings", "-O", "TYPE"]).arg(&self.path).output()?;
        ensure!(output.status.success(), "wipefs: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.lines().map(|line| line.trim().to_owned()).collect())
    }

    /// True when every byte is zero.
    pub fn is_blank(&self) -> Result<bool> {
        let mut disk = File::open(&self.path)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            match disk.read(&mut chunk)? {
                0 => return Ok(true),
                count if chunk[..count].iter().any(|&byte| byte != 0) => return Ok(false),
                _ => {}
            }
        }
    }
}

const CHUNK: usize = 1 << 20;

/// What a disk held at some moment.
#[derive(Debug)]
pub struct Snapshot {
    disk: PathBuf,
    copy: File,
}

impl Snapshot {
    /// The offset of the first byte that is different now (or the shorter length), `None` when all are the same.
    pub fn first_change(&self) -> Result<Option<u64>> {
        let disk = File::open(&self.disk)?;
        let (now, then) = (disk.metadata()?.len(), self.copy.metadata()?.len());
        let (mut a, mut b) = (vec![0; CHUNK], vec![0; CHUNK]);
        let common = now.min(then);
        let mut offset = 0;
        while offset < common {
            let count = usize::try_from((common - offset).min(CHUNK as u64))?;
            disk.read_exact_at(&mut a[..count], offset)?;
            self.copy.read_exact_at(&mut b[..count], offset)?;
            if let Some(at) = a[..count].iter().zip(&b[..count]).position(|(a, b)| a != b) {
                return Ok(Some(offset + at as u64));
            }
            offset += count as u64;
        }
        Ok((now != then).then_some(common))
    }
}

#[cfg(test)]
mod tests;
