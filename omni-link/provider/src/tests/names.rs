use prost::Message;

use crate::private::{InventorySpec, PowerOperationSpec, WipeStatusSpec};
use crate::resources::{PrivateSpec, ResourceSpec, private_namespace, provider_controller};
use crate::specs::infra_machine_config_spec::AcceptanceStatus;
use crate::specs::{
    InfraMachineConfigSpec, InfraMachineSpec, InfraMachineStatusSpec, InfraProviderHealthStatusSpec,
    SiderolinkSpec,
};

#[test]
fn names_are_those_of_the_wire() {
    assert_eq!(InfraMachineSpec::TYPE, "InfraMachines.omni.sidero.dev");
    assert_eq!(InfraMachineSpec::NAMESPACE, "infra-provider");
    assert_eq!(InfraProviderHealthStatusSpec::NAMESPACE, "infra-provider-ephemeral");
    assert_eq!(SiderolinkSpec::TYPE, "Links.omni.sidero.dev");
    assert_eq!(WipeStatusSpec::resource_type("bare-metal"), "WipeStatus.bare-metal.infraprovider.sidero.dev");
    assert_eq!(InventorySpec::resource_type("x"), "Inventory.x.infraprovider.sidero.dev");
    assert_eq!(private_namespace("bare-metal"), "infra-provider:bare-metal");
    assert_eq!(provider_controller("bare-metal"), "bare-metal.MachineController");
}

#[test]
fn field_numbers_are_those_of_the_wire() {
    let machine = InfraMachineSpec {
        acceptance_status: AcceptanceStatus::Accepted as i32,
        wipe_id: "w".to_owned(),
        install_event_id: 3,
        node_unique_token: "n".to_owned(),
        power_off_request_id: "p".to_owned(),
        ..InfraMachineSpec::default()
    };
    let bytes = [&[0x10, 1, 0x2a, 1, b'w', 0x48, 3, 0x52, 1, b'n', 0x5a, 1, b'p'][..]].concat();
    assert_eq!(machine.encode_to_vec(), bytes);
    let status = InfraMachineStatusSpec {
        ready_to_use: true,
        wiped_node_unique_token: "t".to_owned(),
        last_power_off_id: "p".to_owned(),
        ..InfraMachineStatusSpec::default()
    };
    assert_eq!(status.encode_to_vec(), [0x10, 1, 0x32, 1, b't', 0x3a, 1, b'p']);
    let config = InfraMachineConfigSpec { power_off_request_id: "p".to_owned(), ..Default::default() };
    assert_eq!(config.encode_to_vec(), [0x32, 1, b'p']);
    let link = SiderolinkSpec { remote_addr: "a".to_owned(), ..SiderolinkSpec::default() };
    assert_eq!(link.encode_to_vec(), [0x42, 1, b'a']);
}

#[test]
fn messages_are_written_for_people_as_omni_does_it() {
    let spec = PowerOperationSpec {
        last_power_operation: 1,
        last_power_on_timestamp: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
        ..PowerOperationSpec::default()
    };
    let json = serde_json::to_value(&spec).unwrap();
    assert_eq!(json["lastpoweroperation"], "POWER_STATE_OFF");
    assert_eq!(json["lastpowerontimestamp"], "1970-01-01T00:00:00Z");
    assert_eq!(json["lastpoweroffid"], "");
    let unknown = InfraMachineSpec { acceptance_status: 42, ..InfraMachineSpec::default() };
    let json = serde_json::to_value(&unknown).unwrap();
    assert_eq!(json["acceptancestatus"], 42);
    assert_eq!(json["preferredpowerstate"], "POWER_STATE_OFF");
    assert_eq!(json["extensions"], serde_json::json!([]));
}
