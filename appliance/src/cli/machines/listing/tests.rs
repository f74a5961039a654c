use provider::private::inventory_spec::Nic;

use super::*;

fn machine(id: &str, mac: &str) -> Machine {
    Machine {
        id: id.into(),
        state: "pending",
        power: "unknown",
        driver: "redfish".into(),
        ready: false,
        installed: false,
        cordoned: false,
        cluster: String::new(),
        talos_version: String::new(),
        labels: BTreeMap::new(),
        last_wipe: None,
        inventory: Some(InventorySpec {
            nics: vec![Nic { mac: mac.into(), ..Nic::default() }],
            ..InventorySpec::default()
        }),
    }
}

fn fleet() -> Vec<Machine> {
    vec![
        machine("aaaa0000-0000-0000-0000-000000000001", "52:54:00:88:00:01"),
        machine("aaaa0000-0000-0000-0000-000000000002", "52:54:00:88:00:02"),
        machine("bbbb0000-0000-0000-0000-000000000003", "52:54:00:88:00:03"),
    ]
}

#[test]
fn a_machine_is_found_by_the_beginning_of_its_uuid_or_by_mac() {
    assert!(find(&fleet(), "BBBB").unwrap().id.starts_with("bbbb"));
    assert!(find(&fleet(), "52:54:00:88:00:02").unwrap().id.ends_with("2"));
}

#[test]
fn an_ambiguous_beginning_names_the_candidates() {
    let error = find(&fleet(), "aaaa").unwrap_err().to_string();
    assert!(error.contains("000000000001") && error.contains("000000000002"), "{error}");
}

#[test]
fn an_unknown_machine_points_at_the_list() {
    assert!(find(&fleet(), "cccc").unwrap_err().to_string().contains("machines list"));
}

#[test]
fn the_table_has_a_line_a_machine() {
    let text = overview(&fleet()).trim_fmt();
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(text.starts_with("ID"), "{text}");
    assert!(text.lines().skip(1).all(|line| line.contains(" redfish ")), "{text}");
}

#[test]
fn the_last_wipe_is_shown_disk_by_disk_where_the_agent_told() {
    let told = WipeStatusSpec {
        wiped_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        disk_reports: vec!["sda (A1, 16 MiB) is blank: had ext; took 0.1 s".into()],
        ..WipeStatusSpec::default()
    };
    assert!(last_wipe(WipeStatusSpec { disk_reports: Vec::new(), ..told.clone() }).is_none());
    let mut machine = machine("aaaa0000-0000-0000-0000-000000000001", "52:54:00:88:00:01");
    machine.last_wipe = last_wipe(told);
    let shown = serde_json::to_value(&machine).unwrap();
    assert_eq!(shown["last_wipe"]["at"], "2023-11-14T22:13:20Z");
    assert_eq!(shown["last_wipe"]["disks"][0], "sda (A1, 16 MiB) is blank: had ext; took 0.1 s");
}
