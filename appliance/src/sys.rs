//! The one thing that the standard library cannot ask of the C library. The only unsafe code of this crate.

#![allow(unsafe_code, reason = "the allocator's settings have no safe interface")]

use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, c_int, mallopt};

/// Blocks from this size on are mappings of their own, which go back when they are freed: kernel images and
/// messages of megabytes leave no holes.
const MMAP_THRESHOLD_BYTES: c_int = 128 << 10;
/// Free memory at the end of the heap beyond which it goes back.
const TRIM_THRESHOLD_BYTES: c_int = 128 << 10;

/// One heap for all threads instead of up to eight a core: each keeps what it once needed, and with 2,000
/// machines they keep more than what is in use (docs/decisions/016). Call it before there are threads.
pub(crate) fn keep_one_small_heap() {
    let settings = [
        (M_ARENA_MAX, 1),
        (M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        (M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
    ];
    for (name, value) in settings {
        // SAFETY: it sets numbers of the allocator, under the allocator's own lock.
        let set = unsafe { mallopt(name, value) };
        debug_assert_eq!(set, 1, "the allocator knows {name}");
    }
}
