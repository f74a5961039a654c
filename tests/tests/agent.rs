//! The agent on servers: which disks it wipes and which it never touches, how little memory it needs, how soon it
//! is there, how it takes over a BMC; and agents that do not behave, as the operator sees them.
//!
//! They need root and what `make images image` builds, or what BOOTLACE, `BOOTLACE_ASSETS` and `BOOTLACE_METAL` name.
//! Each test has a bed of its own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent_wire::management::agent_service_server::AgentServiceServer;
use agent_wire::token::NodeUniqueToken;
use agent_wire::tunnel::{self, FINGERPRINT_HEADER, MACHINE_ID_HEADER};
use anyhow::{Context, Result, bail, ensure};
use bootlace_agent::identity::Identity;
use bootlace_agent::retry::Backoff;
use bootlace_agent::{fetch, join};
use bootlace_image::stick::fat;
use siderolink::PrivateKey;
use testbed::agent::{Conduct, FakeAgent};
use testbed::{
    APPLIANCE_ADDRESS, ApplianceSpec, BMC_USER, Bed, Bus, Disk, DiskSpec, Entry, Firmware, LIMIT, Machine,
    MachineSpec, POWER_ADDRESS, Role, Site, Snapshot, built,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use uuid::Uuid;

const MIB: u64 = 1 << 20;
const DISK_MIB: u64 = 64;
/// The agent's first line on the console.
const PID1: &str = "agent: version";

/// What a busy machine may take at most; what an idle one should take is printed beside the figure.
const SANE: Duration = LIMIT;
/// For what needs no machine to boot.
const SOON: Duration = Duration::from_secs(20);

/// The agent with Debian's generic kernel and the drivers of real servers, and what such a machine installs.
fn metal(bed_files: &Path) -> Result<PathBuf> {
    let (metal, images) =
        (built("BOOTLACE_METAL", "build/metal")?, built("BOOTLACE_ASSETS", "build/assets")?);
    let assets = bed_files.join("assets");
    fs::create_dir_all(&assets)?;
    for name in ["kernel-amd64", "initramfs-metal-amd64.xz"] {
        fs::copy(metal.join(name), assets.join(name)).with_context(|| format!("no {name}"))?;
    }
    let copied = Command::new("cp").arg("-r").arg(images.join("image")).arg(&assets).status()?;
    ensure!(copied.success(), "the stand-in system cannot be copied");
    Ok(assets)
}

fn site(assets: &Path, change: impl FnOnce(ApplianceSpec) -> ApplianceSpec) -> Result<Site> {
    Site::start(change(ApplianceSpec::built()?.assets(metal(assets)?)))
}

/// Since its power-on, by the journal's clock.
fn since_power_on(machine: &Machine, entry: &Entry) -> Duration {
    let on = machine.powered_on_at().map_or(Duration::ZERO, |at| at.elapsed());
    let on = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(on);
    Duration::from_millis(entry.at_ms).saturating_sub(on)
}

/// From power-on to pending, and from PID 1 to the first answered call (the inventory, which is more than Hello).
fn discover(site: &Site, machine: &Machine, wanted: Duration) -> Result<()> {
    machine.power_on()?;
    let pending = since_power_on(machine, &site.step(machine, "pending")?);
    let answered = since_power_on(machine, &site.step(machine, "inventory")?);
    let pid1 = machine.console().wait(LIMIT, PID1)?.at;
    let open = machine.console().wait(LIMIT, "agent: tunnel: open")?.at;
    println!(
        "{:<10} FIGURES power-on to pending {:.1} s (wanted {:.0}); PID 1 at {:.1} s, from there to the tunnel {:.2} s, \
         to the first answered call {:.2} s (wanted 2)",
        machine.name(),
        pending.as_secs_f32(),
        wanted.as_secs_f32(),
        pid1.as_secs_f32(),
        open.saturating_sub(pid1).as_secs_f32(),
        answered.saturating_sub(pid1).as_secs_f32(),
    );
    ensure!(pending < SANE && answered < SANE, "it took far too long");
    Ok(())
}

fn write(disk: &Disk, bytes: &[u8], at: u64) -> Result<()> {
    Ok(File::options().write(true).open(disk.path())?.write_all_at(bytes, at)?)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// A GPT with an ext4 and a physical volume of LVM, made by the usual tools as far as they work on files.
fn partition(disk: &Disk) -> Result<()> {
    let layout = "printf 'label: gpt\\nstart=2048,size=32768\\nstart=65536,size=32768\\n' | sfdisk -q \"$0\"";
    run(Command::new("sh").args(["-c", layout]).arg(disk.path()))?;
    let offset = format!("offset={}", 2048 * 512);
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", &offset]).arg(disk.path()).arg("16M"))?;
    let mut label = [0; 512];
    label[..8].copy_from_slice(b"LABELONE");
    label[24..32].copy_from_slice(b"LVM2 001");
    write(disk, &label, 65536 * 512 + 512)
}

/// Ceph at the front, ZFS's labels at both ends, software RAID at the end.
fn pool(disk: &Disk) -> Result<()> {
    write(disk, b"bluestore block device\n", 0)?;
    let label = 256 << 10;
    let size = disk.size_mib() * MIB;
    for start in [0, label, size - 2 * label, size - label] {
        let uberblocks = start + label / 2;
        // `blkid` believes in four of them.
        for number in 0..8 {
            let mut block = [0; 1024];
            block[..8].copy_from_slice(&0x00ba_b10c_u64.to_le_bytes());
            block[8] = 0x88;
            block[16] = 9;
            write(disk, &block, uberblocks + number * 1024)?;
        }
    }
    // The superblock of version 1.0, of which only mark, version and its own place are right.
    let place = size - (8 << 10);
    let mut superblock = [0; 256];
    superblock[..8].copy_from_slice(&[0xfc, 0x4e, 0x2b, 0xa9, 1, 0, 0, 0]);
    superblock[144..152].copy_from_slice(&(place / 512).to_le_bytes());
    write(disk, &superblock, place)
}

/// The first and the last MiB, and those of the partitions that were there.
fn ends_are_blank(disk: &Disk, partitions: &[(u64, u64)]) -> Result<bool> {
    let file = File::open(disk.path())?;
    let whole = (0, disk.size_mib() * MIB);
    for &(start, length) in [whole].iter().chain(partitions) {
        for at in [start, start + length - MIB] {
            let mut mib = vec![0; 1 << 20];
            file.read_exact_at(&mut mib, at)?;
            if mib.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Debian's iPXE on a stick: UEFI starts it, and it boots from the network.
fn stick(bed: &Bed) -> Result<PathBuf> {
    let path = bed.dir().join("stick.img");
    let ipxe = fs::read("/usr/lib/ipxe/ipxe.efi").context("package ipxe")?;
    fs::write(&path, fat::build(8 * MIB, "IPXE", 1, &[("EFI/BOOT/BOOTX64.EFI", &ipxe)])?)?;
    Ok(path)
}

fn untouched(what: &str, before: &Snapshot) -> Result<()> {
    match before.first_change()? {
        None => Ok(()),
        Some(at) => bail!("{what} was touched at byte {at}"),
    }
}

/// The disks of a server: two that are to be wiped, one on the keep list, one that cannot be written to.
fn server(name: &str, firmware: Firmware) -> MachineSpec {
    MachineSpec::new(name, firmware)
        .disk(DiskSpec::blank(DISK_MIB))
        .disk(DiskSpec::blank(DISK_MIB).bus(Bus::Nvme))
        .disk(DiskSpec::used(DISK_MIB).bus(Bus::Ahci).serial("DATA1"))
        .disk(DiskSpec::used(DISK_MIB / 2).read_only())
}

#[test]
fn an_accepted_server_loses_exactly_the_right_disks_and_others_none() -> Result<()> {
    let files = tempfile::tempdir()?;
    let keep = "[wipe]\nkeep = [\"serial:data1\"]\n";
    let site = site(files.path(), |spec| spec.config(keep))?;

    // As much memory as each firmware's network boot needs at least.
    let small = site.bed.machine(server("small", Firmware::Bios).memory_mib(128))?;
    let uefi = site.bed.machine(server("uefi", Firmware::UefiPxe).memory_mib(192))?;
    let mut others = Vec::new();
    for machine in [&small, &uefi] {
        partition(&machine.disks()[0])?;
        pool(&machine.disks()[1])?;
        for disk in machine.disks() {
            others.push((format!("{} of {}", disk.serial(), machine.name()), disk.snapshot()?));
        }
    }
    discover(&site, &small, Duration::from_secs(10))?;
    site.machines("reject", &small, &[])?;
    site.step(&small, "rejected")?;
    discover(&site, &uefi, Duration::from_secs(18))?;
    uefi.power_off()?;

    let image = stick(&site.bed)?;
    let machine = site.bed.machine(server("server", Firmware::UefiPxe).stick(&image))?;
    let [ssd, nvme, data, read_only] = machine.disks() else { bail!("four disks") };
    partition(ssd)?;
    partition(data)?;
    pool(nvme)?;
    println!("before: {:?} {:?} {:?}", ssd.signatures()?, nvme.signatures()?, data.signatures()?);
    ensure!(ssd.signatures()?.iter().any(|kind| kind == "gpt"), "{:?}", ssd.signatures()?);
    for kind in ["zfs_member", "ceph_bluestore", "linux_raid_member"] {
        ensure!(nvme.signatures()?.iter().any(|found| found == kind), "{kind}: {:?}", nvme.signatures()?);
    }
    let medium = fs::read(&image)?;
    let kept =
        [("the disk on the keep list", data.snapshot()?), ("the read-only disk", read_only.snapshot()?)];
    let yet = [ssd.snapshot()?, nvme.snapshot()?];
    // Firmware, then all of iPXE.
    discover(&site, &machine, Duration::from_secs(22))?;
    for before in &yet {
        untouched("a pending machine's disk", before)?;
    }

    site.machines("accept", &machine, &[])?;
    for step in ["wipe_finished", "ready", "power_off"] {
        site.step(&machine, step)?;
    }
    machine.wait_power(LIMIT, false)?;
    // What the operator is told of each disk.
    let journal = site.appliance.cli_ok(&["journal"])?;
    let told: Vec<&str> = journal.lines().filter(|line| line.contains("disk ")).collect();
    println!("{}", told.join("\n"));
    let shown = site.appliance.cli_ok(&["machines", "show", &machine.uuid().to_string(), "-o", "json"])?;
    let shown: serde_json::Value = serde_json::from_str(&shown)?;
    let kept_told = shown["last_wipe"]["disks"].as_array().context("no last wipe is shown")?;
    ensure!(kept_told.len() == told.len(), "{shown}");
    for disk in [ssd, nvme] {
        ensure!(disk.signatures()?.is_empty(), "{}: {:?}", disk.serial(), disk.signatures()?);
    }
    let sector = |number: u64| number * 512;
    ensure!(
        ends_are_blank(ssd, &[(sector(2048), 16 * MIB), (sector(65536), 16 * MIB)])?,
        "of the virtio disk"
    );
    ensure!(ends_are_blank(nvme, &[])?, "of the NVMe disk");
    for (what, before) in &kept {
        untouched(what, before)?;
    }
    ensure!(fs::read(&image)? == medium, "the stick that it booted from was touched");
    for (what, before) in &others {
        untouched(what, before)?;
    }

    for (serial, words) in [
        (ssd.serial(), "is blank: had "),
        (nvme.serial(), "is blank: had "),
        (data.serial(), "left alone: on the keep list: serial:data1"),
        (read_only.serial(), "left alone: read-only"),
        // The stick tells QEMU's serial number of USB devices.
        ("8 MiB", "left alone: the machine booted from it"),
    ] {
        let line =
            told.iter().find(|line| line.contains(serial)).with_context(|| format!("no word of {serial}"))?;
        ensure!(line.contains(words), "{line}");
        ensure!(!words.starts_with("is blank") || line.contains("; took "), "{line}");
    }
    Ok(())
}

/// `ipmitool` in the appliance's network, as a person would use it.
fn ipmitool(site: &Site, machine: &Machine, user: &str, password: &str, words: &[&str]) -> Result<String> {
    let address = machine.bmc_address().context("a BMC")?.to_string();
    let mut command = site.bed.net().command(Role::Appliance, "ipmitool");
    // The simulator has no newer cipher suite than 3.
    command.args(["-I", "lanplus", "-C", "3", "-N", "1", "-R", "3", "-L", "ADMINISTRATOR"]);
    command.args(["-H", &address, "-U", user, "-P", password]).args(words);
    let output = command.stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_bmc_is_taken_over_from_within_and_switches_the_machine_from_then_on() -> Result<()> {
    let files = tempfile::tempdir()?;
    let site = site(files.path(), ApplianceSpec::bmcs)?;
    let spec = MachineSpec::new("bmc", Firmware::Bios).bmc().memory_mib(256);
    let machine = site.bed.machine(spec.disk(DiskSpec::used(256)))?;
    let users = |list: String| list.contains("talos-agent");
    let as_shipped = ["user", "list", "1"];
    ensure!(!users(ipmitool(&site, &machine, BMC_USER, testbed::BMC_PASSWORD, &as_shipped)?), "not yet");

    discover(&site, &machine, Duration::from_secs(10))?;
    ensure!(machine.power_calls().is_empty(), "nobody switches a pending machine");
    site.machines("accept", &machine, &[])?;
    let configured = site.step(&machine, "power_configured")?;
    ensure!(configured.detail("driver") == "ipmi", "{configured}");
    println!("{}", machine.console().wait(LIMIT, "agent: BMC: user")?.text);
    ensure!(users(ipmitool(&site, &machine, BMC_USER, testbed::BMC_PASSWORD, &as_shipped)?), "made over KCS");
    for step in ["wipe_finished", "ready", "power_off"] {
        site.step(&machine, step)?;
    }
    machine.wait_power(LIMIT, false)?;
    machine.wait_power_call(LIMIT, "/poweroff")?;

    site.allocate(&machine)?;
    let on = site.step(&machine, "power_on")?;
    ensure!(on.detail("pxe") == "true", "{on}");
    machine.wait_power(LIMIT, true)?;
    let orders = machine.power_orders();
    ensure!(orders.ends_with(&["/pxeboot", "/poweron"]), "network first, then on: {orders:?}");
    site.step(&machine, "installed")?;
    machine.console().wait(LIMIT, "standin: running from disk")?;
    Ok(())
}

/// What an agent that does not behave does.
#[derive(Clone, Copy, Debug)]
enum Manner {
    /// Takes calls and never answers.
    Silent,
    /// Has no such disk.
    UnknownDisk,
}

#[tonic::async_trait]
impl Conduct for Manner {
    async fn asked(&self) {
        if matches!(self, Self::Silent) {
            std::future::pending::<()>().await;
        }
    }

    async fn wipe_disks(&self) -> Result<(), Status> {
        Err(Status::not_found("failed to wipe: nvme9n1: no such disk"))
    }
}

/// An agent on a machine that is none.
#[derive(Clone, Copy)]
struct Pretender {
    uuid: Option<Uuid>,
    /// Tells its network cards from others'.
    number: u8,
    manner: Manner,
    /// Or it opens a tunnel without that.
    joins: bool,
}

impl Pretender {
    /// Boots, joins and opens a tunnel as a machine does; gives the reason when the tunnel ends.
    async fn run(self) -> Result<String> {
        let appliance = format!("http://{APPLIANCE_ADDRESS}:50042");
        let fingerprint = format!("{:02x}", self.number).repeat(32);
        let mut metadata = MetadataMap::new();
        metadata.insert(FINGERPRINT_HEADER, fingerprint.parse()?);
        if let Some(uuid) = self.uuid {
            metadata.insert(MACHINE_ID_HEADER, uuid.to_string().parse()?);
            if self.joins {
                self.join(&appliance, uuid, fingerprint).await?;
            }
        }
        let channel = tunnel::connect(appliance.parse()?).await?;
        match tunnel::serve(channel, metadata, Routes::new(AgentServiceServer::new(FakeAgent(self.manner))))
            .await
        {
            Ok(ended) => Ok(ended.reason),
            Err(tunnel::ServeError::Refused(status)) => Ok(status.message().to_owned()),
            Err(error) => Err(error.into()),
        }
    }

    async fn join(self, appliance: &str, uuid: Uuid, fingerprint: String) -> Result<()> {
        // The configuration is for machines that boot. As iPXE does, it asks until there is an answer.
        let mac = format!("52:54:00:77:00:{:02x}", self.number);
        let script = format!("{appliance}/ipxe/boot.ipxe?uuid={uuid}&mac={mac}&arch=x86_64");
        while !fetch::get(&script).await.is_ok_and(|script| script.contains("kernel ")) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let token = Uuid::from_u128(self.number.into()).to_string();
        let identity = Identity {
            uuid: uuid.to_string(),
            token: NodeUniqueToken { fingerprint: fingerprint.clone(), token },
            fingerprint,
            wireguard: PrivateKey::from_bytes([self.number; 32]),
        };
        join::join(&format!("{appliance}/config?u={uuid}"), &identity, Backoff::new(1), || {}).await;
        Ok(())
    }
}

/// The power API of a machine that is always on.
async fn always_on(directory: &Path, uuid: Uuid) -> Result<()> {
    let listener = tokio::net::TcpListener::bind((POWER_ADDRESS, 0)).await?;
    let config = serde_json::json!({
        "NodeUUID": uuid, "GatewayAddrs": [POWER_ADDRESS], "APIPort": listener.local_addr()?.port(),
    });
    fs::write(directory.join("pretender.config"), config.to_string())?;
    let status = axum::routing::get(|| async { axum::Json(serde_json::json!({ "PoweredOn": true })) });
    Ok(axum::serve(listener, axum::Router::new().route("/status", status)).await?)
}

#[test]
fn agents_that_do_not_behave_are_named_in_the_journal() -> Result<()> {
    let site = Site::start(ApplianceSpec::built()?.config("call_timeout = \"1s\"\n"))?;
    let (silent, diskless) = (Uuid::from_u128(0x51_1e47), Uuid::from_u128(0xd15c));
    let pretender = |uuid, number, manner| Pretender { uuid, number, manner, joins: true };
    let first = [
        pretender(Some(silent), 1, Manner::Silent),
        pretender(Some(diskless), 2, Manner::UnknownDisk),
        pretender(None, 3, Manner::UnknownDisk),
    ];
    let second = Pretender { joins: false, ..pretender(Some(diskless), 4, Manner::UnknownDisk) };
    let told = |step: &str, uuid: Option<Uuid>, words: &str| {
        // Who does not say who it is may be known by its address.
        let wanted = |entry: &Entry| {
            entry.step == step
                && (uuid.is_none() || entry.uuid == uuid)
                && entry.detail("reason").contains(words)
        };
        site.journal.wait(SOON, &format!("{step} with {words:?}"), wanted).map(|entry| println!("{entry}"))
    };
    let (over, power) = (CancellationToken::new(), site.bed.power_dir());
    // Nothing of them can be sent: the namespace is the thread's.
    let run = |pretenders: &[Pretender]| {
        site.bed.net().inside(Role::Switch, || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::select! {
                    ended = futures_util::future::join_all(pretenders.iter().map(|agent| agent.run())) => Ok(ended),
                    failed = always_on(&power, diskless), if pretenders.len() > 1 => bail!("power API: {failed:?}"),
                    () = over.cancelled() => Ok(Vec::new()),
                }
            })
        })
    };
    std::thread::scope(|scope| {
        let _over = over.clone().drop_guard();
        let running = scope.spawn(|| run(&first));
        told("tunnel_refused", None, "metadata machine-id is missing")?;
        for uuid in [silent, diskless] {
            // A tunnel may be open before Omni has the machine.
            for step in ["pending", "tunnel_opened"] {
                site.journal.wait(SOON, &format!("{step} of {uuid}"), |entry| {
                    entry.step == step && entry.uuid == Some(uuid)
                })?;
            }
            site.appliance.cli_ok(&["machines", "accept", &uuid.to_string()])?;
        }
        told("power_failed", Some(silent), "the agent did not answer within 1s")?;
        told("wipe_failed", Some(diskless), "NotFound: failed to wipe: nvme9n1: no such disk")?;
        let ended = run(&[second])?.pop().context("one")??;
        ensure!(ended.contains("another machine with the same UUID"), "{ended}");
        told("tunnel_refused", Some(diskless), "another machine with the same UUID")?;
        ensure!(!site.list()?.iter().any(|machine| machine.ready), "none of them may be allocated");
        ensure!(!running.is_finished(), "the others are still there");
        Ok(())
    })
}
