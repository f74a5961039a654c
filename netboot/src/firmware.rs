//! What a booting machine runs, and which boot file suits it.
//!
//! The numbers are IANA's "Processor Architecture Types", carried in DHCP option 93 (RFC 4578, section 2.1).

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The processor that kernels are chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Arch {
    /// Reads iPXE's `${buildarch}` (or Go's name): whatever is not `arm64` is x86, because `undionly.kpxe`
    /// calls itself `i386` on 64-bit machines too.
    #[must_use]
    pub fn from_buildarch(text: &str) -> Self {
        if text == "arm64" { Self::Arm64 } else { Self::Amd64 }
    }

    /// The name used in file names: `amd64` or `arm64`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The kind of boot firmware that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Firmware {
    /// PC BIOS with a PXE ROM (0).
    Bios,
    /// 32-bit x86 UEFI (6).
    UefiIa32,
    /// 64-bit x86 UEFI (7; 9 is what older firmware sends).
    UefiX64,
    /// 32-bit ARM UEFI (10).
    UefiArm32,
    /// 64-bit ARM UEFI (11).
    UefiArm64,
    /// 32-bit x86 UEFI HTTP boot (15).
    UefiHttpIa32,
    /// 64-bit x86 UEFI HTTP boot (16).
    UefiHttpX64,
    /// 32-bit ARM UEFI HTTP boot (18).
    UefiHttpArm32,
    /// 64-bit ARM UEFI HTTP boot (19).
    UefiHttpArm64,
    /// U-Boot on 32-bit ARM (21).
    UBootArm32,
    /// U-Boot on 64-bit ARM (22).
    UBootArm64,
    /// U-Boot on 32-bit ARM, HTTP boot (23).
    UBootHttpArm32,
    /// U-Boot on 64-bit ARM, HTTP boot (24).
    UBootHttpArm64,
    /// The boot ROM of a Raspberry Pi (41).
    RaspberryPi,
    /// iPXE that can fetch scripts over HTTP, whatever started it.
    Ipxe(Platform),
    /// A number we have no name for.
    Unknown(u16),
}

/// What iPXE was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Platform {
    /// PC BIOS, 64-bit kernels.
    Bios,
    /// 64-bit x86 UEFI.
    UefiX64,
    /// 64-bit ARM UEFI.
    UefiArm64,
    /// Any other architecture number.
    Other(u16),
}

/// Every firmware with a name, its number (the first is what we would send) and that name.
const NAMED: [(Firmware, &[u16], &str); 14] = [
    (Firmware::Bios, &[0], "bios"),
    (Firmware::UefiIa32, &[6], "uefi-ia32"),
    (Firmware::UefiX64, &[7, 9], "uefi-x64"),
    (Firmware::UefiArm32, &[10], "uefi-arm32"),
    (Firmware::UefiArm64, &[11], "uefi-arm64"),
    (Firmware::UefiHttpIa32, &[15], "uefi-http-ia32"),
    (Firmware::UefiHttpX64, &[16], "uefi-http-x64"),
    (Firmware::UefiHttpArm32, &[18], "uefi-http-arm32"),
    (Firmware::UefiHttpArm64, &[19], "uefi-http-arm64"),
    (Firmware::UBootArm32, &[21], "uboot-arm32"),
    (Firmware::UBootArm64, &[22], "uboot-arm64"),
    (Firmware::UBootHttpArm32, &[23], "uboot-http-arm32"),
    (Firmware::UBootHttpArm64, &[24], "uboot-http-arm64"),
    (Firmware::RaspberryPi, &[41], "raspberry-pi"),
];

impl Firmware {
    /// The firmware that option 93 names.
    #[must_use]
    pub fn from_number(number: u16) -> Self {
        NAMED
            .iter()
            .find(|(_, numbers, _)| numbers.contains(&number))
            .map_or(Self::Unknown(number), |(firmware, ..)| *firmware)
    }

    /// The number for option 93.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Unknown(number) | Self::Ipxe(Platform::Other(number)) => number,
            Self::Ipxe(Platform::Bios) => 0,
            Self::Ipxe(Platform::UefiX64) => 7,
            Self::Ipxe(Platform::UefiArm64) => 11,
            named => NAMED
                .iter()
                .find(|(firmware, ..)| *firmware == named)
                .map(|(_, numbers, _)| numbers[0])
                .expect("the table has every variant that the other arms do not match"),
        }
    }

    /// The same machine once it runs iPXE.
    #[must_use]
    pub fn running_ipxe(self) -> Self {
        Self::Ipxe(match self {
            Self::Ipxe(platform) => platform,
            Self::Bios => Platform::Bios,
            // U-Boot starts the EFI build; HTTP boot leads to the same iPXE as TFTP.
            Self::UefiX64 | Self::UefiHttpX64 => Platform::UefiX64,
            Self::UefiArm64 | Self::UefiHttpArm64 | Self::UBootArm64 | Self::UBootHttpArm64 => {
                Platform::UefiArm64
            }
            Self::UefiIa32
            | Self::UefiArm32
            | Self::UefiHttpIa32
            | Self::UefiHttpArm32
            | Self::UBootArm32
            | Self::UBootHttpArm32
            | Self::RaspberryPi
            | Self::Unknown(_) => Platform::Other(self.number()),
        })
    }

    /// The processor, when it is one that kernels exist for.
    #[must_use]
    pub fn arch(self) -> Option<Arch> {
        match self {
            Self::Bios
            | Self::UefiX64
            | Self::UefiHttpX64
            | Self::Ipxe(Platform::Bios | Platform::UefiX64) => Some(Arch::Amd64),
            Self::UefiArm64
            | Self::UefiHttpArm64
            | Self::UBootArm64
            | Self::UBootHttpArm64
            | Self::RaspberryPi
            | Self::Ipxe(Platform::UefiArm64) => Some(Arch::Arm64),
            Self::UefiIa32
            | Self::UefiArm32
            | Self::UefiHttpIa32
            | Self::UefiHttpArm32
            | Self::UBootArm32
            | Self::UBootHttpArm32
            | Self::Ipxe(Platform::Other(_))
            | Self::Unknown(_) => None,
        }
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Ipxe(Platform::Bios) => f.write_str("ipxe-bios"),
            Self::Ipxe(Platform::UefiX64) => f.write_str("ipxe-uefi-x64"),
            Self::Ipxe(Platform::UefiArm64) => f.write_str("ipxe-uefi-arm64"),
            Self::Ipxe(Platform::Other(number)) => write!(f, "ipxe-{number}"),
            Self::Unknown(number) => write!(f, "unknown-{number}"),
            named => f.write_str(
                NAMED
                    .iter()
                    .find(|(firmware, ..)| *firmware == named)
                    .map(|(.., name)| *name)
                    .expect("the table has every variant that the other arms do not match"),
            ),
        }
    }
}

/// Text that names no firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a firmware kind")]
pub struct ParseFirmwareError;

impl FromStr for Firmware {
    type Err = ParseFirmwareError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some((firmware, ..)) = NAMED.iter().find(|(.., name)| *name == text) {
            return Ok(*firmware);
        }
        let number = |digits: &str| digits.parse().map_err(|_| ParseFirmwareError);
        match text.split_once('-') {
            Some(("ipxe", "bios")) => Ok(Self::Ipxe(Platform::Bios)),
            Some(("ipxe", "uefi-x64")) => Ok(Self::Ipxe(Platform::UefiX64)),
            Some(("ipxe", "uefi-arm64")) => Ok(Self::Ipxe(Platform::UefiArm64)),
            Some(("ipxe", digits)) => Ok(Self::Ipxe(Platform::Other(number(digits)?))),
            Some(("unknown", digits)) => Ok(Self::Unknown(number(digits)?)),
            _ => Err(ParseFirmwareError),
        }
    }
}

impl From<Firmware> for String {
    fn from(firmware: Firmware) -> Self {
        firmware.to_string()
    }
}

impl TryFrom<String> for Firmware {
    type Error = ParseFirmwareError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// What a firmware is told to boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BootFile {
    /// A file to fetch by TFTP.
    Tftp(&'static str),
    /// A file to fetch by HTTP, below `/tftp/`.
    Http(&'static str),
    /// The first iPXE script, by HTTP.
    Script,
}

/// The names of the boot files that exist, as the TFTP and HTTP servers know them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BinarySet(BTreeSet<String>);

impl BinarySet {
    /// Whether the file exists.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    /// Adds a name.
    pub fn insert(&mut self, name: impl Into<String>) {
        self.0.insert(name.into());
    }

    /// All names in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<S: Into<String>> FromIterator<S> for BinarySet {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }
}

/// Every name that can be offered to this firmware, best first.
///
/// `snp.efi` before `ipxe.efi`: it drives the NIC through the firmware, which already has it up, and starts
/// seconds sooner. 32-bit firmware gets nothing: it could not start the 64-bit kernels that follow.
#[must_use]
pub fn candidates(firmware: Firmware) -> &'static [BootFile] {
    use BootFile::{Http, Script, Tftp};
    match firmware {
        Firmware::Bios => &[Tftp("undionly.kpxe")],
        Firmware::UefiX64 => &[Tftp("snp.efi"), Tftp("ipxe.efi")],
        Firmware::UefiArm64 | Firmware::UBootArm64 => {
            &[Tftp("snp-arm64.efi"), Tftp("arm64/snp.efi"), Tftp("ipxe-arm64.efi"), Tftp("arm64/ipxe.efi")]
        }
        Firmware::UefiHttpX64 => &[Http("amd64/snp.efi"), Http("amd64/ipxe.efi")],
        Firmware::UefiHttpArm64 | Firmware::UBootHttpArm64 => {
            &[Http("arm64/snp.efi"), Http("arm64/ipxe.efi")]
        }
        Firmware::Ipxe(Platform::Bios | Platform::UefiX64 | Platform::UefiArm64) => &[Script],
        Firmware::UefiIa32
        | Firmware::UefiArm32
        | Firmware::UefiHttpIa32
        | Firmware::UefiHttpArm32
        | Firmware::UBootArm32
        | Firmware::UBootHttpArm32
        | Firmware::RaspberryPi
        | Firmware::Ipxe(Platform::Other(_))
        | Firmware::Unknown(_) => &[],
    }
}

/// The best file that exists for this firmware; `None` means that it gets no offer.
#[must_use]
pub fn boot_file(firmware: Firmware, binaries: &BinarySet) -> Option<BootFile> {
    candidates(firmware).iter().copied().find(|file| match file {
        BootFile::Tftp(name) | BootFile::Http(name) => binaries.contains(name),
        BootFile::Script => true,
    })
}

#[cfg(test)]
mod tests;
