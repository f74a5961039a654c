//! The life of the stand-in: which boot this is, and what follows from it.
//!
//! ```text
//! from the network, with an installer:     join → install on the first disk → tell it → reboot
//! from the network, without an installer:  join → stay, with Talos' metal agent where the image has it
//! from the disk:                           join with the same token → tell it → stay
//! ```

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use agent_wire::machine::SequenceEvent;
use agent_wire::token::NodeUniqueToken;
use anyhow::{Context as _, Result};
use bootlace_agent::cmdline::{Cmdline, substitute};
use bootlace_agent::config::JoinConfig;
use bootlace_agent::disks::{self, Target};
use bootlace_agent::identity::{self, Identity};
use bootlace_agent::join::Registration;
use bootlace_agent::retry::Backoff;
use bootlace_agent::wireguard::{Plan, Up};
use bootlace_agent::{join, machine, net, say};
use hyper::Uri;
use tokio::sync::mpsc;

use crate::state::State;
use crate::{events, install, metal_agent};

/// How often an event is sent before everything is begun again.
const PUBLISH_ATTEMPTS: u32 = 10;
/// Between two of them. The hub takes events of accepted machines only, so the first may come too early.
const PUBLISH_PAUSE: Duration = Duration::from_secs(1);

/// The arguments that are the stand-in's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// `standin.installer`: the disk image's URL.
    pub installer: Option<String>,
    /// `standin.boot=disk`, which the disk image's boot loaders give.
    pub from_disk: bool,
}

impl Arguments {
    /// Reads a kernel command line. The last of equal arguments wins.
    pub fn parse(text: &str) -> Self {
        let mut arguments = Self::default();
        for (key, value) in text.split_ascii_whitespace().filter_map(|argument| argument.split_once('=')) {
            match key {
                "standin.installer" if !value.is_empty() => arguments.installer = Some(value.to_owned()),
                "standin.boot" => arguments.from_disk = value == "disk",
                _ => {}
            }
        }
        arguments
    }

    /// The Talos version that the stand-in stands for: a part of the installer's path,
    /// `/image/<schematic>/<version>/<file>`.
    fn version(&self) -> Option<String> {
        let version = self.installer.as_deref()?.rsplit('/').nth(1)?;
        version.starts_with('v').then(|| version.to_owned())
    }
}

/// One boot: where it came from, and what is known about it.
#[derive(Debug)]
struct Boot {
    /// The command line that counts: the kernel's own, or the one that was installed.
    cmdline: String,
    arguments: Arguments,
    /// What the disk remembers, if this boot is from there.
    state: Option<State>,
}

impl Boot {
    /// `kernel` is the kernel's own command line.
    fn find(kernel: &str) -> Result<Self> {
        if !Arguments::parse(kernel).from_disk {
            return Ok(Self { cmdline: kernel.to_owned(), arguments: Arguments::parse(kernel), state: None });
        }
        for disk in all_disks() {
            let mut file = File::open(&disk.path).with_context(|| format!("cannot open {}", disk.name))?;
            if let Some(state) = State::read(&mut file).with_context(|| format!("disk {}", disk.name))? {
                let arguments = Arguments::parse(&state.cmdline);
                return Ok(Self { cmdline: state.cmdline.clone(), arguments, state: Some(state) });
            }
        }
        anyhow::bail!("booted from disk, but no disk has a state")
    }
}

/// What is done with the machine when it has joined.
enum Then {
    Reboot,
    /// With the tunnel, as long as the machine runs.
    Stay(Option<Box<Up>>),
}

/// Runs the machine: the network in the background, everything else in order, again from the beginning when
/// something fails.
pub async fn run() -> Result<(), Infallible> {
    let kernel = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let kernel = kernel.trim();
    say!("cmdline {kernel}");
    let seed = uuid::Uuid::new_v4().as_fields().0;
    let (sender, mut addresses) = mpsc::channel(16);
    let life = async {
        let Some(first) = addresses.recv().await else { return };
        let mut backoff = Backoff::new(seed);
        let up = loop {
            match live(kernel, &first).await {
                Ok(Then::Reboot) => machine::reboot_now(),
                Ok(Then::Stay(up)) => break up,
                Err(error) => {
                    let wait = backoff.next_wait();
                    say!("{error:#}; again in {} s", wait.as_secs());
                    tokio::time::sleep(wait).await;
                }
            }
        };
        let metal_agent = async {
            if let Err(error) = metal_agent::run(up.as_deref()).await {
                say!("metal agent: {error:#}");
            }
        };
        // Later addresses need no act, but somebody has to listen.
        let later = async { while addresses.recv().await.is_some() {} };
        tokio::join!(metal_agent, later);
    };
    // Nothing is lost by dropping the network: the kernel keeps the address for the moment before the reboot.
    tokio::select! {
        () = net::run(sender, seed) => say!("the network ended"),
        () = life => {}
    }
    Ok(())
}

async fn live(kernel: &str, up: &net::Up) -> Result<Then> {
    let boot = Boot::find(kernel)?;
    let mut identity =
        Identity::read(Path::new(identity::DMI), Path::new(net::SYS_NET), identity::randomness().await)?;
    if let Some(state) = &boot.state {
        say!("installed with cmdline {}", state.cmdline);
        identity.token =
            NodeUniqueToken::decode(&state.unique_token).context("the token on the disk is damaged")?;
    }

    let config = configuration(&boot.cmdline, &identity, up).await?;
    let version = boot.arguments.version();
    let version = version.as_deref().unwrap_or(join::TALOS_VERSION);
    let response = join::provision(&config, &identity, version).await?;
    say!("joined as {}, Talos {version}", identity.uuid);
    let registration = Registration { config, response };
    let up = bring_up(&registration, &identity).await;
    let config = registration.config;

    if boot.state.is_some() {
        tell(&config, up.as_deref(), &events::boot_began()).await?;
        say!("running from disk");
        return Ok(Then::Stay(up));
    }
    let Some(url) = &boot.arguments.installer else {
        say!("no standin.installer on the kernel command line: stays in memory");
        return Ok(Then::Stay(up));
    };
    let state = State { cmdline: boot.cmdline, unique_token: identity.token.encode() };
    write_disk(url, &state).await?;
    tell(&config, up.as_deref(), &events::install_ended()).await?;
    Ok(Then::Reboot)
}

/// SideroLink's tunnel, as Talos has it for as long as it runs. A hub without WireGuard is reached without.
async fn bring_up(registration: &Registration, identity: &Identity) -> Option<Box<Up>> {
    let up = match Plan::read(registration) {
        Ok(plan) => Up::start(plan, registration.config.trust.clone(), &identity.wireguard).await,
        Err(error) => Err(error.into()),
    };
    up.inspect_err(|error| say!("no tunnel: {error}")).ok().map(Box::new)
}

/// The join configuration, with the machine's own values in its URL.
async fn configuration(cmdline: &str, identity: &Identity, up: &net::Up) -> Result<JoinConfig> {
    let url = Cmdline::parse(cmdline).config_url.context("no talos.config on the kernel command line")?;
    let url = substitute(&url, &identity.uuid, Some(&net::mac_text(up.nic.mac)), None);
    join::configuration(&url).await.with_context(|| format!("configuration {url}"))
}

async fn write_disk(url: &str, state: &State) -> Result<()> {
    let uri: Uri = url.parse().with_context(|| format!("standin.installer={url} is no URL"))?;
    let Target { name, path, size } =
        all_disks().into_iter().next().context("there is no disk to install on")?;
    say!("installing {url} on {name}");
    let began = Instant::now();
    let mut disk = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {name}"))?;
    let length = install::install(&uri, &mut disk, size, state).await?;
    say!("installed {} MiB on {name} in {:.1} s", length >> 20, began.elapsed().as_secs_f32());
    Ok(())
}

fn all_disks() -> Vec<Target> {
    disks::scan(Path::new(disks::SYS_BLOCK), Path::new(disks::DEV)).0
}

/// Sends an event until it is taken.
async fn tell(config: &JoinConfig, up: Option<&Up>, event: &SequenceEvent) -> Result<()> {
    let sink = config.event_endpoint.as_deref().context("the configuration names no event sink")?;
    let mut attempt = 1;
    loop {
        match events::publish(sink, up.map(Up::tunnel), event).await {
            Ok(()) => return Ok(()),
            Err(error) if attempt < PUBLISH_ATTEMPTS => say!("{error:#}; again in a moment"),
            Err(error) => return Err(error),
        }
        attempt += 1;
        tokio::time::sleep(PUBLISH_PAUSE).await;
    }
}

#[cfg(test)]
mod tests;
