//! Says what is missing before anything starts.

use std::fmt;
use std::path::Path;

use crate::kernel;

/// Programs the bed runs, with the Debian package of each.
const PROGRAMS: [(&str, &str); 3] =
    [("ip", "iproute2"), ("dnsmasq", "dnsmasq-base"), ("qemu-system-x86_64", "qemu-system-x86")];

pub(crate) const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// The build that checks signatures.
pub(crate) const OVMF_SECURE_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
pub(crate) const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// Those of arm64 (package qemu-efi-aarch64), which only the tests with such machines need.
pub(crate) const AAVMF_CODE: &str = "/usr/share/AAVMF/AAVMF_CODE.fd";
pub(crate) const AAVMF_VARS: &str = "/usr/share/AAVMF/AAVMF_VARS.fd";

/// Files the bed needs, with the package of each.
const FILES: [(&str, &str); 6] = [
    (OVMF_CODE, "ovmf"),
    (OVMF_VARS, "ovmf"),
    ("/usr/lib/ipxe/snponly.efi", "ipxe"),
    ("/usr/lib/ipxe/undionly.kpxe", "ipxe"),
    ("/usr/lib/ipxe/qemu/efi-virtio.rom", "ipxe-qemu"),
    ("/dev/net/tun", "the kernel's tun driver"),
];

/// What keeps the bed from starting, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub Vec<String>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the virtual network cannot start here:")?;
        self.0.iter().try_for_each(|line| write!(f, "\n  - {line}"))?;
        write!(f, "\n`make setup` installs what is missing")
    }
}

impl std::error::Error for Missing {}

/// Checks rights, programs and files.
pub fn check() -> Result<(), Missing> {
    let mut missing = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        missing.push("it needs root, for network namespaces and taps".to_owned());
    }
    for (program, package) in PROGRAMS {
        if !on_path(program) {
            missing.push(format!("no program {program} (package {package})"));
        }
    }
    for (file, package) in FILES {
        if !Path::new(file).exists() {
            missing.push(format!("no file {file} ({package})"));
        }
    }
    if let Err(error) = kernel::Kernel::newest_cloud() {
        missing.push(format!("{error:#}"));
    }
    if missing.is_empty() { Ok(()) } else { Err(Missing(missing)) }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
