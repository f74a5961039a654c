//! States to test against.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use cosi::client::GrpcState;
use cosi::embedded::{EmbeddedState, Options};
use cosi::server::StateService;
use cosi::{Event, EventStream, Kind, Pointer, Resource, State};
use futures_util::StreamExt;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Server};

/// When the clock of the tests begins. It goes a second further with each look.
pub(crate) const START: i64 = 1_800_000_000;
pub(crate) const NAMESPACE: &str = "infra-provider";
pub(crate) const TYPE: &str = "InfraMachines.omni.sidero.dev";
pub(crate) const OWNER: &str = "InfraMachineController";
/// Long enough for anything that comes at all.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn options() -> Options {
    let seconds = AtomicI64::new(START);
    Options {
        clock: Arc::new(move || prost_types::Timestamp {
            seconds: seconds.fetch_add(1, Ordering::Relaxed),
            nanos: 0,
        }),
        ..Options::default()
    }
}

pub(crate) fn embedded() -> EmbeddedState {
    EmbeddedState::in_memory(options()).unwrap()
}

/// A server on a unix socket, with the folder of the socket.
pub(crate) struct Remote {
    pub(crate) state: GrpcState,
    pub(crate) channel: Channel,
    server: tokio::task::JoinHandle<()>,
    _folder: TempDir,
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Serves a state on a unix socket, in the runtime of the caller.
pub(crate) fn serve(path: &Path, state: impl State + 'static) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    let service = StateService::new(state).into_server();
    tokio::spawn(async move {
        let incoming = UnixListenerStream::new(listener);
        Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
    })
}

pub(crate) async fn remote(state: impl State + 'static) -> Remote {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.sock");
    let server = serve(&path, state);
    let channel = cosi::client::channel_unix(&path).await.unwrap();
    let state = GrpcState::connect_unix(&path).await.unwrap();
    Remote { state, channel, server, _folder: folder }
}

pub(crate) fn kind() -> Kind {
    Kind::new(NAMESPACE, TYPE)
}

pub(crate) fn pointer(id: &str) -> Pointer {
    kind().pointer(id)
}

pub(crate) fn machine(id: &str) -> Resource {
    Resource::new(NAMESPACE, TYPE, id, b"\x0a\x03abc".as_slice()).with_yaml("uuid: abc\n")
}

/// Reads a watch one event at a time.
pub(crate) struct Events {
    stream: EventStream,
    ready: std::collections::VecDeque<Event>,
}

impl Events {
    pub(crate) fn of(stream: EventStream) -> Self {
        Self { stream, ready: std::collections::VecDeque::new() }
    }

    pub(crate) async fn batch(&mut self) -> Option<Result<Vec<Event>, cosi::StateError>> {
        tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("something comes")
    }

    pub(crate) async fn next(&mut self) -> Event {
        while self.ready.is_empty() {
            let batch = self.batch().await.expect("the watch goes on").expect("no error");
            self.ready.extend(batch);
        }
        self.ready.pop_front().unwrap()
    }
}
