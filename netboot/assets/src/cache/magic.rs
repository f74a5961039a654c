//! Whether bytes are the beginning of a kernel or of an initramfs: what a captive portal says is neither.

use crate::factory::ImageFile;

/// Bytes that must be there to tell.
pub(super) const BEGINNING: usize = 1024;
/// Where a kernel for x86 has its sign.
const BZIMAGE_AT: usize = 0x202;
/// Where a kernel for 64-bit ARM has its sign.
const ARM64_AT: usize = 0x38;
/// What an initramfs begins with: xz, zstd, gzip, cpio (`newc`, without and with sums).
const INITRAMFS: [&[u8]; 5] = [b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"070701", b"070702"];

/// Whether a file that begins so can be what it is to be. The name's `.xz` says nothing.
pub(super) fn fits(file: ImageFile, beginning: &[u8]) -> bool {
    let at = |at: usize, sign: &[u8]| beginning.get(at..).is_some_and(|rest| rest.starts_with(sign));
    match file {
        ImageFile::Kernel => at(0, b"MZ") || at(BZIMAGE_AT, b"HdrS") || at(ARM64_AT, b"ARMd"),
        ImageFile::SecureBootUki => at(0, b"MZ"),
        ImageFile::Initramfs => INITRAMFS.iter().any(|sign| at(0, sign)),
        ImageFile::Cmdline => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portals_page_is_neither_kernel_nor_initramfs() {
        let mut bzimage = vec![0_u8; BEGINNING];
        bzimage[BZIMAGE_AT..BZIMAGE_AT + 4].copy_from_slice(b"HdrS");
        let mut arm64 = vec![0_u8; 64];
        arm64[ARM64_AT..ARM64_AT + 4].copy_from_slice(b"ARMd");
        for kernel in [&b"MZ\x90"[..], &bzimage, &arm64] {
            assert!(fits(ImageFile::Kernel, kernel) && !fits(ImageFile::Initramfs, kernel));
        }
        for initramfs in INITRAMFS {
            assert!(fits(ImageFile::Initramfs, initramfs) && !fits(ImageFile::Kernel, initramfs));
        }
        for other in [&b"<!DOCTYPE html>"[..], b"", b"M", b"#!ipxe\n", b"{}", b"\n<html>"] {
            assert!(!fits(ImageFile::Kernel, other) && !fits(ImageFile::Initramfs, other), "{other:?}");
        }
    }
}
