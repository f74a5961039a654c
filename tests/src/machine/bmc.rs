//! A machine's BMC: OpenIPMI's simulator, which the machine reaches through KCS and the appliance over the network.
//!
//! What it is told to do with the chassis goes to the machine's power switch.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::net::{Net, Role};
use crate::remains::Remains;
use crate::wait::wait_until;

/// Who may use a new BMC, as it ships.
pub const BMC_USER: &str = "ADMIN";
/// That user's password.
pub const BMC_PASSWORD: &str = "ADMIN-1";

/// Where BMCs listen (ASF 2.0).
const RMCP: u16 = 623;
/// Get Channel Authentication Capabilities, which needs no session (IPMI 2.0, 22.13).
const ASK: [u8; 23] =
    [6, 0, 0xff, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0x20, 0x18, 0xc8, 0x81, 0, 0x38, 0x8e, 4, 0xb5];
/// How often it is asked until it answers.
const PACE: Duration = Duration::from_millis(200);
const START_LIMIT: Duration = Duration::from_secs(10);
/// BMCs have the addresses between the appliance's neighbours and the DHCP server's.
const FIRST_ADDRESS: u8 = 10;
const MAX_BMCS: u8 = 80;
/// One user beside the anonymous one; the slots behind it are free.
const COMMANDS: &str = "mc_setbmc 0x20\n\
    mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
    sel_enable 0x20 1000 0x0a\n\
    mc_enable 0x20\n";

/// Where the BMC is.
#[derive(Debug)]
pub(crate) struct Bmc {
    /// In the network, on RMCP's port.
    pub(crate) address: Ipv4Addr,
    /// On the loopback of the switch's namespace, for the machine's KCS.
    pub(crate) machine_port: u16,
}

impl Bmc {
    /// The BMC of the machine with that number.
    pub(crate) fn plan(number: u8) -> Result<Self> {
        ensure!(number <= MAX_BMCS, "only the first {MAX_BMCS} machines may have a BMC");
        let address = Ipv4Addr::new(10, 88, 0, FIRST_ADDRESS + number);
        Ok(Self { address, machine_port: 9000 + u16::from(number) })
    }

    /// Starts the simulator in `dir`; it lives as long as the bed. `switch`: the machine's power switch.
    pub(crate) fn start(&self, dir: &Path, switch: SocketAddr, net: &Net, remains: &Remains) -> Result<()> {
        fs::create_dir_all(dir)?;
        let Self { address, machine_port } = self;
        net.ip(Role::Switch, &format!("addr add {address}/24 dev br0"))?;
        program(&dir.join("chassis"), &chassis(switch))?;
        program(&dir.join("lan"), &lan(*address))?;
        fs::write(dir.join("bmc.emu"), COMMANDS)?;
        let levels = ["callback", "user", "operator", "admin"];
        let levels = levels.map(|level| format!("allowed_auths_{level} none md2 md5 straight\n")).concat();
        let (lan, chassis) = (dir.join("lan"), dir.join("chassis"));
        let (lan, chassis) = (lan.display(), chassis.display());
        let config = format!(
            "name \"bmc\"\nset_working_mc 0x20\nstartlan 1\naddr {address} 623\npriv_limit admin\n{levels}\
             guid a123456789abcdefa123456789abcdef\nlan_config_program \"{lan}\"\nendlan\n\
             chassis_control \"{chassis}\"\nserial 15 127.0.0.1 {machine_port} codec VM\nstartnow false\n\
             user 1 true \"\" \"none\" user 10 none md2 md5 straight\n\
             user 2 true \"{BMC_USER}\" \"{BMC_PASSWORD}\" admin 10 none md2 md5 straight\n"
        );
        fs::write(dir.join("lan.conf"), config)?;
        let log = dir.join("log");
        let mut command = net.command(Role::Switch, "ipmi_sim");
        command.current_dir(dir).args(["-n", "-c", "lan.conf", "-f", "bmc.emu", "-s", "."]);
        command
            .stdin(Stdio::null())
            .stdout(File::create(&log)?)
            .stderr(File::options().append(true).open(&log)?);
        let mut child = remains.spawn("ipmi_sim", command).context("package openipmi")?;
        let question = net.inside(Role::Switch, || {
            let socket = UdpSocket::bind((*address, 0))?;
            socket.connect((*address, RMCP))?;
            socket.set_read_timeout(Some(PACE))?;
            Ok(socket)
        })?;
        // Over the network: the machine's own way in is for one client, and a second one that goes at once can end it.
        wait_until(START_LIMIT, "the BMC", || match child.try_wait() {
            Ok(None) => {
                let answered = question.send(&ASK).is_ok() && question.recv(&mut [0; 64]).is_ok();
                answered.then_some(Ok(()))
            }
            _ => Some(Err(anyhow!("{}", fs::read_to_string(&log).unwrap_or_default().trim()))),
        })?
        .context("the BMC does not start")
    }
}

/// What the simulator asks for when it is asked about the chassis: `get name..` or `set (name value)..`.
fn chassis(switch: SocketAddr) -> String {
    format!(
        "#!/bin/bash\n\
         switch() {{ curl -sS -m 5 \"$@\"; }}\n\
         post() {{ switch -o /dev/null -X POST \"http://{switch}/$1\"; }}\n\
         op=$1; shift\n\
         case $op in\n\
         get) for name; do case $name in\n\
         power) switch http://{switch}/status | grep -q true && echo power:1 || echo power:0;;\n\
         *) echo \"$name:0\";; esac; done;;\n\
         set) while [ $# -gt 1 ]; do case $1 in\n\
         power) [ \"$2\" = 1 ] && post poweron || post poweroff;;\n\
         reset) post reboot;;\n\
         boot) [ \"$2\" = pxe ] && post pxeboot;; esac; shift 2; done;;\n\
         esac\n\
         exit 0\n"
    )
}

/// The network settings, which the simulator does not keep itself.
fn lan(address: Ipv4Addr) -> String {
    format!(
        "#!/bin/bash\n\
         [ \"$1\" = get ] && shift && for name; do case $name in\n\
         ip_addr) echo ip_addr:{address};; ip_addr_src) echo ip_addr_src:static;;\n\
         *mac*) echo \"$name:00:00:00:00:00:01\";; *) echo \"$name:0.0.0.0\";; esac; done\n\
         exit 0\n"
    )
}

fn program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("cannot make it a program")
}
