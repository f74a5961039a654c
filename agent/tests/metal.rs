//! The agent as PID 1 of a whole virtual server: e1000e, virtio, NVMe, AHCI and USB disks, and a BMC behind
//! KCS, which is OpenIPMI's simulator. The test is the appliance at the other end of the tunnel.
//!
//! Needs the packages qemu-system-x86, linux-image-amd64, openipmi, ipmitool and binutils; without them it
//! says so and passes. No root, no network: QEMU's own network reaches the test on loopback.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../../power/tests/support/ports.rs"]
mod ports;
#[path = "support/tunnels.rs"]
mod tunnels;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agent_wire::WIPE_REPORT_HEADER;
use agent_wire::management::agent_service_client::AgentServiceClient;
use agent_wire::management::*;
use agent_wire::tunnel::{Opened, TunnelChannel};
use bootlace_image::binary::Arch;
use bootlace_image::initramfs::{Contents, pack};
use bootlace_image::modules::Tree;
use tokio::sync::mpsc;
use tonic::Status;
use tunnels::{every_tunnel, serve};

/// An emulated machine beside other builds is slow.
const BOOT: Duration = Duration::from_secs(120);
const CALL: Duration = Duration::from_secs(60);
const UUID: &str = "4c4c4544-0031-3010-8034-c2c04f4e5131";
const USER: &str = "talos-agent";
const PASSWORD: &str = "Abcdefgh12345678";
/// Of the stick's GPT, as [`stick`] writes it.
const STICK: &str = "04030201-0605-0807-090a-0b0c0d0e0f10";
const MIB: usize = 1 << 20;

/// A process that ends with the test.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The newest generic kernel: its image and its modules.
fn kernel() -> Option<(PathBuf, PathBuf)> {
    let mut found: Vec<PathBuf> =
        fs::read_dir("/lib/modules").ok()?.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.join("kernel/drivers/char/ipmi").exists());
    found.sort();
    let modules = found.pop()?;
    let image = Path::new("/boot").join(format!("vmlinuz-{}", modules.file_name()?.to_str()?));
    image.exists().then_some((image, modules))
}

fn installed(tool: &str) -> bool {
    ["/usr/bin", "/usr/sbin"].iter().any(|at| Path::new(at).join(tool).exists())
}

/// The agent of this build, without what only a debugger reads.
fn agent(directory: &Path) -> Vec<u8> {
    let stripped = directory.join("agent");
    let status =
        Command::new("strip").arg("-o").arg(&stripped).arg(env!("CARGO_BIN_EXE_bootlace-agent")).status();
    assert!(status.unwrap().success());
    fs::read(stripped).unwrap()
}

/// A disk with an ext4 superblock's mark and old data everywhere.
fn used(directory: &Path, name: &str) -> PathBuf {
    let mut image = vec![0xa5; 16 * MIB];
    image[1080..1082].copy_from_slice(&[0x53, 0xef]);
    let path = directory.join(name);
    fs::write(&path, image).unwrap();
    path
}

/// A stick with a GPT: the machine's boot medium.
fn stick(directory: &Path) -> PathBuf {
    let mut image = vec![0xa5; 16 * MIB];
    let header = &mut image[512..1024];
    header.fill(0);
    header[..8].copy_from_slice(b"EFI PART");
    header[56..72].copy_from_slice(&(1..=16).collect::<Vec<u8>>());
    header[72] = 2;
    header[80] = 128;
    header[84] = 128;
    image[1024..34 * 512].fill(0);
    let path = directory.join("stick");
    fs::write(&path, image).unwrap();
    path
}

/// The BMC's simulator: its port for the machine, and its port in the network.
fn bmc(directory: &Path) -> (Kept, u16, u16) {
    let (serial, lan) = (ports::unused(), ports::unused());
    let program = directory.join("lan-config");
    // What the simulator asks for the network settings that it does not keep itself.
    let script = "#!/bin/sh\n[ \"$1\" = get ] && shift && for p in \"$@\"; do case $p in\n\
        ip_addr) echo ip_addr:127.0.0.1;; ip_addr_src) echo ip_addr_src:static;;\n\
        *mac*) echo $p:00:00:00:00:00:01;; *) echo $p:0.0.0.0;; esac; done\nexit 0\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!(
        "name \"test\"\nset_working_mc 0x20\n startlan 1\n  addr 127.0.0.1 {lan}\n  priv_limit admin\n\
         {}  guid a123456789abcdefa123456789abcdef\n  lan_config_program \"{}\"\n endlan\n serial 15 127.0.0.1 {serial} codec VM\n startnow false\n \
         user 1 true \"\" \"test\" user 10 none md2 md5 straight\n \
         user 2 true \"ADMIN\" \"test\" admin 10 none md2 md5 straight\n",
        ["callback", "user", "operator", "admin"]
            .map(|level| format!("  allowed_auths_{level} none md2 md5 straight\n"))
            .concat(),
        program.display()
    );
    fs::write(directory.join("lan.conf"), config).unwrap();
    let commands = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\n\
        sel_enable 0x20 1000 0x0a\nmc_enable 0x20\n";
    fs::write(directory.join("sim.emu"), commands).unwrap();
    let child = Command::new("ipmi_sim")
        .current_dir(directory)
        .args(["-n", "-c", "lan.conf", "-f", "sim.emu", "-s", "."])
        .stdin(Stdio::null())
        .stdout(fs::File::create(directory.join("ipmi_sim.log")).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (Kept(child), serial, lan)
}

struct Machine {
    console: PathBuf,
    disks: [PathBuf; 4],
    _processes: [Kept; 2],
    lan: u16,
    tunnels: mpsc::UnboundedReceiver<Opened>,
    _directory: tempfile::TempDir,
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.console).unwrap_or_default());
        }
    }
}

/// Switches the machine on. None, with a word, when something to do it with is not installed.
async fn machine(arguments: &str) -> Option<Machine> {
    let tools = ["qemu-system-x86_64", "ipmi_sim", "ipmitool", "strip"];
    let Some((kernel, modules)) = kernel().filter(|_| tools.into_iter().all(installed)) else {
        eprintln!("skipped: needs qemu-system-x86 linux-image-amd64 openipmi ipmitool binutils");
        return None;
    };
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let packed = pack(Contents {
        arch: Arch::Amd64,
        init: &agent(at),
        tree: &Tree::open(&modules).unwrap(),
        drivers: &["metal".to_owned()],
        firmware: None,
        files: Vec::new(),
    })
    .unwrap();
    fs::write(at.join("initramfs"), packed.plain).unwrap();

    let (served, tunnels) = every_tunnel();
    let port = serve(served).await.port();

    let (simulator, serial, lan) = bmc(at);
    let disks = [used(at, "virtio"), used(at, "nvme"), used(at, "ahci"), stick(at)];
    let console = at.join("console");
    let append = format!("console=ttyS0 metal.provider.address=10.0.2.2:{port} {arguments}");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-display", "none", "-no-reboot", "-machine", "q35,accel=tcg", "-cpu", "max"])
        .args(["-m", "512", "-uuid", UUID, "-netdev", "user,id=n0", "-device", "e1000e,netdev=n0"])
        .args(["-serial", &format!("file:{}", console.display())])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(at.join("initramfs"))
        .args(["-append", &append])
        .args(["-chardev", &format!("socket,id=ipmi0,host=127.0.0.1,port={serial},reconnect=1")])
        .args(["-device", "ipmi-bmc-extern,chardev=ipmi0,id=bmc0", "-device", "isa-ipmi-kcs,bmc=bmc0"])
        .args(["-device", "qemu-xhci"]);
    for (path, device) in disks.iter().zip([
        "virtio-blk-pci,serial=VIRTIO1",
        "nvme,serial=NVME1",
        "ide-hd,bus=ide.0,serial=DATA1",
        "usb-storage,serial=STICK1",
    ]) {
        let id = path.file_name().unwrap().to_str().unwrap();
        qemu.args(["-drive", &format!("if=none,id={id},format=raw,discard=unmap,file={}", path.display())])
            .args(["-device", &format!("{device},drive={id}")]);
    }
    let qemu = Kept(qemu.stdin(Stdio::null()).spawn().unwrap());
    Some(Machine { console, disks, _processes: [qemu, simulator], lan, tunnels, _directory: directory })
}

impl Machine {
    async fn agent(&mut self) -> AgentServiceClient<TunnelChannel> {
        let opened = tokio::time::timeout(BOOT, self.tunnels.recv()).await.expect("boots in time").unwrap();
        assert_eq!(opened.machine_id, UUID);
        AgentServiceClient::new(opened.channel)
    }

    fn ipmitool(&self, user: &str, password: &str) -> std::process::Output {
        Command::new("ipmitool")
            .args([
                "-I",
                "lanplus",
                "-C",
                "3",
                "-H",
                "127.0.0.1",
                "-N",
                "1",
                "-R",
                "2",
                "-p",
                &self.lan.to_string(),
            ])
            .args(["-U", user, "-P", password, "-L", "ADMINISTRATOR", "user", "list", "1"])
            .output()
            .unwrap()
    }
}

async fn called<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> tonic::Response<T> {
    tokio::time::timeout(CALL, call).await.expect("answers in time").unwrap()
}

fn check_user() -> GetPowerManagementRequest {
    let ipmi = get_power_management_request::Ipmi { check_username: USER.into() };
    GetPowerManagementRequest { ipmi: Some(ipmi), api: None }
}

#[tokio::test]
async fn a_server_gets_its_bmc_user_and_loses_exactly_the_disks_that_nobody_keeps() {
    let begun = Instant::now();
    let arguments = format!("bootlace.keep=serial:data1 bootlace.medium={STICK} bootlace.wipe=secure");
    let Some(mut machine) = machine(&arguments).await else { return };
    let mut agent = machine.agent().await;
    called(agent.hello(HelloRequest {})).await;
    eprintln!("Hello was answered {:.1} s after the beginning", begun.elapsed().as_secs_f64());

    let ipmi = called(agent.get_power_management(check_user())).await.into_inner().ipmi.unwrap();
    assert_eq!((ipmi.address.as_str(), ipmi.port, ipmi.user_exists), ("127.0.0.1", 623, false));
    assert!(!machine.ipmitool(USER, PASSWORD).status.success());
    let user = set_power_management_request::Ipmi { username: USER.into(), password: PASSWORD.into() };
    called(agent.set_power_management(SetPowerManagementRequest { ipmi: Some(user), api: None })).await;
    let ipmi = called(agent.get_power_management(check_user())).await.into_inner().ipmi.unwrap();
    assert!(ipmi.user_exists);
    let list = machine.ipmitool(USER, PASSWORD);
    let text = String::from_utf8_lossy(&[list.stdout, list.stderr].concat()).into_owned();
    assert!(list.status.success() && text.contains(USER), "{text}");

    let before: Vec<Vec<u8>> = machine.disks.iter().map(|path| fs::read(path).unwrap()).collect();
    for zeroes in [false, true] {
        let answer = called(agent.wipe_disks(WipeDisksRequest { zeroes })).await;
        let reports: Vec<String> = answer
            .metadata()
            .get_all(WIPE_REPORT_HEADER)
            .iter()
            .map(|line| line.to_str().unwrap().to_owned())
            .collect();
        let report = |serial: &str| {
            reports
                .iter()
                .find(|line| line.contains(serial))
                .unwrap_or_else(|| panic!("{serial}: {reports:#?}"))
        };
        assert!(report("DATA1").contains("left alone: on the keep list: serial:data1"), "{reports:#?}");
        assert!(report("STICK1").contains("left alone: the machine booted from it"), "{reports:#?}");
        assert!(
            report("NVME1").contains("is blank") && report("NVME1").contains("formatted"),
            "{reports:#?}"
        );
        assert_eq!(report("VIRTIO1").contains("is blank: had ext"), !zeroes, "{reports:#?}");
        assert_eq!(report("VIRTIO1").contains("256 samples"), zeroes, "{reports:#?}");
        let after: Vec<Vec<u8>> = machine.disks.iter().map(|path| fs::read(path).unwrap()).collect();
        for disk in &after[..2] {
            assert!(disk[..MIB] == vec![0; MIB] && disk[15 * MIB..] == vec![0; MIB]);
            assert!(!zeroes || *disk == vec![0; 16 * MIB]);
        }
        assert!(after[2..] == before[2..], "a disk that is to be kept was touched");
        eprintln!("{}", reports.join("\n"));
    }
    for line in fs::read_to_string(&machine.console).unwrap().lines().filter(|line| line.contains("agent: "))
    {
        eprintln!("{line}");
    }
}
