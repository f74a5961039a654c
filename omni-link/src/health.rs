//! What does not work right now, gathered for the heartbeat and for whoever asks.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use provider::Health;

use crate::view::View;

/// Collects troubles; each is told once and taken back when it is over.
#[derive(Debug, Default)]
pub struct Board {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// By machine.
    troubles: BTreeMap<String, (SystemTime, String)>,
    /// By what they are about.
    warnings: BTreeMap<&'static str, String>,
}

impl Board {
    /// Something does not work on a machine. It counts from the first time.
    pub fn trouble(&self, id: &str, reason: &str) {
        let mut inner = self.lock();
        let (_, known) =
            inner.troubles.entry(id.to_owned()).or_insert_with(|| (SystemTime::now(), String::new()));
        reason.clone_into(known);
    }

    /// All works on the machine.
    pub fn well(&self, id: &str) {
        self.lock().troubles.remove(id);
    }

    /// Something is wrong that is not about one machine; `None`: no longer.
    pub fn warn(&self, about: &'static str, warning: Option<String>) {
        let mut inner = self.lock();
        match warning {
            Some(warning) => drop(inner.warnings.insert(about, warning)),
            None => drop(inner.warnings.remove(about)),
        }
    }

    /// The whole of it.
    pub(crate) fn health(&self, view: &View) -> Health {
        let inner = self.lock();
        let troubles = inner.troubles.iter();
        Health {
            stale: view.stale().map(|stale| (stale.since, stale.reason)),
            outage: view.last_outage(),
            waiting: view.outbox().len(),
            troubles: troubles.map(|(id, (since, reason))| (id.clone(), *since, reason.clone())).collect(),
            warnings: inner.warnings.values().cloned().collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
