use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::firmware::{Firmware, Platform};

fn mac(number: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0, 0, number])
}

fn uuid(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 88, 0, number).into()
}

fn event(step: Step) -> Event {
    Event::new(1_000, step)
}

/// One of each step.
fn steps() -> Vec<Step> {
    let text = || "because".to_owned();
    vec![
        Step::DhcpDiscover { firmware: Firmware::Ipxe(Platform::UefiX64) },
        Step::DhcpOffer { file: "snp.efi".to_owned(), port: 67 },
        Step::DhcpIgnored { reason: text() },
        Step::AddressRequested { wanted: address(50) },
        Step::TftpStarted { file: "snp.efi".to_owned() },
        Step::TftpFinished { file: "snp.efi".to_owned(), bytes: 231_000, millis: 120 },
        Step::TftpFailed { file: "snp.efi".to_owned(), reason: text() },
        Step::FileServed { path: "/tftp/amd64/snp.efi".to_owned(), bytes: 231_000 },
        Step::ScriptServed { mode: "agent".to_owned(), reason: text() },
        Step::AssetServed { path: "/assets/kernel-amd64".to_owned(), bytes: 1, millis: 2 },
        Step::ConfigServed,
        Step::ConfigRefused { reason: text() },
        Step::Joined,
        Step::JoinRefused { reason: text() },
        Step::UuidConflict { reason: text() },
        Step::Pending,
        Step::Accepted,
        Step::Rejected,
        Step::TunnelOpened,
        Step::TunnelClosed { reason: text() },
        Step::TunnelRefused { reason: text() },
        Step::Inventory { summary: "2 cores".to_owned() },
        Step::AgentFailed { reason: text() },
        Step::PowerConfigured { driver: "redfish".to_owned(), reason: "Dell, Redfish 1.11.0".to_owned() },
        Step::PowerOn { pxe: true },
        Step::PowerOn { pxe: false },
        Step::PowerOff,
        Step::PowerFailed { reason: text() },
        Step::WipeStarted,
        Step::WipeFinished { millis: 3 },
        Step::DiskReport { report: "vda (A1, 256 MiB) is blank: had ext; took 0.1 s".to_owned() },
        Step::WipeFailed { reason: text() },
        Step::Ready,
        Step::Allocated { cluster: "edge".to_owned(), talos_version: "v1.13.9".to_owned() },
        Step::Released,
        Step::Rebooted,
        Step::Installed,
        Step::Removed,
    ]
}

#[test]
fn every_step_goes_to_json_and_back() {
    for step in steps() {
        let full = event(step.clone()).with_mac(mac(1)).with_uuid(uuid(7)).with_address(address(50));
        for event in [full, event(step)] {
            let json = serde_json::to_string(&event).unwrap();
            assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event, "{json}");
        }
    }
}

#[test]
fn json_is_flat_and_says_only_what_is_known() {
    let offer = event(Step::DhcpOffer { file: "snp.efi".to_owned(), port: 67 }).with_mac(mac(1));
    assert_eq!(
        serde_json::to_string(&offer).unwrap(),
        r#"{"at_ms":1000,"mac":"52:54:00:00:00:01","step":"dhcp_offer","file":"snp.efi","port":67}"#
    );
}

#[test]
fn every_step_is_one_line() {
    for step in steps() {
        let line = event(step).with_mac(mac(1)).to_string();
        assert!(line.starts_with("52:54:00:00:00:01 ") && !line.contains('\n'), "{line}");
    }
    let offer = Step::DhcpOffer { file: "snp.efi".to_owned(), port: 67 };
    assert_eq!(
        event(offer.clone()).with_address(address(50)).to_string(),
        "10.88.0.50 was offered snp.efi (port 67)"
    );
    assert_eq!(event(offer).to_string(), "was offered snp.efi (port 67)");
}

#[test]
fn numbers_start_at_one_and_have_no_gaps() {
    let mut journal = Journal::new(3);
    assert_eq!((journal.last_seq(), journal.is_empty()), (0, true));
    for expected in 1..=5 {
        assert_eq!(journal.record(event(Step::Pending)).0, expected);
    }
    let since = |seq| journal.since(seq).map(|(seq, _)| *seq).collect::<Vec<_>>();
    assert_eq!(since(0), [3, 4, 5]);
    assert_eq!(since(4), [5]);
    assert_eq!(since(5), Vec::<u64>::new());
    assert_eq!(since(u64::MAX), Vec::<u64>::new());
    assert_eq!(journal.last_seq(), 5);
}

#[test]
fn a_transfer_from_an_address_belongs_to_the_machine_that_took_it() {
    let mut journal = Journal::new(10);
    let discover = Step::DhcpDiscover { firmware: Firmware::Bios };
    journal.record(event(discover).with_mac(mac(1)).with_uuid(uuid(7)));
    journal.record(
        event(Step::AddressRequested { wanted: address(50) }).with_mac(mac(1)).with_address(address(50)),
    );
    let (_, tftp) =
        journal.record(event(Step::TftpStarted { file: String::new() }).with_address(address(50)));
    assert_eq!((tftp.mac, tftp.uuid), (Some(mac(1)), Some(uuid(7))));
    let (_, joined) = journal.record(event(Step::Joined).with_uuid(uuid(7)));
    assert_eq!(joined.mac, Some(mac(1)));
}

#[test]
fn a_uuid_and_an_address_find_each_other_without_a_mac() {
    let mut journal = Journal::new(10);
    journal.record(event(Step::ConfigServed).with_uuid(uuid(7)).with_address(address(50)));
    let (_, asset) = journal.record(event(Step::Pending).with_address(address(50)));
    assert_eq!((asset.mac, asset.uuid), (None, Some(uuid(7))));
}

#[test]
fn an_address_that_moves_on_takes_no_name_with_it() {
    let mut journal = Journal::new(10);
    journal.record(event(Step::Joined).with_mac(mac(1)).with_uuid(uuid(7)).with_address(address(50)));
    let took = Step::AddressRequested { wanted: address(50) };
    let (_, took) = journal.record(event(took).with_mac(mac(2)).with_address(address(50)));
    assert_eq!(took.uuid, None);
    let (_, next) = journal.record(event(Step::Pending).with_address(address(50)));
    assert_eq!((next.mac, next.uuid), (Some(mac(2)), None));
    // And the other way round: a new UUID at the address, of a machine whose MAC nobody has seen.
    journal.record(event(Step::Joined).with_uuid(uuid(9)).with_address(address(50)));
    let (_, next) = journal.record(event(Step::Pending).with_address(address(50)));
    assert_eq!((next.mac, next.uuid), (None, Some(uuid(9))));
}

#[test]
fn addresses_that_name_no_machine_teach_nothing() {
    let mut journal = Journal::new(10);
    for nobody in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv4Addr::LOCALHOST)] {
        journal.record(event(Step::Pending).with_mac(mac(1)).with_address(nobody));
        let (_, other) = journal.record(event(Step::Pending).with_address(nobody));
        assert_eq!(other.mac, None);
    }
}

#[test]
fn the_machine_confirmed_longest_ago_is_forgotten_first() {
    let mut memory = Memory::default();
    for key in 0..CORRELATED_MAX {
        memory.learn(key, key);
    }
    memory.learn(0, 0);
    memory.learn(CORRELATED_MAX, 0);
    assert_eq!(memory.recall(&0), Some(0));
    assert_eq!(memory.recall(&1), None);
    assert_eq!((memory.known.len(), memory.by_age.len()), (CORRELATED_MAX, CORRELATED_MAX));
    memory.forget(&0);
    assert_eq!((memory.known.len(), memory.by_age.len()), (CORRELATED_MAX - 1, CORRELATED_MAX - 1));
}

proptest! {
    #[test]
    fn the_journal_is_bounded_and_consistent(
        capacity in 0..20_usize,
        events in prop::collection::vec((any::<Option<u8>>(), any::<Option<u8>>(), any::<Option<u8>>()), 0..100),
    ) {
        let mut journal = Journal::new(capacity);
        for (machine, name, addr) in events {
            let given = event(Step::Pending)
                .with_mac(machine.map(mac))
                .with_uuid(name.map(|name| uuid(name.into())))
                .with_address(addr.map(address));
            let (_, kept) = journal.record(given.clone());
            // What was told is never changed, only completed.
            prop_assert!(given.mac.is_none() || given.mac == kept.mac);
            prop_assert!(given.uuid.is_none() || given.uuid == kept.uuid);
            prop_assert_eq!(given.address, kept.address);
            prop_assert!(journal.len() <= capacity.max(1));
            for memory in [journal.mac_of_address.known.len(), journal.uuid_of_address.known.len()] {
                prop_assert!(memory <= CORRELATED_MAX);
            }
            prop_assert_eq!(journal.uuid_of_mac.known.len(), journal.uuid_of_mac.by_age.len());
            prop_assert_eq!(journal.mac_of_address.known.len(), journal.mac_of_address.by_age.len());
        }
        let seqs: Vec<u64> = journal.since(0).map(|(seq, _)| *seq).collect();
        prop_assert!(seqs.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    }
}
