//! A unified kernel image: systemd's EFI stub with command line, kernel and initramfs as further PE sections
//! (UAPI Group Specifications, UKI; Microsoft's PE Format).

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::binary::Arch;

/// Debian's package systemd-boot-efi.
pub const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// Bytes of an entry of the section table.
const ENTRY: usize = 40;
/// A section that is read and holds data.
const READ_DATA: u32 = 0x4000_0040;
/// The optional header's magic of 64-bit files.
const PE32_PLUS: u16 = 0x20b;

/// What goes into an image.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// systemd's stub.
    pub stub: &'a [u8],
    /// What `os-release` would say.
    pub os_release: &'a str,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// The kernel.
    pub kernel: &'a [u8],
    /// Its initramfs.
    pub initramfs: &'a [u8],
}

/// A section of an image that is in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, with the point.
    pub name: String,
    /// Where it is in the file.
    pub offset: usize,
    /// Its length without what fills it up.
    pub length: usize,
    /// Where it is in memory.
    pub address: usize,
}

/// The places of a PE file's header that are read and changed.
#[derive(Debug)]
struct Layout {
    header: usize,
    optional: usize,
    table: usize,
    count: usize,
    file_alignment: usize,
    memory_alignment: usize,
    headers_length: usize,
}

impl Layout {
    fn read(pe: &[u8]) -> Result<Self> {
        ensure!(pe.starts_with(b"MZ"), "it is no PE file");
        let header = number(pe, 0x3c, 4)?;
        ensure!(pe.get(header..header + 4) == Some(b"PE\0\0"), "it has no PE header");
        let optional = header + 24;
        ensure!(number(pe, optional, 2)? == usize::from(PE32_PLUS), "it is no 64-bit PE file");
        let layout = Self {
            header,
            optional,
            table: optional + number(pe, header + 20, 2)?,
            count: number(pe, header + 6, 2)?,
            memory_alignment: number(pe, optional + 32, 4)?,
            file_alignment: number(pe, optional + 36, 4)?,
            headers_length: number(pe, optional + 60, 4)?,
        };
        let aligned = |alignment: usize| alignment.is_power_of_two() && (16..=65_536).contains(&alignment);
        ensure!(
            aligned(layout.file_alignment) && aligned(layout.memory_alignment),
            "its alignment is broken"
        );
        Ok(layout)
    }
}

/// The sections of a PE file.
pub fn sections(pe: &[u8]) -> Result<Vec<Section>> {
    let layout = Layout::read(pe)?;
    (0..layout.count)
        .map(|index| {
            let at = layout.table + index * ENTRY;
            let name = pe.get(at..at + 8).context("it is cut off")?;
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            Ok(Section {
                name: String::from_utf8_lossy(&name[..end]).into_owned(),
                length: number(pe, at + 8, 4)?,
                address: number(pe, at + 12, 4)?,
                offset: number(pe, at + 20, 4)?,
            })
        })
        .collect()
}

/// Which architecture a PE file is for.
fn arch_of(pe: &[u8], layout: &Layout) -> Result<Option<Arch>> {
    Ok(match number(pe, layout.header + 4, 2)? {
        0x8664 => Some(Arch::Amd64),
        0xaa64 => Some(Arch::Arm64),
        _ => None,
    })
}

/// Makes an image. The same parts give the same bytes.
pub fn build(arch: Arch, parts: &Parts<'_>) -> Result<Vec<u8>> {
    let layout = Layout::read(parts.stub).context("the stub cannot be used")?;
    if arch_of(parts.stub, &layout)? != Some(arch) {
        bail!("the stub is not for {}", arch.name());
    }
    let existing = sections(parts.stub)?;
    let table_end = layout.table + (layout.count + 4) * ENTRY;
    ensure!(table_end <= layout.headers_length, "the stub has no room for four more sections");
    let file_end = |section: &Section, raw: usize| section.offset + raw;
    let mut out = parts.stub.to_vec();
    let mut end = 0;
    let mut address = 0;
    for (index, section) in existing.iter().enumerate() {
        let raw = number(parts.stub, layout.table + index * ENTRY + 16, 4)?;
        end = end.max(file_end(section, raw));
        address = address.max(section.address + section.length);
    }
    ensure!(end <= out.len(), "the stub is cut off");
    // Symbols are behind the sections; nobody reads them, and Talos' imager refuses them.
    out.truncate(end);
    put(&mut out, layout.header + 8, &[0; 12]); // time, symbol table, number of symbols

    let four: [(&[u8; 8], &[u8]); 4] = [
        (b".osrel\0\0", parts.os_release.as_bytes()),
        (b".cmdline", parts.cmdline.as_bytes()),
        (b".linux\0\0", parts.kernel),
        (b".initrd\0", parts.initramfs),
    ];
    for (index, (name, data)) in (layout.count..).zip(four) {
        out.resize(out.len().next_multiple_of(layout.file_alignment), 0);
        address = address.next_multiple_of(layout.memory_alignment);
        let raw = data.len().next_multiple_of(layout.file_alignment);
        let fields = [data.len(), address, raw, out.len(), 0, 0, 0];
        let at = layout.table + index * ENTRY;
        put(&mut out, at, name);
        for (place, field) in fields.into_iter().enumerate() {
            put(&mut out, at + 8 + 4 * place, &u32_of(field)?.to_le_bytes());
        }
        put(&mut out, at + 36, &READ_DATA.to_le_bytes());
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(layout.file_alignment), 0);
        address += data.len();
    }
    let count = u16::try_from(layout.count + four.len())?;
    put(&mut out, layout.header + 6, &count.to_le_bytes());
    let image = u32_of(address.next_multiple_of(layout.memory_alignment))?;
    put(&mut out, layout.optional + 56, &image.to_le_bytes());
    put(&mut out, layout.optional + 64, &[0; 4]); // checksum: firmware does not look at it
    Ok(out)
}

/// Signs an EFI program with the operator's RSA key, by Debian's osslsigncode: unlike sbsign it lets the time in the
/// signature be chosen, and an RSA signature (PKCS #1 1.5) of the same bytes is the same. `time` is in seconds since
/// 1970; firmware compares it with nothing but lists of revoked times, which hold certificates that are not ours.
pub fn sign(program: &[u8], key: &Path, certificate: &Path, time: u64) -> Result<Vec<u8>> {
    let work = tempfile::tempdir().context("no temporary directory")?;
    let (from, to) = (work.path().join("program.efi"), work.path().join("signed.efi"));
    std::fs::write(&from, program).context("cannot write a temporary file")?;
    let output = Command::new("osslsigncode")
        .args(["sign", "-h", "sha256", "-st", &time.to_string(), "-certs"])
        .arg(certificate)
        .arg("-key")
        .arg(key)
        .arg("-in")
        .arg(&from)
        .arg("-out")
        .arg(&to)
        .stdin(Stdio::null())
        .output()
        .context("cannot run osslsigncode: apt-get install osslsigncode")?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("cannot sign with {}: {}", key.display(), String::from_utf8_lossy(&said).trim());
    }
    std::fs::read(&to).context("osslsigncode wrote nothing")
}

fn u32_of(value: usize) -> Result<u32> {
    u32::try_from(value).context("an EFI program has less than 4 GiB")
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A little-endian number of `length` bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Result<usize> {
    let slice = at.checked_add(length).and_then(|end| bytes.get(at..end)).context("it is cut off")?;
    Ok(slice.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::PathBuf;

    use super::*;

    /// The smallest stub: one section, room in the header, symbols at the end.
    pub(crate) fn stub() -> Vec<u8> {
        let mut pe = vec![0; 0x400];
        pe[..2].copy_from_slice(b"MZ");
        pe[0x3c] = 0x80;
        put(&mut pe, 0x80, b"PE\0\0\x64\x86\x01\0\x11\x11\x11\x11\0\x06\0\0\x01\0\0\0\xf0\0");
        put(&mut pe, 0x98, &PE32_PLUS.to_le_bytes());
        put(&mut pe, 0x98 + 32, &0x1000_u32.to_le_bytes());
        put(&mut pe, 0x98 + 36, &0x200_u32.to_le_bytes());
        put(&mut pe, 0x98 + 60, &0x400_u32.to_le_bytes());
        put(&mut pe, 0x188, b".text\0\0\0\x10\0\0\0\0\x10\0\0\0\x02\0\0\0\x04\0\0");
        pe.resize(0x600, 0xcc);
        pe.extend_from_slice(b"symbols");
        pe
    }

    fn parts<'a>(stub: &'a [u8]) -> Parts<'a> {
        Parts { stub, os_release: "ID=x\n", cmdline: "quiet", kernel: &[1; 513], initramfs: b"ramfs" }
    }

    #[test]
    fn the_sections_follow_the_stub_in_file_and_memory() {
        let stub = stub();
        let image = build(Arch::Amd64, &parts(&stub)).unwrap();
        let found = sections(&image).unwrap();
        let names: Vec<&str> = found.iter().map(|section| section.name.as_str()).collect();
        assert_eq!(names, [".text", ".osrel", ".cmdline", ".linux", ".initrd"]);
        assert_eq!(found[1].address, 0x2000);
        let linux = &found[3];
        assert_eq!((linux.length, linux.offset % 512, linux.address), (513, 0, 0x4000));
        assert_eq!(image[linux.offset..linux.offset + linux.length], [1; 513]);
        assert_eq!(&image[found[4].offset..][..5], b"ramfs");
        assert_eq!(image.len() % 512, 0);
        assert_eq!(number(&image, 0x98 + 56, 4).unwrap(), 0x6000, "the size in memory");
        assert!(!image.windows(7).any(|window| window == b"symbols"));
        assert_eq!(image, build(Arch::Amd64, &parts(&stub)).unwrap());
    }

    #[test]
    fn a_wrong_stub_is_refused() {
        let good = stub();
        let text = |pe: &[u8], arch| format!("{:#}", build(arch, &parts(pe)).unwrap_err());
        assert!(text(&good, Arch::Arm64).contains("not for arm64"));
        assert!(text(b"#!/bin/sh", Arch::Amd64).contains("no PE file"));
        let mut full = good.clone();
        put(&mut full, 0x98 + 60, &0x200_u32.to_le_bytes());
        assert!(text(&full, Arch::Amd64).contains("no room"));
        for length in 0..good.len() - 7 {
            assert!(build(Arch::Amd64, &parts(&good[..length])).is_err(), "{length}");
        }
    }

    #[test]
    fn debian_s_stub_takes_the_sections() {
        let Ok(stub) = std::fs::read(STUB) else { return eprintln!("skipped: no systemd-boot-efi") };
        let image = build(Arch::Amd64, &parts(&stub)).unwrap();
        assert_eq!(sections(&image).unwrap().last().unwrap().name, ".initrd");
    }

    /// A key and its certificate, by openssl; none where that is not installed.
    fn signer(directory: &Path) -> Option<(PathBuf, PathBuf)> {
        let (key, certificate) = (directory.join("db.key"), directory.join("db.crt"));
        let made = Command::new("openssl")
            .args(["req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-keyout"])
            .args([&key, Path::new("-out"), &certificate])
            .output();
        let usable = made.is_ok_and(|made| made.status.success())
            && Command::new("osslsigncode").arg("--version").output().is_ok();
        if !usable {
            eprintln!("skipped: no openssl or no osslsigncode");
        }
        usable.then_some((key, certificate))
    }

    #[test]
    fn a_signature_is_the_same_every_time_and_says_the_time_that_was_given() {
        let directory = tempfile::tempdir().unwrap();
        let (Some((key, certificate)), Ok(stub)) = (signer(directory.path()), std::fs::read(STUB)) else {
            return eprintln!("skipped");
        };
        let image = build(Arch::Amd64, &parts(&stub)).unwrap();
        let signed = |time| sign(&image, &key, &certificate, time).unwrap();
        let (one, other) = (signed(1_700_000_000), signed(1_700_000_000));
        assert!(one == other, "two signatures with one key at one time");
        assert!(one != signed(1_700_000_001), "the time is in it");
        // Sections are where they were, for GRUB on a BIOS.
        assert_eq!(sections(&one).unwrap(), sections(&image).unwrap());
        let error = sign(b"#!/bin/sh", &key, &certificate, 0).unwrap_err().to_string();
        assert!(error.contains("cannot sign with"), "{error}");
        assert!(sign(&image, &certificate, &certificate, 0).is_err(), "a certificate is no key");
    }
}
