//! What the agent can do to the machine it runs on.

use std::path::Path;
use std::time::Duration;

use crate::console::chain;
use crate::disks::quiet;
use crate::ipmi::device::{self, Device};
use crate::ipmi::{self, Made, SetupError, Told};
use crate::wipe::{Orders, Report, wipe_machine};
use crate::{modules, say, smbios};

/// Long enough for the answer to a reboot to cross a slow network, short enough not to be noticed.
const REBOOT_DELAY: Duration = Duration::from_millis(700);

/// The acts of [`crate::service::Agent`]; the real ones are [`BareMetal`]'s.
pub trait Machine: Send + Sync + 'static {
    /// Wipes every disk and tells the console about each. Blocks. The reports and the error are for the
    /// caller.
    fn wipe(&self, zeroes: bool) -> Result<Vec<Report>, String>;

    /// Restarts the machine a moment from now, so that the answer gets out.
    fn reboot(&self);

    /// Where the machine's own BMC is and whether it knows this user; none without a BMC. Blocks.
    fn ask_bmc(&self, user: &str) -> Result<Option<Told>, String>;

    /// Makes a user on the BMC, or gives it this password, with all rights. Blocks.
    fn set_bmc_user(&self, name: &str, password: &str) -> Result<Made, SetupError>;
}

/// The machine itself.
#[derive(Clone, Debug, Default)]
pub struct BareMetal {
    /// What the kernel command line says about wiping.
    pub orders: Orders,
}

impl Machine for BareMetal {
    fn wipe(&self, zeroes: bool) -> Result<Vec<Report>, String> {
        quiet::wait(modules::settle());
        wipe_machine(&self.orders, zeroes)
    }

    fn reboot(&self) {
        // A thread, so that it happens whatever becomes of the tunnel and its tasks.
        std::thread::spawn(|| {
            std::thread::sleep(REBOOT_DELAY);
            reboot_now();
        });
    }

    fn ask_bmc(&self, user: &str) -> Result<Option<Told>, String> {
        modules::settle();
        let device = Path::new(device::PATH);
        if !device.exists() {
            let table = std::fs::read(smbios::TABLE).unwrap_or_default();
            if !smbios::has_bmc(&table) {
                return Ok(None);
            }
            // A BMC that is busy when its driver looks for it is passed over for good, unless it is looked for anew.
            if !modules::load_anew(device::DRIVER) || !device.exists() {
                // Saying "none" would have the operator look for a BMC that is there.
                return Err(format!(
                    "the firmware tells of a BMC, but there is no {}: its driver is not in the image, or found none",
                    device::PATH
                ));
            }
        }
        let mut bmc = Device::open(device).map_err(|error| chain(&error))?;
        ipmi::ask(&mut bmc, user).map(Some).map_err(|error| chain(&error))
    }

    fn set_bmc_user(&self, name: &str, password: &str) -> Result<Made, SetupError> {
        let mut bmc = Device::open(Path::new(device::PATH))
            .map_err(|source| ipmi::CallError::Link { request: "open", source })?;
        ipmi::ensure_user(&mut bmc, name, password)
    }
}

/// Writes out what there is and restarts. Returns only when the kernel refuses.
pub fn reboot_now() {
    say!("rebooting");
    nix::unistd::sync();
    let Err(error) = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_AUTOBOOT);
    say!("reboot was refused: {error}");
}
