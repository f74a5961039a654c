use super::*;

/// Every firmware kind, with the unknown ones stood for by an example.
fn all() -> Vec<Firmware> {
    let mut all: Vec<_> = NAMED.iter().map(|(firmware, ..)| *firmware).collect();
    all.extend(
        [Platform::Bios, Platform::UefiX64, Platform::UefiArm64, Platform::Other(6)].map(Firmware::Ipxe),
    );
    all.push(Firmware::Unknown(27));
    all
}

fn debian() -> BinarySet {
    ["undionly.kpxe", "undionly.kpxe.0", "ipxe.efi", "snp.efi", "amd64/ipxe.efi", "amd64/snp.efi"]
        .into_iter()
        .collect()
}

fn with_arm64() -> BinarySet {
    let mut set = debian();
    for name in ["ipxe-arm64.efi", "snp-arm64.efi", "arm64/ipxe.efi", "arm64/snp.efi"] {
        set.insert(name);
    }
    set
}

#[test]
fn each_firmware_is_offered_its_own_file() {
    use BootFile::{Http, Script, Tftp};
    let arm = Some(Tftp("snp-arm64.efi"));
    let table = [
        (Firmware::Bios, Some(Tftp("undionly.kpxe")), Some(Tftp("undionly.kpxe"))),
        (Firmware::UefiIa32, None, None),
        (Firmware::UefiX64, Some(Tftp("snp.efi")), Some(Tftp("snp.efi"))),
        (Firmware::UefiArm32, None, None),
        (Firmware::UefiArm64, None, arm),
        (Firmware::UefiHttpIa32, None, None),
        (Firmware::UefiHttpX64, Some(Http("amd64/snp.efi")), Some(Http("amd64/snp.efi"))),
        (Firmware::UefiHttpArm32, None, None),
        (Firmware::UefiHttpArm64, None, Some(Http("arm64/snp.efi"))),
        (Firmware::UBootArm32, None, None),
        (Firmware::UBootArm64, None, arm),
        (Firmware::UBootHttpArm32, None, None),
        (Firmware::UBootHttpArm64, None, Some(Http("arm64/snp.efi"))),
        (Firmware::RaspberryPi, None, None),
        (Firmware::Ipxe(Platform::Bios), Some(Script), Some(Script)),
        (Firmware::Ipxe(Platform::UefiX64), Some(Script), Some(Script)),
        (Firmware::Ipxe(Platform::UefiArm64), Some(Script), Some(Script)),
        (Firmware::Ipxe(Platform::Other(6)), None, None),
        (Firmware::Unknown(27), None, None),
    ];
    assert_eq!(table.iter().map(|(firmware, ..)| *firmware).collect::<Vec<_>>(), all());
    for (firmware, on_debian, with_arm) in table {
        assert_eq!(boot_file(firmware, &debian()), on_debian, "{firmware}");
        assert_eq!(boot_file(firmware, &with_arm64()), with_arm, "{firmware}");
    }
}

#[test]
fn without_any_binary_only_ipxe_gets_something() {
    for firmware in all() {
        let offered = boot_file(firmware, &BinarySet::default());
        assert!(
            offered.is_none() || (offered == Some(BootFile::Script) && matches!(firmware, Firmware::Ipxe(_)))
        );
    }
}

#[test]
fn what_is_offered_exists_for_every_subset_of_the_binaries() {
    let names: Vec<_> = with_arm64().iter().map(str::to_owned).collect();
    for mask in 0..1_u32 << names.len() {
        let chosen = names.iter().enumerate().filter(|(at, _)| mask & (1 << at) != 0);
        let set: BinarySet = chosen.map(|(_, name)| name.as_str()).collect();
        for firmware in all() {
            match boot_file(firmware, &set) {
                Some(BootFile::Tftp(name) | BootFile::Http(name)) => {
                    assert!(set.contains(name), "{firmware}")
                }
                Some(BootFile::Script) | None => {}
            }
        }
    }
}

#[test]
fn x86_firmware_of_32_bits_never_gets_a_64_bit_binary() {
    for firmware in [Firmware::UefiIa32, Firmware::UefiHttpIa32] {
        assert!(candidates(firmware).is_empty());
    }
}

#[test]
fn http_clients_get_http_files_and_no_one_else_does() {
    for firmware in all() {
        let http = firmware.to_string().contains("http");
        for file in candidates(firmware) {
            assert_eq!(matches!(file, BootFile::Http(_)), http, "{firmware}");
        }
    }
}

#[test]
fn numbers_and_names_lead_back_to_the_firmware() {
    for firmware in all() {
        assert_eq!(firmware.to_string().parse(), Ok(firmware));
        if !matches!(firmware, Firmware::Ipxe(_)) {
            assert_eq!(Firmware::from_number(firmware.number()), firmware);
        }
    }
    assert_eq!(Firmware::from_number(9), Firmware::UefiX64);
    assert_eq!(Firmware::from_number(65_535), Firmware::Unknown(65_535));
    assert_eq!("toaster".parse::<Firmware>(), Err(ParseFirmwareError));
}

#[test]
fn every_number_survives_running_ipxe() {
    for number in 0..=u16::MAX {
        let firmware = Firmware::from_number(number);
        assert_eq!(firmware.running_ipxe().running_ipxe(), firmware.running_ipxe());
        if let Some(BootFile::Script) = boot_file(firmware.running_ipxe(), &BinarySet::default()) {
            assert_eq!(firmware.arch(), firmware.running_ipxe().arch());
        }
    }
}

#[test]
fn the_build_arch_of_ipxe_names_the_kernel() {
    assert_eq!(Arch::from_buildarch("arm64"), Arch::Arm64);
    for text in ["i386", "x86_64", ""] {
        assert_eq!(Arch::from_buildarch(text), Arch::Amd64);
    }
}
