//! How the machine was started, and what it is as Talos sees it: a metal agent in maintenance.

use std::path::Path;

use agent_wire::talos::runtime::{
    ExtensionCompatibility, ExtensionConstraint, ExtensionMetadata, ExtensionStatusSpec, KernelCmdlineSpec,
    MachineStatusSpec, MachineStatusStatus, PlatformMetadataSpec, SecurityStateSpec, VersionSpec,
};

use super::{file, text};
use crate::disks::attribute;
use crate::inventory::Item;
use crate::join::TALOS_VERSION;

/// The extension by which Omni knows an agent: it neither configures it nor takes its version for an installed
/// one.
const METAL_AGENT: &str = "metal-agent";
/// Stage: waits for a configuration.
const MAINTENANCE: i32 = 3;
/// `boot_params.secure_boot` of x86 (Documentation/arch/x86/zero-page.rst), and its value for "enabled".
const SECURE_BOOT: usize = 0x1ec;
const SECURE_BOOT_ENABLED: u8 = 3;
/// Attributes before the value of a UEFI variable.
const VARIABLE_HEADER: usize = 4;

pub(super) fn items(sys: &Path, proc: &Path, uuid: &str) -> Vec<Item> {
    let cmdline = text(&proc.join("cmdline")).trim_matches(['\n', '\0', ' ']).to_owned();
    let mut items = vec![
        Item::new("platformmetadata", &platform_metadata(&cmdline, uuid)),
        Item::new("securitystate", &security_state(sys, &cmdline)),
        Item::new("0", &extension()),
        Item::new(
            "machine",
            &MachineStatusSpec { stage: MAINTENANCE, status: Some(MachineStatusStatus { ready: true }) },
        ),
        Item::new(
            "version",
            // What is spoken here is Talos' API of this version; what runs is this agent.
            &VersionSpec { version: TALOS_VERSION.to_owned(), name: env!("CARGO_PKG_NAME").to_owned() },
        ),
    ];
    if !cmdline.is_empty() {
        items.push(Item::new("cmdline", &KernelCmdlineSpec { cmdline }));
    }
    items
}

fn extension() -> ExtensionStatusSpec {
    let talos = ExtensionConstraint { version: format!(">= {TALOS_VERSION}") };
    let metadata = ExtensionMetadata {
        name: METAL_AGENT.to_owned(),
        version: format!("v{}", env!("CARGO_PKG_VERSION")),
        author: "bootlace".to_owned(),
        description: "Bootlace's agent; no Talos runs here.".to_owned(),
        compatibility: Some(ExtensionCompatibility { talos: Some(talos) }),
        extra_info: String::new(),
    };
    ExtensionStatusSpec { image: env!("CARGO_PKG_NAME").to_owned(), metadata: Some(metadata) }
}

/// The last value of a kernel argument.
fn argument<'a>(cmdline: &'a str, key: &str) -> Option<&'a str> {
    let values = cmdline.split_ascii_whitespace().filter_map(|argument| argument.split_once('='));
    values.filter(|(name, _)| *name == key).map(|(_, value)| value).next_back()
}

fn platform_metadata(cmdline: &str, uuid: &str) -> PlatformMetadataSpec {
    PlatformMetadataSpec {
        platform: "metal".to_owned(),
        hostname: argument(cmdline, "talos.hostname").unwrap_or_default().to_owned(),
        instance_id: uuid.to_owned(),
        ..PlatformMetadataSpec::default()
    }
}

fn security_state(sys: &Path, cmdline: &str) -> SecurityStateSpec {
    SecurityStateSpec {
        secure_boot: secure_boot(sys),
        se_linux_state: match attribute(&sys.join("fs/selinux"), "enforce").as_deref() {
            Some("1") => 2,
            Some(_) => 1,
            None => 0,
        },
        module_signature_enforced: argument(cmdline, "module.sig_enforce") == Some("1"),
        ..SecurityStateSpec::default()
    }
}

/// By the firmware's variables where they are mounted, else by what the kernel's EFI stub found.
fn secure_boot(sys: &Path) -> bool {
    let variable = |name: &str| {
        let path = format!("firmware/efi/efivars/{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c");
        file(&sys.join(path)).get(VARIABLE_HEADER).copied()
    };
    match variable("SecureBoot") {
        Some(on) => on == 1 && variable("SetupMode").unwrap_or(0) == 0,
        None => file(&sys.join("kernel/boot_params/data")).get(SECURE_BOOT) == Some(&SECURE_BOOT_ENABLED),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn secure_boot_is_what_the_stub_found_unless_the_variables_are_there() {
        let sys = tempfile::tempdir().unwrap();
        assert!(!secure_boot(sys.path()));
        let params = sys.path().join("kernel/boot_params");
        fs::create_dir_all(&params).unwrap();
        let mut data = vec![0; 4096];
        data[SECURE_BOOT] = SECURE_BOOT_ENABLED;
        fs::write(params.join("data"), &data).unwrap();
        assert!(secure_boot(sys.path()));
        let variables = sys.path().join("firmware/efi/efivars");
        fs::create_dir_all(&variables).unwrap();
        let write = |name: &str, value: u8| {
            let name = format!("{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c");
            fs::write(variables.join(name), [6, 0, 0, 0, value]).unwrap();
        };
        write("SecureBoot", 0);
        assert!(!secure_boot(sys.path()));
        write("SecureBoot", 1);
        assert!(secure_boot(sys.path()));
        write("SetupMode", 1);
        assert!(!secure_boot(sys.path()));
    }

    #[test]
    fn the_kernel_command_line_tells_name_and_enforcement() {
        let cmdline = "initrd=x talos.hostname=a talos.hostname=b module.sig_enforce=1 quiet";
        assert_eq!(platform_metadata(cmdline, "u").hostname, "b");
        let state = security_state(Path::new("/nowhere"), cmdline);
        assert!(state.module_signature_enforced && !state.secure_boot);
        assert!(!security_state(Path::new("/nowhere"), "module.sig_enforce=0").module_signature_enforced);
    }
}
