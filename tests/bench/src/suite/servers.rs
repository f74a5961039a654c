//! The appliance, the peers, and the servers that do nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::Suite;
use super::bed::{ADDRESSES, BODY, Bed, CLIENT, Files, INTERFACE, MACHINES, SERVER, SMALL, inside};
use super::measures::{Kind, line};
use crate::report::Report;

/// Servers have the first processor, loads the second.
const SERVER_CPU: u8 = 0;
const CLIENT_CPU: u8 = 1;
const START_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Name {
    /// The appliance.
    Ours,
    /// The appliance with its own stack on a raw socket.
    OursRaw,
    Dnsmasq,
    TftpdHpa,
    RsTftpd,
    Nginx,
    /// What the machine allows.
    Echo,
    Sendfile,
    Windows,
}

impl Name {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ours => "own",
            Self::OursRaw => "raw",
            Self::Dnsmasq => "dns",
            Self::TftpdHpa => "hpa",
            Self::RsTftpd => "rst",
            Self::Nginx => "ngx",
            Self::Echo => "ech",
            Self::Sendfile => "snd",
            Self::Windows => "win",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Ours => "bootlace",
            Self::OursRaw => "bootlace, raw stack",
            Self::Dnsmasq => "dnsmasq",
            Self::TftpdHpa => "tftpd-hpa",
            Self::RsTftpd => "rs-tftpd",
            Self::Nginx => "nginx",
            Self::Echo => "limit: an echo",
            Self::Sendfile => "limit: a sendfile loop",
            Self::Windows => "limit: windows sent to nobody",
        }
    }

    pub(super) fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::OursRaw)
    }

    pub(super) fn is_limit(self) -> bool {
        matches!(self, Self::Echo | Self::Sendfile | Self::Windows)
    }
}

/// The programs that were found.
#[derive(Debug, Default)]
pub(super) struct Peers {
    dnsmasq: Option<PathBuf>,
    tftpd_hpa: Option<PathBuf>,
    rs_tftpd: Option<PathBuf>,
    nginx: Option<PathBuf>,
    /// What is not there, and how to have it.
    pub(super) missing: Vec<String>,
    /// Name and version of what is.
    pub(super) versions: Vec<String>,
}

impl Peers {
    /// In the folder, or installed.
    pub(super) fn find(folder: &Path) -> Self {
        let mut peers = Self::default();
        peers.dnsmasq =
            peers.one(folder, "dnsmasq", "usr/sbin/dnsmasq", &["--version"], "apt-get install dnsmasq-base");
        peers.tftpd_hpa = peers.one(folder, "in.tftpd", "usr/sbin/in.tftpd", &["-V"], "tests/bench/peers.sh");
        peers.nginx = peers.one(folder, "nginx", "usr/sbin/nginx", &["-v"], "tests/bench/peers.sh");
        peers.rs_tftpd =
            peers.one(folder, "tftpd", "bin/tftpd", &["--help"], "cargo install tftpd --root build/peers");
        peers
    }

    fn one(
        &mut self,
        folder: &Path,
        name: &str,
        inside: &str,
        version: &[&str],
        how: &str,
    ) -> Option<PathBuf> {
        let installed = ["/usr/sbin", "/usr/local/sbin"].iter().map(|place| Path::new(place).join(name));
        let path = installed.chain([folder.join(inside)]).find(|path| path.is_file());
        // It may be there and lack a library.
        let output = path.as_ref().and_then(|path| Command::new(path).args(version).output().ok());
        let (Some(path), Some(output)) = (path, output.filter(|output| output.status.code() != Some(127)))
        else {
            self.missing.push(format!("{name} does not run here ({how})"));
            return None;
        };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        self.versions.push(text.lines().next().unwrap_or(name).trim().to_owned());
        Some(fs::canonicalize(&path).unwrap_or(path))
    }

    pub(super) fn has(&self, name: Name) -> bool {
        match name {
            Name::Ours | Name::OursRaw | Name::Echo | Name::Sendfile | Name::Windows => true,
            Name::Dnsmasq => self.dnsmasq.is_some(),
            Name::TftpdHpa => self.tftpd_hpa.is_some(),
            Name::RsTftpd => self.rs_tftpd.is_some(),
            Name::Nginx => self.nginx.is_some(),
        }
    }
}

/// A server in its namespace, with the group that counts its time. Ended when dropped.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) name: Name,
    pub(super) bed: Bed,
    child: Child,
    group: Option<PathBuf>,
    /// How to start it once more.
    idle_command: Vec<String>,
}

impl Running {
    /// Runs a load of ours at the other end of the wire.
    pub(super) fn load(&self, arguments: &[String]) -> Result<Report> {
        let program = std::env::current_exe().context("cannot find our own binary")?;
        let mut command = inside(&self.bed.client(), Some(CLIENT_CPU), program);
        command.args(["-o", "json", "--server-pid", &self.child.id().to_string()]);
        if let Some(group) = &self.group {
            command.arg("--server-cgroup").arg(group);
        }
        let output = command.args(arguments).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            bail!("the load ended with {}: {arguments:?}", output.status);
        }
        serde_json::from_slice(&output.stdout).context("the load's report cannot be read")
    }

    /// Sends windows from where the server is.
    pub(super) fn windows(&self, window: u16) -> Result<Report> {
        let program = std::env::current_exe().context("cannot find our own binary")?;
        let mut command = inside(&self.bed.server(), Some(SERVER_CPU), program);
        command.args(["-o", "json"]).args(words(&format!("limit windows --to {CLIENT}:9 --window {window}")));
        let output = command.stderr(Stdio::inherit()).output()?;
        serde_json::from_slice(&output.stdout).context("the report cannot be read")
    }

    /// Starts the server some times: it was not kept running for this.
    pub(super) fn idle(&self) -> Result<Report> {
        let mut arguments =
            words(&format!("idle --server {SERVER} --address {CLIENT} --interface {INTERFACE} --"));
        arguments.extend(self.idle_command.iter().cloned());
        self.load(&arguments)
    }

    /// Until a load of one client works.
    fn wait(&mut self, arguments: &[String]) -> Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            if self.load(arguments).is_ok_and(|report| report.done > 0) {
                return Ok(());
            }
            if began.elapsed() > START_LIMIT {
                bail!("it does not answer within {START_LIMIT:?}");
            }
            sleep(PAUSE);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let Some(group) = &self.group else { return };
        // Sessions that are processes of their own: all in the group are children of what we started.
        for _ in 0..20 {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            for pid in text.lines().filter_map(|line| line.parse().ok()) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
            }
            if fs::remove_dir(group).is_ok() {
                break;
            }
            sleep(PAUSE);
        }
    }
}

/// A control group that counts CPU time; none where groups cannot be made.
fn group(word: &str) -> Option<PathBuf> {
    let name = format!("bootlace-bench-{}-{word}", std::process::id());
    let one = Path::new("/sys/fs/cgroup/cpuacct");
    let root = if one.is_dir() { one } else { Path::new("/sys/fs/cgroup") };
    let path = root.join(name);
    fs::create_dir(&path).ok()?;
    Some(path)
}

/// The same command in a control group: it is put there before it is the server, whose own children come soon.
fn within(command: &Command, group: Option<&Path>) -> Command {
    let mut shell = Command::new("sh");
    let script = r#"[ -z "$0" ] || echo $$ > "$0/cgroup.procs"; exec "$@""#;
    shell.arg("-c").arg(script).arg(group.unwrap_or(Path::new("")));
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

/// The command line of a server, from the namespace on.
pub(super) fn command(
    name: Name,
    kind: Kind,
    bed: &Bed,
    files: &Files,
    peers: &Peers,
    suite: &Suite,
) -> Result<Command> {
    let namespace = bed.server();
    let own = files.own(&format!("{}-{}", name.word(), kind.word()))?;
    let program = |path: &Option<PathBuf>| path.clone().context("the peer is not there");
    let start = |program: PathBuf| inside(&namespace, Some(SERVER_CPU), program);
    let ourselves = || std::env::current_exe().context("cannot find our own binary");
    let mut command;
    match name {
        Name::Ours | Name::OursRaw => {
            let config = own.join("appliance.toml");
            fs::write(&config, our_config(name, kind, &own, files, &suite.config))?;
            command = start(
                fs::canonicalize(&suite.bootlace).with_context(|| suite.bootlace.display().to_string())?,
            );
            command.args(["run", "-c"]).arg(config);
        }
        Name::Dnsmasq => {
            command = start(program(&peers.dnsmasq)?);
            command.args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--port=0",
                "--user=root",
                "--leasefile-ro",
            ]);
            command.arg(format!("--interface={INTERFACE}")).arg("--bind-interfaces");
            command.arg("--dhcp-range=10.77.0.0,proxy,255.255.0.0");
            command.args(["--pxe-service=X86-64_EFI,boot,snp.efi", "--pxe-service=x86PC,boot,undionly.kpxe"]);
            command.args(["--enable-tftp", "--tftp-max=2000", "--tftp-no-fail"]);
            command.arg(format!("--tftp-root={}", files.boot().display()));
            command.arg(format!("--log-facility={}", own.join("log").display()));
        }
        Name::TftpdHpa => {
            command = start(program(&peers.tftpd_hpa)?);
            command.args([
                "--foreground",
                "--listen",
                "--secure",
                "--user",
                "root",
                "--address",
                "0.0.0.0:69",
            ]);
            command.arg(files.boot());
        }
        Name::RsTftpd => {
            command = start(program(&peers.rs_tftpd)?);
            command.args(["-i", "0.0.0.0", "-p", "69", "-r", "-d"]).arg(files.boot());
        }
        Name::Nginx => {
            let config = own.join("nginx.conf");
            fs::write(&config, nginx_config(&own, files))?;
            command = start(program(&peers.nginx)?);
            command.arg("-p").arg(&own).arg("-c").arg(config);
        }
        Name::Windows => {
            // There is nothing to serve: the load runs in its place.
            command = start("sleep".into());
            command.arg("infinity");
        }
        Name::Echo => {
            command = start(ourselves()?);
            command.args(["limit", "echo", "--listen", "0.0.0.0:67"]);
        }
        Name::Sendfile => {
            command = start(ourselves()?);
            command
                .args(["limit", "sendfile", "--listen", "0.0.0.0:80", "--file"])
                .arg(files.assets().join(BODY));
        }
    }
    Ok(command)
}

/// Starts a server and waits until it answers what it will be asked.
pub(super) fn start(
    name: Name,
    kind: Kind,
    bed: Bed,
    files: &Files,
    peers: &Peers,
    suite: &Suite,
) -> Result<Running> {
    if name == Name::OursRaw {
        bed.take_address()?;
    }
    if matches!(kind, Kind::Storm | Kind::Tftp | Kind::Loss) {
        bed.add_machines()?;
    }
    let mut command = command(name, kind, &bed, files, peers, suite)?;
    let idle_command = line(command.get_program(), command.get_args());
    if kind == Kind::Idle {
        command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sleep", "infinity"]);
    }
    let group = group(&format!("{}{}", name.word(), kind.word()));
    let log = files.own(&format!("{}-{}", name.word(), kind.word()))?.join("output");
    let output = File::create(&log)?;
    let mut command = within(&command, group.as_deref());
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let child = command.spawn().context("cannot start it")?;
    let mut running = Running { name, bed, child, group, idle_command };
    let ready = match (kind, name) {
        (Kind::Idle, _) | (_, Name::Echo | Name::Windows) => return Ok(running),
        (Kind::Dhcp, _) => words(&format!(
            "dhcp --server {SERVER} --address {CLIENT} --interface {INTERFACE} --seconds 0.02"
        )),
        (Kind::Tftp | Kind::Loss, _) => words(&format!("tftp --server {SERVER}:69 --file {SMALL} --limit 2")),
        (_, Name::Ours | Name::OursRaw) => words(&format!(
            "script --server {SERVER}:50042 --path {} --clients 1 --seconds 0.02",
            boot_path("000000000000")
        )),
        (_, _) => words(&format!("http --server {SERVER}:80 --path /assets/{BODY} --limit 5")),
    };
    running.wait(&ready).with_context(|| {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(5).collect();
        format!("{} said last: {last:?}", name.title())
    })?;
    Ok(running)
}

/// The question for a boot script, by the machine's number in twelve digits.
pub(super) fn boot_path(number: &str) -> String {
    format!(
        "/ipxe/boot.ipxe?uuid=8c9d6b1e-0d4b-4b0e-9d6f-{number}&mac=02-00-00-00-00-01&domain=&hostname=&serial=BENCH&arch=x86_64"
    )
}

/// A command line in one string.
pub(super) fn words(text: &str) -> Vec<String> {
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

fn our_config(name: Name, kind: Kind, own: &Path, files: &Files, more: &str) -> String {
    let real = Path::new("/usr/lib/ipxe");
    // At rest the memory counts, and the files are part of it: those that people have.
    let boot = if kind == Kind::Idle && real.is_dir() { real.to_path_buf() } else { files.boot() };
    let raw = if name == Name::OursRaw {
        format!("[[netboot.interface]]\nname = \"{INTERFACE}\"\nstack = \"raw\"\naddress = \"{SERVER}/16\"\n")
    } else {
        String::new()
    };
    format!(
        "state_dir = \"{}\"\n[api]\nadvertise_address = \"{SERVER}\"\n[netboot]\n{}ipxe_dir = \"{}\"\n{raw}[boot]\nassets_path = \"{}\"\n{more}\n",
        own.join("state").display(),
        if raw.is_empty() { format!("dhcp_proxy_iface_or_ip = \"{INTERFACE}\"\n") } else { String::new() },
        boot.display(),
        files.assets().display()
    )
}

/// As fast as it gets: no log, sendfile, connections kept.
fn nginx_config(own: &Path, files: &Files) -> String {
    let own = own.display();
    format!(
        "daemon off; user root; worker_processes 1; pid {own}/pid; error_log {own}/error.log;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;\n\
         client_body_temp_path {own}/a; proxy_temp_path {own}/b; fastcgi_temp_path {own}/c; uwsgi_temp_path {own}/d; scgi_temp_path {own}/e;\n\
         server {{ listen 80 backlog=4096; root {};\n\
         location /script {{ return 200 \"#!ipxe\\nchain http://10.77.0.1/boot\\n\"; }} }} }}\n",
        files.web().display()
    )
}

/// The machines' addresses, for a storm.
pub(super) fn machines() -> String {
    format!("--address {MACHINES} --addresses {ADDRESSES}")
}
