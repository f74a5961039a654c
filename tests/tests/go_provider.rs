//! The provider that bootlace takes the place of, a program of somebody else's in Go, with our agent on its machines
//! and our hub as its Omni: on the wire both are what it knows.
//!
//! ```text
//! hub 10.88.0.2 (bootlace, boots nobody) ◄── Omni's API ── Go provider 10.88.0.1 ◄── tunnel ── agent (QEMU)
//! ```
//!
//! Go is needed to build it, so `tests/conformance/provider/run.sh` builds it and names it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use testbed::{
    APPLIANCE_ADDRESS, Bed, DiskSpec, Firmware, LIMIT, Listed, MachineSpec, ROUTER_ADDRESS, Role,
    TALOS_VERSION, built, wait_until,
};

/// Room for the stand-in system's image.
const DISK_MIB: u64 = 256;
/// Where the hub's API listens.
const API_PORT: u16 = 50044;
/// A schematic's id, which the provider only hands on.
const SCHEMATIC: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";

/// The hub, and what an operator does there.
struct Hub {
    binary: PathBuf,
    config: PathBuf,
}

impl Hub {
    fn start(bed: &Bed) -> Result<Self> {
        let binary = built("BOOTLACE", &format!("target/{}/release/bootlace", env!("TARGET")))?;
        let (state, assets) = (bed.dir().join("hub"), bed.dir().join("nothing"));
        fs::create_dir_all(&assets)?;
        let config = bed.dir().join("hub.toml");
        let text = format!(
            "state_dir = {state:?}\n\
             id = \"own\"\n\
             [api]\n\
             advertise_address = \"{ROUTER_ADDRESS}\"\n\
             [netboot]\n\
             disable_dhcp_proxy = true\n\
             [boot]\n\
             assets_path = {assets:?}\n\
             [hub]\n\
             api_listen = \"{ROUTER_ADDRESS}:{API_PORT}\"\n"
        );
        fs::write(&config, text)?;
        let mut command = bed.net().command(Role::Router, &binary);
        command.args(["run", "-c"]).arg(&config).stdin(Stdio::null());
        log_to(&mut command, &bed.dir().join("hub.log"))?;
        bed.spawn("hub", command)?;
        let socket = state.join("bootlace.sock");
        wait_until(LIMIT, "the hub's socket", || UnixStream::connect(&socket).ok())?;
        Ok(Self { binary, config })
    }

    fn cli(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        let output = command.args(args).arg("-c").arg(&self.config).stdin(Stdio::null()).output()?;
        ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    fn machines(&self) -> Result<Vec<Listed>> {
        Ok(serde_json::from_str(&self.cli(&["machines", "list", "-o", "json"])?)?)
    }

    /// Until the only machine is as wanted.
    fn wait(&self, what: &str, wanted: impl Fn(&Listed) -> bool) -> Result<()> {
        let begin = Instant::now();
        let found = || self.machines().ok()?.into_iter().find(&wanted);
        let machine = wait_until(LIMIT, what, found).with_context(|| format!("{:?}", self.machines()))?;
        println!("hub: {what:<41} +{:.1} s   {machine:?}", begin.elapsed().as_secs_f32());
        Ok(())
    }
}

fn log_to(command: &mut Command, path: &Path) -> Result<()> {
    let log = File::create(path)?;
    command.stdout(log.try_clone()?).stderr(log);
    Ok(())
}

/// What the provider boots: our agent, as if it were its own image, and the system that machines install.
fn assets(bed: &Bed) -> Result<PathBuf> {
    let images = built("BOOTLACE_ASSETS", "build/assets")?;
    let assets = bed.dir().join("assets");
    let copied = Command::new("cp").arg("-r").args([&images, &assets]).status()?;
    ensure!(copied.success(), "{} cannot be copied", images.display());
    // It sends no machine anywhere without this file.
    fs::write(assets.join("cmdline-metal-amd64"), "talos.platform=metal\n")?;
    Ok(assets)
}

/// An Image Factory that has one image, which is served from the provider's own files.
fn factory(bed: &Bed) -> Result<String> {
    let listener = bed.net().inside(Role::Router, || {
        let listener = TcpListener::bind((ROUTER_ADDRESS, 0))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    })?;
    let url = format!("http://{}", listener.local_addr()?);
    let arguments = Arc::new(Mutex::new(String::new()));
    let posted = arguments.clone();
    let create = move |schematic: String| async move {
        let list = schematic.lines().filter_map(|line| line.trim().strip_prefix("- "));
        let list: Vec<&str> = list.map(|word| word.trim_matches(['"', '\''])).collect();
        *posted.lock().expect("no panic") = list.join(" ");
        (StatusCode::CREATED, Json(serde_json::json!({ "id": SCHEMATIC, "schematic": schematic })))
    };
    let script = move || async move {
        let files = format!("http://{APPLIANCE_ADDRESS}:50042/assets/image/{SCHEMATIC}/{TALOS_VERSION}");
        let arguments = arguments.lock().expect("no panic").clone();
        format!(
            "#!ipxe\nimgfree\nkernel {files}/kernel-amd64 initrd=initramfs-amd64.xz talos.platform=metal \
             {arguments} standin.installer={files}/metal-amd64.raw\ninitrd {files}/initramfs-amd64.xz\nboot\n"
        )
    };
    let router = Router::new()
        .route("/schematics", post(create))
        .route(&format!("/pxe/{SCHEMATIC}/{{version}}/metal-amd64"), get(script));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await })
    });
    Ok(url)
}

/// The provider's log, of which the test says what it wants to see.
struct Provider {
    log: PathBuf,
}

impl Provider {
    fn start(bed: &Bed, hub: &Hub) -> Result<Self> {
        let program = std::env::var_os("GO_PROVIDER").map(PathBuf::from);
        let program = program.context("run tests/conformance/provider/run.sh")?;
        let key = hub.cli(&["hub", "provider", "create", "bare-metal"])?;
        let (assets, factory) = (assets(bed)?, factory(bed)?);
        fs::create_dir_all(bed.power_dir())?;
        let mut command = bed.net().command(Role::Appliance, program);
        for line in key.lines() {
            if let Some((name, value)) = line.trim_start_matches("export ").split_once('=') {
                command.env(name, value.trim_matches(['"', '\'']));
            }
        }
        command.args(["--debug", "--agent-test-mode", "--use-local-boot-assets", "--boot-assets-path"]);
        command.arg(assets).arg("--api-power-mgmt-state-dir").arg(bed.power_dir());
        command.args([
            "--api-advertise-address",
            &APPLIANCE_ADDRESS.to_string(),
            "--dhcp-proxy-iface-or-ip",
            "eth0",
        ]);
        command.args(["--image-factory-base-url", &factory, "--image-factory-pxe-base-url", &factory]);
        let log = bed.dir().join("provider.log");
        command.stdin(Stdio::null());
        log_to(&mut command, &log)?;
        let mut child = bed.spawn("Go provider", command)?;
        let provider = Self { log };
        wait_until(LIMIT, "the provider's server", || match child.try_wait() {
            Ok(None) => provider.says("start HTTP server").then_some(Ok(())),
            ended => Some(Err(anyhow::anyhow!("it ended: {ended:?}"))),
        })
        .map_err(anyhow::Error::from)
        .flatten()
        .with_context(|| provider.text())?;
        Ok(provider)
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn says(&self, words: &str) -> bool {
        self.text().contains(words)
    }

    fn wait(&self, words: &str) -> Result<()> {
        let begin = Instant::now();
        wait_until(LIMIT, words, || self.says(words).then_some(()))?;
        println!("provider: {words:<36} +{:.1} s", begin.elapsed().as_secs_f32());
        Ok(())
    }
}

fn life(bed: &Bed, hub: &Hub, provider: &Provider) -> Result<()> {
    let spec = MachineSpec::new("go", Firmware::Bios).disk(DiskSpec::used(DISK_MIB));
    let machine = bed.machine(spec.disk(DiskSpec::used(DISK_MIB / 2).read_only()))?;
    let [system, read_only] = machine.disks() else { bail!("two disks") };
    let before = [system.snapshot()?, read_only.snapshot()?];
    machine.power_on()?;
    provider.wait("boot agent mode using local assets")?;
    hub.wait("pending in the hub", |machine| machine.state == "pending")?;
    machine.console().wait(LIMIT, &format!("agent: tunnel: open to http://{APPLIANCE_ADDRESS}:50042"))?;
    // It has asked Hello.
    provider.wait("handle agent connection event")?;
    for disk in &before {
        ensure!(disk.first_change()?.is_none(), "nothing is wiped before acceptance");
    }

    let id = machine.uuid().to_string();
    hub.cli(&["machines", "accept", &id])?;
    // GetPowerManagement and SetPowerManagement, WipeDisks.
    provider.wait("api bmc config initialized")?;
    provider.wait("wiped disks on the machine")?;
    machine.wait_power_call(LIMIT, "/poweroff")?;
    machine.wait_power(LIMIT, false)?;
    hub.wait("accepted, ready and off", |machine| {
        machine.state == "accepted" && machine.ready && machine.power == "off"
    })?;
    ensure!(system.is_blank()?, "the disk of an accepted machine is wiped");
    ensure!(before[1].first_change()?.is_none(), "a disk that cannot be written to is left alone");

    hub.cli(&["machines", "allocate", &id, "--cluster", "edge", "--talos-version", TALOS_VERSION])?;
    machine.wait_power_call(LIMIT, "/poweron")?;
    provider.wait("boot machine: Talos over iPXE")?;
    machine.console().wait(LIMIT, "standin: installed")?;
    machine.console().wait(LIMIT, "standin: running from disk")?;
    hub.wait("installed", |machine| machine.installed && machine.cluster == "edge")
}

#[test]
#[ignore = "needs Go: tests/conformance/provider/run.sh"]
fn the_go_provider_drives_our_agent_with_our_hub_as_its_omni() -> Result<()> {
    let bed = Bed::start()?;
    let hub = Hub::start(&bed)?;
    let provider = Provider::start(&bed, &hub)?;
    life(&bed, &hub, &provider).inspect_err(|_| {
        let hub = fs::read_to_string(bed.dir().join("hub.log")).unwrap_or_default();
        eprintln!("{}\n--- hub\n{hub}\n--- provider\n{}", bed.report(), provider.text());
    })
}
