//! The network's own router: a plain DHCP server that knows nothing of network boot, and router advertisements.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::net::{Net, Role};
use crate::remains::Remains;
use crate::wait::wait_until;

const START_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Router {
    child: Child,
    log: PathBuf,
}

impl Router {
    /// Starts dnsmasq in the router's namespace and waits until it serves.
    pub(crate) fn start(net: &Net, remains: &Remains) -> Result<Self> {
        let dir = remains.dir();
        let config = dir.join("router.conf");
        fs::write(&config, dnsmasq_config(dir))?;
        let log = dir.join("router.log");
        let mut command = net.command(Role::Router, "dnsmasq");
        command.arg("-C").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut child = remains.spawn("dnsmasq", command)?;
        wait_until(START_LIMIT, "dnsmasq", || match child.try_wait() {
            Ok(None) => {
                let text = fs::read_to_string(&log).unwrap_or_default();
                text.contains("router advertisement on").then_some(Ok(()))
            }
            _ => Some(Err(anyhow!("dnsmasq ended: {}", fs::read_to_string(&log).unwrap_or_default().trim()))),
        })?
        .context("the router does not start")?;
        Ok(Self { child, log })
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// No PXE option anywhere. It stays what it is, root: whoever changes user or group loses the signal that takes it
/// along when its parent dies. `no-ping` saves 3 s of ARP probing per machine, the advertisement (lifetime 0, so no
/// default route) the 15 s that iPXE waits for a router when none answers.
fn dnsmasq_config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "port=0\n\
         interface=eth0\n\
         bind-interfaces\n\
         user=root\n\
         group=root\n\
         pid-file={dir}/router.pid\n\
         dhcp-range=10.88.0.100,10.88.0.200,255.255.255.0,1h\n\
         dhcp-leasefile={dir}/router.leases\n\
         dhcp-option=3\n\
         dhcp-option=6\n\
         no-ping\n\
         enable-ra\n\
         dhcp-range=fd88::,ra-only,64\n\
         ra-param=eth0,10,0\n\
         log-dhcp\n\
         log-facility=-\n\
         keep-in-foreground\n"
    )
}
