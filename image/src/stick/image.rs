//! The image of a stick, as it is flashed.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use super::SECTOR;
use super::env::Choice;
use super::fat;
use super::gpt::{BASIC_DATA, BIOS_BOOT, BOOTLACE, EFI_SYSTEM, Guid, LINUX, Partition, Table};
use super::grub::{BOOT_CODE, Grub};
use super::update::{ENV, SLOT_A, SLOT_B};
use crate::oci::hex;

const MIB: u64 = 1 << 20;
/// Where the first partition begins; everything begins at a multiple of it, as flash likes.
const ALIGN: u64 = MIB;
const BIOS: u64 = MIB;
/// At least; it is as large as its program needs.
const ESP: u64 = 8 * MIB;
/// What the file system itself may take of it.
const FAT_ROOM: u64 = MIB;
const CONFIG: u64 = 4 * MIB;
const ENVIRONMENT: u64 = MIB;
/// The data partition in the image. The box makes it as large as the stick at its first start.
const DATA_IN_IMAGE: u64 = 16 * MIB;
/// What a slot has by default: twice it, and the rest, is below 128 MB.
pub const SLOT: u64 = 44 * MIB;
/// Block of the data file system, and how many it can grow to without being made anew: 512 GiB.
const DATA_BLOCK: u64 = 4096;
const DATA_MAX_BLOCKS: u64 = (512 << 30) / DATA_BLOCK;

const ESP_NAME: &str = "bootlace-esp";
/// The partitions' names, and the volume label that a laptop shows.
pub const CONFIG_NAME: &str = "bootlace-config";
/// See [`CONFIG_NAME`].
pub const DATA_NAME: &str = "bootlace-data";
/// See [`CONFIG_NAME`].
pub const CONFIG_LABEL: &str = "BOOTLACE";
/// The configuration's file name on that volume.
pub const CONFIG_FILE: &str = "appliance.toml";

/// Where the BIOS boot partition begins, which GRUB has to know.
pub const BIOS_START: u64 = ALIGN / SECTOR;

/// What is put on a stick.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The loader.
    pub grub: &'a Grub,
    /// The first version.
    pub slot: &'a [u8],
    /// Bytes of each slot.
    pub slot_size: u64,
    /// The configuration.
    pub config: &'a [u8],
}

/// The table of a stick. Names decide about what a partition is for.
fn table(esp: u64, slot_size: u64, data: u64, seed: &[u8]) -> Table {
    let mut start = BIOS_START;
    let mut partition = |name: &str, kind: Guid, bytes: u64| {
        let partition =
            Partition { kind, id: id(seed, name), start, sectors: bytes / SECTOR, name: name.to_owned() };
        start = partition.end().next_multiple_of(ALIGN / SECTOR);
        partition
    };
    let partitions = vec![
        partition("bootlace-bios", BIOS_BOOT, BIOS),
        partition(ESP_NAME, EFI_SYSTEM, esp),
        partition(CONFIG_NAME, BASIC_DATA, CONFIG),
        partition(ENV, BOOTLACE, ENVIRONMENT),
        partition(SLOT_A, BOOTLACE, slot_size),
        partition(SLOT_B, BOOTLACE, slot_size),
        partition(DATA_NAME, LINUX, data),
    ];
    Table { disk: id(seed, "disk"), partitions }
}

/// A GUID (version 8: made our own way) of what is on the stick and of a name.
fn id(seed: &[u8], name: &str) -> Guid {
    let hash = Sha256::new().chain_update(seed).chain_update(name).finalize();
    let mut id: Guid = hash[..16].try_into().expect("a SHA-256 has 32 bytes");
    id[7] = id[7] & 0x0f | 0x80;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// Writes an image. It is sparse: what is empty takes no space on the disk that it is made on.
pub fn write(contents: &Contents<'_>, output: &Path) -> Result<u64> {
    let Contents { grub, slot, slot_size, config } = *contents;
    let efi = grub.efi.as_slice();
    ensure!(slot_size % ALIGN == 0 && slot_size > 0, "a slot's size is a multiple of 1 MiB");
    ensure!(
        slot.len() as u64 <= slot_size,
        "the slot needs {} bytes and has {slot_size}: give a larger --slot-size",
        slot.len()
    );
    ensure!(grub.core.len() as u64 <= BIOS, "GRUB is larger than its partition");
    let seed = Sha256::new().chain_update(slot).chain_update(efi).chain_update(config).finalize();
    let esp_size = (efi.len() as u64 + FAT_ROOM).next_multiple_of(ALIGN).max(ESP);
    let table = table(esp_size, slot_size, DATA_IN_IMAGE, &seed);
    let last = table.partitions.last().context("a stick has partitions")?;
    let sectors = (last.end() + super::gpt::TAIL).next_multiple_of(ALIGN / SECTOR);
    let volume_id = u32::from_le_bytes([seed[0], seed[1], seed[2], seed[3]]);
    let esp = fat::build(esp_size, "BOOTLACEEFI", volume_id, &[("EFI/BOOT/BOOTX64.EFI", efi)])?;
    let configuration = fat::build(CONFIG, CONFIG_LABEL, !volume_id, &[(CONFIG_FILE, config)])?;
    let data = ext4(DATA_IN_IMAGE, &id(&seed, "file system"))?;

    let directory = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let attempt = || -> Result<()> {
        std::fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        let image = file.as_file_mut();
        image.set_len(sectors * SECTOR)?;
        let mut code = [0; SECTOR as usize];
        code[..BOOT_CODE].copy_from_slice(&grub.boot_code);
        code[BOOT_CODE..].copy_from_slice(&Table::protective(sectors));
        put(image, 0, &code)?;
        for (sector, bytes) in table.emit(sectors)? {
            put(image, sector * SECTOR, &bytes)?;
        }
        let at = |name: &str| table.find(name).map(Partition::offset);
        put(image, at("bootlace-bios")?, &grub.core)?;
        put(image, at(ESP_NAME)?, &esp)?;
        put(image, at(CONFIG_NAME)?, &configuration)?;
        put(image, at(ENV)?, &Choice::NEW.partition()?)?;
        put(image, at(SLOT_A)?, slot)?;
        put(image, at(DATA_NAME)?, &data)?;
        use std::os::unix::fs::PermissionsExt as _;
        // It may have secrets in its configuration.
        image.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        file.persist(output)?;
        Ok(())
    };
    attempt().with_context(|| format!("cannot write {}", output.display()))?;
    Ok(sectors * SECTOR)
}

/// Writes what is not zero.
fn put(image: &mut File, at: u64, bytes: &[u8]) -> Result<()> {
    const PAGE: usize = 4096;
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            image.seek(SeekFrom::Start(at + (index * PAGE) as u64))?;
            image.write_all(page)?;
        }
    }
    Ok(())
}

/// An empty ext4 file system, by Debian's mke2fs, which needs no root for a file.
fn ext4(bytes: u64, id: &Guid) -> Result<Vec<u8>> {
    let work = tempfile::NamedTempFile::new().context("no temporary file")?;
    work.as_file().set_len(bytes)?;
    let hex = hex(id);
    let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
    let extended =
        format!("hash_seed={uuid},root_owner=0:0,resize={DATA_MAX_BLOCKS},lazy_itable_init=0,nodiscard");
    let block = DATA_BLOCK.to_string();
    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-b", &block, "-m", "0", "-J", "size=4", "-L", DATA_NAME])
        .args(["-U", &uuid, "-E", &extended])
        .arg(work.path())
        // A fixed time, however mke2fs is told of it.
        .env("E2FSPROGS_FAKE_TIME", "1")
        .env("SOURCE_DATE_EPOCH", "1")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .output()
        .context("cannot run mke2fs: apt-get install e2fsprogs")?;
    if !output.status.success() {
        bail!("mke2fs makes no file system: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    std::fs::read(work.path()).context("cannot read what mke2fs made")
}

#[cfg(test)]
pub(crate) mod tests;
