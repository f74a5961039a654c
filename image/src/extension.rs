//! A Talos system extension: `manifest.yaml`, and a root file system with one service in it.
//!
//! Talos' own checks let more through than Talos can use, so the rules are checked here as well, see [`check`].

use anyhow::{Result, bail, ensure};

use crate::parts::{ASSETS_DIR, CONFIG_FILE, IPXE_DIR, STATE_DIR};
use crate::rootfs::{Node, Rootfs};

/// The service is `ext-bootlace` in Talos.
pub const NAME: &str = "bootlace";
/// Where Talos looks for service specifications.
const SERVICES: &str = "/rootfs/usr/local/etc/containers";
/// Where it looks for their root file systems.
const CONTAINERS: &str = "/rootfs/usr/local/lib/containers";
/// The file that says that a directory is an extension.
pub const MARK: &str = "manifest.yaml";

/// What an extension says of itself, and where it keeps its state.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The extension's version.
    pub version: String,
    /// The least Talos version, as `v1.9.0`.
    pub talos: String,
    /// The directory of the host that the state is kept in.
    pub state: String,
}

/// The default of [`Settings::state`]: there in every mode, also before a machine is configured, and gone with a
/// reboot. Linked to Omni, the state is a cache.
pub const VOLATILE_STATE: &str = "/run/bootlace";

/// Puts the parts of the appliance together.
pub fn build(settings: &Settings, parts: impl IntoIterator<Item = Rootfs>) -> Result<Rootfs> {
    ensure!(
        settings.state.starts_with('/') && !settings.state.contains(['"', '\n', '\\']),
        "--state {:?} is no absolute path",
        settings.state
    );
    let mut tree = Rootfs::new();
    tree.file(MARK, 0o644, manifest(settings))?;
    tree.file(&format!("{SERVICES}/{NAME}.yaml"), 0o644, service(&settings.state))?;
    let inside = |path: &str| format!("{CONTAINERS}/{NAME}{path}");
    for part in parts {
        tree.graft(&inside(""), part)?;
    }
    // The root is read-only, so that whatever is mounted needs something to be mounted on. An empty configuration
    // is a valid one.
    for directory in [STATE_DIR, "/etc/ssl/certs", "/dev", "/proc", "/sys", "/run", "/tmp"] {
        tree.directory(&inside(directory))?;
    }
    tree.file(&inside(CONFIG_FILE), 0o644, *b"")?;
    check(&tree)?;
    Ok(tree)
}

fn manifest(settings: &Settings) -> String {
    let Settings { version, talos, .. } = settings;
    format!(
        "version: v1alpha1
metadata:
  name: {NAME}
  version: \"{version}\"
  author: bootlace
  description: |
    Network-boots the machines beside this one and links them to Omni.
  compatibility:
    talos:
      version: \">= {talos}\"
"
    )
}

fn service(state: &str) -> String {
    // A state directory below /var is there only when the machine is installed, and a mount source that is not
    // there fails the service for good; one that is waited for does not.
    let waits = if state.starts_with("/var/") { "  - path: /var/lib\n" } else { "" };
    format!(
        "name: {NAME}
container:
  entrypoint: ./bootlace
  args:
    - run
    - --state-dir={STATE_DIR}
    - --boot-assets-path={ASSETS_DIR}
  environment:
    - BOOTLACE_CONFIG={CONFIG_FILE}
  mounts:
    - source: \"{state}\"
      destination: {STATE_DIR}
      type: bind
      options: [rbind, rw]
    - source: /etc/ssl/certs
      destination: /etc/ssl/certs
      type: bind
      options: [rbind, ro]
depends:
  - network:
      - addresses
{waits}restart: always
logToConsole: true
"
    )
}

/// The rules for what is in an extension, Talos' and some that it does not check: nothing but the manifest and
/// `rootfs`, everything below `/usr/local/`, no special files and modes, a service with what it starts.
pub fn check(tree: &Rootfs) -> Result<()> {
    for (path, node) in tree.nodes() {
        let inside = match path.split_once('/') {
            None if path == MARK || path == "rootfs" => continue,
            Some(("rootfs", inside)) => inside,
            _ => bail!("/{path}: an extension has {MARK} and rootfs, and nothing beside them"),
        };
        let is_parent = matches!(inside, "usr" | "usr/local") && *node == Node::Directory;
        ensure!(is_parent || inside.starts_with("usr/local/"), "/{inside} is not below /usr/local/");
        if let Node::File { mode, .. } = node {
            ensure!(mode & !0o777 == 0, "/{inside} has the mode {mode:o}");
            ensure!(mode & 0o022 == 0, "/{inside} can be written by others than root");
        }
    }
    let has = |wanted: String| tree.nodes().any(|(path, _)| wanted.trim_start_matches('/') == path);
    for path in [
        MARK.to_owned(),
        format!("{SERVICES}/{NAME}.yaml"),
        format!("{CONTAINERS}/{NAME}/bootlace"),
        format!("{CONTAINERS}/{NAME}{IPXE_DIR}"),
        format!("{CONTAINERS}/{NAME}{ASSETS_DIR}"),
    ] {
        ensure!(has(path.clone()), "{path} is missing");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(state: &str) -> Settings {
        Settings { version: "0.1.0".into(), talos: "v1.9.0".into(), state: state.into() }
    }

    fn parts() -> Vec<Rootfs> {
        let mut part = Rootfs::new();
        part.file("/bootlace", 0o755, *b"binary").unwrap();
        part.file("/usr/lib/ipxe/ipxe.efi", 0o644, *b"ipxe").unwrap();
        part.file("/assets/kernel-amd64", 0o644, *b"kernel").unwrap();
        vec![part]
    }

    fn service_of(state: &str) -> String {
        let tree = build(&settings(state), parts()).unwrap();
        let found = tree.nodes().find(|(path, _)| path.ends_with("containers/bootlace.yaml"));
        let Some((_, Node::File { data, .. })) = found else { panic!("no service") };
        String::from_utf8(data.clone()).unwrap()
    }

    #[test]
    fn state_is_where_talos_has_it_in_every_mode_or_is_waited_for() {
        assert!(!service_of(VOLATILE_STATE).contains("path: /var/lib"));
        assert!(service_of("/var/lib/bootlace").contains("  - path: /var/lib\nrestart: always"));
        assert!(build(&settings("var/lib"), parts()).is_err());
    }

    #[test]
    fn what_talos_lets_through_and_cannot_use_is_refused() {
        let refused = |path: &str, mode: u32, why: &str| {
            let mut tree = build(&settings(VOLATILE_STATE), parts()).unwrap();
            tree.file(path, mode, *b"").unwrap();
            let error = check(&tree).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        };
        refused("/README", 0o644, "nothing beside");
        refused("/rootfs/etc/foo", 0o644, "not below /usr/local/");
        refused("/rootfs/usr/localfoo", 0o644, "not below /usr/local/");
        refused("/rootfs/usr/local/x", 0o666, "written by others");
        refused("/rootfs/usr/local/x", 0o4755, "mode 4755");
    }

    #[test]
    fn an_extension_without_a_part_is_refused() {
        let error = build(&settings(VOLATILE_STATE), Vec::new()).unwrap_err().to_string();
        assert!(error.contains("bootlace/bootlace is missing"), "{error}");
    }
}
