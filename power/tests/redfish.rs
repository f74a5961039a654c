//! The driver against sushy-tools' Redfish service, which virtual BMCs of OpenStack and Metal3 are, over loopback.
//!
//! Needs build/sushy (`make setup`); without it the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/ipmi_sim.rs"]
#[allow(dead_code, reason = "the tests of IPMI use the rest")]
mod ipmi_sim;
#[path = "support/ports.rs"]
mod ports;
#[path = "support/sushy.rs"]
mod sushy;

use std::net::SocketAddr;
use std::sync::Arc;

use power::auto::AutoBmc;
use power::ipmi::IpmiBmc;
use power::redfish::{RedfishBmc, RedfishOptions};
use power::{Bmc, PowerError, PxeMode};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ClientConfig, RootCertStore};
use sushy::{PASSWORD, Sushy, USER};
use uuid::{Uuid, uuid};

const MACHINE: Uuid = uuid!("fa11beef-0000-4000-8000-00000000000a");
const ONE: &str = "fa11beef-0000-4000-8000-00000000000a";
const OTHER: &str = "fa11beef-0000-4000-8000-00000000000b";

fn at(address: SocketAddr, password: &str, tls: Option<Arc<ClientConfig>>) -> RedfishBmc {
    let options = RedfishOptions { tls, port: address.port(), set_boot_source_override_mode: true };
    RedfishBmc::new(address.ip(), USER, password, Some(MACHINE), &options)
}

/// A certificate for loopback, and a client that believes it and nothing else.
fn certified() -> (CertifiedKey<rcgen::KeyPair>, Arc<ClientConfig>) {
    let certified = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (certified, Arc::new(config))
}

#[tokio::test]
async fn a_machine_is_switched_and_told_what_to_boot() {
    let Some(sushy) = Sushy::start(&[ONE], None, false) else { return };
    let bmc = at(sushy.address, PASSWORD, None);
    assert!(!bmc.is_powered_on().await.unwrap());
    assert_eq!(bmc.name().await, "Redfish 1.5.0");
    bmc.set_pxe_boot_once(PxeMode::Bios).await.unwrap();
    bmc.power_on().await.unwrap();
    assert!(bmc.is_powered_on().await.unwrap());
    bmc.power_on().await.unwrap();
    bmc.reboot().await.unwrap();
    assert!(bmc.is_powered_on().await.unwrap());
    bmc.power_off().await.unwrap();
    assert!(!bmc.is_powered_on().await.unwrap());
    bmc.reboot().await.unwrap();
    assert!(bmc.is_powered_on().await.unwrap(), "a machine that is off is switched on");
    assert!(!sushy.log().contains(PASSWORD), "it is in no URL");
}

#[tokio::test]
async fn user_and_password_are_for_whom_the_certificate_is() {
    let (certified, tls) = certified();
    let pem = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let Some(sushy) = Sushy::start(&[ONE], Some((&pem.0, &pem.1)), true) else { return };
    let bmc = at(sushy.address, PASSWORD, Some(Arc::clone(&tls)));
    bmc.set_pxe_boot_once(PxeMode::Uefi).await.unwrap();
    bmc.power_on().await.unwrap();
    assert!(bmc.is_powered_on().await.unwrap());

    let error = at(sushy.address, "wr0ng-password", Some(tls)).power_off().await.unwrap_err();
    assert!(matches!(error, PowerError::Unauthorized { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("wr0ng-password"));

    let (_, stranger) = self::certified();
    let error = at(sushy.address, PASSWORD, Some(stranger)).power_off().await.unwrap_err();
    assert!(matches!(error, PowerError::Unreachable { .. }), "{error}");
    assert!(format!("{error:?}").contains("InvalidCertificate"), "{error:?}");
    assert!(bmc.is_powered_on().await.unwrap());
}

#[tokio::test]
async fn of_two_machines_at_one_address_each_is_switched_alone() {
    let Some(sushy) = Sushy::start(&[OTHER, ONE], None, false) else { return };
    at(sushy.address, PASSWORD, None).power_on().await.unwrap();
    let options =
        RedfishOptions { tls: None, port: sushy.address.port(), set_boot_source_override_mode: true };
    let bmc = |uuid: &str| {
        RedfishBmc::new(sushy.address.ip(), USER, PASSWORD, Some(uuid.parse().unwrap()), &options)
    };
    assert!(bmc(ONE).is_powered_on().await.unwrap());
    assert!(!bmc(OTHER).is_powered_on().await.unwrap());
    let error = bmc("fa11beef-0000-4000-8000-00000000000c").power_on().await.unwrap_err();
    assert!(error.to_string().contains("2 systems, and none with the machine's UUID"), "{error}");
}

#[tokio::test]
async fn a_bmc_that_restarts_is_asked_again() {
    let Some(mut sushy) = Sushy::start(&[ONE], None, false) else { return };
    let bmc = at(sushy.address, PASSWORD, None);
    bmc.power_on().await.unwrap();
    sushy.restart();
    assert!(bmc.is_powered_on().await.unwrap());
}

#[tokio::test]
async fn redfish_is_chosen_where_it_answers_and_left_when_it_is_gone() {
    let Some(sushy) = Sushy::start(&[ONE], None, false) else { return };
    let Some(simulator) = ipmi_sim::Simulator::start().await else { return };
    let (address, ipmi) = (sushy.address, simulator.bmc(ipmi_sim::USER, ipmi_sim::PASSWORD));
    let bmc = AutoBmc::new(at(address, PASSWORD, None), ipmi);
    assert_eq!(bmc.choice(), None);
    bmc.power_on().await.unwrap();
    let choice = bmc.choice().unwrap();
    assert_eq!((choice.driver, choice.reason.as_str()), ("redfish", "Redfish 1.5.0"));
    assert_eq!(simulator.read("log"), "", "one is enough");

    drop(sushy);
    let error = bmc.is_powered_on().await.unwrap_err();
    assert!(matches!(error, PowerError::Unreachable { .. }), "{error}");
    assert_eq!(bmc.choice(), None, "chosen anew");
    assert!(!bmc.is_powered_on().await.unwrap());
    let choice = bmc.choice().unwrap();
    assert_eq!(choice.driver, "ipmi");
    assert!(choice.reason.starts_with(&format!("no Redfish at {address}: ")), "{}", choice.reason);
    assert!(choice.reason.contains("refused"), "{}", choice.reason);
    bmc.power_on().await.unwrap();
    assert_eq!(simulator.read("power"), "1");
}

#[tokio::test]
async fn where_nothing_answers_both_are_named() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ipmi = IpmiBmc::new(closed, USER, PASSWORD).unwrap();
    let bmc = AutoBmc::new(at(closed, PASSWORD, None), ipmi);
    let error = bmc.is_powered_on().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("does not answer GET /redfish/v1/"), "{text}");
    assert!(text.contains("; by IPMI: power controller"), "{text}");
    assert_eq!(bmc.choice(), None);
}
