//! An initial RAM file system: one static binary as `/init`, the kernel modules it loads, and nothing else.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::binary::{self, Arch};
use crate::cpio::Archive;
use crate::drivers;
use crate::firmware::{self, Firmware};
use crate::modules::{Tree, module_name};

/// Where `/init` finds which modules to load: one absolute path a line, in the order of loading.
pub const MODULES_ORDER: &str = "/etc/modules.order";
/// Where it finds which device wants which module: lines of depmod's `modules.alias`, only those of the modules
/// in the image.
pub const MODULES_ALIAS: &str = "/etc/modules.alias";
/// Where it finds what to load for a module: its name (with `!` behind it when it is to be loaded whatever
/// devices there are), then absolute paths in the order of loading, the last of its own.
pub const MODULES_LOAD: &str = "/etc/modules.load";

/// What is behind a module's name in the image.
const COMPRESSED: &str = ".z";

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
    /// Where the firmware is that drivers ask for.
    pub firmware: Option<&'a Path>,
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
    /// Firmware in it.
    pub firmware: Firmware,
}

/// An image before its compression.
#[derive(Debug)]
pub struct Packed {
    /// The archive.
    pub plain: Vec<u8>,
    /// As in [`Initramfs`].
    pub modules: Vec<PathBuf>,
    /// As in [`Initramfs`].
    pub missing: Vec<String>,
    /// As in [`Initramfs`].
    pub firmware: Firmware,
}

/// Packs an image.
pub fn build_initramfs(contents: Contents<'_>) -> Result<Initramfs> {
    let Packed { plain, modules, missing, firmware } = pack(contents)?;
    Ok(Initramfs { bytes: compress(&plain)?, unpacked: plain.len(), modules, missing, firmware })
}

/// Packs an image without compressing it, which kernels take as well.
pub fn pack(contents: Contents<'_>) -> Result<Packed> {
    let Contents { arch, init, tree, drivers: words, firmware, files } = contents;
    binary::check_init(init, arch).context("the init binary cannot be packed")?;

    let mut archive = Archive::new();
    archive.file("/init", 0o755, init.to_vec())?;
    // Before /dev is mounted the kernel opens this for PID 1's output; without it early words are lost.
    archive.character_device("/dev/console", 0o600, 5, 1)?;
    for directory in ["/proc", "/sys", "/run", "/tmp"] {
        archive.directory(directory)?;
    }

    let plan = tree.plan(words)?;
    let inside = |path: &str| format!("/lib/modules/{}/{path}", tree.version());
    let mut modules = Vec::new();
    let mut order = String::new();
    let mut asked = BTreeMap::new();
    for path in &plan.order {
        let inside = inside(path);
        let bytes = tree.read(path)?;
        binary::check_module(&bytes, arch).with_context(|| format!("the module {path} cannot be packed"))?;
        for name in firmware::wanted(&bytes) {
            asked.entry(name).or_insert_with(|| module_name(path));
        }
        let packed = format!("{inside}{COMPRESSED}");
        archive.file(&packed, 0o644, compress_module(&bytes)?)?;
        order.push_str(&packed);
        order.push('\n');
        modules.push(PathBuf::from(inside));
    }
    archive.file(MODULES_ORDER, 0o644, order.into_bytes())?;
    archive.file(MODULES_ALIAS, 0o644, tree.device_aliases(&plan).into_bytes())?;
    let mut load = String::new();
    for (name, paths) in tree.loads(&plan)? {
        let always = if plan.always.contains(&name) { "!" } else { "" };
        let paths: Vec<String> = paths.iter().map(|path| inside(path) + COMPRESSED).collect();
        load.push_str(&format!("{name}{always} {}\n", paths.join(" ")));
    }
    archive.file(MODULES_LOAD, 0o644, load.into_bytes())?;
    let firmware = firmware::add(&mut archive, firmware, asked)?;
    for ExtraFile { path, mode, data } in files {
        archive.file(&path, mode, data)?;
    }
    let mut missing = plan.missing;
    missing.retain(|driver| drivers::is_expected(driver, arch));
    Ok(Packed { plain: archive.emit(), modules, missing, firmware })
}

/// A module as it is in the image: RFC 1950. The kernel unpacks the whole image into memory, of which it gives at
/// most a half to it, and of 128 drivers for servers a machine needs a dozen; whoever loads one unpacks it. The
/// signature stays in its place.
pub fn compress_module(module: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(module)?;
    encoder.finish().context("zlib failed")
}

/// zstd, as Talos does since 1.8. Counted in instructions from the kernel's start to init, an 8 MB image costs
/// 0.12 G more than an uncompressed one with zstd, 0.13 G with gzip and 0.77 G with xz; the files have 1.9, 2.7
/// and 1.7 MB. Debian's kernels unpack any of them, whatever the file is called.
fn compress(plain: &[u8]) -> Result<Vec<u8>> {
    zstd::bulk::compress(plain, ZSTD_LEVEL).context("zstd failed")
}

#[cfg(test)]
mod tests;
