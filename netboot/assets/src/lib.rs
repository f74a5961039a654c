//! Boot assets on disk, by the names that machines ask for: [`BootFiles`] are the small iPXE binaries, kept
//! in memory; [`AssetDir`] is the directory of kernels, initramfs images and disk images, opened on demand;
//! [`factory`] asks Image Factory for images by schematic, and [`cache`] keeps them for machines to boot.
//!
//! **Invariant.** No name from the network opens anything but a regular file beneath the directory it
//! belongs to. Nothing but the cache writes, beneath its own directory, and what it serves is whole.
//!
//! **Driver.** `netboot-link` serves both over TFTP and HTTP; `appliance` runs the workers of factory and cache.

mod asset_dir;
mod boot_files;
pub mod cache;
pub mod factory;

pub use asset_dir::{AssetDir, AssetError};
pub use boot_files::{BootFiles, FoundFiles, LoadError};
