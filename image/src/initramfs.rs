//! An initial RAM file system: one static binary as `/init`, the kernel modules it loads, and nothing else.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::binary::{self, Arch};
use crate::cpio::Archive;
use crate::modules::Tree;

/// Where `/init` finds which modules to load: one absolute path a line, in the order of loading.
pub const MODULES_ORDER: &str = "/etc/modules.order";

/// How hard zstd tries. Every machine of a site fetches the file at every discovery, so size counts: at 19 it is
/// a quarter smaller than at the default 3, and unpacking costs the same.
const ZSTD_LEVEL: i32 = 19;

/// What to pack.
#[derive(Debug)]
pub struct Contents<'a> {
    /// For which machines.
    pub arch: Arch,
    /// The binary that becomes PID 1.
    pub init: &'a [u8],
    /// The kernel's modules.
    pub tree: &'a Tree,
    /// Driver sets and modules, in order.
    pub drivers: &'a [String],
    /// More files.
    pub files: Vec<ExtraFile>,
}

/// A file that is packed besides.
#[derive(Debug, Clone)]
pub struct ExtraFile {
    /// Where it is in the image.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub data: Vec<u8>,
}

/// A packed image.
#[derive(Debug)]
pub struct Initramfs {
    /// The compressed archive.
    pub bytes: Vec<u8>,
    /// Its length before compression.
    pub unpacked: usize,
    /// The modules in it, by path, in the order of loading.
    pub modules: Vec<PathBuf>,
    /// Drivers of a set that the kernel does not have.
    pub missing: Vec<String>,
}

/// Packs an image.
pub fn build_initramfs(contents: Contents<'_>) -> Result<Initramfs> {
    let Contents { arch, init, tree, drivers, files } = contents;
    binary::check_init(init, arch).context("the init binary cannot be packed")?;

    let mut archive = Archive::new();
    archive.file("/init", 0o755, init.to_vec())?;
    // Before /dev is mounted the kernel opens this for PID 1's output; without it early words are lost.
    archive.character_device("/dev/console", 0o600, 5, 1)?;
    for directory in ["/proc", "/sys", "/run", "/tmp"] {
        archive.directory(directory)?;
    }

    let plan = tree.plan(drivers)?;
    let mut modules = Vec::new();
    let mut order = String::new();
    for path in &plan.order {
        let inside = format!("/lib/modules/{}/{path}", tree.version());
        archive.file(&inside, 0o644, tree.read(path)?)?;
        order.push_str(&inside);
        order.push('\n');
        modules.push(PathBuf::from(inside));
    }
    archive.file(MODULES_ORDER, 0o644, order.into_bytes())?;
    for ExtraFile { path, mode, data } in files {
        archive.file(&path, mode, data)?;
    }

    let plain = archive.emit();
    Ok(Initramfs { bytes: compress(&plain)?, unpacked: plain.len(), modules, missing: plan.missing })
}

/// zstd, as Talos does since 1.8. Counted in instructions from the kernel's start to init, an 8 MB image costs
/// 0.12 G more than an uncompressed one with zstd, 0.13 G with gzip and 0.77 G with xz; the files have 1.9, 2.7
/// and 1.7 MB. Debian's kernels unpack any of them, whatever the file is called.
fn compress(plain: &[u8]) -> Result<Vec<u8>> {
    zstd::bulk::compress(plain, ZSTD_LEVEL).context("zstd failed")
}

#[cfg(test)]
mod tests;
