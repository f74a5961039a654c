//! The disk image that the stand-in installs: a GPT disk that boots with BIOS (syslinux) and UEFI (a UKI).
//!
//! ```text
//! 0        GPT, syslinux' boot code in the first 440 bytes
//! 1 MiB    partition 1: the state (see `state`)
//! 2 MiB    partition 2: EFI system partition, FAT32: EFI/BOOT/BOOTX64.EFI for UEFI; vmlinuz, initrd.img,
//!          syslinux/ for BIOS
//! ```
//!
//! Made by the usual tools on a plain file: no root, no mount, no loop device.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{state, uki};

const MIB: u64 = 1024 * 1024;
const SECTOR: u64 = 512;
/// The first sectors' boot code, which looks for the partition that is marked bootable. Package syslinux-common.
const BOOT_CODE: &str = "/usr/lib/syslinux/mbr/gptmbr.bin";
/// How much of a disk's first sector is code; the rest is the partition table.
const BOOT_CODE_LIMIT: usize = 440;
/// With fewer clusters than 65525 a file system would be FAT16, and 512-byte clusters are the smallest.
const FAT32_MINIMUM: u64 = 34 * MIB;
/// Room for FAT's own tables, syslinux and rounding.
const FAT_OVERHEAD: u64 = 2 * MIB;
/// A machine fetches the whole image: keep the test bed quick.
const IMAGE_LIMIT: u64 = 64 * MIB;

/// What goes into the image.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// A Linux kernel with an EFI stub.
    pub kernel: &'a Path,
    /// The stand-in's initramfs.
    pub initramfs: &'a Path,
    /// The kernel command line of a boot from disk.
    pub cmdline: &'a str,
    /// systemd's EFI stub.
    pub stub: &'a Path,
}

/// Builds the image at `output`, which appears when it is complete. Returns its length.
pub fn build(inputs: &Inputs<'_>, output: &Path) -> Result<u64> {
    let directory = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let work = tempfile::tempdir_in(directory)
        .with_context(|| format!("cannot make files in {}", directory.display()))?;
    let work_path = work.path();

    let efi = work_path.join("BOOTX64.EFI");
    uki::build(inputs.stub, inputs.kernel, inputs.initramfs, inputs.cmdline, work_path, &efi)?;
    let config = work_path.join("syslinux.cfg");
    fs::write(&config, syslinux_config(inputs.cmdline))?;
    let files = [
        (efi, "::EFI/BOOT/BOOTX64.EFI"),
        (inputs.kernel.to_owned(), "::vmlinuz"),
        (inputs.initramfs.to_owned(), "::initrd.img"),
        (config, "::syslinux/syslinux.cfg"),
    ];

    let mut content = 0;
    for (path, _) in &files {
        content += fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    }
    let esp = (content + FAT_OVERHEAD).max(FAT32_MINIMUM).next_multiple_of(MIB);
    let esp_offset = state::OFFSET + state::LENGTH;
    let total = esp_offset + esp + MIB;
    ensure!(total <= IMAGE_LIMIT, "the image would have {total} bytes, more than {IMAGE_LIMIT}");

    let disk = work_path.join("disk.raw");
    let file = File::create(&disk)?;
    file.set_len(total)?;
    drop(file);
    partition(&disk, esp_offset, esp)?;
    file_system(&disk, esp_offset, esp, &files)?;
    fs::rename(&disk, output).with_context(|| format!("cannot write {}", output.display()))?;
    Ok(total)
}

fn syslinux_config(cmdline: &str) -> String {
    format!(
        "SERIAL 0 115200\nPROMPT 0\nDEFAULT standin\nLABEL standin\n  LINUX /vmlinuz\n  INITRD /initrd.img\n  \
         APPEND {cmdline}\n"
    )
}

/// The partition table and the boot code before it.
fn partition(disk: &Path, esp_offset: u64, esp: u64) -> Result<()> {
    let table = format!(
        "label: gpt\n\
         start={}, size={}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, \
         name=\"STANDIN-STATE\"\n\
         start={}, size={}, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, \
         name=\"EFI\", attrs=\"LegacyBIOSBootable\"\n",
        state::OFFSET / SECTOR,
        state::LENGTH / SECTOR,
        esp_offset / SECTOR,
        esp / SECTOR,
    );
    let mut sfdisk = tool("sfdisk");
    let mut child =
        sfdisk.arg("--quiet").arg(disk).stdin(Stdio::piped()).spawn().context(missing("sfdisk", "fdisk"))?;
    child.stdin.take().expect("it is piped").write_all(table.as_bytes())?;
    ensure!(child.wait()?.success(), "sfdisk failed");

    let code = fs::read(BOOT_CODE)
        .with_context(|| format!("cannot read {BOOT_CODE}: apt-get install syslinux-common"))?;
    ensure!(code.len() <= BOOT_CODE_LIMIT, "{BOOT_CODE} is too long for a boot sector");
    OpenOptions::new().write(true).open(disk)?.write_all(&code)?;
    Ok(())
}

/// The FAT file system with its files, and syslinux' loader inside it.
fn file_system(disk: &Path, offset: u64, length: u64, files: &[(PathBuf, &str)]) -> Result<()> {
    let sectors = (offset / SECTOR).to_string();
    run(
        "dosfstools",
        tool("mkfs.vfat")
            .args(["-F", "32", "-s", "1", "-n", "STANDIN", "--offset", &sectors])
            .arg(disk)
            .arg((length / 1024).to_string())
            .stdout(Stdio::null()),
    )?;
    let image = format!("{}@@{offset}", disk.display());
    run("mtools", tool("mmd").args(["-i", &image, "::EFI", "::EFI/BOOT", "::syslinux"]))?;
    for (source, target) in files {
        run("mtools", tool("mcopy").args(["-i", &image]).arg(source).arg(target))?;
    }
    run(
        "syslinux",
        tool("syslinux")
            .args(["--install", "--directory", "syslinux", "--offset", &offset.to_string()])
            .arg(disk),
    )
}

/// A command. Some tools are in sbin, which a user's PATH may lack.
pub(crate) fn tool(name: &str) -> Command {
    let found = ["/usr/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists());
    let mut command = Command::new(found.unwrap_or_else(|| PathBuf::from(name)));
    command.env("MTOOLS_SKIP_CHECK", "1");
    command
}

fn missing(name: &str, package: &str) -> String {
    format!("cannot run {name}: apt-get install {package}")
}

/// Runs a tool of a Debian package to its end.
pub(crate) fn run(package: &str, command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| missing(&name, package))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, said.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
