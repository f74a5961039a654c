//! What keeps the appliance small and the standard library cannot ask for. The only unsafe code of this crate.

#![allow(unsafe_code, reason = "neither the allocator's settings nor madvise have a safe interface")]

use nix::libc::{
    M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, MADV_DONTNEED, c_int, c_void, madvise, mallopt,
};

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

/// Unmaps the program's code, most of which only the start needed: what runs again is mapped again from the
/// page cache, 64 KiB with one minor fault. Leaves an idle appliance 8 MiB smaller (docs/decisions/023).
pub(crate) fn let_go_of_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    for (from, to) in maps.lines().filter_map(code) {
        // SAFETY: a private mapping of a file that was never writable: all it loses are page table entries.
        let done = unsafe { madvise(from as *mut c_void, to - from, MADV_DONTNEED) };
        debug_assert_eq!(done, 0, "the mapping is there");
    }
}

/// Start and end of a mapping of `/proc/PID/maps` if it is code of a file (proc_pid_maps(5)).
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions) = (fields.next()?, fields.next()?);
    let inode = fields.nth(2)?;
    if permissions != "r-xp" || inode == "0" {
        return None;
    }
    let (from, to) = range.split_once('-')?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_a_file_is_let_go() {
        let of_file = "7fe1088c8000-7fe10950b000 r-xp 002c7000 fe:00 6883403   /usr/bin/bootlace";
        assert_eq!(code(of_file), Some((0x7fe1_088c_8000, 0x7fe1_0950_b000)));
        for other in [
            "7fe10950b000-7fe109578000 r--p 00f09000 fe:00 6883403   /usr/bin/bootlace",
            "7fe109578000-7fe10957f000 rw-p 00f75000 fe:00 6883403   /usr/bin/bootlace",
            "7fe107bab000-7fe107dab000 rw-p 00000000 00:00 0",
            "7ffedb1f0000-7ffedb1f2000 r-xp 00000000 00:00 0          [vdso]",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn what_runs_again_is_mapped_again() {
        let_go_of_code();
        only_code_of_a_file_is_let_go();
    }
}
