//! HTTP over the operator socket.

use std::path::Path;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::CliError;

/// Answers that are read as a whole are far smaller.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// An entry of the journal is far smaller; a longer line is a broken server.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Asks; the connection lives as long as the answer's body.
pub(super) async fn get(socket: &Path, uri: &str) -> Result<Response<Incoming>, CliError> {
    let unavailable = |source| CliError::Unavailable { socket: socket.to_path_buf(), source };
    let stream = UnixStream::connect(socket).await.map_err(unavailable)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ended)?;
    tokio::spawn(connection);
    let request = Request::get(uri)
        .header("host", "bootlace")
        .body(Empty::<Bytes>::new())
        .map_err(|error| CliError::Failed(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(ended)?;
    if response.status().is_success() {
        return Ok(response);
    }
    Err(CliError::Failed(format!("the appliance answered {}", response.status())))
}

/// A whole JSON answer.
pub(super) async fn get_json<T: DeserializeOwned>(socket: &Path, uri: &str) -> Result<T, CliError> {
    let body = Limited::new(get(socket, uri).await?.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| CliError::Failed(format!("the appliance ended its answer: {error}")))?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|error| CliError::Failed(format!("the appliance answered what cannot be read: {error}")))
}

/// Hands over each line of an answer, without its end, as it comes.
pub(super) async fn each_line(
    response: Response<Incoming>,
    mut take: impl FnMut(&[u8]) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut body = response.into_body();
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(ended)?.into_data() else { continue };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            take(&line[..end])?;
        }
        if rest.len() > LINE_BYTES_MAX {
            return Err(CliError::Failed("the appliance sent a line without an end".into()));
        }
    }
    Ok(())
}

fn ended(error: hyper::Error) -> CliError {
    CliError::Failed(format!("the appliance ended the connection: {error}"))
}
