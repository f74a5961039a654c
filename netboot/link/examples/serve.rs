//! The boot path alone on one network, to measure it or to try it:
//! `serve <interface> <address>/<prefix> raw|taps|kernel|plain <directory>` serves the directory's files under `/assets/` by
//! HTTP on port 50042, and those of a loader's size by TFTP. `taps` is the raw stack without a macvlan.

use std::net::IpAddr;
use std::sync::Arc;

use netboot::boot::{BootAnswer, BootBody, BootPolicy, BootRequest, Refusal};
use netboot::ipxe::{DiskMethod, disk_script};
use netboot_assets::{AssetDir, BootFiles};
use netboot_link::http::{self, HttpConfig, Service};
use netboot_link::raw::{self, Network, Wire};
use netboot_link::tftp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Everybody boots from the disk.
struct Disk;

impl BootPolicy for Disk {
    fn boot(&self, _: &BootRequest) -> BootAnswer {
        let body =
            disk_script(DiskMethod::IpxeExit).map_or(BootBody::NotFound("\n".into()), BootBody::Script);
        BootAnswer { mode: "disk".into(), reason: "it is an example".into(), body }
    }

    fn join_config(&self, _: Option<Uuid>, _: IpAddr) -> Result<String, Refusal> {
        Err(Refusal::Unavailable("it is an example".into()))
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// No loader is larger.
const LOADER_MAX: u64 = 32 << 20;

fn loaders(directory: &str) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let data = entry.metadata()?;
        if data.is_file() && data.len() <= LOADER_MAX {
            files.push((entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?));
        }
    }
    Ok(files)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [interface, network, stack, directory] = &arguments[..] else {
        return Err("serve <interface> <address>/<prefix> raw|taps|kernel|plain <directory>".into());
    };
    let (address, prefix) = network.split_once('/').ok_or("write <address>/<prefix>")?;
    let network = Network::new(address.parse()?, prefix.parse()?).ok_or("no network")?;
    let files = Arc::new(BootFiles::from_memory(loaders(directory)?));
    let shutdown = CancellationToken::new();
    let wire = match stack.as_str() {
        "raw" => Some(Wire::Best),
        "taps" => Some(Wire::PacketSocket),
        _ => None,
    };
    let (listener, socket) = if let Some(wire) = wire {
        let stack = raw::bind(interface, &[(None, network)], wire)?;
        let sockets = (TcpListener::from_std(stack.listen(0, 50_042)?)?, stack.tftp(0, 69)?);
        tokio::spawn(raw::run(stack, shutdown.clone()));
        sockets
    } else {
        let address = network.address();
        let socket = tftp::bind((address, 69).into())?;
        let socket = if stack == "plain" { socket } else { socket.only_by(interface) };
        (TcpListener::bind((address, 50_042)).await?, socket)
    };
    let service = Service::new(HttpConfig {
        policy: Arc::new(Disk),
        files: files.clone(),
        assets: AssetDir::new(directory)?,
        init_script: "#!ipxe\n".into(),
        sink: Arc::new(|_| {}),
    });
    tokio::spawn(tftp::run(socket, files, Arc::new(|_| {}), shutdown.clone()));
    http::serve(listener, service, shutdown).await;
    Ok(())
}
