//! A stick: what is on it, and how a running box and a person with a laptop change it.
//!
//! ```text
//! 1 bios    GRUB for BIOS
//! 2 esp     FAT: GRUB for UEFI
//! 3 config  FAT, shown by every laptop: appliance.toml
//! 4 env     which slot boots                                    [`env`]
//! 5 slot a  kernel, box, agent image                            [`slot`]
//! 6 slot b  the same of another version; empty at first
//! 7 data    ext4: cache and hub state; outlives everything else
//! ```
//!
//! Invariant: whatever is interrupted at whatever time, a slot that has booted before boots again. The slot that
//! boots is never written, and one sector decides which one that is.

pub mod disk;
pub mod env;
pub mod fat;
pub mod gpt;
pub mod grub;
pub mod image;
pub mod signature;
pub mod slot;
pub mod update;

/// Bytes of a sector, on everything that a stick is plugged into.
pub const SECTOR: u64 = 512;
