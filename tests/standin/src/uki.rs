//! A unified kernel image: systemd's EFI stub with command line, kernel and initramfs as further PE sections.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::disk::{run, tool};

/// Debian's package systemd-boot-efi.
pub const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// PE sections begin at multiples of this.
const ALIGNMENT: u64 = 4096;

/// Makes the image at `output`; `work` is a directory for files in between.
pub fn build(
    stub: &Path,
    kernel: &Path,
    initramfs: &Path,
    cmdline: &str,
    work: &Path,
    output: &Path,
) -> Result<()> {
    let stub_bytes = fs::read(stub)
        .with_context(|| format!("cannot read {}: apt-get install systemd-boot-efi", stub.display()))?;
    let text = |name: &str, text: &str| -> Result<PathBuf> {
        let path = work.join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let sections = [
        (".osrel", text("osrel", "NAME=standin\nID=standin\nVERSION_ID=1\n")?),
        (".cmdline", text("cmdline", cmdline)?),
        (".linux", kernel.to_owned()),
        (".initrd", initramfs.to_owned()),
    ];

    let mut address =
        end_of_sections(&stub_bytes).with_context(|| format!("{} is no EFI stub", stub.display()))?;
    let mut command: Command = tool("objcopy");
    for (name, path) in sections {
        address = address.next_multiple_of(ALIGNMENT);
        command.arg("--add-section").arg(format!("{name}={}", path.display()));
        command.arg("--change-section-vma").arg(format!("{name}={address:#x}"));
        address += fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
    }
    run("binutils", command.arg(stub).arg(output))
}

/// Where the next section of a PE file can begin, as an address in memory.
fn end_of_sections(pe: &[u8]) -> Result<u64> {
    let header = usize::try_from(number(pe, 0x3c, 4)?)?;
    ensure!(pe.get(header..header + 4) == Some(b"PE\0\0"), "it has no PE header");
    let count = number(pe, header + 6, 2)?;
    let optional = header + 24;
    ensure!(number(pe, optional, 2)? == 0x20b, "it is no 64-bit PE file");
    let base = number(pe, optional + 24, 8)?;
    let table = optional + usize::try_from(number(pe, header + 20, 2)?)?;
    let mut end = 0;
    for index in 0..usize::try_from(count)? {
        let section = table + index * 40;
        end = end.max(number(pe, section + 8, 4)? + number(pe, section + 12, 4)?);
    }
    Ok(base + end)
}

/// A little-endian number of `length` bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Result<u64> {
    let slice = at.checked_add(length).and_then(|end| bytes.get(at..end)).context("it is cut off")?;
    Ok(slice.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests;
