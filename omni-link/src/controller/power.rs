//! The power switch of a machine, made from its BMC configuration.

use std::time::Duration;

use power::api::ApiBmc;
use power::{Bmc, PowerError};
use provider::private::BmcConfigurationSpec;
use tokio::time::Instant;

/// How long an old answer about the power state is good enough.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// Why a machine cannot be switched.
#[derive(Debug, thiserror::Error)]
pub(super) enum SwitchError {
    /// The configuration names no controller that we can drive.
    #[error("the BMC configuration names no power API; IPMI is not supported")]
    NoDriver,
    /// The address is no address.
    #[error("`{0}` is no address of a power API (IP:port)")]
    BadAddress(String),
    /// The controller did not do it.
    #[error(transparent)]
    Power(#[from] PowerError),
}

/// The driver for a configuration.
pub(super) fn bmc(spec: &BmcConfigurationSpec) -> Result<Box<dyn Bmc>, SwitchError> {
    let api = spec.api.as_ref().ok_or(SwitchError::NoDriver)?;
    let address = api.address.parse().map_err(|_| SwitchError::BadAddress(api.address.clone()))?;
    Ok(Box::new(ApiBmc::new(address)))
}

/// The last answer about the power state, and when it was given.
#[derive(Debug, Default)]
pub(super) struct PowerState {
    on: Option<bool>,
    asked: Option<Instant>,
}

impl PowerState {
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
        let on = bmc(spec)?.is_powered_on().await?;
        self.set(on);
        Ok(())
    }
}
