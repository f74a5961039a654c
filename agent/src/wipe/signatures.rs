//! Where file systems, volume managers, RAID and encryption leave their marks. A fast wipe zeroes both ends
//! of the disk and of each partition; this table finds what lies further inside, tells the operator what was
//! there, and proves afterwards that nothing is left that a later system could recognize.

use super::partitions::{Medium, Region};

const K: u64 = 1 << 10;
const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// Where a mark is in its region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// From the beginning.
    Start(u64),
    /// The region's end less this.
    End(u64),
    /// As the former, with the region's length rounded down to a multiple of the second.
    AlignedEnd(u64, u64),
}

struct Signature {
    name: &'static str,
    at: &'static [At],
    magic: &'static [u8],
}

use At::{AlignedEnd, End, Start};

/// Linux software RAID, version 1.
const MD: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];

const SIGNATURES: &[Signature] = &[
    sig("gpt", &[Start(512), Start(4 * K), End(512), End(4 * K)], b"EFI PART"),
    sig("ext", &[Start(0x438)], &[0x53, 0xef]),
    sig("xfs", &[Start(0)], b"XFSB"),
    sig("btrfs", &[Start(64 * K + 64), Start(64 * M + 64), Start(256 * G + 64)], b"_BHRfS_M"),
    sig("f2fs", &[Start(K), Start(5 * K)], &[0x10, 0x20, 0xf5, 0xf2]),
    sig("jfs", &[Start(32 * K)], b"JFS1"),
    sig("reiserfs", &[Start(64 * K + 52), Start(8 * K + 52)], b"ReIsEr"),
    sig("ocfs2", &[Start(K), Start(2 * K), Start(4 * K), Start(8 * K)], b"OCFSV2"),
    sig("gfs2", &[Start(64 * K)], &[0x01, 0x16, 0x19, 0x70, 0, 0, 0, 1]),
    sig("nilfs2", &[Start(K + 6), AlignedEnd(4 * K - 6, 4 * K)], &[0x34, 0x34]),
    sig("hfs+", &[Start(K)], &[b'H', b'+', 0, 4]),
    sig("hfsx", &[Start(K)], &[b'H', b'X', 0, 5]),
    sig("ntfs", &[Start(3), End(512 - 3)], b"NTFS    "),
    sig("exfat", &[Start(3)], b"EXFAT   "),
    sig("fat", &[Start(54)], b"FAT1"),
    sig("fat", &[Start(82)], b"FAT32   "),
    sig("iso9660", &[Start(32 * K + 1)], b"CD001"),
    sig("udf", &[Start(32 * K + 1)], b"BEA01"),
    sig("squashfs", &[Start(0)], b"hsqs"),
    sig("erofs", &[Start(K)], &[0xe2, 0xe1, 0xf5, 0xe0]),
    sig("zonefs", &[Start(0)], b"SFOZ"),
    sig("swap", &[Start(4 * K - 10), Start(16 * K - 10), Start(64 * K - 10)], b"SWAPSPACE2"),
    sig("luks", &[Start(0)], b"LUKS\xba\xbe"),
    sig(
        "luks",
        &[
            Start(16 * K),
            Start(32 * K),
            Start(64 * K),
            Start(128 * K),
            Start(256 * K),
            Start(512 * K),
            Start(M),
            Start(2 * M),
            Start(4 * M),
        ],
        b"SKUL\xba\xbe",
    ),
    sig("bitlocker", &[Start(3)], b"-FVE-FS-"),
    sig("lvm", &[Start(0), Start(512), Start(K), Start(K + 512)], b"LABELONE"),
    sig("md raid", &[Start(0), Start(4 * K)], MD),
    // Version 1.0: 8 KiB before the end, rounded down to 4 KiB. Version 0.90: the last whole 64 KiB.
    sig("md raid", &[AlignedEnd(8 * K, 4 * K), AlignedEnd(64 * K, 64 * K)], MD),
    sig("md raid", &[AlignedEnd(64 * K, 64 * K)], &[0xa9, 0x2b, 0x4e, 0xfc]),
    sig("intel raid", &[End(2 * 512), End(2 * 4096)], b"Intel Raid ISM Cfg Sig. "),
    sig("ddf raid", &[End(512), End(4 * K)], &[0xde, 0x11, 0xde, 0x11]),
    sig("nvidia raid", &[End(2 * 512)], b"NVIDIA  "),
    sig("jmicron raid", &[End(512)], b"JM\x01\x00"),
    sig("bcache", &[Start(4 * K + 24)], &[0xc6, 0x85, 0x73, 0xf6]),
    sig("drbd", &[AlignedEnd(4 * K - 60, 4 * K)], &[0x83, 0x74, 0x02]),
    sig("stratis", &[Start(512 + 4), Start(9 * 512 + 4)], b"!Stra0tis"),
    sig(
        "ceph bluestore",
        &[Start(0), Start(G), Start(10 * G), Start(100 * G), Start(1000 * G)],
        b"bluestore block device",
    ),
    sig("vmfs", &[Start(M)], &[0x0d, 0xd0, 0x01, 0xc0]),
    sig("vmfs", &[Start(2 * M)], &[0x5e, 0xf1, 0xab, 0x2f]),
];

const fn sig(name: &'static str, at: &'static [At], magic: &'static [u8]) -> Signature {
    Signature { name, at, magic }
}

/// ZFS: four labels of 256 KiB, two at each end; the second half of a label is a ring of uberblocks.
const ZFS_LABEL: u64 = 256 * K;
const ZFS_RING: u64 = 128 * K;
/// The smallest distance between two uberblocks.
const ZFS_STEP: usize = 1024;
const ZFS_MAGIC: u64 = 0x00ba_b10c;

/// A mark that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Whose it is.
    pub name: &'static str,
    /// Where on the disk, in bytes.
    pub offset: u64,
    /// How much has to go.
    pub length: u64,
}

/// All marks in a region. Places that cannot be read have none.
pub fn find(medium: &(impl Medium + ?Sized), region: Region) -> Vec<Found> {
    let mut found = Vec::new();
    let mut buffer = [0; 32];
    for signature in SIGNATURES {
        let buffer = &mut buffer[..signature.magic.len()];
        for offset in signature.at.iter().filter_map(|at| place(*at, region)) {
            let length = buffer.len() as u64;
            if offset + length <= region.start + region.length
                && medium.fill_at(buffer, offset).is_ok()
                && buffer == signature.magic
            {
                found.push(Found { name: signature.name, offset, length });
            }
        }
    }
    zfs(medium, region, &mut found);
    found.sort();
    found.dedup();
    found
}

fn place(at: At, region: Region) -> Option<u64> {
    let inside = match at {
        Start(offset) => Some(offset),
        End(before) => region.length.checked_sub(before),
        AlignedEnd(before, unit) => (region.length / unit * unit).checked_sub(before),
    };
    inside.filter(|inside| *inside < region.length).and_then(|inside| region.start.checked_add(inside))
}

fn zfs(medium: &(impl Medium + ?Sized), region: Region, found: &mut Vec<Found>) {
    let end = region.length / ZFS_LABEL * ZFS_LABEL;
    let Some(last) = end.checked_sub(2 * ZFS_LABEL) else { return };
    let mut labels = vec![0, ZFS_LABEL, last, last + ZFS_LABEL];
    labels.dedup();
    let mut ring = vec![0; ZFS_RING as usize];
    for label in labels {
        let offset = region.start + label + ZFS_RING;
        if medium.fill_at(&mut ring, offset).is_err() {
            continue;
        }
        let uberblock = ring.chunks_exact(ZFS_STEP).any(|block| {
            let magic = block[..8].try_into().expect("eight bytes");
            u64::from_le_bytes(magic) == ZFS_MAGIC || u64::from_be_bytes(magic) == ZFS_MAGIC
        });
        if uberblock {
            found.push(Found { name: "zfs", offset, length: ZFS_RING });
        }
    }
}
