//! `bootlace-image update`

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use bootlace_image::stick::disk::Disk;
use bootlace_image::stick::update;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// The stick to update: an image, or a device
    #[arg(value_name = "IMAGE|DEVICE")]
    stick: PathBuf,
    /// The new version: another stick's image, or a slot as `usb --slot` writes it
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
}

pub(crate) fn run(args: &UpdateArgs) -> Result<()> {
    let slot = update::read_slot(&args.from)?;
    let mut disk = Disk::open(&args.stick, true)?;
    let updated = update::install(&mut disk, &slot, |_| ())
        .with_context(|| format!("{} is not updated, and boots as before", args.stick.display()))?;
    println!(
        "{}: {} is in slot {}; it is tried at the next start, and the other slot boots if it does not come up",
        args.stick.display(),
        updated.version,
        updated.slot
    );
    Ok(())
}
