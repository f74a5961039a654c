//! One task a machine, so that a machine whose BMC hangs delays nobody else.

mod machine;
mod power;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::power::PxeMode;
use ::power::api::AddressBook;
use cosi::State;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::agents::Agents;
use crate::happening::Observer;
use crate::tunnels::Tunnels;
use crate::view::View;
pub use power::{Redfish, RedfishUse};

/// Machines looked at for the first time together, and the pause before the next ones: at the start of a site
/// of thousands, what all of them begin with (asking the BMC) comes one by one.
const START_BATCH: usize = 16;
const START_PACE: Duration = Duration::from_millis(20);

/// What the tasks share.
pub struct Controller {
    /// Provider id in Omni.
    pub provider_id: String,
    /// Omni, or the hub.
    pub state: Arc<dyn State>,
    /// What is known.
    pub view: Arc<View>,
    /// Who is connected.
    pub tunnels: Arc<Tunnels>,
    /// Calls to agents.
    pub agents: Agents,
    /// Settings that decisions depend on.
    pub policy: provider::Policy,
    /// Boot device setting for BMCs.
    pub pxe_mode: PxeMode,
    /// How BMCs are asked for Redfish.
    pub redfish: Redfish,
    /// Where the HTTP power APIs are listed.
    pub power_apis: Option<AddressBook>,
    /// The boot journal.
    pub observer: Observer,
    /// Since when we look.
    pub started: SystemTime,
}

impl Controller {
    /// Runs a task for every machine of the view until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let this = Arc::new(self);
        let mut appeared = this.view.appeared();
        let mut running = HashSet::new();
        let mut tasks = JoinSet::new();
        loop {
            let new = this.view.ids().into_iter().filter(|id| !running.contains(id));
            let new: Vec<String> = new.take(START_BATCH).collect();
            for id in &new {
                running.insert(id.clone());
                let task = machine::Task::new(Arc::clone(&this), id.clone());
                let (id, shutdown) = (id.clone(), shutdown.clone());
                tasks.spawn(async move {
                    task.run(shutdown).await;
                    id
                });
            }
            let more = new.len() == START_BATCH;
            // Cancel-safe: all keep their place when another one wins.
            tokio::select! {
                changed = appeared.changed(), if !more => if changed.is_err() { break },
                () = tokio::time::sleep(START_PACE), if more => {}
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    if let Ok(id) = ended {
                        running.remove(&id);
                    }
                }
                () = shutdown.cancelled() => break,
            }
        }
        while tasks.join_next().await.is_some() {}
    }
}
