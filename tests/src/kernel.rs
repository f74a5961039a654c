//! Debian's kernels: which one the machines boot.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A kernel of this host's packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// For example `6.1.0-56-cloud-amd64`.
    pub release: String,
    /// The bootable image.
    pub image: PathBuf,
    /// Its modules, `/lib/modules/<release>`.
    pub modules: PathBuf,
}

impl Kernel {
    /// The newest kernel of package linux-image-cloud-amd64: it boots fastest and has virtio, which is all that the
    /// machines here have.
    pub fn newest_cloud() -> Result<Self> {
        Self::newest_in(Path::new("/boot"), Path::new("/lib/modules"), "-cloud-amd64")
            .context("no cloud kernel in /boot (package linux-image-cloud-amd64)")
    }

    /// The newest kernel of package linux-image-amd64, which drives what real machines have: USB, too.
    pub fn newest_metal() -> Result<Self> {
        Self::newest_in(Path::new("/boot"), Path::new("/lib/modules"), "-amd64")
            .context("no kernel in /boot (package linux-image-amd64)")
    }

    /// A flavour follows a number, so that `-amd64` is not `-cloud-amd64`.
    fn newest_in(boot: &Path, modules: &Path, flavour: &str) -> Option<Self> {
        let names =
            fs::read_dir(boot).ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
        let releases = names.filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()));
        let release = releases
            .filter(|release| {
                release.strip_suffix(flavour).is_some_and(|rest| rest.ends_with(|c: char| c.is_ascii_digit()))
            })
            .filter(|release| modules.join(release).is_dir())
            .max_by_key(|release| numbers(release))?;
        Some(Self {
            image: boot.join(format!("vmlinuz-{release}")),
            modules: modules.join(&release),
            release,
        })
    }
}

/// `6.1.0-56` sorts after `6.1.0-9`.
fn numbers(release: &str) -> Vec<u32> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
