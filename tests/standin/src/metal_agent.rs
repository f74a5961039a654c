//! Talos' own metal agent: the program that the extension of this name brings, and the socket of machined that it
//! asks of the machine and acts through.
//!
//! As in Talos the program is told nothing: it reads the kernel command line, and finds the socket where machined's
//! is. It decides which disks are wiped; here they are wiped, and only those that it names.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::extract::Request;
use axum::routing::post;
use bootlace_agent::disks::{self, Disk, Places};
use bootlace_agent::inventory::collect::Machine;
use bootlace_agent::machine_api::{self, MachineApi};
use bootlace_agent::medium::Medium;
use bootlace_agent::meta::Meta;
use bootlace_agent::say;
use bootlace_agent::wipe::{How, wipe_disks};
use bootlace_agent::wireguard::Up;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::server::{Grpc, UnaryService};
use tonic::service::Routes;
use tonic::{Response, Status};
use tonic_prost::ProstCodec;

/// The extension's program. It is in the image of the metal agent's schematic only.
pub const PROGRAM: &str = "/usr/local/lib/containers/metal-agent/talos-metal-agent";
/// Where machined listens.
const SOCKET: &str = "/system/run/machined/machine.sock";
/// Before the program is started again. Talos takes as long.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

/// `storage.BlockDeviceWipeRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct WipeRequest {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<Device>,
}

/// `storage.BlockDeviceWipeDescriptor`.
#[derive(Clone, PartialEq, prost::Message)]
struct Device {
    /// Kernel name.
    #[prost(string, tag = "1")]
    device: String,
    /// [`ZEROES`], or 0: fast.
    #[prost(int32, tag = "2")]
    method: i32,
}

const ZEROES: i32 = 1;

/// `storage.BlockDeviceWipeResponse`: nobody reads its messages.
#[derive(Clone, PartialEq, prost::Message)]
struct WipeResponse {}

/// Serves the socket and keeps the program running, if this image has it. Never returns then.
pub async fn run(up: Option<&Up>) -> Result<()> {
    if !Path::new(PROGRAM).exists() {
        return Ok(());
    }
    let (source, meta) = (Arc::new(Machine::default()), Meta::default());
    let socket = Path::new(SOCKET);
    fs::create_dir_all(socket.parent().context("a directory")?)?;
    let listener = UnixListener::bind(socket).with_context(|| format!("cannot listen on {SOCKET}"))?;
    let routes = with_wipe(machine_api::routes(Arc::clone(&source), meta.clone()));
    let machined = tonic::transport::Server::builder()
        .add_routes(routes)
        .serve_with_incoming(UnixListenerStream::new(listener));
    let api = async {
        let Some(up) = up else { return std::future::pending().await };
        let api = MachineApi::new(source, meta).await.context("no machine API")?;
        let listener = up.tunnel().listen(machine_api::PORT).context("no machine API")?;
        machine_api::serve(listener, api, std::future::pending()).await;
        Ok(())
    };
    tokio::try_join!(async { machined.await.context("machined's socket") }, api, keep_running())?;
    Ok(())
}

async fn keep_running() -> Result<()> {
    loop {
        let mut child = Command::new(PROGRAM).spawn().with_context(|| format!("cannot run {PROGRAM}"))?;
        say!("metal agent: started");
        // PID 1 here has the kernel reap its children: there is no exit status, the wait fails when it is over.
        let _ = tokio::task::spawn_blocking(move || child.wait()).await;
        say!("metal agent: ended; again in {} s", RESTART_PAUSE.as_secs());
        tokio::time::sleep(RESTART_PAUSE).await;
    }
}

/// The machine API with what it does to disks.
fn with_wipe(routes: Routes) -> Routes {
    let wipe = |request: Request| async { Grpc::new(ProstCodec::default()).unary(Wipe, request).await };
    routes.into_axum_router().route("/storage.StorageService/BlockDeviceWipe", post(wipe)).into()
}

struct Wipe;

impl UnaryService<WipeRequest> for Wipe {
    type Response = WipeResponse;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Response<WipeResponse>, Status>> + Send + 'static>>;

    fn call(&mut self, request: tonic::Request<WipeRequest>) -> Self::Future {
        Box::pin(async {
            let devices = request.into_inner().devices;
            let wipe = tokio::task::spawn_blocking(move || wipe(&devices)).await;
            wipe.map_err(|error| Status::internal(error.to_string()))??;
            Ok(Response::new(WipeResponse {}))
        })
    }
}

fn wipe(devices: &[Device]) -> Result<(), Status> {
    let disks = named(disks::inspect(Places::default(), &Medium::default()), devices)?;
    let names: Vec<&str> = devices.iter().map(|device| device.device.as_str()).collect();
    say!("machined: wipe {}", names.join(" "));
    let zeroes = devices.iter().any(|device| device.method == ZEROES);
    let how = How { zeroes, secure: false };
    wipe_disks(disks, &agent_wire::keep::Keep::default(), how).map(drop).map_err(Status::internal)
}

/// The disks of these names, all of them or none.
fn named(disks: Vec<Disk>, devices: &[Device]) -> Result<Vec<Disk>, Status> {
    for Device { device, .. } in devices {
        if !disks.iter().any(|disk| disk.name == *device) {
            return Err(Status::not_found(format!("blockdevice {device:?} not found")));
        }
    }
    Ok(disks.into_iter().filter(|disk| devices.iter().any(|wanted| wanted.device == disk.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_disks_that_the_agent_names_are_wiped_and_an_unknown_one_stops_it() {
        let disk = |name: &str| Disk { name: name.to_owned(), ..Disk::default() };
        let device = |name: &str| Device { device: name.to_owned(), method: 0 };
        let disks = || vec![disk("nvme0n1"), disk("sda"), disk("vda")];
        let wanted = named(disks(), &[device("vda"), device("sda")]).unwrap();
        assert_eq!(wanted.iter().map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["sda", "vda"]);
        let status = named(disks(), &[device("vda"), device("sdb")]).unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::NotFound, "blockdevice \"sdb\" not found")
        );
    }
}
