//! sushy-tools' Redfish service with made-up systems, over loopback.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const USER: &str = "admin";
pub(crate) const PASSWORD: &str = "Abcdefgh12345678";

/// USER and PASSWORD, as Apache keeps them; four rounds of bcrypt.
const USERS: &str = "admin:$2b$04$kO/brP4uFw/Qs2Gk4egFLeMlWdysbbTz7sxvcMn3DYF5bSYIlu7OS\n";

/// Made-up machines take up to eleven seconds to switch: these do it at once.
const MAIN: &str = "import random, sys\n\
    random.randint = lambda least, most: 0\n\
    from sushy_tools.emulator.main import main\n\
    sys.exit(main())\n";

/// The service; it ends with the test.
pub(crate) struct Sushy {
    child: Child,
    pub(crate) address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Drop for Sushy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/sushy/bin/python")
}

fn run(at: &Path) -> Child {
    Command::new(python())
        .current_dir(at)
        .args(["-c", MAIN, "--config", "sushy.conf"])
        .stdin(Stdio::null())
        .stdout(fs::File::create(at.join("out")).unwrap())
        .stderr(fs::File::create(at.join("err")).unwrap())
        .spawn()
        .unwrap()
}

impl Sushy {
    /// With a system for each UUID; `certificate` and key as PEM for HTTPS; `login`: only with USER and PASSWORD.
    pub(crate) fn start(uuids: &[&str], certificate: Option<(&str, &str)>, login: bool) -> Option<Self> {
        if !python().exists() {
            eprintln!("skipped: needs build/sushy; run `make setup`");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let port = crate::ports::unused();
        let system = |(at, uuid): (usize, &&str)| {
            format!("{{'uuid': '{uuid}', 'name': 'machine-{at}', 'power_state': 'Off', 'nics': []}},")
        };
        let systems: String = uuids.iter().enumerate().map(system).collect();
        let mut config = format!(
            "SUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'\n\
             SUSHY_EMULATOR_LISTEN_PORT = {port}\nSUSHY_EMULATOR_STATE_DIR = '{}'\n\
             SUSHY_EMULATOR_FAKE_SYSTEMS = [{systems}]\n",
            at.display()
        );
        if let Some((certificate, key)) = certificate {
            fs::write(at.join("certificate"), certificate).unwrap();
            fs::write(at.join("key"), key).unwrap();
            config.push_str("SUSHY_EMULATOR_SSL_CERT = 'certificate'\nSUSHY_EMULATOR_SSL_KEY = 'key'\n");
        }
        if login {
            fs::write(at.join("users"), USERS).unwrap();
            config.push_str("SUSHY_EMULATOR_AUTH_FILE = 'users'\n");
        }
        fs::write(at.join("sushy.conf"), config).unwrap();
        let sushy = Self { child: run(at), address: (Ipv4Addr::LOCALHOST, port).into(), directory };
        sushy.until_it_listens();
        Some(sushy)
    }

    /// Nobody listens: loopback says so at once.
    fn until_it_listens(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(self.address).is_err() {
            assert!(Instant::now() < deadline, "{}", self.log());
            std::thread::yield_now();
        }
    }

    /// Ends, and starts again with what it had.
    pub(crate) fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = run(self.directory.path());
        self.until_it_listens();
    }

    /// What it was asked.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("err")).unwrap()
    }
}
