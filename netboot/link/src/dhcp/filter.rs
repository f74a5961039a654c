//! Classic BPF programs: the kernel throws away what is not for us before it is queued.

use nix::libc::{
    BPF_ABS, BPF_B, BPF_H, BPF_IND, BPF_JEQ, BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_MSH, BPF_RET,
};

use crate::frames::filter::{IP, Instruction, jump, statement};

/// Whole (not fragmented) UDP packets over IPv4 to port 67 or 4011, of every VLAN.
pub(super) const QUESTIONS: [Instruction; 12] = questions(0);
/// As [`QUESTIONS`], and packets to port 68: what other servers say.
pub(super) const QUESTIONS_AND_ANSWERS: [Instruction; 13] = {
    let [a, b, c, d, e, f, g, h, i, j, pass, drop] = questions(1);
    [a, b, c, d, e, f, g, h, i, j, jump(BPF_JEQ, 68, 0, 1), pass, drop]
};
/// As [`QUESTIONS_AND_ANSWERS`], and all of ARP.
pub(super) const WITH_ARP: [Instruction; 14] = {
    let [ether, ipv4, c, d, e, f, g, h, i, j, k, pass, drop] = QUESTIONS_AND_ANSWERS;
    let Instruction { jt, jf, .. } = ipv4;
    // One instruction more stands before the comparison with IPv4, and ARP passes.
    [
        ether,
        jump(BPF_JEQ, 0x0806, 10, 0),
        jump(BPF_JEQ, 0x0800, jt, jf),
        c,
        d,
        e,
        f,
        g,
        h,
        i,
        j,
        k,
        pass,
        drop,
    ]
};

/// `more`: how many instructions are put in before the last two.
const fn questions(more: u8) -> [Instruction; 12] {
    [
        // EtherType IPv4.
        statement(BPF_LD | BPF_H | BPF_ABS, 12),
        jump(BPF_JEQ, 0x0800, 0, 9 + more),
        // Protocol UDP.
        statement(BPF_LD | BPF_B | BPF_ABS, IP + 9),
        jump(BPF_JEQ, 17, 0, 7 + more),
        // Neither "more fragments" nor an offset.
        statement(BPF_LD | BPF_H | BPF_ABS, IP + 6),
        jump(BPF_JSET, 0x3fff, 5 + more, 0),
        // The destination port, behind an IP header of any length.
        statement(BPF_LDX | BPF_B | BPF_MSH, IP),
        statement(BPF_LD | BPF_H | BPF_IND, IP + 2),
        jump(BPF_JEQ, 67, 1 + more, 0),
        jump(BPF_JEQ, 4011, more, 1 - more),
        statement(BPF_RET | BPF_K, u32::MAX),
        statement(BPF_RET | BPF_K, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with the program; true when the frame passes.
    fn passes(program: &[Instruction], frame: &[u8]) -> bool {
        let (mut at, mut a, mut x) = (0, 0_u32, 0_u32);
        let byte = |at: u32| frame.get(at as usize).copied().map(u32::from);
        let half = |at: u32| Some(byte(at)? << 8 | byte(at + 1)?);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            let code = u32::from(code);
            at += 1;
            let loaded = if code == BPF_LD | BPF_H | BPF_ABS {
                half(k)
            } else if code == BPF_LD | BPF_B | BPF_ABS {
                byte(k)
            } else if code == BPF_LD | BPF_H | BPF_IND {
                half(x + k)
            } else if code == BPF_LDX | BPF_B | BPF_MSH {
                x = 4 * (byte(k).unwrap() & 15);
                Some(a)
            } else if code == BPF_RET | BPF_K {
                return k != 0;
            } else {
                let holds = if code & 0xf0 == BPF_JSET { a & k != 0 } else { a == k };
                at += usize::from(if holds { jt } else { jf });
                Some(a)
            };
            let Some(loaded) = loaded else { return false };
            a = loaded;
        }
    }

    fn udp(port: u16) -> Vec<u8> {
        let mut frame = vec![0; 60];
        frame[12..14].copy_from_slice(&[8, 0]);
        (frame[14], frame[23]) = (0x46, 17);
        frame[40..42].copy_from_slice(&port.to_be_bytes());
        frame
    }

    #[test]
    fn each_program_passes_its_ports_and_nothing_else() {
        let arp = {
            let mut frame = vec![0; 42];
            frame[12..14].copy_from_slice(&[8, 6]);
            frame
        };
        for (program, answers, with_arp) in
            [(&QUESTIONS[..], false, false), (&QUESTIONS_AND_ANSWERS, true, false), (&WITH_ARP, true, true)]
        {
            for (port, pass) in [(67, true), (4011, true), (68, answers), (69, false), (0, false)] {
                assert_eq!(passes(program, &udp(port)), pass, "port {port}");
            }
            assert_eq!(passes(program, &arp), with_arp);
            for (at, value) in [(12, 0x86), (23, 6), (20, 0x20), (21, 1)] {
                let mut frame = udp(67);
                frame[at] = value;
                assert!(!passes(program, &frame), "byte {at}");
            }
            assert!(!passes(program, &udp(67)[..30]));
        }
    }
}
