//! Classic BPF programs: the kernel throws away what is not wanted before it is queued.

use nix::libc::{BPF_JMP, BPF_K, BPF_RET, SKF_AD_OFF, SKF_AD_VLAN_TAG_PRESENT};

pub use crate::sys::Instruction;

/// Loads or returns.
#[must_use]
pub const fn statement(code: u32, k: u32) -> Instruction {
    Instruction { code: code as u16, jt: 0, jf: 0, k }
}

/// Compares what was loaded; jumps over so many instructions when it holds and when it does not.
#[must_use]
pub const fn jump(code: u32, k: u32, holds: u8, fails: u8) -> Instruction {
    Instruction { code: (BPF_JMP | code | BPF_K) as u16, jt: holds, jf: fails, k }
}

/// Where the Ethernet header ends; the kernel has taken a VLAN tag off before a filter sees the frame.
pub const IP: u32 = 14;
/// A word that the kernel gives beside the bytes: whether it took a VLAN tag off the frame.
pub const HAD_TAG: u32 = (SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT) as u32;

/// Every frame.
pub const EVERYTHING: [Instruction; 1] = [statement(BPF_RET | BPF_K, u32::MAX)];
/// No frame at all.
pub const NOTHING: [Instruction; 1] = [statement(BPF_RET | BPF_K, 0)];
