//! OpenIPMI's simulator of a BMC, over loopback.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use power::Bmc;
use power::ipmi::IpmiBmc;

use crate::ports;

pub(crate) const USER: &str = "talos-agent";
pub(crate) const PASSWORD: &str = "Abcdefgh12345678";

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
pub(crate) struct Simulator {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) directory: tempfile::TempDir,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn run(at: &Path) -> Child {
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
    pub(crate) async fn start() -> Option<Self> {
        if !Path::new("/usr/bin/ipmi_sim").exists() {
            eprintln!("skipped: needs the package openipmi");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let port = ports::unused();
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
    pub(crate) async fn until_it_listens(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let bmc = self.bmc(USER, PASSWORD);
        while let Err(error) = bmc.is_powered_on().await {
            assert!(Instant::now() < deadline, "{error}: {:?}", std::error::Error::source(&error));
            tokio::task::yield_now().await;
        }
        bmc.close().await;
    }

    pub(crate) fn bmc(&self, user: &str, password: &str) -> IpmiBmc {
        IpmiBmc::new(self.address, user, password).unwrap()
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap().trim().to_owned()
    }
}
