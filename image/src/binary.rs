//! Looks at the headers of what it is asked to pack, so that a wrong file is an error here and not a machine
//! that hangs.

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

/// A processor architecture, by the name that Talos and Image Factory use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// x86-64
    Amd64,
    /// AArch64
    Arm64,
}

impl Arch {
    /// The name in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// `e_machine` of its ELF files.
    fn elf_machine(self) -> u16 {
        match self {
            Self::Amd64 => 62,
            Self::Arm64 => 183,
        }
    }
}

/// ELF program header type of the dynamic loader's path.
const PT_INTERP: u32 = 3;
/// Where an x86 kernel says that it is one, and where its version text is (the kernel's x86/boot.rst).
const X86_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");
const X86_VERSION_POINTER: usize = 0x20e;
/// The boot sector's length, which the version pointer does not count.
const X86_BOOT_SECTOR: usize = 0x200;
/// Where an arm64 kernel says that it is one (the kernel's arm64/booting.rst).
const ARM64_MAGIC: (usize, &[u8]) = (0x38, b"ARM\x64");
/// What an arm64 kernel, which is not packed, says as its first words; its version follows.
const BANNER: &[u8] = b"Linux version ";
/// The kernel's limit of the length of its version.
const VERSION_LIMIT: usize = 128;

/// Checks that a binary can be PID 1 of an image that has nothing else: an ELF executable of the architecture,
/// without a dynamic loader.
pub fn check_init(bytes: &[u8], arch: Arch) -> Result<()> {
    ensure!(bytes.starts_with(b"\x7fELF"), "it is no ELF executable");
    ensure!(bytes.get(4..6) == Some(&[2, 1]), "it is no 64-bit little-endian ELF executable");
    check_machine(bytes, arch)?;
    let table = usize::try_from(u64_at(bytes, 32)?).context("it has a broken ELF header")?;
    let (size, count) = (usize::from(u16_at(bytes, 54)?), usize::from(u16_at(bytes, 56)?));
    for index in 0..count {
        let at = table.checked_add(index * size).context("it has a broken ELF header")?;
        if u32_at(bytes, at)? == PT_INTERP {
            bail!(
                "it is dynamically linked, and the image has no loader and no libraries: build it with \
                 RUSTFLAGS='-C target-feature=+crt-static' and an explicit --target"
            );
        }
    }
    Ok(())
}

/// Checks that a kernel module is of the architecture. Whether it is a whole one, the kernel knows better.
pub fn check_module(bytes: &[u8], arch: Arch) -> Result<()> {
    if bytes.starts_with(b"\x7fELF") { check_machine(bytes, arch) } else { Ok(()) }
}

fn check_machine(bytes: &[u8], arch: Arch) -> Result<()> {
    let machine = u16_at(bytes, 18)?;
    if machine != arch.elf_machine() {
        let other = [Arch::Amd64, Arch::Arm64].into_iter().find(|arch| arch.elf_machine() == machine);
        let other = other.map_or_else(|| format!("ELF machine {machine}"), |arch| arch.name().to_owned());
        bail!("it is built for {other}, and the image is for {}", arch.name());
    }
    Ok(())
}

/// Checks that a file is a kernel of the architecture, and for `version` if the file says what it is.
pub fn check_kernel(bytes: &[u8], arch: Arch, version: &str) -> Result<()> {
    check_image(bytes, arch)?;
    let found = match arch {
        Arch::Amd64 => x86_version(bytes),
        Arch::Arm64 => arm64_version(bytes),
    };
    match found {
        Some(found) if found != version => bail!(
            "it is kernel {found}, and the modules are of kernel {version}: it would refuse them; \
             take both from the same package"
        ),
        _ => Ok(()),
    }
}

/// Checks that a file is a kernel of the architecture.
pub fn check_image(bytes: &[u8], arch: Arch) -> Result<()> {
    let has = |(at, magic): (usize, &[u8])| bytes.get(at..at + magic.len()) == Some(magic);
    let is = |arch: Arch| match arch {
        Arch::Amd64 => has(X86_MAGIC),
        Arch::Arm64 => has(ARM64_MAGIC),
    };
    if !is(arch) {
        match [Arch::Amd64, Arch::Arm64].into_iter().find(|arch| is(*arch)) {
            Some(other) => bail!("it is a kernel for {}, and the image is for {}", other.name(), arch.name()),
            None => bail!("it is no Linux kernel image for {}", arch.name()),
        }
    }
    Ok(())
}

/// The first word of an x86 kernel's version text, which is also its module directory's name.
fn x86_version(bytes: &[u8]) -> Option<&str> {
    let at = usize::from(u16_at(bytes, X86_VERSION_POINTER).ok()?);
    let text = bytes.get(at.checked_add(X86_BOOT_SECTOR)?..)?;
    first_word(text).filter(|_| at != 0)
}

/// The version in an arm64 kernel's first words; the same words before a `%s` are somebody's format.
fn arm64_version(bytes: &[u8]) -> Option<&str> {
    let banners = bytes.windows(BANNER.len()).enumerate().filter(|(_, window)| *window == BANNER);
    let mut words = banners.filter_map(|(at, _)| first_word(&bytes[at + BANNER.len()..]));
    words.find(|word| word.starts_with(|first: char| first.is_ascii_digit()))
}

fn first_word(text: &[u8]) -> Option<&str> {
    let text = &text[..text.len().min(VERSION_LIMIT)];
    let end = text.iter().position(|byte| matches!(byte, 0 | b' '))?;
    std::str::from_utf8(&text[..end]).ok().filter(|text| !text.is_empty())
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let end = at.checked_add(N);
    let slice = end.and_then(|end| bytes.get(at..end)).context("it is cut off")?;
    Ok(slice.try_into().expect("the slice has N bytes"))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    array_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(crate) mod tests;
