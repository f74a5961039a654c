//! Whole boots: a rack that is switched on at once.
//!
//! ```text
//! DISCOVER ─► offer ─► [4011] ─► loader by TFTP or HTTP ─► iPXE's DISCOVER ─► offer ─► init script ─► boot script
//!          ─► kernel ─► initramfs ─► hello: the join configuration
//! ```
//!
//! Each machine sends what its firmware sends ([`Firmware`]) and repeats what is not answered as firmware does. What
//! it fetches is what it was told: the loader by the offer, kernel and initramfs by the script. Addresses are dealt
//! out here; the site's DHCP server has no part in a comparison of boot servers.

mod exchange;
mod script;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netboot::tftp::Wanted;
use tokio::task::LocalSet;

use self::exchange::Exchange;
use self::script::{Machine, Steps, url};
use crate::cost::Server;
use crate::firmware::{Firmware, Identity, Offer, proxy_request};
use crate::http::{Body, Connection, runtime};
use crate::report::{Report, Unit};
use crate::stats::Phase;
use crate::tftp::{self, Link};

/// Loaders of real life have 1 MB.
const LOADER_MAX: usize = 64 << 20;
/// Scripts that lead to scripts: init and boot are two.
const CHAIN_MAX: usize = 8;
/// How long the size of a loader is asked for.
const SIZE_LIMIT: Duration = Duration::from_secs(20);

/// The parts of a boot, in order.
const PHASES: [&str; 8] = ["dhcp", "loader", "ipxe dhcp", "script", "kernel", "initramfs", "hello", "whole"];

/// Who boots, and from whom.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// The boot server's address
    #[arg(long)]
    pub server: Ipv4Addr,
    /// The clients' interface; without it the server is asked by unicast
    #[arg(long)]
    pub interface: Option<String>,
    /// The first address of the machines
    #[arg(long)]
    pub address: Ipv4Addr,
    /// How many addresses from there on the machines share
    #[arg(long, default_value_t = 1)]
    pub addresses: u32,
    /// Machines
    #[arg(long, default_value_t = 100)]
    pub clients: u32,
    /// Their firmware; several take turns
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ovmf")]
    pub firmware: Vec<Firmware>,
    /// They are switched on within so many seconds
    #[arg(long, default_value_t = 0.0)]
    pub spread: f64,
    /// Who has not booted by then has failed, in seconds
    #[arg(long, default_value_t = 300.0)]
    pub limit: f64,
    /// Tells the machines of this run from those of others
    #[arg(long, default_value_t = 1)]
    pub run: u16,
    /// The DHCP server's port
    #[arg(long, default_value_t = 67)]
    pub dhcp_port: u16,
    /// The DHCP client's port
    #[arg(long, default_value_t = 68)]
    pub from_port: u16,
    /// The TFTP server's port
    #[arg(long, default_value_t = 69)]
    pub tftp_port: u16,
    /// No boot protocol: these paths after one another by HTTP from the server, as a plain file server can
    #[arg(long, value_name = "PORT,PATH..", value_delimiter = ',')]
    pub plain: Vec<String>,
}

/// How long one machine's parts took.
#[derive(Default)]
struct Boot {
    micros: [Option<u64>; PHASES.len()],
    bytes: u64,
    repeats: u64,
}

struct Shared {
    load: Load,
    exchange: Exchange,
    epoch: Instant,
}

impl Load {
    /// Runs it.
    ///
    /// # Errors
    /// When the load itself does not work; a machine that does not boot is part of the report.
    pub fn run(&self, server: &Server) -> Result<Report> {
        runtime()?.block_on(LocalSet::new().run_until(self.boots(server)))
    }

    /// As [`Load::run`], within a runtime and a local set.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub async fn boots(&self, server: &Server) -> Result<Report> {
        ensure!(!self.firmware.is_empty(), "no firmware");
        let exchange = Exchange::start(self)?;
        let shared = Rc::new(Shared { load: self.clone(), exchange, epoch: Instant::now() });
        let (meter, started) = (server.meter(), tokio::time::Instant::now());
        let end = started + Duration::from_secs_f64(self.limit);
        let clients: Vec<_> = (0..self.clients)
            .map(|number| {
                let shared = Rc::clone(&shared);
                let wait = self.spread * f64::from(number) / f64::from(self.clients);
                tokio::task::spawn_local(tokio::time::timeout_at(end, async move {
                    tokio::time::sleep_until(started + Duration::from_secs_f64(wait)).await;
                    let mut boot = Boot::default();
                    let began = Instant::now();
                    let result = shared.boot(number, &mut boot).await;
                    boot.took(7, began);
                    (boot, result)
                }))
            })
            .collect();
        let mut report = Report::new("storm", self.clients as usize, Unit::Bytes);
        let mut phases: [Vec<u64>; PHASES.len()] = Default::default();
        for client in clients {
            match client.await.context("a machine panicked")? {
                Ok((boot, result)) => {
                    report.work += boot.bytes;
                    report.repeats += boot.repeats;
                    match result {
                        Ok(()) => {
                            report.done += 1;
                            for (phase, micros) in phases.iter_mut().zip(boot.micros) {
                                phase.extend(micros);
                            }
                        }
                        Err(error) => report.fail(format!("{error:#}")),
                    }
                }
                Err(_) => report.fail(format!("not booted within {} s", self.limit)),
            }
        }
        report.seconds = started.elapsed().as_secs_f64();
        report.server = meter.stop();
        report.phases = PHASES
            .iter()
            .zip(phases)
            .filter(|(_, times)| !times.is_empty())
            .map(|(name, times)| Phase::of(name, times))
            .collect();
        Ok(report)
    }
}

impl Boot {
    fn took(&mut self, phase: usize, began: Instant) {
        self.micros[phase] = Some(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
}

impl Shared {
    fn address(&self, number: u32) -> Ipv4Addr {
        tftp::nth(self.load.address, number as usize, self.load.addresses)
    }

    async fn boot(&self, number: u32, boot: &mut Boot) -> Result<()> {
        let address = self.address(number);
        if let [port, paths @ ..] = self.load.plain.as_slice() {
            return self
                .plain(SocketAddrV4::new(self.load.server, port.parse()?), paths, address, boot)
                .await;
        }
        let identity = Identity::new(self.load.run, number);
        let firmware = self.load.firmware[number as usize % self.load.firmware.len()];
        let began = Instant::now();
        let mut offer = self.exchange.discover(firmware.discover(), identity, boot).await.context("dhcp")?;
        if !offer.use_this_file || offer.file.is_empty() {
            let request = proxy_request(firmware.discover(), address);
            offer = self
                .exchange
                .ask_proxy(request, identity, self.load.server, boot)
                .await
                .context("port 4011")?;
        }
        boot.took(0, began);
        if let Some(discover) = firmware.ipxe_discover() {
            let began = Instant::now();
            self.loader(firmware, &offer, address, boot).await.context("loader")?;
            boot.took(1, began);
            let began = Instant::now();
            offer = self.exchange.discover(discover, identity, boot).await.context("ipxe dhcp")?;
            boot.took(2, began);
        }
        let began = Instant::now();
        let (host, path) = url(&offer.file).with_context(|| format!("iPXE was offered {:?}", offer.file))?;
        let mut connection = Connection::open(host, address).await.context("script")?;
        let machine = Machine::of(identity);
        let steps = Self::steps(&mut connection, path, &machine).await.context("script")?;
        boot.took(3, began);
        for (phase, part) in [(4, &steps.kernel), (5, &steps.initrd)] {
            let began = Instant::now();
            boot.bytes +=
                fetch(&mut connection, part, host).await.with_context(|| PHASES[phase].to_owned())?;
            boot.took(phase, began);
        }
        // The kernel has a network stack of its own: a new connection.
        let began = Instant::now();
        drop(connection);
        let mut connection = Connection::open(host, address).await.context("hello")?;
        let answer = connection.get(&steps.hello, Body::Text).await.context("hello")?;
        ensure!(answer.status == 200, "hello: status {}, {}", answer.status, answer.text.trim());
        boot.took(6, began);
        Ok(())
    }

    async fn loader(
        &self,
        firmware: Firmware,
        offer: &Offer,
        address: Ipv4Addr,
        boot: &mut Boot,
    ) -> Result<()> {
        if let Some((host, path)) = url(&offer.file) {
            let mut connection = Connection::open(host, address).await?;
            boot.bytes += fetch(&mut connection, path, host).await?;
            return Ok(());
        }
        let server = if offer.server.is_unspecified() { self.load.server } else { offer.server };
        let requests = firmware.tftp_requests();
        let Some((last, sizes)) = requests.split_last() else { anyhow::bail!("no URL: {}", offer.file) };
        let wanted = |options| Wanted {
            server: SocketAddrV4::new(server, self.load.tftp_port),
            name: offer.file.clone(),
            options,
            max_bytes: LOADER_MAX,
        };
        let mut told = None;
        for options in sizes {
            told = Some(tftp::ask_size(wanted(*options), address, SIZE_LIMIT).await.context("size")?);
        }
        let mut link = Link::clean().with_timeout(firmware.tftp_timeout()).together();
        let transfer = tftp::read(wanted(*last), address, &mut link, self.epoch).await?;
        ensure!(told.is_none_or(|size| size == transfer.bytes), "{} bytes came of {told:?}", transfer.bytes);
        boot.bytes += transfer.bytes;
        boot.repeats += transfer.repeats;
        Ok(())
    }

    /// From script to script until one names a kernel.
    async fn steps(connection: &mut Connection, path: &str, machine: &Machine) -> Result<Steps> {
        let mut path = path.to_owned();
        for _ in 0..CHAIN_MAX {
            let answer = connection.get(&path, Body::Text).await?;
            ensure!(answer.status == 200, "status {} for {path}: {}", answer.status, answer.text.trim());
            match script::read(&answer.text, machine)? {
                script::Script::Chain(next) => path = next,
                script::Script::Boot(steps) => return Ok(steps),
            }
        }
        anyhow::bail!("scripts lead to scripts without end")
    }

    async fn plain(
        &self,
        host: SocketAddrV4,
        paths: &[String],
        address: Ipv4Addr,
        boot: &mut Boot,
    ) -> Result<()> {
        let mut connection = Connection::open(host, address).await?;
        for (path, phase) in paths.iter().zip([1, 4, 5]) {
            let began = Instant::now();
            boot.bytes += fetch(&mut connection, path, host).await.with_context(|| path.clone())?;
            boot.took(phase, began);
        }
        Ok(())
    }
}

async fn fetch(connection: &mut Connection, part: &str, host: SocketAddrV4) -> Result<u64> {
    let path = match url(part) {
        Some((other, path)) => {
            ensure!(other == host, "{part} is on another server");
            path
        }
        None => part,
    };
    let answer = connection.get(path, Body::Discard).await?;
    ensure!(answer.status == 200, "status {} for {path}", answer.status);
    Ok(answer.length)
}
