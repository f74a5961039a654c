//! What disks do beside reading and writing: discarding, zeroing, NVMe's own commands.

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;

use super::check;

/// `BLKRRPART`: read the partition table again.
const BLKRRPART: libc::c_ulong = 0x125f;
/// `BLKDISCARD`: forget a range.
const BLKDISCARD: libc::c_ulong = 0x1277;
/// `BLKZEROOUT`: zero a range, by the disk itself where it can.
const BLKZEROOUT: libc::c_ulong = 0x127f;
/// `BLKROGET`: whether writes are refused.
const BLKROGET: libc::c_ulong = 0x125e;
/// `BLKFLSBUF`: write out and forget what is cached.
const BLKFLSBUF: libc::c_ulong = 0x1261;
/// `NVME_IOCTL_ID`: the number of a block device's namespace.
const NVME_IOCTL_ID: libc::c_ulong = 0x4e40;
/// `NVME_IOCTL_ADMIN_CMD`, `_IOWR('N', 0x41, struct nvme_passthru_cmd)`.
const NVME_IOCTL_ADMIN_CMD: libc::c_ulong = 0xc048_4e41;

fn block_range(device: &File, code: libc::c_ulong, offset: u64, length: u64) -> Result<()> {
    let range: [u64; 2] = [offset, length];
    // SAFETY: the codes used here read two u64, which outlive the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), code as _, range.as_ptr()) }).map(drop)
}

/// Tells a device that a range's contents are not needed.
pub fn discard(device: &File, offset: u64, length: u64) -> Result<()> {
    block_range(device, BLKDISCARD, offset, length)
}

/// Makes a range of a device zero.
pub fn zero_out(device: &File, offset: u64, length: u64) -> Result<()> {
    block_range(device, BLKZEROOUT, offset, length)
}

/// Whether a device refuses writes.
pub fn is_read_only(device: &File) -> Result<bool> {
    let mut answer: libc::c_int = 0;
    // SAFETY: BLKROGET writes an int, which outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKROGET as _, &raw mut answer) })?;
    Ok(answer != 0)
}

/// Forgets what is cached of a device, so that the next read asks it.
pub fn drop_cache(device: &File) -> Result<()> {
    // SAFETY: BLKFLSBUF takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKFLSBUF as _, 0) }).map(drop)
}

/// An NVMe admin command; all other fields are zero.
#[derive(Clone, Copy, Debug)]
pub struct NvmeCommand {
    /// What to do.
    pub opcode: u8,
    /// To which namespace.
    pub namespace_id: u32,
    /// How.
    pub dword_10: u32,
    /// How long the kernel waits for the answer.
    pub timeout_ms: u32,
}

/// `struct nvme_passthru_cmd`.
#[repr(C)]
#[derive(Default)]
struct NvmePassthru {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace_id: u32,
    dwords_2_3: [u32; 2],
    metadata: u64,
    data: u64,
    metadata_length: u32,
    data_length: u32,
    dwords_10_15: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

const _: () = assert!(size_of::<NvmePassthru>() == 0x48, "the size is part of the request's code");

/// The namespace that a block device is.
pub fn nvme_namespace(device: &File) -> Result<u32> {
    // SAFETY: NVME_IOCTL_ID takes no argument; the answer is the result.
    check(unsafe { libc::ioctl(device.as_raw_fd(), NVME_IOCTL_ID as _) })
        .and_then(|id| u32::try_from(id).map_err(Error::other))
}

/// Sends an NVMe admin command whose data, if any, comes from the disk.
pub fn nvme_admin(device: &File, command: NvmeCommand, data: &mut [u8]) -> Result<()> {
    let mut request = NvmePassthru {
        opcode: command.opcode,
        namespace_id: command.namespace_id,
        data: if data.is_empty() { 0 } else { data.as_mut_ptr() as u64 },
        data_length: u32::try_from(data.len()).map_err(Error::other)?,
        dwords_10_15: [command.dword_10, 0, 0, 0, 0, 0],
        timeout_ms: command.timeout_ms,
        ..NvmePassthru::default()
    };
    // SAFETY: the code says that a nvme_passthru_cmd is read and written; it and the data that it points to,
    // of the length that it names, outlive the call.
    match check(unsafe { libc::ioctl(device.as_raw_fd(), NVME_IOCTL_ADMIN_CMD as _, &raw mut request) })? {
        0 => Ok(()),
        status => Err(Error::other(format!("NVMe status {status:#x}"))),
    }
}

/// Makes the kernel look at a device's partition table again.
pub fn reread_partitions(device: &File) -> Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    check(unsafe { libc::ioctl(device.as_raw_fd(), BLKRRPART as _) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_requests_on_a_plain_file_are_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(discard(&file, 0, 512).is_err());
        assert!(zero_out(&file, 0, 512).is_err());
        assert!(is_read_only(&file).is_err());
        assert!(drop_cache(&file).is_err());
        assert!(nvme_namespace(&file).is_err());
        assert!(reread_partitions(&file).is_err());
    }
}
