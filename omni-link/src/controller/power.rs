//! The power switch of a machine, made from its BMC configuration.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use power::api::ApiBmc;
use power::ipmi::IpmiBmc;
use power::ipmi::session::LoginError;
use power::{Bmc, PowerError};
use provider::private::BmcConfigurationSpec;
use tokio::time::Instant;

/// How long an old answer about the power state is good enough.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Why a machine cannot be switched.
#[derive(Debug, thiserror::Error)]
pub(super) enum SwitchError {
    /// The configuration names no controller that we can drive.
    #[error("the BMC configuration names neither a BMC nor a power API")]
    NoDriver,
    /// The address is no address.
    #[error("`{0}` is no address of a power API (IP:port)")]
    BadAddress(String),
    /// The address is no address, or the port no port.
    #[error("`{0}` port {1} is no address of a BMC (IP and UDP port)")]
    BadBmcAddress(String, u32),
    /// The user or the password cannot be one of a BMC's.
    #[error("the BMC configuration cannot be used: {0}")]
    BadLogin(LoginError),
    /// The controller did not do it.
    #[error(transparent)]
    Power(#[from] PowerError),
}

/// The driver for a configuration.
fn driver(spec: &BmcConfigurationSpec) -> Result<Arc<dyn Bmc>, SwitchError> {
    if let Some(api) = spec.api.as_ref().filter(|api| !api.address.is_empty()) {
        let address = api.address.parse().map_err(|_| SwitchError::BadAddress(api.address.clone()))?;
        return Ok(Arc::new(ApiBmc::new(address)));
    }
    let ipmi = spec.ipmi.as_ref().ok_or(SwitchError::NoDriver)?;
    let bad_address = || SwitchError::BadBmcAddress(ipmi.address.clone(), ipmi.port);
    let ip: IpAddr = ipmi.address.parse().map_err(|_| bad_address())?;
    let port = u16::try_from(ipmi.port).ok().filter(|port| *port != 0).ok_or_else(bad_address)?;
    let bmc = IpmiBmc::new(SocketAddr::new(ip, port), &ipmi.username, &ipmi.password);
    Ok(Arc::new(bmc.map_err(SwitchError::BadLogin)?))
}

/// The last answer about the power state, and when it was given.
#[derive(Default)]
pub(super) struct PowerState {
    on: Option<bool>,
    asked: Option<Instant>,
    /// The driver and what it was made from: it may have a session open.
    driver: Option<(BmcConfigurationSpec, Arc<dyn Bmc>)>,
}

impl PowerState {
    /// The machine's switch.
    pub(super) fn switch(&mut self, spec: &BmcConfigurationSpec) -> Result<Arc<dyn Bmc>, SwitchError> {
        if let Some((made_from, driver)) = &self.driver
            && made_from == spec
        {
            return Ok(Arc::clone(driver));
        }
        self.driver = None;
        let driver = driver(spec)?;
        self.driver = Some((spec.clone(), Arc::clone(&driver)));
        Ok(driver)
    }

    /// On, off, or unknown.
    pub(super) fn on(&self) -> Option<bool> {
        self.on
    }

    /// What we did to it ourselves.
    pub(super) fn set(&mut self, on: bool) {
        self.on = Some(on);
        self.asked = Some(Instant::now());
    }

    /// Asks the controller when the last answer is old. An error makes the state unknown, and the next step
    /// asks again.
    pub(super) async fn poll(&mut self, spec: &BmcConfigurationSpec) -> Result<(), SwitchError> {
        if self.asked.is_some_and(|asked| asked.elapsed() < POLL_INTERVAL) {
            return Ok(());
        }
        self.asked = None;
        self.on = None;
        let on = self.switch(spec)?.is_powered_on().await?;
        self.set(on);
        Ok(())
    }
}
