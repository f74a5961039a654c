//! The stick itself: which disk it is, which slot was started, what it serves, its configuration and its data.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bootlace_agent::say;
use bootlace_image::stick::SECTOR;
use bootlace_image::stick::disk::Disk;
use bootlace_image::stick::env::{Choice, Slot};
use bootlace_image::stick::fat::{self, Window};
use bootlace_image::stick::gpt::{Guid, TAIL, Table};
use bootlace_image::stick::image::{CONFIG_FILE, CONFIG_NAME, DATA_NAME};
use bootlace_image::stick::slot::{Entry, MANIFEST, Reader, SLOT_WORD, parse_manifest};
use bootlace_image::stick::update::{self, ENV};
use nix::mount::{MsFlags, mount};

use crate::config::{self, Config};
use crate::sys;
use crate::trial::Trial;

const SYS_BLOCK: &str = "/sys/block";
/// Where the appliance's configuration is put.
pub(crate) const APPLIANCE_CONFIG: &str = "/run/appliance.toml";
const DATA: &str = "/data";
/// There where the firmware is UEFI.
const EFI: &str = "/sys/firmware/efi";
const EFI_VARIABLES: &str = "/sys/firmware/efi/efivars";
/// Set by systemd's stub (systemd.io/BOOT_LOADER_INTERFACE).
const EFI_PARTITION: &str =
    "/sys/firmware/efi/efivars/LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// State that does not outlive the machine's start.
const VOLATILE: &str = "/run/bootlace";
/// How long the stick is waited for: USB disks appear seconds after their driver.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);
/// What the data partition ends at a multiple of, in sectors: 1 MiB.
const ALIGN: u64 = 2048;
/// A stick that has this much more than it uses is taken whole.
const WORTH_GROWING: u64 = 16 * ALIGN;
/// Bytes of the data's blocks.
const BLOCK: u64 = 4096;

/// The stick that this was started from.
#[derive(Debug)]
pub(crate) struct Stick {
    path: PathBuf,
    slot: Slot,
    config: Config,
}

/// Finds the stick: the disk with a slot whose files have the hashes that this initramfs was built with. Puts those
/// files where the appliance looks for them.
pub(crate) fn find() -> Option<Stick> {
    let manifest =
        match fs::read_to_string(MANIFEST).map_err(Into::into).and_then(|text| parse_manifest(&text)) {
            Ok(manifest) => manifest,
            Err(error) => {
                say!("{MANIFEST}: {error:#}");
                return None;
            }
        };
    let deadline = Instant::now() + PATIENCE;
    loop {
        for entry in fs::read_dir(SYS_BLOCK).into_iter().flatten().flatten() {
            let path = Path::new("/dev").join(entry.file_name());
            if let Ok(stick) = open(&path, &manifest) {
                return Some(stick);
            }
        }
        if Instant::now() > deadline {
            say!("the stick that this was started from is not found: nothing can be served");
            return None;
        }
        std::thread::sleep(POLL);
    }
}

fn open(path: &Path, manifest: &[Entry]) -> Result<Stick> {
    let mut disk = Disk::open(path, false)?;
    let table = disk.table()?;
    let choice = Choice::read(disk.file(), table.find(ENV)?.offset()).unwrap_or(Choice::NEW);
    // GRUB says which slot it started. Under Secure Boot nothing may say anything to a signed kernel image, but its
    // stub tells where it was read from. Without either it is the slot with what this image serves.
    let cmdline = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let told = started(&cmdline).or_else(|| loaded_from(&table, &efi_partition()?));
    let candidates = told.map_or(vec![choice.good, choice.good.other()], |slot| vec![slot]);
    let slot = candidates
        .into_iter()
        .find(|slot| unpack(&mut disk, &table, *slot, manifest).is_ok())
        .context("no slot of this version")?;
    let text = table.find(CONFIG_NAME).and_then(|partition| {
        let window = Window::new(disk.file(), partition.offset(), partition.length());
        fat::read(window, CONFIG_FILE)
    });
    let text = match text {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => {
            say!("the configuration cannot be read: {error:#}");
            Vec::new()
        }
    };
    let text = String::from_utf8_lossy(&text);
    write_private(Path::new(APPLIANCE_CONFIG), &text)?;
    let config = config::parse(&text).unwrap_or_else(|error| {
        say!("{CONFIG_FILE}: {error:#}; the box goes on as if [box] were empty");
        Config::default()
    });
    say!("{}: slot {slot}", path.display());
    Ok(Stick { path: path.to_owned(), slot, config })
}

/// The slot that GRUB says it started.
fn started(cmdline: &str) -> Option<Slot> {
    let words = cmdline.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    words.filter(|(key, _)| *key == SLOT_WORD).find_map(|(_, value)| Slot::parse(value))
}

/// The slot that has a partition's GUID, which [`EFI_PARTITION`] has in the text form of EFI's.
fn loaded_from(table: &Table, told: &str) -> Option<Slot> {
    [Slot::A, Slot::B].into_iter().find(|slot| {
        update::slot_partition(table, *slot)
            .is_ok_and(|found| guid_text(&found.id).eq_ignore_ascii_case(told))
    })
}

/// A GUID as people write it: its first three numbers are stored with the last byte first.
fn guid_text(id: &Guid) -> String {
    let hex = |range: &[u8]| bootlace_image::oci::hex(range);
    let reversed = |range: std::ops::Range<usize>| {
        let bytes: Vec<u8> = id[range].iter().rev().copied().collect();
        hex(&bytes)
    };
    [reversed(0..4), reversed(4..6), reversed(6..8), hex(&id[8..10]), hex(&id[10..])].join("-")
}

/// The partition that the kernel image's stub was read from, where the firmware is UEFI.
fn efi_partition() -> Option<String> {
    if !Path::new(EFI).exists() {
        return None;
    }
    if !Path::new(EFI_PARTITION).exists() {
        bootlace_agent::modules::load_named("efivarfs");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
        mount(Some("efivarfs"), EFI_VARIABLES, Some("efivarfs"), flags, None::<&str>).ok()?;
    }
    variable_text(&fs::read(EFI_PARTITION).ok()?)
}

/// The text of a variable: four bytes of attributes, then UTF-16 with a zero at its end.
fn variable_text(bytes: &[u8]) -> Option<String> {
    let units = bytes.get(4..)?.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    char::decode_utf16(units.take_while(|unit| *unit != 0)).collect::<Result<_, _>>().ok()
}

/// Takes the slot's files out, if they are of this version.
fn unpack(disk: &mut Disk, table: &Table, slot: Slot, manifest: &[Entry]) -> Result<()> {
    let partition = update::slot_partition(table, slot)?;
    let mut reader = Reader::open(disk.file(), partition.offset(), partition.length())?;
    for entry in manifest {
        let data = reader.read_entry(entry)?;
        let path = Path::new(&entry.path);
        fs::create_dir_all(path.parent().context("a path has a parent")?)?;
        fs::write(path, data)?;
    }
    Ok(())
}

/// The configuration may have a key in it.
fn write_private(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

impl Stick {
    /// What its file says.
    pub(crate) fn config(&self) -> Config {
        self.config.clone()
    }

    /// The slot that runs.
    pub(crate) fn slot(&self) -> Slot {
        self.slot
    }

    /// Opens it to be written.
    pub(crate) fn open(&self) -> Result<(Disk, u64)> {
        let mut disk = Disk::open(&self.path, true)?;
        let env = disk.table()?.find(ENV)?.offset();
        Ok((disk, env))
    }

    /// Whether this start is a try of a new version.
    pub(crate) fn trial(&self) -> Trial {
        let choice = self.open().and_then(|(mut disk, env)| Choice::read(disk.file(), env));
        match choice {
            Ok(choice) => Trial::of(choice, self.slot),
            Err(error) => {
                say!("which slot boots cannot be read: {error:#}");
                Trial::None
            }
        }
    }

    /// Hash of a slot's archive, which is that of the file that it was written from.
    pub(crate) fn hash(&self, slot: Slot) -> Result<String> {
        use sha2::{Digest as _, Sha256};
        let mut disk = Disk::open(&self.path, false)?;
        let table = disk.table()?;
        let partition = update::slot_partition(&table, slot)?;
        let length = Reader::open(disk.file(), partition.offset(), partition.length())?.length();
        let file = disk.file();
        file.seek(SeekFrom::Start(partition.offset()))?;
        let mut hash = Sha256::new();
        let mut left = length;
        let mut chunk = vec![0; 1 << 20];
        while left > 0 {
            let count = chunk.len().min(usize::try_from(left)?);
            file.read_exact(&mut chunk[..count])?;
            hash.update(&chunk[..count]);
            left -= count as u64;
        }
        Ok(bootlace_image::oci::hex(&hash.finalize()))
    }

    /// Mounts the data partition, which is made as large as the stick.
    fn mount_data(&self) -> Result<()> {
        let mut disk = Disk::open(&self.path, true)?;
        let mut table = disk.table()?;
        let number = 1 + table
            .partitions
            .iter()
            .position(|partition| partition.name == DATA_NAME)
            .context("no data")?;
        if let Err(error) = grow_partition(&mut disk, &mut table, number) {
            say!("data cannot have the whole stick: {error:#}");
        }
        // The kernel would ask for it by a program that is not here; where it is built in there is nothing to load.
        bootlace_agent::modules::load_named("ext4");
        let device = partition_device(&self.path, number)?;
        fs::create_dir_all(DATA)?;
        mount(
            Some(&device),
            DATA,
            Some("ext4"),
            MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID,
            None::<&str>,
        )
        .with_context(|| format!("cannot mount {}", device.display()))?;
        let partition = table.partitions.get(number - 1).context("no data")?;
        if let Err(error) = sys::resize_ext4(&File::open(DATA)?, partition.length() / BLOCK) {
            say!("data stays as large as it is: {error}");
        }
        Ok(())
    }
}

/// Makes the last partition end where the stick does. The last table is written first, so that one is always whole.
fn grow_partition(disk: &mut Disk, table: &mut Table, number: usize) -> Result<()> {
    let end = (disk.sectors() - TAIL) / ALIGN * ALIGN;
    ensure!(number == table.partitions.len(), "data is not the last partition");
    let partition = &mut table.partitions[number - 1];
    if end < partition.end() + WORTH_GROWING {
        return Ok(());
    }
    partition.sectors = end - partition.start;
    let (start, length) = (partition.offset(), partition.length());
    for (sector, bytes) in table.emit(disk.sectors())? {
        disk.write_at(sector * SECTOR, &bytes)?;
        disk.sync()?;
    }
    sys::resize_partition(disk.file(), u32::try_from(number)?, start, length)
        .context("the kernel refuses")?;
    say!("data: {} MiB", length >> 20);
    Ok(())
}

/// The device of a partition: `/dev/sda7`, `/dev/nvme0n1p7`.
fn partition_device(disk: &Path, number: usize) -> Result<PathBuf> {
    let name = disk.file_name().context("a device has a name")?;
    let wanted = number.to_string();
    for entry in fs::read_dir(Path::new(SYS_BLOCK).join(name))?.flatten() {
        let found = fs::read_to_string(entry.path().join("partition"));
        if found.is_ok_and(|found| found.trim() == wanted) {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    anyhow::bail!("{} has no partition {number}", disk.display())
}

/// Where the state is: on the stick, or in memory when that cannot be.
pub(crate) fn state_directory(stick: Option<&Stick>) -> PathBuf {
    let mounted = stick.map(|stick| stick.mount_data());
    match mounted {
        Some(Ok(())) => PathBuf::from(DATA),
        other => {
            if let Some(Err(error)) = other {
                say!("no data: {error:#}");
            }
            say!("state is kept in memory, and lost with the next start");
            let _ = fs::create_dir_all(VOLATILE);
            PathBuf::from(VOLATILE)
        }
    }
}

#[cfg(test)]
mod tests {
    use bootlace_image::stick::gpt::Partition;

    use super::*;

    #[test]
    fn the_slot_is_the_one_that_grub_says() {
        assert_eq!(started("console=ttyS0 bootlace.slot=b\n"), Some(Slot::B));
        assert_eq!(started("bootlace.slot=x quiet bootlace.slot=a"), Some(Slot::A));
        assert_eq!(started("console=ttyS0"), None);
    }

    #[test]
    fn the_slot_is_the_one_with_the_partition_that_the_stub_was_read_from() {
        let partition = |name: &str, first: u8| Partition {
            kind: [0; 16],
            id: std::array::from_fn(|index| first + u8::try_from(index).unwrap()),
            start: 0,
            sectors: 1,
            name: name.to_owned(),
        };
        let table = Table {
            disk: [0; 16],
            partitions: vec![partition(update::SLOT_A, 0), partition(update::SLOT_B, 0xa0)],
        };
        assert_eq!(loaded_from(&table, "03020100-0504-0706-0809-0a0b0c0d0e0f"), Some(Slot::A));
        assert_eq!(loaded_from(&table, "A3A2A1A0-A5A4-A7A6-A8A9-AAABACADAEAF"), Some(Slot::B));
        assert_eq!(loaded_from(&table, ""), None);
    }

    #[test]
    fn a_variable_is_read_up_to_its_end() {
        assert_eq!(variable_text(b"\x06\0\0\0A\0b\0\0\0x\0").unwrap(), "Ab");
        assert_eq!(variable_text(b"\x06\0\0\0").unwrap(), "");
        assert_eq!(variable_text(b"\x06\0"), None);
    }
}
