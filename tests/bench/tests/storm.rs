//! A storm against the appliance's own protocol parts in this process, on loopback: no root, no namespaces.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test does")]

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bootlace_bench::cost::Server;
use bootlace_bench::firmware::Firmware;
use bootlace_bench::storm::Load;
use bootlace_bench::{http, tftp};
use netboot::boot::{BootAnswer, BootBody, BootPolicy, BootRequest, Refusal};
use netboot::dhcp::{Outcome, Port, Proxy, ProxyConfig};
use netboot::ipxe::{BaseUrl, KernelArgs, agent_script, init_script};
use netboot::journal::{Event, Step};
use netboot_assets::{AssetDir, BootFiles};
use netboot_link::http::{HttpConfig, Service, serve};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const LOADER: usize = 100_000;
const KERNEL: usize = 300_000;
const INITRAMFS: usize = 500_000;

/// Everybody boots the agent and may have a configuration; counts who asked.
struct Policy {
    base: BaseUrl,
    configurations: AtomicUsize,
}

impl BootPolicy for Policy {
    fn boot(&self, request: &BootRequest) -> BootAnswer {
        let args = KernelArgs::agent(self.base, request.arch, false);
        let script = agent_script(self.base, request.arch, &args).unwrap();
        BootAnswer { mode: "agent".into(), reason: "unknown".into(), body: BootBody::Script(script) }
    }

    fn join_config(&self, uuid: Option<Uuid>, _: IpAddr) -> Result<String, Refusal> {
        assert!(uuid.is_some());
        self.configurations.fetch_add(1, Ordering::Relaxed);
        Ok("kind: SideroLinkConfig\n".into())
    }
}

struct Site {
    dhcp_port: u16,
    tftp_port: u16,
    http: SocketAddrV4,
    policy: Arc<Policy>,
    told: Arc<Mutex<Vec<Event>>>,
    _folder: tempfile::TempDir,
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [("kernel-amd64", KERNEL), ("initramfs-metal-amd64.xz", INITRAMFS)] {
            http::write_pattern(&folder.path().join(name), bytes as u64).unwrap();
        }
        let loader = |name: &str| (name.to_owned(), vec![7; LOADER]);
        let files = Arc::new(BootFiles::from_memory(
            ["snp.efi", "amd64/snp.efi", "undionly.kpxe"].map(loader).to_vec(),
        ));
        let told = Arc::new(Mutex::new(Vec::new()));
        let sink: netboot::journal::Sink = {
            let told = Arc::clone(&told);
            Arc::new(move |event| told.lock().unwrap().push(event))
        };
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let http = SocketAddrV4::new(HERE, listener.local_addr().unwrap().port());
        let base = BaseUrl::new(HERE, http.port());
        let policy = Arc::new(Policy { base, configurations: AtomicUsize::new(0) });
        let config = HttpConfig {
            policy: policy.clone(),
            files: files.clone(),
            assets: AssetDir::new(folder.path()).unwrap(),
            init_script: init_script(base).text(),
            sink: sink.clone(),
        };
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(listener, Service::new(config), shutdown.clone()));
        let socket = netboot_link::tftp::bind((HERE, 0).into()).unwrap();
        let tftp_port = socket.local_addr().port();
        tokio::spawn(netboot_link::tftp::run(socket, files.clone(), sink, shutdown));
        let proxy =
            Proxy::new(ProxyConfig { server: HERE, http_port: http.port(), binaries: files.binaries() });
        let dhcp = UdpSocket::bind((HERE, 0)).await.unwrap();
        let dhcp_port = dhcp.local_addr().unwrap().port();
        tokio::spawn(offer(dhcp, proxy));
        Self { dhcp_port, tftp_port, http, policy, told, _folder: folder }
    }

    fn load(&self, clients: u32, firmware: Vec<Firmware>) -> Load {
        Load {
            server: HERE,
            interface: None,
            address: HERE,
            addresses: 1,
            clients,
            firmware,
            spread: 0.0,
            limit: 60.0,
            run: 1,
            dhcp_port: self.dhcp_port,
            from_port: 0,
            tftp_port: self.tftp_port,
            plain: Vec::new(),
        }
    }
}

/// The DHCP machine on a plain socket: loopback has no frames to listen to.
async fn offer(socket: UdpSocket, mut proxy: Proxy) {
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let std::net::SocketAddr::V4(from) = from else { continue };
        if let Outcome::Reply(reply) = proxy.handle_packet(Port::Server67, from, &buffer[..length]) {
            socket.send_to(&reply.payload, from).await.unwrap();
        }
    }
}

#[tokio::test]
async fn five_machines_of_every_firmware_boot_and_say_hello() {
    let site = Site::start().await;
    let firmware = vec![Firmware::Ovmf, Firmware::OvmfHttp, Firmware::Bios, Firmware::IpxeRom];
    let load = site.load(5, firmware);
    let report = LocalSet::new().run_until(load.boots(&Server::default())).await.unwrap();
    assert_eq!((report.done, report.failures()), (5, 0), "{report:?}");
    // The fourth is iPXE already: it needs no loader.
    assert_eq!(report.work as usize, 4 * LOADER + 5 * (KERNEL + INITRAMFS));
    assert_eq!(site.policy.configurations.load(Ordering::Relaxed), 5);
    let names: Vec<(&str, usize)> =
        report.phases.iter().map(|phase| (phase.name.as_str(), phase.count)).collect();
    let expected = [
        ("dhcp", 5),
        ("loader", 4),
        ("ipxe dhcp", 4),
        ("script", 5),
        ("kernel", 5),
        ("initramfs", 5),
        ("hello", 5),
        ("whole", 5),
    ];
    assert_eq!(names, expected);
    let steps = site.told.lock().unwrap();
    let count = |wanted: fn(&Step) -> bool| steps.iter().filter(|event| wanted(&event.step)).count();
    // Two by OVMF's PXE and one by the BIOS.
    assert_eq!(count(|step| matches!(step, Step::TftpFinished { .. })), 3);
    assert_eq!(count(|step| matches!(step, Step::AssetServed { .. })), 10);
}

#[tokio::test]
async fn a_machine_whose_files_are_missing_fails_with_the_reason() {
    let site = Site::start().await;
    let mut load = site.load(1, vec![Firmware::Ovmf]);
    load.plain = vec![site.http.port().to_string(), "/tftp/snp.efi".into(), "/assets/none".into()];
    let report = LocalSet::new().run_until(load.boots(&Server::default())).await.unwrap();
    assert_eq!(report.done, 0);
    let reasons: Vec<&String> = report.failed.keys().collect();
    assert!(reasons[0].contains("/assets/none") && reasons[0].contains("404"), "{reasons:?}");
}

#[test]
fn a_bad_wire_loses_nothing_but_time() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let site = runtime.block_on(Site::start());
    let load = tftp::Load {
        server: SocketAddrV4::new(HERE, site.tftp_port),
        file: "snp.efi".into(),
        blksize: 1468,
        windowsize: 4,
        address: None,
        addresses: 1,
        clients: 5,
        repeat: 1,
        loss: 2.0,
        together: false,
        delay_us: 100,
        client_timeout_ms: None,
        limit: 60.0,
        seed: 5,
    };
    let report = load.run(&Server::default()).unwrap();
    assert_eq!((report.done, report.work as usize), (5, 5 * LOADER), "{report:?}");
}
