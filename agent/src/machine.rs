//! What the agent can do to the machine it runs on.

use std::path::Path;
use std::time::Duration;

use crate::console::chain;
use crate::{disks, say, wipe};

/// Long enough for the answer to a reboot to cross a slow network, short enough not to be noticed.
const REBOOT_DELAY: Duration = Duration::from_millis(700);

/// The acts of [`crate::service::Agent`]; the real ones are [`BareMetal`]'s.
pub trait Machine: Send + Sync + 'static {
    /// Wipes every disk and tells the console about each. Blocks. The error is for the caller.
    fn wipe(&self, zeroes: bool) -> Result<(), String>;

    /// Restarts the machine a moment from now, so that the answer gets out.
    fn reboot(&self);

    /// Whether there is a BMC on this machine's own bus.
    fn has_bmc(&self) -> bool;
}

/// The machine itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct BareMetal;

impl Machine for BareMetal {
    fn wipe(&self, zeroes: bool) -> Result<(), String> {
        let (targets, skipped) = disks::scan(Path::new(disks::SYS_BLOCK), Path::new(disks::DEV));
        wipe_targets(&targets, &skipped, zeroes)
    }

    fn reboot(&self) {
        // A thread, so that it happens whatever becomes of the tunnel and its tasks.
        std::thread::spawn(|| {
            std::thread::sleep(REBOOT_DELAY);
            reboot_now();
        });
    }

    fn has_bmc(&self) -> bool {
        Path::new("/dev/ipmi0").exists()
    }
}

/// Wipes, and tells each result. Disks that are left alone are told with the reason, except for those that
/// are none.
pub fn wipe_targets(
    targets: &[disks::Target],
    skipped: &[disks::Skipped],
    zeroes: bool,
) -> Result<(), String> {
    for skip in skipped.iter().filter(|skip| !disks::is_no_disk(&skip.name)) {
        say!("wipe: {} left alone: {}", skip.name, skip.reason);
    }
    say!("wipe: {} disks, {}", targets.len(), if zeroes { "every byte" } else { "both ends and a discard" });
    let mut failed = Vec::new();
    for (target, result) in targets.iter().zip(wipe::wipe_all(targets, zeroes)) {
        match result {
            Ok(()) => say!("wipe: {} is blank ({} MiB)", target.name, target.size >> 20),
            Err(error) => {
                say!("wipe: {} failed: {}", target.name, chain(&error));
                failed.push(format!("{}: {}", target.name, chain(&error)));
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

/// Writes out what there is and restarts. Returns only when the kernel refuses.
pub fn reboot_now() {
    say!("rebooting");
    nix::unistd::sync();
    let Err(error) = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT);
    say!("reboot was refused: {error}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disks::{Skipped, Target};

    #[test]
    fn a_wipe_that_fails_names_the_disk_and_the_cause() {
        let directory = tempfile::tempdir().unwrap();
        let good = directory.path().join("good");
        std::fs::write(&good, [1; 512]).unwrap();
        let targets = [
            Target { name: "sda".into(), path: good.clone(), size: 512 },
            Target { name: "sdb".into(), path: directory.path().join("none"), size: 512 },
        ];
        let skipped = [Skipped { name: "sr0".into(), reason: "optical drive" }];
        let error = wipe_targets(&targets, &skipped, false).unwrap_err();
        assert!(error.starts_with("sdb: open failed: "), "{error}");
        assert_eq!(std::fs::read(good).unwrap(), [0; 512]);
        assert_eq!(wipe_targets(&targets[..1], &[], true), Ok(()));
    }
}
