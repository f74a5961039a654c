//! The subcommands that put the whole appliance into something.

pub(crate) mod configure;
pub(crate) mod extension;
pub(crate) mod flash;
pub(crate) mod oci;
pub(crate) mod update;
pub(crate) mod usb;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bootlace_image::parts;
use bootlace_image::rootfs::Rootfs;
use clap::Args;

/// What every image of the appliance has beside its binary.
#[derive(Debug, Args)]
pub(crate) struct Parts {
    /// Directory of iPXE binaries, as Debian's package `ipxe` installs them
    #[arg(long, value_name = "DIR", default_value = parts::IPXE_DIR)]
    ipxe: PathBuf,
    /// Directory of agent images, as `bootlace-image agent` writes them
    #[arg(long, value_name = "DIR")]
    assets: PathBuf,
}

impl Parts {
    /// Reads them, each as a tree of its own.
    pub(crate) fn read(&self) -> Result<[(&'static str, Rootfs); 2]> {
        Ok([("iPXE", parts::ipxe(&self.ipxe)?), ("agent image", parts::assets(&self.assets)?)])
    }
}

/// Seconds since 1970 that images say they were made at: `SOURCE_DATE_EPOCH`, or the beginning.
pub(crate) fn epoch() -> Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().with_context(|| format!("SOURCE_DATE_EPOCH={text} is no number of seconds")),
        Err(_) => Ok(0),
    }
}

/// A line with what was written and how large it is.
pub(crate) fn report(path: &Path, what: &str, bytes: usize) {
    println!("{}: {what}, {}", path.display(), bootlace_image::output::size(bytes));
}
