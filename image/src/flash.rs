//! Puts an image on a stick.
//!
//! * [`device`]: what could be written to, and why it should not be.
//! * [`write`](mod@write): what is written, in an order that a power cut may end anywhere.
//!
//! Invariant: a stick of bootlace keeps booting whatever interrupts a second flash of it; another one has no
//! partition table until everything else was written and read back, so that no firmware starts half an image.

pub mod device;
pub mod write;
