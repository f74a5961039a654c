//! The boot path alone on one network, to measure it or to try it:
//! `serve <interface> <address>/<prefix> raw|kernel <directory>` serves the directory's files under `/assets/` by HTTP
//! on port 50042, and the file `snp.efi` of it by TFTP.

use std::net::IpAddr;
use std::sync::Arc;

use netboot::boot::{BootAnswer, BootBody, BootPolicy, BootRequest, Refusal};
use netboot::ipxe::{DiskMethod, disk_script};
use netboot_assets::{AssetDir, BootFiles};
use netboot_link::http::{self, HttpConfig, Service};
use netboot_link::raw::{self, Network};
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

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [interface, network, stack, directory] = &arguments[..] else {
        return Err("serve <interface> <address>/<prefix> raw|kernel <directory>".into());
    };
    let (address, prefix) = network.split_once('/').ok_or("write <address>/<prefix>")?;
    let network = Network::new(address.parse()?, prefix.parse()?).ok_or("no network")?;
    let files = std::fs::read(format!("{directory}/snp.efi")).map(|file| ("snp.efi".to_owned(), file));
    let files = Arc::new(BootFiles::from_memory(files.into_iter().collect()));
    let shutdown = CancellationToken::new();
    let (listener, socket) = if stack == "raw" {
        let stack = raw::bind(interface, &[(None, network)])?;
        let sockets = (TcpListener::from_std(stack.listen(0, 50_042)?)?, stack.tftp(0, 69)?);
        tokio::spawn(raw::run(stack, shutdown.clone()));
        sockets
    } else {
        let address = network.address();
        (TcpListener::bind((address, 50_042)).await?, tftp::bind((address, 69).into())?)
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
