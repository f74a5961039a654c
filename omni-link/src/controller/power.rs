//! The power switch of a machine, made from its BMC configuration.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use power::api::ApiBmc;
use power::auto::AutoBmc;
use power::ipmi::IpmiBmc;
use power::ipmi::session::LoginError;
use power::redfish::{RedfishBmc, RedfishOptions};
use power::{Bmc, Choice, PowerError};
use provider::private::BmcConfigurationSpec;
use provider::private::bmc_configuration_spec::Ipmi;
use tokio::time::Instant;
use uuid::Uuid;

/// How long an old answer about the power state is good enough.
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// How long a controller may take to hear that we go: nobody waits longer for a courtesy, a shutdown least.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// When a BMC is driven by Redfish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedfishUse {
    /// Never: IPMI only.
    Never,
    /// Where it answers; else IPMI.
    WhenAvailable,
    /// Always.
    Always,
}

/// How BMCs are asked for Redfish.
#[derive(Clone)]
pub struct Redfish {
    /// When.
    pub usage: RedfishUse,
    /// How.
    pub options: RedfishOptions,
}

impl Redfish {
    /// IPMI only.
    #[must_use]
    pub fn off() -> Self {
        let options = RedfishOptions { tls: None, port: 443, set_boot_source_override_mode: true };
        Self { usage: RedfishUse::Never, options }
    }
}

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

/// A driver, and why it is this one when that is known from the start.
struct Driver {
    made_from: BmcConfigurationSpec,
    bmc: Arc<dyn Bmc>,
    choice: Option<Choice>,
}

/// The last answer about the power state, and when it was given.
pub(super) struct PowerState {
    machine: Option<Uuid>,
    redfish: Redfish,
    on: Option<bool>,
    asked: Option<Instant>,
    /// It may have a session open.
    driver: Option<Driver>,
}

impl PowerState {
    /// Of the machine with that id.
    pub(super) fn new(id: &str, redfish: Redfish) -> Self {
        Self { machine: id.parse().ok(), redfish, on: None, asked: None, driver: None }
    }

    /// The machine's switch.
    pub(super) async fn switch(&mut self, spec: &BmcConfigurationSpec) -> Result<Arc<dyn Bmc>, SwitchError> {
        if let Some(driver) = &self.driver
            && driver.made_from.same_controller(spec)
        {
            return Ok(Arc::clone(&driver.bmc));
        }
        self.close().await;
        let (bmc, choice) = self.driver(spec)?;
        self.driver = Some(Driver { made_from: spec.clone(), bmc: Arc::clone(&bmc), choice });
        Ok(bmc)
    }

    /// Ends the session with the controller, if one is open.
    pub(super) async fn close(&mut self) {
        if let Some(driver) = self.driver.take() {
            // Who does not hear it ends the session in its own time.
            let _ = tokio::time::timeout(FAREWELL_LIMIT, driver.bmc.close()).await;
        }
    }

    /// The driver for a configuration.
    fn driver(&self, spec: &BmcConfigurationSpec) -> Result<(Arc<dyn Bmc>, Option<Choice>), SwitchError> {
        if let Some(api) = spec.api.as_ref().filter(|api| !api.address.is_empty()) {
            let address = api.address.parse().map_err(|_| SwitchError::BadAddress(api.address.clone()))?;
            return Ok((Arc::new(ApiBmc::new(address)), None));
        }
        let ipmi = spec.ipmi.as_ref().ok_or(SwitchError::NoDriver)?;
        let because = |driver, reason: &str| Some(Choice { driver, reason: reason.to_owned() });
        Ok(match self.redfish.usage {
            RedfishUse::Never => {
                (Arc::new(ipmi_bmc(ipmi)?), because("ipmi", "[redfish] says not to ask for Redfish"))
            }
            RedfishUse::Always => {
                (Arc::new(self.redfish_bmc(ipmi)?), because("redfish", "[redfish] use_always"))
            }
            RedfishUse::WhenAvailable => match ipmi_bmc(ipmi) {
                Ok(by_ipmi) => (Arc::new(AutoBmc::new(self.redfish_bmc(ipmi)?, by_ipmi)), None),
                // Redfish has longer ones.
                Err(SwitchError::BadLogin(error @ (LoginError::BadName | LoginError::BadPassword))) => {
                    (Arc::new(self.redfish_bmc(ipmi)?), because("redfish", &format!("for IPMI {error}")))
                }
                Err(error) => return Err(error),
            },
        })
    }

    fn redfish_bmc(&self, bmc: &Ipmi) -> Result<RedfishBmc, SwitchError> {
        let ip = ip_of(bmc)?;
        Ok(RedfishBmc::new(ip, &bmc.username, &bmc.password, self.machine, &self.redfish.options))
    }

    /// What the machine is switched by, once it has answered; `None` where there is no choice.
    pub(super) fn choice(&self) -> Option<Choice> {
        let driver = self.driver.as_ref().filter(|_| self.on.is_some())?;
        driver.choice.clone().or_else(|| driver.bmc.choice())
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
        let on = self.switch(spec).await?.is_powered_on().await?;
        self.set(on);
        Ok(())
    }
}

fn ip_of(bmc: &Ipmi) -> Result<IpAddr, SwitchError> {
    bmc.address.parse().map_err(|_| SwitchError::BadBmcAddress(bmc.address.clone(), bmc.port))
}

fn ipmi_bmc(bmc: &Ipmi) -> Result<IpmiBmc, SwitchError> {
    let port = u16::try_from(bmc.port).ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| SwitchError::BadBmcAddress(bmc.address.clone(), bmc.port))?;
    let address = SocketAddr::new(ip_of(bmc)?, port);
    IpmiBmc::new(address, &bmc.username, &bmc.password).map_err(SwitchError::BadLogin)
}
