//! Redfish where the BMC serves it, else IPMI.
//!
//! ```text
//!            Redfish tells the power state
//! not known ───────────────────────────────► Redfish ── does not answer ──► not known
//!     └── it does not, IPMI answers ───────► IPMI    ── after RECHECK, or no answer ──► not known
//! ```
//!
//! What Redfish refuses or cannot do is tried by IPMI, one order at a time.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::ipmi::IpmiBmc;
use crate::redfish::RedfishBmc;
use crate::redfish::dialogue::Order;
use crate::{Bmc, Choice, PowerError, PxeMode};

/// After this time a BMC without Redfish is asked for it again: it may have been starting, or updated. Each
/// attempt may end in the BMC's log.
pub const RECHECK: Duration = Duration::from_secs(60 * 60);

/// One machine's BMC, by Redfish or IPMI.
#[derive(Debug)]
pub struct AutoBmc {
    redfish: RedfishBmc,
    ipmi: IpmiBmc,
    chosen: Mutex<Option<Chosen>>,
}

#[derive(Debug, Clone)]
struct Chosen {
    choice: Choice,
    driver: Driver,
}

#[derive(Debug, Clone, Copy)]
enum Driver {
    Redfish,
    Ipmi { until: Instant },
}

impl AutoBmc {
    /// Both are the same BMC. Nothing is sent yet.
    pub fn new(redfish: RedfishBmc, ipmi: IpmiBmc) -> Self {
        Self { redfish, ipmi, chosen: Mutex::default() }
    }

    fn chosen(&self) -> Option<Chosen> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn choose(&self, chosen: Option<Chosen>) {
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = chosen;
    }

    async fn order(&self, order: Order) -> Result<bool, PowerError> {
        match self.chosen().map(|chosen| chosen.driver) {
            Some(Driver::Redfish) => self.by_redfish(order).await,
            Some(Driver::Ipmi { until }) if Instant::now() < until => {
                let done = by_ipmi(&self.ipmi, order).await;
                if done.as_ref().is_err_and(is_shut) {
                    self.choose(None);
                }
                done
            }
            Some(Driver::Ipmi { .. }) | None => self.first(order).await,
        }
    }

    /// The order, and with it the choice.
    async fn first(&self, order: Order) -> Result<bool, PowerError> {
        let refusal = match self.redfish.is_powered_on().await {
            Ok(on) => {
                let choice = Choice { driver: "redfish", reason: self.redfish.name().await };
                self.choose(Some(Chosen { choice, driver: Driver::Redfish }));
                return if order == Order::Look { Ok(on) } else { self.by_redfish(order).await };
            }
            Err(error) => error,
        };
        let done = by_ipmi(&self.ipmi, order).await;
        match done {
            Err(ipmi) if is_shut(&ipmi) => {
                self.choose(None);
                Err(PowerError::Neither { redfish: Box::new(refusal), ipmi: Box::new(ipmi) })
            }
            done => {
                let choice = Choice { driver: "ipmi", reason: without_redfish(&refusal) };
                let driver = Driver::Ipmi { until: Instant::now() + RECHECK };
                self.choose(Some(Chosen { choice, driver }));
                done
            }
        }
    }

    async fn by_redfish(&self, order: Order) -> Result<bool, PowerError> {
        let address = self.redfish.address();
        match self.redfish.order(order).await {
            Ok(done) => {
                if let Some(doubt) = done.doubt {
                    tracing::warn!(%address, doubt, "the BMC does not show the boot source that it was given; trying IPMI");
                    if let Err(error) = by_ipmi(&self.ipmi, order).await {
                        tracing::debug!(%address, %error, "nor does IPMI set it");
                    }
                }
                Ok(done.powered_on == Some(true))
            }
            Err(error) if is_shut(&error) => {
                self.choose(None);
                Err(error)
            }
            Err(error) => match by_ipmi(&self.ipmi, order).await {
                Ok(done) => {
                    tracing::warn!(%address, %error, "Redfish did not do it, IPMI did");
                    Ok(done)
                }
                Err(_) => Err(error),
            },
        }
    }
}

/// Whether there is no way in at all.
fn is_shut(error: &PowerError) -> bool {
    matches!(
        error,
        PowerError::Unreachable { .. } | PowerError::Unauthorized { .. } | PowerError::Login { .. }
    )
}

async fn by_ipmi(ipmi: &IpmiBmc, order: Order) -> Result<bool, PowerError> {
    match order {
        Order::Look => return ipmi.is_powered_on().await,
        Order::On => ipmi.power_on().await,
        Order::Off => ipmi.power_off().await,
        Order::Restart => ipmi.reboot().await,
        Order::BootNetwork(mode) => ipmi.set_pxe_boot_once(mode).await,
        Order::BootAsConfigured => ipmi.reset_boot_device().await,
    }
    .map(|()| false)
}

/// Why it is not Redfish, in one line.
fn without_redfish(error: &PowerError) -> String {
    match error {
        PowerError::Unreachable { address, source, .. } => {
            let mut text = format!("no Redfish at {address}: {source}");
            let mut cause = source.source();
            while let Some(next) = cause {
                text = format!("{text}: {next}");
                cause = next.source();
            }
            text
        }
        PowerError::Unauthorized { detail, .. } => {
            format!("Redfish does not take the user or the password: {detail}")
        }
        PowerError::Refused { request, status, detail, .. } => {
            format!("Redfish refuses {request} with status {status}: {detail}")
        }
        PowerError::Protocol { request, reason, .. } => format!("Redfish answers {request} with {reason}"),
        PowerError::Login { .. } | PowerError::Neither { .. } => error.to_string(),
    }
}

impl fmt::Display for AutoBmc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} or {}", self.redfish, self.ipmi)
    }
}

#[async_trait]
impl Bmc for AutoBmc {
    async fn is_powered_on(&self) -> Result<bool, PowerError> {
        self.order(Order::Look).await
    }

    async fn power_on(&self) -> Result<(), PowerError> {
        self.order(Order::On).await.map(drop)
    }

    async fn power_off(&self) -> Result<(), PowerError> {
        self.order(Order::Off).await.map(drop)
    }

    async fn reboot(&self) -> Result<(), PowerError> {
        self.order(Order::Restart).await.map(drop)
    }

    async fn set_pxe_boot_once(&self, mode: PxeMode) -> Result<(), PowerError> {
        self.order(Order::BootNetwork(mode)).await.map(drop)
    }

    async fn reset_boot_device(&self) -> Result<(), PowerError> {
        self.order(Order::BootAsConfigured).await.map(drop)
    }

    async fn close(&self) {
        self.redfish.close().await;
        self.ipmi.close().await;
    }

    fn choice(&self) -> Option<Choice> {
        self.chosen().map(|chosen| chosen.choice)
    }
}
