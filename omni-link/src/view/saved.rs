//! Keeps the view's file up with the view.

use std::sync::Arc;
use std::time::Duration;

use cosi::Resource;
use tokio_util::sync::CancellationToken;

use super::{Inner, Part, View};
use crate::disk::Disk;

/// Changes of this long are written at once: one synced write a burst.
const GATHER: Duration = Duration::from_millis(250);
/// Rows of one write: what a listing of thousands of machines brings goes in pieces.
const BATCH: usize = 1024;

type Change = (Part, String, Option<Resource>);

/// Writes changes until `shutdown`, and then what is left.
pub(super) async fn run(view: Arc<View>, disk: Arc<Disk>, shutdown: CancellationToken) {
    let mut generation = view.generation();
    loop {
        // Cancel-safe: the receiver keeps its place.
        tokio::select! {
            changed = generation.changed() => if changed.is_err() { break },
            () = shutdown.cancelled() => break,
        }
        tokio::select! {
            () = tokio::time::sleep(GATHER) => {}
            () = shutdown.cancelled() => break,
        }
        save(&view, &disk).await;
    }
    save(&view, &disk).await;
}

async fn save(view: &View, disk: &Arc<Disk>) {
    loop {
        let changes = view.write(take);
        if changes.is_empty() {
            return;
        }
        let disk = Arc::clone(disk);
        match tokio::task::spawn_blocking(move || disk.save_view(&changes)).await {
            Ok(Ok(())) => {}
            // The file is a cache: what it lacks is read from Omni.
            Ok(Err(error)) => tracing::warn!(%error, "the view was not saved"),
            Err(_) => return,
        }
    }
}

/// The next changes as they are now. What waits to be sent is in the outbox, not here.
fn take(inner: &mut Inner) -> Vec<Change> {
    let mut changes = Vec::new();
    while changes.len() < BATCH
        && let Some((part, id)) = inner.unsaved.pop_first()
    {
        let resource = match part {
            Part::JoinConfig => inner.join_config.clone(),
            _ => {
                let machine = inner.machines.get(&id).map(|slot| &slot.machine);
                if machine.is_some_and(|machine| machine.pending(part)) {
                    continue;
                }
                machine.and_then(|machine| machine.resource(part))
            }
        };
        changes.push((part, id, resource));
    }
    changes
}
