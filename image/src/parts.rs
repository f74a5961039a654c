//! The files that the appliance is made of, wherever it runs: its binary, iPXE, the agent image, the certificate
//! authorities. Each kind is a tree of its own, so that it can be a layer of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::binary::{self, Arch};
use crate::rootfs::Rootfs;

/// Where the appliance looks for iPXE by default.
pub const IPXE_DIR: &str = "/usr/lib/ipxe";
/// Where it looks for the agent image by default.
pub const ASSETS_DIR: &str = "/assets";
/// Where it keeps its state by default.
pub const STATE_DIR: &str = "/var/lib/bootlace";
/// Where it looks for its configuration by default.
pub const CONFIG_FILE: &str = "/etc/bootlace/appliance.toml";
/// Where TLS libraries look for certificate authorities.
pub const CA_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The binary's name in every image.
pub const BINARY: &str = "/bootlace";

/// Names under which the appliance finds iPXE binaries in a directory. Others of the directory are of no use to it.
const IPXE_NAMES: &[&str] = &[
    "undionly.kpxe",
    "ipxe.efi",
    "snponly.efi",
    "snp.efi",
    "ipxe-arm64.efi",
    "snponly-arm64.efi",
    "snp-arm64.efi",
    "arm64/ipxe.efi",
    "arm64/snponly.efi",
    "arm64/snp.efi",
    "arm64-efi/ipxe.efi",
    "arm64-efi/snponly.efi",
];

/// The appliance's binary.
pub fn binary(path: &Path, arch: Arch) -> Result<Rootfs> {
    let bytes = fs::read(path).with_context(|| {
        format!("cannot read the appliance {}: cargo build --release -p bootlace", path.display())
    })?;
    binary::check_init(&bytes, arch).with_context(|| format!("{} cannot be packed", path.display()))?;
    let mut tree = Rootfs::new();
    tree.file(BINARY, 0o755, bytes)?;
    Ok(tree)
}

/// The iPXE binaries of a directory.
pub fn ipxe(directory: &Path) -> Result<Rootfs> {
    let mut tree = Rootfs::new();
    for name in IPXE_NAMES {
        if let Ok(bytes) = fs::read(directory.join(name)) {
            tree.file(&format!("{IPXE_DIR}/{name}"), 0o644, bytes)?;
        }
    }
    ensure!(tree.bytes() > 0, "no iPXE binary in {}: apt-get install ipxe", directory.display());
    Ok(tree)
}

/// The agent images of a directory, for every architecture that it has: an appliance boots machines of all of
/// them, whatever it runs on.
pub fn assets(directory: &Path) -> Result<Rootfs> {
    let mut tree = Rootfs::new();
    for arch in [Arch::Amd64, Arch::Arm64] {
        let names = [format!("kernel-{}", arch.name()), format!("initramfs-metal-{}.xz", arch.name())];
        if !directory.join(&names[0]).exists() {
            continue;
        }
        for name in names {
            let path = directory.join(&name);
            let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            tree.file(&format!("{ASSETS_DIR}/{name}"), 0o644, bytes)?;
        }
    }
    ensure!(
        tree.bytes() > 0,
        "no agent image in {}: build it with `bootlace-image agent`",
        directory.display()
    );
    Ok(tree)
}

/// Certificate authorities in one PEM file.
pub fn authorities(path: &Path) -> Result<Rootfs> {
    let bytes = fs::read(path)
        .with_context(|| format!("cannot read {}: apt-get install ca-certificates", path.display()))?;
    ensure!(
        bytes.windows(BEGIN.len()).any(|window| window == BEGIN),
        "{} has no certificate in it",
        path.display()
    );
    let mut tree = Rootfs::new();
    tree.file(CA_FILE, 0o644, bytes)?;
    Ok(tree)
}

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Reads `ARCH=FILE`.
pub fn parse_arch_file(text: &str) -> Result<(Arch, PathBuf), String> {
    let parse = |(arch, path): (&str, &str)| {
        let arch = [Arch::Amd64, Arch::Arm64].into_iter().find(|known| known.name() == arch)?;
        (!path.is_empty()).then(|| (arch, PathBuf::from(path)))
    };
    text.split_once('=').and_then(parse).ok_or_else(|| "write it as amd64=FILE or arm64=FILE".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binary::tests::elf;

    #[test]
    fn only_a_static_binary_of_the_architecture_is_packed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bootlace");
        fs::write(&file, elf(62, &[1])).unwrap();
        assert_eq!(binary(&file, Arch::Amd64).unwrap().nodes().next().unwrap().0, "bootlace");
        let error = format!("{:#}", binary(&file, Arch::Arm64).unwrap_err());
        assert!(error.contains("built for amd64"), "{error}");
    }

    #[test]
    fn missing_parts_say_how_to_get_them() {
        let directory = tempfile::tempdir().unwrap();
        let text = |result: Result<Rootfs>| format!("{:#}", result.unwrap_err());
        assert!(text(ipxe(directory.path())).contains("apt-get install ipxe"));
        assert!(text(assets(directory.path())).contains("bootlace-image agent"));
        assert!(text(authorities(&directory.path().join("no"))).contains("ca-certificates"));
        fs::write(directory.path().join("kernel-arm64"), b"kernel").unwrap();
        assert!(text(assets(directory.path())).contains("initramfs-metal-arm64.xz"));
    }

    #[test]
    fn only_what_the_appliance_uses_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["undionly.kpxe", "ipxe.iso", "snponly.efi"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let tree = ipxe(directory.path()).unwrap();
        assert_eq!(tree.bytes(), "undionly.kpxesnponly.efi".len());
    }

    #[test]
    fn an_architecture_and_a_file_are_read() {
        assert_eq!(parse_arch_file("arm64=a=b"), Ok((Arch::Arm64, PathBuf::from("a=b"))));
        for text in ["amd64", "amd64=", "riscv=x", "=x"] {
            assert!(parse_arch_file(text).is_err(), "{text}");
        }
    }
}
