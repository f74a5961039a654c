//! Classic BPF programs: the kernel throws away what is not for us before it is queued.

use nix::libc::{
    BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_MSH, BPF_RET,
    BPF_W, SKF_AD_OFF, SKF_AD_VLAN_TAG_PRESENT,
};

use crate::sys::Instruction;

const fn statement(code: u32, k: u32) -> Instruction {
    Instruction { code: code as u16, jt: 0, jf: 0, k }
}

/// Compares what was loaded; jumps over so many instructions when it holds and when it does not.
const fn jump(code: u32, k: u32, holds: u8, fails: u8) -> Instruction {
    Instruction { code: (BPF_JMP | code | BPF_K) as u16, jt: holds, jf: fails, k }
}

/// Where the Ethernet header ends.
const IP: u32 = 14;
/// A word that the kernel gives beside the bytes: whether it took a VLAN tag off the frame.
const HAD_TAG: u32 = (SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT) as u32;

/// Whole (not fragmented), untagged UDP packets over IPv4 to port 67 or 4011.
pub(super) const DHCP_QUESTIONS: [Instruction; 14] = [
    statement(BPF_LD | BPF_W | BPF_ABS, HAD_TAG),
    jump(BPF_JEQ, 0, 0, 11),
    // EtherType IPv4.
    statement(BPF_LD | BPF_H | BPF_ABS, 12),
    jump(BPF_JEQ, 0x0800, 0, 9),
    // Protocol UDP.
    statement(BPF_LD | BPF_B | BPF_ABS, IP + 9),
    jump(BPF_JEQ, 17, 0, 7),
    // Neither "more fragments" nor an offset.
    statement(BPF_LD | BPF_H | BPF_ABS, IP + 6),
    jump(BPF_JSET, 0x3fff, 5, 0),
    // The destination port, behind an IP header of any length.
    statement(BPF_LDX | BPF_B | BPF_MSH, IP),
    statement(BPF_LD | BPF_H | BPF_IND, IP + 2),
    jump(BPF_JEQ, 67, 1, 0),
    jump(BPF_JEQ, 4011, 0, 1),
    statement(BPF_RET | BPF_K, u32::MAX),
    statement(BPF_RET | BPF_K, 0),
];

/// No packet at all.
pub(super) const NOTHING: [Instruction; 1] = [statement(BPF_RET | BPF_K, 0)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_jump_ends_inside_the_program() {
        for (at, instruction) in DHCP_QUESTIONS.iter().enumerate() {
            if u32::from(instruction.code) & 7 == BPF_JMP {
                for jump in [instruction.jt, instruction.jf] {
                    assert!(at + 1 + usize::from(jump) < DHCP_QUESTIONS.len(), "instruction {at}");
                }
            }
        }
    }

    #[test]
    fn every_failed_comparison_ends_in_a_refusal() {
        let refusal = DHCP_QUESTIONS.len() - 1;
        for (at, instruction) in DHCP_QUESTIONS.iter().enumerate() {
            let code = u32::from(instruction.code);
            if code == BPF_JMP | BPF_JEQ | BPF_K && instruction.k != 67 {
                assert_eq!(at + 1 + usize::from(instruction.jf), refusal, "instruction {at}");
            }
            if code == BPF_JMP | BPF_JSET | BPF_K {
                assert_eq!(at + 1 + usize::from(instruction.jt), refusal, "instruction {at}");
            }
        }
    }
}
