//! The driver against OpenIPMI's simulator of a BMC, over loopback.
//!
//! Needs the package openipmi; without it the tests say so and pass.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use power::ipmi::IpmiBmc;
use power::ipmi::session::LoginError;
use power::{Bmc, PowerError, PxeMode};

const USER: &str = "talos-agent";
const PASSWORD: &str = "Abcdefgh12345678";

/// What the simulator runs for the chassis: the state is a file each.
const CHASSIS: &str = r#"#!/bin/sh
cd "$(dirname "$0")"
verb=$1; shift
while [ $# -gt 0 ]; do
  case $verb in
    get) case $1 in
        power) echo "power:$(cat power)";;
        boot) echo "boot:$(cat boot)";;
        *) echo "$1:0";;
      esac; shift;;
    set) echo "$1 $2" >> log
      case $1 in
        power) echo "$2" > power;;
        boot) echo "$2" > boot;;
      esac; shift; shift;;
    *) exit 1;;
  esac
done
"#;

/// The simulator; it ends with the test.
struct Simulator {
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(at: &Path) -> Child {
    Command::new("ipmi_sim")
        .current_dir(at)
        .args(["-n", "-c", "lan.conf", "-f", "sim.emu", "-s", "."])
        .stdin(Stdio::null())
        .stdout(fs::File::create(at.join("out")).unwrap())
        .stderr(fs::File::create(at.join("err")).unwrap())
        .spawn()
        .unwrap()
}

impl Simulator {
    async fn start() -> Option<Self> {
        if !Path::new("/usr/bin/ipmi_sim").exists() {
            eprintln!("skipped: needs the package openipmi");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for (name, text) in [("chassis", CHASSIS), ("power", "0"), ("boot", "none"), ("log", "")] {
            fs::write(at.join(name), text).unwrap();
        }
        fs::set_permissions(at.join("chassis"), fs::Permissions::from_mode(0o755)).unwrap();
        let levels = ["callback", "user", "operator", "admin"]
            .map(|level| format!("  allowed_auths_{level} none md2 md5 straight\n"))
            .concat();
        let config = format!(
            "name \"test\"\nset_working_mc 0x20\n startlan 1\n  addr 127.0.0.1 {port}\n  priv_limit admin\n{levels}\
             \x20 guid a123456789abcdefa123456789abcdef\n endlan\n chassis_control \"{}\"\n startnow false\n \
             user 1 true \"\" \"test\" user 10 none md2 md5 straight\n \
             user 2 true \"{USER}\" \"{PASSWORD}\" admin 10 none md2 md5 straight\n \
             user 3 true \"operator\" \"{PASSWORD}\" operator 10 none md2 md5 straight\n \
             user 4 false \"former\" \"{PASSWORD}\" admin 10 none md2 md5 straight\n",
            at.join("chassis").display()
        );
        fs::write(at.join("lan.conf"), config).unwrap();
        let commands = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
            sel_enable 0x20 1000 0x0a\nmc_enable 0x20\n";
        fs::write(at.join("sim.emu"), commands).unwrap();
        let simulator = Self { child: run(at), address: (Ipv4Addr::LOCALHOST, port).into(), directory };
        simulator.until_it_listens().await;
        Some(simulator)
    }

    /// Nobody listens: loopback says so at once.
    async fn until_it_listens(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let bmc = self.bmc(USER, PASSWORD);
        while let Err(error) = bmc.is_powered_on().await {
            assert!(Instant::now() < deadline, "{error}: {:?}", std::error::Error::source(&error));
            tokio::task::yield_now().await;
        }
        bmc.close().await;
    }

    fn bmc(&self, user: &str, password: &str) -> IpmiBmc {
        IpmiBmc::new(self.address, user, password).unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap().trim().to_owned()
    }
}

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
