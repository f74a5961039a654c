use super::*;

/// The smallest file that passes for an executable: a header and program headers of the given types.
pub(crate) fn elf(machine: u16, segments: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18..20].copy_from_slice(&machine.to_le_bytes());
    bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
    bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
    bytes[56..58].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_le_bytes());
    for segment in segments {
        bytes.extend_from_slice(&segment.to_le_bytes());
        bytes.extend_from_slice(&[0; 52]);
    }
    bytes
}

/// The smallest file that passes for an x86 kernel of a version.
pub(crate) fn kernel(version: &str) -> Vec<u8> {
    let mut bytes = vec![0; 0x300];
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
    bytes.extend_from_slice(format!("{version} (build@host) #1\0").as_bytes());
    bytes
}

#[test]
fn a_static_executable_of_the_architecture_passes() {
    check_init(&elf(62, &[1, 2]), Arch::Amd64).unwrap();
    check_init(&elf(183, &[]), Arch::Arm64).unwrap();
}

#[test]
fn what_cannot_be_init_is_named() {
    let cases: [(Vec<u8>, &str); 6] = [
        (b"#!/bin/sh\n".to_vec(), "no ELF"),
        (Vec::new(), "no ELF"),
        (b"\x7fELF\x01\x01".to_vec(), "64-bit"),
        (elf(183, &[1]), "built for arm64"),
        (elf(243, &[1]), "ELF machine 243"),
        (elf(62, &[1, 3]), "dynamically linked"),
    ];
    for (bytes, want) in cases {
        let error = check_init(&bytes, Arch::Amd64).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn a_cut_off_executable_is_an_error_at_every_length() {
    let whole = elf(62, &[1, 2, 6]);
    for length in 0..64 + 2 * 56 + 4 {
        assert!(check_init(&whole[..length], Arch::Amd64).is_err(), "{length}");
    }
}

/// The smallest file that passes for an arm64 kernel.
fn arm64_kernel(words: &str) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[0x38..0x3c].copy_from_slice(b"ARM\x64");
    bytes.extend_from_slice(words.as_bytes());
    bytes
}

#[test]
fn a_kernel_for_arm64_must_fit_its_modules_if_it_says_what_it_is() {
    let version = "6.1.0-56-arm64";
    for words in ["", "Linux version %s\0", "Linux version %s\0Linux version 6.1.0-56-arm64 (somebody)\0"] {
        check_kernel(&arm64_kernel(words), Arch::Arm64, version).unwrap();
    }
    let other = arm64_kernel("Linux version %s\0Linux version 6.1.0-55-arm64 (somebody)\0");
    let error = check_kernel(&other, Arch::Arm64, version).unwrap_err().to_string();
    assert!(error.contains("it is kernel 6.1.0-55-arm64"), "{error}");
}

#[test]
fn a_kernel_must_be_one_and_fit_its_modules() {
    let version = "6.1.0-56-cloud-amd64";
    check_kernel(&kernel(version), Arch::Amd64, version).unwrap();
    let mut arm = vec![0; 64];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    check_kernel(&arm, Arch::Arm64, version).unwrap();

    let cases = [
        (kernel("6.1.0-55-cloud-amd64"), "kernel 6.1.0-55-cloud-amd64"),
        (arm, "for arm64"),
        (b"MZ".to_vec(), "no Linux kernel"),
        (Vec::new(), "no Linux kernel"),
    ];
    for (bytes, want) in cases {
        let error = check_kernel(&bytes, Arch::Amd64, version).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
}
