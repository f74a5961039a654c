//! What the agent can do to the machine it runs on.

use std::path::Path;
use std::time::Duration;

use crate::say;
use crate::wipe::{Orders, Report, wipe_machine};

/// Long enough for the answer to a reboot to cross a slow network, short enough not to be noticed.
const REBOOT_DELAY: Duration = Duration::from_millis(700);

/// The acts of [`crate::service::Agent`]; the real ones are [`BareMetal`]'s.
pub trait Machine: Send + Sync + 'static {
    /// Wipes every disk and tells the console about each. Blocks. The reports and the error are for the
    /// caller.
    fn wipe(&self, zeroes: bool) -> Result<Vec<Report>, String>;

    /// Restarts the machine a moment from now, so that the answer gets out.
    fn reboot(&self);

    /// Whether there is a BMC on this machine's own bus.
    fn has_bmc(&self) -> bool;
}

/// The machine itself.
#[derive(Clone, Debug, Default)]
pub struct BareMetal {
    /// What the kernel command line says about wiping.
    pub orders: Orders,
}

impl Machine for BareMetal {
    fn wipe(&self, zeroes: bool) -> Result<Vec<Report>, String> {
        wipe_machine(&self.orders, zeroes)
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

/// Writes out what there is and restarts. Returns only when the kernel refuses.
pub fn reboot_now() {
    say!("rebooting");
    nix::unistd::sync();
    let Err(error) = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT);
    say!("reboot was refused: {error}");
}
