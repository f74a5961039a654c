//! The agent image: what an unknown machine boots.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};

use crate::binary::{self, Arch};
use crate::initramfs::{Contents, Initramfs, build_initramfs};
use crate::modules::Tree;
use crate::output;

/// The files of the agent image. The names are those that the peer's boot assets have; `.xz` is a name only.
#[derive(Debug)]
pub struct AgentImage {
    /// `kernel-<arch>`
    pub kernel: PathBuf,
    /// How long it is.
    pub kernel_bytes: usize,
    /// `initramfs-metal-<arch>.xz`
    pub initramfs: PathBuf,
    /// What is in it.
    pub contents: Initramfs,
}

/// Writes the agent image into a directory.
pub fn build(
    arch: Arch,
    kernel: &Path,
    tree: &Tree,
    drivers: &[String],
    firmware: Option<&Path>,
    agent: &Path,
    directory: &Path,
) -> Result<AgentImage> {
    let kernel_image = std::fs::read(kernel).with_context(|| {
        format!("cannot read the kernel {}: install linux-image-{}", kernel.display(), arch.name())
    })?;
    binary::check_kernel(&kernel_image, arch, tree.version())
        .with_context(|| format!("{} cannot be used", kernel.display()))?;
    let kernel_image = as_served(kernel_image, arch)?;
    let init = std::fs::read(agent).with_context(|| {
        format!("cannot read the agent {}: cargo build --release -p bootlace-agent", agent.display())
    })?;
    let contents =
        build_initramfs(Contents { arch, init: &init, tree, drivers, firmware, files: Vec::new() })
            .with_context(|| format!("no image of {}", agent.display()))?;

    let image = AgentImage {
        kernel: directory.join(format!("kernel-{}", arch.name())),
        kernel_bytes: kernel_image.len(),
        initramfs: directory.join(format!("initramfs-metal-{}.xz", arch.name())),
        contents,
    };
    output::write(&image.kernel, &kernel_image)?;
    output::write(&image.initramfs, &image.contents.bytes)?;
    Ok(image)
}

/// Kernels for amd64 unpack themselves, those for arm64 leave it to the boot loader: iPXE does it (`IMAGE_GZIP`, which
/// its builds for arm64 have), and a third of the bytes goes over the wire. The same bytes every time.
fn as_served(kernel: Vec<u8>, arch: Arch) -> Result<Vec<u8>> {
    match arch {
        Arch::Amd64 => Ok(kernel),
        Arch::Arm64 => {
            let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
            gzip.write_all(&kernel)?;
            Ok(gzip.finish()?)
        }
    }
}
