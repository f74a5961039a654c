//! What one machine costs Omni in calls, counted at Omni's end of a real connection.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::print_stdout, reason = "the table is what the test is for")]

#[path = "support/faulty.rs"]
mod faulty;
#[path = "support/site.rs"]
mod site;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use cosi::State;
use cosi::server::StateService;
use omni_link::endpoint::{Endpoint, EndpointOptions, connect};
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::infra_machine_status_spec::MachinePowerState;
use site::{Agent, FINGERPRINT, Site, token};
use tokio::net::TcpListener;

/// From a machine's appearance until it waits for a person.
const UNTIL_PENDING: u32 = 5;
/// From there until it is accepted, wiped, off and ready.
const UNTIL_READY: u32 = 12;

type Calls = Arc<Mutex<BTreeMap<String, u32>>>;

/// Serves the state as Omni does, and counts what is asked.
async fn serve(state: Arc<dyn State>, calls: Calls) -> SocketAddr {
    let count = move |request: Request, next: Next| {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        *calls.lock().unwrap().entry(method).or_default() += 1;
        next.run(request)
    };
    let service = StateService::new(state).into_server();
    let router = tonic::service::Routes::new(service).into_axum_router().layer(from_fn(count));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

fn since(calls: &Calls, before: &BTreeMap<String, u32>) -> (BTreeMap<String, u32>, u32) {
    let mut now = calls.lock().unwrap().clone();
    for (method, count) in &mut now {
        *count -= before.get(method).copied().unwrap_or(0);
    }
    let total = now.values().sum();
    (now, total)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_costs_few_calls() {
    let mut site = Site::new().await;
    site.agent = Agent { tells_inventory: true, ..Agent::default() };
    let calls = Calls::default();
    let address = serve(Arc::clone(&site.state), Arc::clone(&calls)).await;
    let endpoint = Endpoint::parse(&format!("grpc://{address}"), &EndpointOptions::default()).unwrap();
    let link = site.link_through(connect(&endpoint, None)).await;
    link.until_view("in sync", |view| view.fresh()).await;
    let start = calls.lock().unwrap().clone();

    site.write(|spec| spec.node_unique_token = token()).await;
    link.dial(&site.agent, FINGERPRINT);
    link.until("looked at", |machine| {
        machine.inventory.as_ref().is_some_and(|entry| !entry.pending)
            && machine.infra.as_ref().is_some_and(|infra| !infra.metadata.finalizers.is_empty())
    })
    .await;
    let (pending, pending_total) = since(&calls, &start);
    let before = calls.lock().unwrap().clone();

    site.update(|spec| spec.acceptance_status = AcceptanceStatus::Accepted as i32).await;
    link.until("ready and off", |machine| {
        machine.status.as_ref().is_some_and(|status| {
            !status.pending
                && status.spec.ready_to_use
                && status.spec.power_state() == MachinePowerState::PowerStateOff
        })
    })
    .await;
    let (ready, ready_total) = since(&calls, &before);
    link.stop().await;

    println!("calls to Omni for one machine");
    println!("{:<12}{:>10}{:>10}", "method", "pending", "ready");
    for method in ["Get", "List", "Create", "Update", "Destroy", "Watch"] {
        let of = |calls: &BTreeMap<String, u32>| calls.get(method).copied().unwrap_or(0);
        println!("{method:<12}{:>10}{:>10}", of(&pending), of(&ready));
    }
    println!("{:<12}{pending_total:>10}{ready_total:>10}", "all");
    println!("{:<12}{UNTIL_PENDING:>10}{UNTIL_READY:>10}", "at most");
    println!("at the start, for all machines together: {start:?}");
    assert!(pending_total <= UNTIL_PENDING, "{pending:?}");
    assert!(ready_total <= UNTIL_READY, "{ready:?}");
}
