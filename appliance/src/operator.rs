//! The operator API on a unix socket that only the appliance's user may open: the hub's COSI state and Omni's
//! management API over gRPC, the boot journal as lines of JSON, and the status.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State as Shared};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use cosi::server::StateService;

use crate::recorder::Recorder;
use crate::status::Source;

/// Takes the socket's place. The caller holds the lock of the state directory, so a socket that is
/// already there belongs to nobody.
pub(crate) fn bind(socket: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(socket) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until `shutdown`.
pub(crate) async fn run(
    listener: UnixListener,
    state: impl cosi::State + 'static,
    management: Option<tonic::service::Routes>,
    recorder: Arc<Recorder>,
    status: Source,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let router = management
        .unwrap_or_default()
        .add_service(StateService::new(state).into_server())
        .into_axum_router()
        .merge(Router::new().route("/journal", get(journal)).with_state((recorder, shutdown.clone())))
        .merge(Router::new().route("/status", get(tell_status)).with_state(status));
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// `GET /status`: one [`crate::status::Status`].
async fn tell_status(Shared(status): Shared<Source>) -> axum::Json<crate::status::Status> {
    axum::Json(status.status(SystemTime::now()))
}

#[derive(Deserialize)]
struct JournalQuery {
    #[serde(default)]
    since: u64,
    #[serde(default)]
    follow: bool,
}

/// `GET /journal?since=<seq>&follow=<bool>`: one [`crate::recorder::Entry`] a line.
async fn journal(
    Shared((recorder, shutdown)): Shared<(Arc<Recorder>, CancellationToken)>,
    Query(query): Query<JournalQuery>,
) -> Response {
    let first = lines(&recorder, query.since);
    let body = if query.follow {
        let latest = recorder.follow();
        let rest = stream::unfold(
            (recorder, latest, first.1, shutdown),
            |(recorder, mut latest, at, shutdown)| async move {
                // Cancel-safe: `wait_for` keeps nothing but the version it has seen.
                tokio::select! {
                    changed = latest.wait_for(|latest| *latest > at) => { changed.ok()?; }
                    () = shutdown.cancelled() => return None,
                }
                let (text, last) = lines(&recorder, at);
                Some((Ok::<_, io::Error>(text), (recorder, latest, last, shutdown)))
            },
        );
        Body::from_stream(stream::StreamExt::chain(stream::once(async { Ok(first.0) }), rest))
    } else {
        Body::from(first.0)
    };
    ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// The entries after `since` as text, and the number of the last one.
fn lines(recorder: &Recorder, since: u64) -> (Bytes, u64) {
    let mut text = Vec::new();
    let mut last = since;
    for entry in recorder.since(since) {
        last = entry.seq;
        // An entry is made of strings and numbers: it always has a JSON form.
        if serde_json::to_writer(&mut text, &entry).is_ok() {
            text.push(b'\n');
        }
    }
    (Bytes::from(text), last)
}
