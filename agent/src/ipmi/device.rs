//! The BMC behind `/dev/ipmi0`.

use std::path::Path;
use std::time::{Duration, Instant};

use super::message::Request;
use super::{Bmc, LinkError};
use crate::sys::bmc::IpmiDevice;

/// Where the kernel shows the first BMC.
pub const PATH: &str = "/dev/ipmi0";
/// Who finds BMCs behind KCS, SMIC and BT.
pub const DRIVER: &str = "ipmi_si";
/// The kernel's driver repeats for 5 s by itself.
const PATIENCE: Duration = Duration::from_secs(10);
/// A BMC that is busy is left alone this long.
const PAUSE: Duration = Duration::from_millis(200);

/// The machine's own BMC.
#[derive(Debug)]
pub struct Device {
    device: IpmiDevice,
    last: i64,
}

impl Device {
    /// Opens it.
    pub fn open(path: &Path) -> Result<Self, LinkError> {
        IpmiDevice::open(path).map(|device| Self { device, last: 0 }).map_err(LinkError::Driver)
    }
}

impl Bmc for Device {
    fn exchange(&mut self, request: &Request) -> Result<Vec<u8>, LinkError> {
        let (function, command, data) = request.emit();
        self.last += 1;
        self.device.send(self.last, function, command, &data).map_err(LinkError::Driver)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.device.receive(left).map_err(LinkError::Driver)? {
                Some((id, data)) if id == self.last => return Ok(data),
                // Late, to an earlier request, or an event.
                Some(_) => {}
                None => return Err(LinkError::Timeout),
            }
        }
    }

    fn pause(&mut self) {
        std::thread::sleep(PAUSE);
    }
}
