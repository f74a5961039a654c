//! A machine's power switch as the appliance sees it: the HTTP API that stands for a BMC.
//!
//! `POST /poweron /poweroff /reboot /pxeboot`, `GET /status`. Orders are taken at once and carried out a little
//! later, as a BMC does; a fault makes the switch misbehave until it is repaired.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use uuid::Uuid;

use super::{Action, Machine};
use crate::net::{Net, POWER_ADDRESS, Role};
use crate::remains::runtime;

/// How a power switch misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Takes the request and never answers; the order is lost.
    Hang,
    /// Answers 500; the order is lost.
    Error500,
    /// Does what it should, that much later.
    Slow(Duration),
}

/// A request to a power switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// When it came.
    pub at: Instant,
    /// `/poweron`, `/status`, ..
    pub path: &'static str,
}

/// The listening end; it serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) fn start(net: &Net, machine: Machine) -> Result<Self> {
        let listener = net.inside(Role::Switch, || Ok(TcpListener::bind((POWER_ADDRESS, 0))?));
        let listener = listener.context("no address for a power switch")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let _in_runtime = runtime().enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let task = runtime().spawn(async move {
            if let Err(error) = axum::serve(listener, api(machine)).await {
                eprintln!("testbed: a power switch ends: {error}");
            }
        });
        Ok(Self { address, task })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn api(machine: Machine) -> Router {
    let order = |path: &'static str, action: fn() -> Action| {
        post(move |State(machine): State<Machine>| async move {
            let order = |machine: &Machine| match machine.order(action(), None) {
                Ok(()) => StatusCode::OK.into_response(),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response(),
            };
            answer(&machine, path, order).await
        })
    };
    let status = get(|State(machine): State<Machine>| async move {
        let status = |machine: &Machine| Json(json!({ "PoweredOn": machine.is_on() })).into_response();
        answer(&machine, "/status", status).await
    });
    Router::new()
        .route("/poweron", order("/poweron", || Action::On))
        .route("/poweroff", order("/poweroff", || Action::Off))
        .route("/reboot", order("/reboot", || Action::Reboot))
        .route("/pxeboot", order("/pxeboot", || Action::PxeNext))
        .route("/status", status)
        .with_state(machine)
}

async fn answer(machine: &Machine, path: &'static str, act: impl FnOnce(&Machine) -> Response) -> Response {
    match machine.called(path) {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Error500) => (StatusCode::INTERNAL_SERVER_ERROR, "out of order\n").into_response(),
        Some(Fault::Slow(delay)) => {
            tokio::time::sleep(delay).await;
            act(machine)
        }
        None => act(machine),
    }
}

/// Writes the file by which the peer finds a machine's power API, with the keys of its older and its newer format.
pub(crate) fn write_config(dir: &Path, name: &str, uuid: Uuid, address: SocketAddr) -> Result<()> {
    fs::create_dir_all(dir)?;
    let gateways = [address.ip()];
    let config = json!({
        "NodeUUID": uuid,
        "GatewayAddrs": gateways,
        "APIPort": address.port(),
        "Network": { "GatewayAddrs": gateways },
        "APIBindAddress": { "IP": address.ip(), "Port": address.port(), "Zone": "" },
    });
    // Renamed into place: a reader never sees half a file.
    let new = dir.join(format!(".{name}.new"));
    fs::write(&new, serde_json::to_vec_pretty(&config)?)?;
    fs::rename(new, dir.join(format!("{name}.config"))).context("cannot write the power config")
}
