//! The kernel logs for those who read them: `omnictl machine-logs`, `bootlace logs`.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use omni_auth::Role;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::{Management, api, role};
use crate::kernel_log::KernelLogs;
use crate::management::wire::common::Data;
use api::management_service_client::ManagementServiceClient;

pub(super) type Logs = Pin<Box<dyn Stream<Item = Result<Data, Status>> + Send>>;

/// The kernel log of a machine from whoever serves Omni's management API on `channel`: the last `tail` lines, all
/// when it is negative, and with `follow` those that come.
///
/// # Errors
/// As the server answers: `NotFound` when nothing came from that machine yet.
pub async fn machine_logs(
    channel: Channel,
    machine: &str,
    follow: bool,
    tail: i32,
) -> Result<impl Stream<Item = Result<Vec<u8>, Status>>, Status> {
    let request = api::MachineLogsRequest { machine_id: machine.to_owned(), follow, tail_lines: tail };
    let lines = ManagementServiceClient::new(channel).machine_logs(request).await?.into_inner();
    Ok(lines.map(|data| data.map(|data| data.bytes)))
}

/// The lines that are there, and then, when wanted, those that come.
pub(super) fn serve(
    service: &Management,
    request: Request<api::MachineLogsRequest>,
) -> Result<Response<Logs>, Status> {
    match role(&request)? {
        Role::Admin | Role::Operator | Role::Reader => {}
        role @ (Role::InfraProvider | Role::None) => {
            return Err(Status::permission_denied(format!("role {role} may not read logs of machines")));
        }
    }
    let request = request.into_inner();
    let logs = service.0.logs.clone();
    let key = named(&logs, &request.machine_id)?;
    // Before the first look: no line falls between the two.
    let latest = logs.latest();
    let limit = usize::try_from(request.tail_lines).unwrap_or(usize::MAX);
    let (lines, at) = logs.after(&key, 0, limit);
    let there = stream::iter(lines);
    if !request.follow {
        return Ok(Response::new(there.map(data).boxed()));
    }
    let coming = stream::unfold((logs, key, latest, at), |(logs, key, mut latest, at)| async move {
        let (lines, at) = loop {
            latest.changed().await.ok()?;
            let (lines, now) = logs.after(&key, at, usize::MAX);
            if !lines.is_empty() {
                break (lines, now);
            }
        };
        Some((stream::iter(lines), (logs, key, latest, at)))
    });
    Ok(Response::new(there.chain(coming.flatten()).map(data).boxed()))
}

fn data(line: Bytes) -> Result<Data, Status> {
    Ok(Data { bytes: line.to_vec() })
}

/// The log that is meant: by the machine's id, the beginning of it, or the address of an unknown machine.
fn named(logs: &KernelLogs, asked: &str) -> Result<String, Status> {
    if asked.is_empty() {
        return Err(Status::invalid_argument("machine id is required"));
    }
    let keys = logs.keys();
    if keys.iter().any(|key| key == asked) {
        return Ok(asked.to_owned());
    }
    let asked = asked.to_ascii_lowercase();
    let mut found = keys.into_iter().filter(|key| key.starts_with(&asked));
    match (found.next(), found.next()) {
        (Some(key), None) => Ok(key),
        (Some(_), Some(_)) => Err(Status::invalid_argument(format!("several machines begin with {asked}"))),
        (None, _) => Err(Status::not_found(format!("no kernel log of machine {asked} has come yet"))),
    }
}
