//! A machine's BMC that speaks Redfish: sushy-tools', whose made-up system is the machine's power switch.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use uuid::Uuid;

use crate::built;
use crate::net::{Net, Role};
use crate::remains::Remains;
use crate::wait::wait_until;

/// Where BMCs in a bed have Redfish, without TLS.
pub(super) const REDFISH_PORT: u16 = 8000;

/// Python and Flask are slow to start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The service, with the power switch in place of the system that is made up.
const PROGRAM: &str = r#"
import json, sys, urllib.request
from sushy_tools.emulator.main import main
from sushy_tools.emulator.resources.systems.fakedriver import FakeDriver

switch = sys.argv.pop(1)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

def post(path):
    opener.open(urllib.request.Request(switch + path, data=b"", method="POST"), timeout=5).read()

def power_state(self, identity):
    on = json.load(opener.open(switch + "/status", timeout=5))["PoweredOn"]
    return "On" if on else "Off"

def set_power_state(self, identity, state):
    post({"On": "/poweron", "ForceOn": "/poweron", "ForceOff": "/poweroff", "ForceRestart": "/reboot"}[state])

def set_boot_device(self, identity, source):
    if source == "Pxe":
        post("/pxeboot")
    self._update(identity, boot_device=source)

FakeDriver.get_power_state = power_state
FakeDriver.set_power_state = set_power_state
FakeDriver.set_boot_device = set_boot_device
sys.exit(main())
"#;

/// Starts it in `dir`, at a BMC's address; it lives as long as the bed.
pub(crate) fn start(
    dir: &Path,
    address: Ipv4Addr,
    machine: Uuid,
    switch: SocketAddr,
    net: &Net,
    remains: &Remains,
) -> Result<()> {
    fs::create_dir_all(dir)?;
    net.ip(Role::Switch, &format!("addr add {address}/24 dev br0"))?;
    let config = format!(
        "SUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_LISTEN_IP = '{address}'\n\
         SUSHY_EMULATOR_LISTEN_PORT = {REDFISH_PORT}\nSUSHY_EMULATOR_STATE_DIR = '{}'\n\
         SUSHY_EMULATOR_FAKE_SYSTEMS = [{{'uuid': '{machine}', 'name': 'machine', 'nics': []}}]\n",
        dir.display()
    );
    fs::write(dir.join("sushy.conf"), config)?;
    let log = dir.join("log");
    let python = built("BOOTLACE_SUSHY", "build/sushy")?.join("bin/python");
    let python = python.to_str().context("a path in UTF-8")?;
    let mut command = net.command(Role::Switch, python);
    command.current_dir(dir).args(["-c", PROGRAM, &format!("http://{switch}"), "--config", "sushy.conf"]);
    command.stdin(Stdio::null()).stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?);
    let mut child = remains.spawn("sushy-emulator", command)?;
    wait_until(START_LIMIT, "Redfish", || match child.try_wait() {
        Ok(None) => {
            let there = net.inside(Role::Switch, || Ok(TcpStream::connect((address, REDFISH_PORT))?));
            there.ok().map(|_| Ok(()))
        }
        _ => Some(Err(anyhow!("{}", fs::read_to_string(&log).unwrap_or_default().trim()))),
    })?
    .context("Redfish does not start; run `make setup`")
}
