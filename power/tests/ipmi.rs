//! The driver against OpenIPMI's simulator of a BMC, over loopback.
//!
//! Needs the package openipmi; without it the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/ipmi_sim.rs"]
mod ipmi_sim;
#[path = "support/ports.rs"]
mod ports;

use ipmi_sim::{PASSWORD, Simulator, USER, run};
use power::ipmi::session::LoginError;
use power::{Bmc, PowerError, PxeMode};

#[tokio::test]
async fn a_machine_is_switched_and_told_what_to_boot() {
    let Some(simulator) = Simulator::start().await else { return };
    let bmc = simulator.bmc(USER, PASSWORD);
    assert!(!bmc.is_powered_on().await.unwrap());
    bmc.set_pxe_boot_once(PxeMode::Uefi).await.unwrap();
    assert_eq!(simulator.read("boot"), "pxe");
    bmc.power_on().await.unwrap();
    assert!(bmc.is_powered_on().await.unwrap());
    bmc.power_on().await.unwrap();
    bmc.reset_boot_device().await.unwrap();
    assert_eq!(simulator.read("boot"), "none");
    bmc.reboot().await.unwrap();
    assert!(simulator.read("log").contains("reset"), "{}", simulator.read("log"));
    bmc.power_off().await.unwrap();
    assert!(!bmc.is_powered_on().await.unwrap());
    bmc.reboot().await.unwrap();
    assert!(bmc.is_powered_on().await.unwrap(), "a machine that is off is switched on");
    bmc.close().await;
}

#[tokio::test]
async fn an_operator_may_switch() {
    let Some(simulator) = Simulator::start().await else { return };
    simulator.bmc("operator", PASSWORD).power_on().await.unwrap();
    assert_eq!(simulator.read("power"), "1");
}

#[tokio::test]
async fn who_is_not_let_in_learns_why() {
    let Some(simulator) = Simulator::start().await else { return };
    for (user, password, wanted) in [
        (USER, "wrong", LoginError::WrongPassword),
        (USER, "", LoginError::WrongPassword),
        ("nobody", PASSWORD, LoginError::UnknownUser),
        ("former", PASSWORD, LoginError::UnknownUser),
    ] {
        let error = simulator.bmc(user, password).is_powered_on().await.unwrap_err();
        let PowerError::Login { reason, .. } = &error else { panic!("{user}: {error}") };
        assert_eq!(*reason, wanted, "{user}");
        assert!(password.is_empty() || !error.to_string().contains(&format!("`{password}`")));
    }
}

#[tokio::test]
async fn a_bmc_that_restarts_is_logged_into_again() {
    let Some(mut simulator) = Simulator::start().await else { return };
    let bmc = simulator.bmc(USER, PASSWORD);
    assert!(!bmc.is_powered_on().await.unwrap());
    simulator.child.kill().unwrap();
    simulator.child.wait().unwrap();
    let error = bmc.is_powered_on().await.unwrap_err();
    assert!(matches!(error, PowerError::Unreachable { .. }), "{error}");
    simulator.child = run(simulator.directory.path());
    simulator.until_it_listens().await;
    bmc.power_on().await.unwrap();
    assert_eq!(simulator.read("power"), "1");
}

#[tokio::test]
async fn more_logins_than_a_bmc_has_room_for_work_when_each_is_closed() {
    let Some(simulator) = Simulator::start().await else { return };
    for _ in 0..100 {
        let bmc = simulator.bmc(USER, PASSWORD);
        bmc.is_powered_on().await.unwrap();
        bmc.close().await;
    }
}
