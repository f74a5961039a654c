//! What is in a slot: an archive ("newc" cpio, which GRUB reads) of a unified kernel image, where its parts are
//! for a BIOS that cannot start it whole, and what the box serves.
//!
//! What the box runs is in the unified kernel image, which may be signed. What it serves, the agent image and
//! iPXE, is beside it, so that it need not be loaded at boot; its hashes are inside. A file of the archive that
//! is already in the kernel image is not there twice: the manifest says where in it.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek, SeekFrom};

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use super::SECTOR;
use crate::binary::Arch;
use crate::cpio::Archive;
use crate::initramfs::ExtraFile;
use crate::oci::hex;
use crate::rootfs::{Node, Rootfs};
use crate::uki;

/// Where the box finds what its slot has to serve: lines of hash, path, file of the archive, first byte, length.
pub const MANIFEST: &str = "/etc/bootlace-slot";
/// The unified kernel image.
pub const UKI: &str = "uki.efi";
/// Its signature for GRUB, see [`super::signature`].
pub const UKI_SIGNATURE: &str = "uki.efi.sig";
/// For GRUB on a BIOS.
const BIOS_CONFIG: &str = "slot.cfg";
/// It is filled up to this length with comment, so that what is behind it does not move with its numbers.
const BIOS_CONFIG_LENGTH: usize = 512;
/// Sorted directly before the kernel image, it moves that to a sector.
const FILL: &str = "uki";
/// One line for people: what this is.
const VERSION: &str = "version";
/// Entries of an archive that is read: a slot has about ten.
const MAX_ENTRIES: usize = 1000;
/// The longest name of an entry.
const MAX_NAME: usize = 200;
/// Bytes of an entry's header.
const HEADER: usize = 110;

/// The word of the kernel's command line by which GRUB tells which slot it started.
pub const SLOT_WORD: &str = "bootlace.slot";
/// The command line of a stick's kernel. A panic starts the machine over, so that the next try is counted.
pub const CMDLINE: &str = "console=tty0 console=ttyS0,115200 panic=10 loglevel=4";

/// A file to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// SHA-256 in hexadecimal digits.
    pub hash: String,
    /// Where the appliance expects it.
    pub path: String,
    /// The file of the archive that has it.
    pub file: String,
    /// Its first byte there.
    pub offset: u64,
    /// Its length.
    pub length: u64,
}

/// What becomes a slot.
#[derive(Debug)]
pub struct Contents<'a> {
    /// systemd's stub.
    pub stub: &'a [u8],
    /// The kernel.
    pub kernel: &'a [u8],
    /// Its command line.
    pub cmdline: &'a str,
    /// What the box serves.
    pub served: &'a Rootfs,
    /// One line: which versions are in it.
    pub version: &'a str,
}

/// A kernel image as it goes into a slot.
#[derive(Debug)]
pub struct Signed {
    /// With the signature that firmware checks inside, or without one.
    pub image: Vec<u8>,
    /// What GRUB checks.
    pub signature: Option<Vec<u8>>,
}

impl From<Vec<u8>> for Signed {
    /// One that nobody signed.
    fn from(image: Vec<u8>) -> Self {
        Self { image, signature: None }
    }
}

/// Makes a slot. `initramfs` gets the manifest as a file and makes the initramfs with it; `sign` signs the kernel
/// image, or does nothing.
pub fn build(
    contents: &Contents<'_>,
    initramfs: impl FnOnce(ExtraFile) -> Result<Vec<u8>>,
    sign: impl FnOnce(Vec<u8>) -> Result<Signed>,
) -> Result<Vec<u8>> {
    let Contents { stub, kernel, cmdline, served, version } = *contents;
    let parts = |initramfs| uki::Parts {
        stub,
        os_release: "ID=bootlace\nNAME=bootlace\n",
        cmdline,
        kernel,
        initramfs,
    };
    // Where the kernel will be does not depend on what follows it.
    let kernel_at = find(&uki::build(Arch::Amd64, &parts(b""))?, ".linux")?.offset as u64;
    let mut archive = Archive::new();
    let mut manifest = String::new();
    for (path, node) in served.nodes() {
        let Node::File { data, .. } = node else { continue };
        let (file, offset) = if data == kernel {
            (UKI.to_owned(), kernel_at)
        } else {
            archive.file(path, 0o644, data.clone())?;
            (path.to_owned(), 0)
        };
        let hash = hex(&Sha256::digest(data));
        manifest.push_str(&format!("{hash} /{path} {file} {offset} {}\n", data.len()));
    }
    let manifest = ExtraFile { path: MANIFEST.to_owned(), mode: 0o644, data: manifest.into_bytes() };
    let initramfs = initramfs(manifest)?;
    let Signed { image, signature } = sign(uki::build(Arch::Amd64, &parts(&initramfs))?)?;
    if let Some(signature) = signature {
        archive.file(UKI_SIGNATURE, 0o644, signature)?;
    }
    archive.file(VERSION, 0o644, format!("{version}\n").into_bytes())?;
    // The kernel image is to begin at a sector, so that GRUB reads its parts straight from the disk. What is before
    // it has a fixed length, but for a file that fills up.
    let with = |fill: usize, config: String| {
        let mut archive = archive.clone();
        archive.file(BIOS_CONFIG, 0o644, config.into_bytes())?;
        archive.file(FILL, 0o644, vec![0; fill])?;
        archive.file(UKI, 0o644, image.clone())?;
        let bytes = archive.emit();
        let at = Reader::open(&mut Cursor::new(&bytes), 0, bytes.len() as u64)?.place(UKI)?;
        anyhow::Ok((bytes, at))
    };
    let (_, unfilled) = with(0, bios_config(&image, 0, cmdline)?)?;
    let start = unfilled.next_multiple_of(SECTOR);
    let (bytes, at) = with(usize::try_from(start - unfilled)?, bios_config(&image, start, cmdline)?)?;
    ensure!(at == start, "the kernel image is at {at} instead of {start}");
    Ok(bytes)
}

fn find(image: &[u8], name: &str) -> Result<uki::Section> {
    let found = uki::sections(image)?.into_iter().find(|section| section.name == name);
    found.with_context(|| format!("the kernel image has no section {name}"))
}

/// Where GRUB finds kernel and initramfs, in sectors of the slot, whose kernel image begins at a byte.
fn bios_config(image: &[u8], start: u64, cmdline: &str) -> Result<String> {
    let sectors = |name: &str| -> Result<String> {
        let section = find(image, name)?;
        let (at, length) = (start + section.offset as u64, section.length as u64);
        ensure!(at % SECTOR == 0, "{name} does not begin at a sector");
        Ok(format!("{}+{}", at / SECTOR, length.div_ceil(SECTOR)))
    };
    let (linux, initrd) = (sectors(".linux")?, sectors(".initrd")?);
    let text = format!("set linux={linux}\nset initrd={initrd}\nset cmdline=\"{cmdline}\"\n");
    ensure!(
        !cmdline.contains(['"', '$', '\\', '\n']),
        "the command line has characters that GRUB would read"
    );
    ensure!(text.len() < BIOS_CONFIG_LENGTH, "the command line is too long");
    Ok(format!("{text:#<BIOS_CONFIG_LENGTH$}"))
}

/// Reads a manifest.
pub fn parse_manifest(text: &str) -> Result<Vec<Entry>> {
    let entry = |line: &str| {
        let mut words = line.split(' ');
        let entry = Entry {
            hash: words.next().filter(|hash| hash.len() == 64)?.to_owned(),
            path: words.next().filter(|path| path.starts_with('/') && !path.contains(".."))?.to_owned(),
            file: words.next()?.to_owned(),
            offset: words.next()?.parse().ok()?,
            length: words.next()?.parse().ok()?,
        };
        words.next().is_none().then_some(entry)
    };
    text.lines()
        .enumerate()
        .map(|(number, line)| entry(line).with_context(|| format!("line {} is no entry", number + 1)))
        .collect()
}

/// A slot on a disk, or in a file.
#[derive(Debug)]
pub struct Reader<'a, D> {
    disk: &'a mut D,
    /// Name to place and length.
    files: BTreeMap<String, (u64, u64)>,
    /// Bytes of the whole archive, its trailer included.
    length: u64,
}

impl<'a, D: Read + Seek> Reader<'a, D> {
    /// Reads the names in the archive that begins at `start` and has at most `limit` bytes.
    pub fn open(disk: &'a mut D, start: u64, limit: u64) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut at = 0;
        for _ in 0..MAX_ENTRIES {
            let mut header = [0; HEADER];
            ensure!(at + HEADER as u64 <= limit, "the archive is cut off");
            disk.seek(SeekFrom::Start(start + at))?;
            disk.read_exact(&mut header)?;
            ensure!(header.starts_with(b"070701"), "there is no slot");
            let field = |index: usize| -> Result<u64> {
                let digits = std::str::from_utf8(&header[6 + index * 8..][..8])?;
                u64::from_str_radix(digits, 16).context("the archive is damaged")
            };
            let (size, name_length) = (field(6)?, usize::try_from(field(11)?)?);
            ensure!((1..=MAX_NAME).contains(&name_length), "the archive is damaged");
            let mut name = vec![0; name_length];
            disk.read_exact(&mut name)?;
            name.pop();
            let name = String::from_utf8(name).context("the archive is damaged")?;
            let data = (at + (HEADER + name_length) as u64).next_multiple_of(4);
            at = (data + size).next_multiple_of(4);
            ensure!(at <= limit, "the archive is cut off");
            if name == "TRAILER!!!" {
                return Ok(Self { disk, files, length: at.next_multiple_of(SECTOR).min(limit) });
            }
            files.insert(name, (start + data, size));
        }
        bail!("the archive has too many files")
    }

    /// How long the archive is.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Where a file begins.
    pub fn place(&self, name: &str) -> Result<u64> {
        Ok(self.files.get(name).with_context(|| format!("the slot has no {name}"))?.0)
    }

    /// Reads a file, or a part of it.
    pub fn read(&mut self, name: &str, offset: u64, length: Option<u64>) -> Result<Vec<u8>> {
        let (start, size) = *self.files.get(name).with_context(|| format!("the slot has no {name}"))?;
        let length = length.unwrap_or(size.saturating_sub(offset));
        let inside = offset.checked_add(length).is_some_and(|end| end <= size);
        ensure!(inside, "{name} is shorter than the manifest says");
        self.disk.seek(SeekFrom::Start(start + offset))?;
        let mut data = vec![0; usize::try_from(length)?];
        self.disk.read_exact(&mut data).with_context(|| format!("cannot read {name}"))?;
        Ok(data)
    }

    /// Reads a file of the manifest and compares its hash.
    pub fn read_entry(&mut self, entry: &Entry) -> Result<Vec<u8>> {
        let data = self.read(&entry.file, entry.offset, Some(entry.length))?;
        ensure!(
            hex(&Sha256::digest(&data)) == entry.hash,
            "{} is damaged, or of another version",
            entry.path
        );
        Ok(data)
    }

    /// What it says that it is, and whether GRUB can start it.
    pub fn check(&mut self) -> Result<String> {
        self.read(BIOS_CONFIG, 0, None)?;
        let image = self.read(UKI, 0, None)?;
        find(&image, ".initrd").context("the slot's kernel image is damaged")?;
        let version = String::from_utf8(self.read(VERSION, 0, None)?).context("the slot has no version")?;
        Ok(version.trim().to_owned())
    }
}

#[cfg(test)]
pub(crate) mod tests;
