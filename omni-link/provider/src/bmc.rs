//! Where a machine's power control comes from: a person who typed it in, or its agent.

use crate::private::BmcConfigurationSpec;
use crate::private::bmc_configuration_spec::{Api, Ipmi};
use crate::specs::InfraMachineBmcConfigSpec;

/// IPMI over LAN, where a person names no other port.
const IPMI_PORT: u32 = 623;

/// What to do about a machine's BMC configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum BmcPlan {
    /// It is what it should be.
    Keep,
    /// Record this one.
    Record(Box<BmcConfigurationSpec>),
    /// The agent is to be asked.
    Ask,
}

impl BmcConfigurationSpec {
    /// Whether both lead to the same controller as the same user, whatever drives it.
    #[must_use]
    pub fn same_controller(&self, other: &Self) -> bool {
        (&self.ipmi, &self.api) == (&other.ipmi, &other.api)
    }
}

/// `user`: what a person typed in; `known`: what is recorded. What a person took away is learnt anew from
/// the agent; until then the old one is better than none.
#[must_use]
pub fn bmc_plan(user: Option<&InfraMachineBmcConfigSpec>, known: Option<&BmcConfigurationSpec>) -> BmcPlan {
    let Some(user) = user else {
        return match known {
            Some(known) if !known.manually_configured => BmcPlan::Keep,
            Some(_) | None => BmcPlan::Ask,
        };
    };
    let wanted = BmcConfigurationSpec {
        ipmi: user.ipmi.as_ref().map(|ipmi| Ipmi {
            address: ipmi.address.clone(),
            port: if ipmi.port == 0 { IPMI_PORT } else { ipmi.port },
            username: ipmi.username.clone(),
            password: ipmi.password.clone(),
        }),
        api: user.api.as_ref().map(|api| Api { address: api.address.clone() }),
        manually_configured: true,
        ..BmcConfigurationSpec::default()
    };
    if known.is_some_and(|known| known.manually_configured && known.same_controller(&wanted)) {
        BmcPlan::Keep
    } else {
        BmcPlan::Record(Box::new(wanted))
    }
}
