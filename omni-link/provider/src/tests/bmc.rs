use crate::private::BmcConfigurationSpec;
use crate::private::bmc_configuration_spec as known;
use crate::specs::InfraMachineBmcConfigSpec;
use crate::specs::infra_machine_bmc_config_spec as typed;
use crate::{BmcPlan, bmc_plan};

fn from_agent() -> BmcConfigurationSpec {
    let api = Some(known::Api { address: "10.0.0.1:5000".to_owned() });
    BmcConfigurationSpec { api, ..BmcConfigurationSpec::default() }
}

fn typed_in() -> InfraMachineBmcConfigSpec {
    let ipmi = typed::Ipmi {
        address: "10.0.0.9".to_owned(),
        username: "admin".to_owned(),
        password: "secret".to_owned(),
        ..typed::Ipmi::default()
    };
    InfraMachineBmcConfigSpec { ipmi: Some(ipmi), api: None }
}

fn manual() -> BmcConfigurationSpec {
    match bmc_plan(Some(&typed_in()), None) {
        BmcPlan::Record(spec) => *spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_person_typed_in_replaces_everything() {
    let manual = manual();
    assert!(manual.manually_configured);
    let ipmi = manual.ipmi.clone().expect("ipmi was typed in");
    assert_eq!((ipmi.address.as_str(), ipmi.port), ("10.0.0.9", 623));
    assert_eq!(bmc_plan(Some(&typed_in()), Some(&manual)), BmcPlan::Keep);
    let driven = BmcConfigurationSpec { driver: "redfish".into(), ..manual.clone() };
    assert_eq!(bmc_plan(Some(&typed_in()), Some(&driven)), BmcPlan::Keep, "whatever drives it");
    assert_eq!(bmc_plan(Some(&typed_in()), Some(&from_agent())), BmcPlan::Record(Box::new(manual)));
}

#[test]
fn without_a_person_the_agent_is_asked_once() {
    assert_eq!(bmc_plan(None, None), BmcPlan::Ask);
    assert_eq!(bmc_plan(None, Some(&from_agent())), BmcPlan::Keep);
    assert_eq!(bmc_plan(None, Some(&manual())), BmcPlan::Ask, "the person took it away");
}
