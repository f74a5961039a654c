//! The appliance under test: the real `bootlace` binary in its namespace, driven as an operator drives it.

use std::fs::{self, File, OpenOptions};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;

use crate::bed::tail;
use crate::journal::Journal;
use crate::net::{APPLIANCE_ADDRESS, Net, Role};
use crate::remains::Remains;
use crate::wait::wait_until;

const START_LIMIT: Duration = Duration::from_secs(20);
pub(crate) const LOG: &str = "appliance.log";
/// Image Factory's schematic without customization; `make images` puts the stand-in system there.
const SCHEMATIC: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";
/// The Talos version that the stand-in system stands for.
pub const TALOS_VERSION: &str = "v1.13.9";

/// What to run and with which files.
#[derive(Debug, Clone)]
pub struct ApplianceSpec {
    binary: PathBuf,
    assets: PathBuf,
    ipxe: PathBuf,
    extra: String,
    env: Vec<(String, String)>,
    test_mode: bool,
}

impl ApplianceSpec {
    /// The `bootlace` binary and the folder of boot assets it serves.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, assets: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            assets: assets.into(),
            ipxe: "/usr/lib/ipxe".into(),
            extra: String::new(),
            env: Vec::new(),
            test_mode: true,
        }
    }

    /// What `make images` builds; BOOTLACE and BOOTLACE_ASSETS name others.
    pub fn built() -> Result<Self> {
        Ok(Self::new(
            built("BOOTLACE", &format!("target/{}/release/bootlace", env!("TARGET")))?,
            built("BOOTLACE_ASSETS", "build/assets")?,
        ))
    }

    /// Serves another folder of boot assets.
    #[must_use]
    pub fn assets(mut self, assets: impl Into<PathBuf>) -> Self {
        self.assets = assets.into();
        self
    }

    /// Serves the iPXE binaries of another folder than Debian's.
    #[must_use]
    pub fn ipxe(mut self, directory: impl Into<PathBuf>) -> Self {
        self.ipxe = directory.into();
        self
    }

    /// Appends TOML to the config. Its last open table is `[agent]`; no table of it may be opened again.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.extra.push_str(toml);
        self
    }

    /// Machines are switched by their BMCs instead of the HTTP API.
    #[must_use]
    pub fn bmcs(mut self) -> Self {
        self.test_mode = false;
        self
    }

    /// Sets a variable of the appliance's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

/// A file or folder that was built into `path` of the source tree, or that the variable names.
pub fn built(variable: &str, path: &str) -> Result<PathBuf> {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    let path = std::env::var_os(variable).map_or_else(usual, PathBuf::from);
    path.canonicalize().with_context(|| format!("no {}; run `make images image`", path.display()))
}

/// The config of an appliance in a bed.
fn config_text(spec: &ApplianceSpec, state: &Path, power: &Path) -> String {
    let ApplianceSpec { assets, ipxe, extra, test_mode, .. } = spec;
    let (state, assets, power) = (state.display(), assets.display(), power.display());
    let ipxe = ipxe.display();
    // The stand-in system fetches what it installs from where Image Factory's files are served.
    let installer =
        format!("http://{APPLIANCE_ADDRESS}:50042/image/{SCHEMATIC}/{TALOS_VERSION}/metal-amd64.raw");
    format!(
        "state_dir = \"{state}\"\n\
         \n\
         [api]\n\
         advertise_address = \"{APPLIANCE_ADDRESS}\"\n\
         port = 50042\n\
         power_mgmt_state_dir = \"{power}\"\n\
         \n\
         [netboot]\n\
         dhcp_proxy_iface_or_ip = \"eth0\"\n\
         ipxe_dir = \"{ipxe}\"\n\
         \n\
         [boot]\n\
         assets_path = \"{assets}\"\n\
         schematic = \"{SCHEMATIC}\"\n\
         extra_kernel_args = [\"standin.installer={installer}\"]\n\
         \n\
         [agent]\n\
         test_mode = {test_mode}\n\
         {extra}"
    )
}

/// A running (or killed) appliance. Drop kills it.
#[derive(Debug)]
pub struct Appliance {
    spec: ApplianceSpec,
    config: PathBuf,
    state_dir: PathBuf,
    log: PathBuf,
    net: Arc<Net>,
    remains: Arc<Remains>,
    child: Option<Child>,
}

impl Appliance {
    pub(crate) fn start(
        spec: ApplianceSpec,
        net: &Arc<Net>,
        remains: &Arc<Remains>,
        power: &Path,
    ) -> Result<Self> {
        let dir = remains.dir();
        let state_dir = dir.join("appliance");
        let config = dir.join("appliance.toml");
        fs::create_dir_all(power)?;
        fs::write(&config, config_text(&spec, &state_dir, power))?;
        let mut appliance = Self {
            spec,
            config,
            state_dir,
            log: dir.join(LOG),
            net: Arc::clone(net),
            remains: Arc::clone(remains),
            child: None,
        };
        appliance.restart()?;
        Ok(appliance)
    }

    /// Starts it (after killing it if it runs) and waits until it takes operator commands.
    pub fn restart(&mut self) -> Result<()> {
        self.kill9();
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = self.net.command(Role::Appliance, &self.spec.binary);
        command.args(["run", "-c"]).arg(&self.config);
        command.envs(self.spec.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = self.child.insert(self.remains.spawn("bootlace", command)?);
        let socket = self.state_dir.join("bootlace.sock");
        wait_until(START_LIMIT, "the appliance's operator socket", || match child.try_wait() {
            Ok(None) => UnixStream::connect(&socket).ok().map(|_| Ok(())),
            Ok(Some(status)) => Some(Err(anyhow!("it ended with {status}"))),
            Err(error) => Some(Err(error.into())),
        })
        .map_err(anyhow::Error::from)
        .flatten()
        .with_context(|| format!("the appliance does not start:\n{}", self.log_tail(30)))
    }

    /// SIGKILL, nothing flushed, nothing closed.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its config file.
    #[must_use]
    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// Its state folder.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Its log, over all restarts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log(), lines)
    }

    /// The command line of an operator: `bootlace <args> -c <config>`.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.spec.binary);
        command.args(args).arg("-c").arg(&self.config).stdin(Stdio::null());
        command
    }

    /// Runs an operator's command to its end, whatever it says.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        self.command(args).output().with_context(|| format!("cannot run bootlace {}", args.join(" ")))
    }

    /// Runs an operator's command that must succeed; gives its output.
    pub fn cli_ok(&self, args: &[&str]) -> Result<String> {
        let output = self.cli(args)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("bootlace {} ended with {}: {}", args.join(" "), output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs an operator's command with `-o json` and reads its output.
    pub fn cli_json<T: DeserializeOwned>(&self, args: &[&str]) -> Result<T> {
        let text = self.cli_ok(&[args, &["-o", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("bootlace {} says: {text}", args.join(" ")))
    }

    /// Follows the boot journal from its beginning, over restarts of the appliance.
    pub fn journal(&self) -> Result<Journal> {
        let (binary, config, remains) =
            (self.spec.binary.clone(), self.config.clone(), Arc::clone(&self.remains));
        let errors = self.remains.dir().join("journal.log");
        Journal::follow(move || {
            let mut command = Command::new(&binary);
            command.args(["journal", "-f", "-o", "json", "-c"]).arg(&config);
            let errors = File::options().create(true).append(true).open(&errors)?;
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
            remains.spawn("bootlace journal", command)
        })
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.kill9();
    }
}
