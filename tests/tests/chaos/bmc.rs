//! The machines' power switches: one HTTP server for all, each machine at an address of its own.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use tokio::net::TcpListener;

use crate::machine::Machine;

/// The address that was called.
#[derive(Clone, Copy)]
struct Called(IpAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Called {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        let address = stream.io().local_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |local| local.ip());
        Self(address)
    }
}

type Machines = Arc<HashMap<IpAddr, Arc<Machine>>>;

/// Serves all machines, and writes the files that say where.
pub(crate) async fn serve(machines: &[Arc<Machine>], directory: &Path) {
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], 0))).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for machine in machines {
        let config = serde_json::json!({
            "NodeUUID": machine.id, "GatewayAddrs": [machine.address], "APIPort": port,
        });
        std::fs::write(directory.join(format!("{}.config", machine.id)), config.to_string()).unwrap();
    }
    let machines: Machines =
        Arc::new(machines.iter().map(|machine| (IpAddr::V4(machine.address), Arc::clone(machine))).collect());
    let router = axum::Router::new()
        .route("/status", get(status))
        .route("/{verb}", post(act))
        .with_state(machines)
        .into_make_service_with_connect_info::<Called>();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
}

async fn status(ConnectInfo(called): ConnectInfo<Called>, State(machines): State<Machines>) -> Response {
    match machines.get(&called.0) {
        Some(machine) if machine.bmc_obeys() => {
            axum::Json(serde_json::json!({ "PoweredOn": machine.is_on() })).into_response()
        }
        Some(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn act(
    UrlPath(verb): UrlPath<String>,
    ConnectInfo(called): ConnectInfo<Called>,
    State(machines): State<Machines>,
) -> StatusCode {
    let Some(machine) = machines.get(&called.0) else { return StatusCode::NOT_FOUND };
    let obeys = machine.bmc_obeys();
    // A controller that fails may have done it all the same.
    if obeys || machine.bmc_lies() {
        machine.switch(&verb);
    }
    if obeys { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }
}
