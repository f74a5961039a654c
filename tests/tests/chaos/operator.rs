//! What people want of the machines, and whether they got it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cosi::{ListOptions, Resource, StateError};
use omni_link::view::{Machine as Known, Part};
use provider::private::WipeStatusSpec;
use provider::resources::{
    INFRA_MACHINE_OWNER, LABEL_CLUSTER, LABEL_MACHINE_SET, LABEL_ROLE_WORKER, ResourceSpec,
};
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::infra_machine_status_spec::MachinePowerState;
use provider::specs::{
    ClusterSpec, InfraMachineConfigSpec, InfraMachineSpec, InfraMachineStatusSpec, MachineSetNodeSpec,
};

use crate::machine::{Disk, Machine};
use crate::site::{PROVIDER, Site, pointer};

const CLUSTER: &str = "edge";

/// What becomes of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Nobody decides.
    Pending,
    Rejected,
    Accepted,
    /// Accepted, then used by a cluster.
    Allocated,
    /// Accepted, used, and free again.
    Released,
}

impl Plan {
    /// A tenth each is left alone; the rest is spread evenly.
    pub(crate) fn of(index: usize) -> Self {
        match index % 10 {
            0 => Self::Pending,
            1 => Self::Rejected,
            2..=4 => Self::Accepted,
            5..=6 => Self::Allocated,
            _ => Self::Released,
        }
    }
}

impl Site {
    pub(crate) async fn prepare(&self) {
        self.change::<ClusterSpec>(CLUSTER, "", |_, spec| spec.talos_version = "1.13.9".to_owned()).await;
    }

    /// Until the machine is what the mirror says `holds`.
    async fn until(&self, id: &str, holds: impl Fn(&Known) -> bool) {
        let mut generation = self.mirror.generation();
        while !self.mirror.machine(id).as_deref().is_some_and(&holds) {
            generation.changed().await.unwrap();
        }
    }

    /// Until the mirror's machines are as `hold` says.
    pub(crate) async fn until_all(&self, hold: impl Fn(&[String]) -> bool) {
        let mut generation = self.mirror.generation();
        while !hold(&self.mirror.ids()) {
            generation.changed().await.unwrap();
        }
    }

    /// Until the link knows Omni's last word.
    pub(crate) async fn in_sync(&self, limit: Duration) {
        let view = self.link_view().await;
        let mut generation = view.generation();
        let synced = tokio::time::timeout(limit, async {
            while !view.fresh() {
                generation.changed().await.unwrap();
            }
        });
        assert!(synced.await.is_ok(), "not in sync after {limit:?}: {:?}", view.stale());
    }

    async fn decide(&self, machine: &Machine, decision: AcceptanceStatus) {
        self.change::<InfraMachineConfigSpec>(&machine.id, "", |_, spec| {
            spec.acceptance_status = decision as i32;
        })
        .await;
    }

    /// Does with a machine what is planned, and waits until it is so.
    pub(crate) async fn carry_out(&self, machine: &Arc<Machine>, plan: Plan) {
        self.until(&machine.id, |known| known.infra.is_some()).await;
        match plan {
            Plan::Pending => return,
            Plan::Rejected => {
                self.decide(machine, AcceptanceStatus::Rejected).await;
                let rejected = |known: &Known| {
                    known
                        .infra
                        .as_ref()
                        .is_some_and(|infra| infra.spec.acceptance_status() == AcceptanceStatus::Rejected)
                };
                return self.until(&machine.id, rejected).await;
            }
            Plan::Accepted | Plan::Allocated | Plan::Released => {}
        }
        machine.wipes_asked.fetch_add(1, Ordering::SeqCst);
        self.decide(machine, AcceptanceStatus::Accepted).await;
        self.until(&machine.id, idle).await;
        if plan == Plan::Accepted {
            return;
        }
        let node = Resource::empty(&pointer::<MachineSetNodeSpec>(&machine.id))
            .with_label(LABEL_CLUSTER, CLUSTER)
            .with_label(LABEL_MACHINE_SET, "edge-workers")
            .with_label(LABEL_ROLE_WORKER, "");
        let node = &node;
        self.insist("allocation", |state| async move {
            match state.create(node.clone(), "").await {
                // Omni was killed after it had written and before it had answered.
                Err(StateError::AlreadyExists(_)) => Ok(()),
                other => other.map(drop),
            }
        })
        .await;
        self.until(&machine.id, in_use).await;
        if plan == Plan::Allocated {
            return;
        }
        machine.wipes_asked.fetch_add(1, Ordering::SeqCst);
        let node = &pointer::<MachineSetNodeSpec>(&machine.id);
        self.insist("release", |state| async move {
            match state.teardown(node, "").await {
                Err(StateError::NotFound(_)) => Ok(()),
                other => other.map(drop),
            }
        })
        .await;
        self.until(&machine.id, |known| {
            idle(known) && known.infra.as_ref().is_some_and(|infra| !infra.spec.wipe_id.is_empty())
        })
        .await;
    }

    /// Writes what others write too, as a user and as Omni, under names of its own.
    pub(crate) async fn meddle(&self, machine: &Machine, writer: usize, times: usize) {
        self.until(&machine.id, |known| known.infra.is_some()).await;
        for time in 0..times {
            let name = format!("chaos/{writer}-{time}");
            let note = |resource: &mut Resource| {
                resource.metadata.annotations.insert(name.clone(), String::new());
            };
            self.change::<InfraMachineSpec>(&machine.id, INFRA_MACHINE_OWNER, |resource, _| note(resource))
                .await;
            self.change::<InfraMachineConfigSpec>(&machine.id, "", |resource, _| note(resource)).await;
        }
    }

    /// Everything that is not as it should be; asked of Omni itself.
    pub(crate) async fn wrong(&self, plans: &[(Arc<Machine>, Plan)]) -> Vec<String> {
        let mut wrong = Vec::new();
        let infra = self.all::<InfraMachineSpec>().await;
        let configs = self.all::<InfraMachineConfigSpec>().await;
        let statuses = self.all::<InfraMachineStatusSpec>().await;
        let records = self.insist("wipe records", |state| async move {
            state.list(&Part::Wipe.kind(PROVIDER), &ListOptions::default()).await
        });
        let records: Vec<(String, WipeStatusSpec)> =
            records.await.into_iter().map(|r| (r.id().to_owned(), r.decode().unwrap())).collect();
        for (machine, plan) in plans {
            let id = &machine.id;
            let of = |resources: &[Resource]| resources.iter().find(|r| r.id() == id).cloned();
            let mut complain =
                |what: String| wrong.push(format!("{id} {plan:?}: {what}; orders {:?}", machine.orders()));
            for violation in machine.violations.lock().unwrap().iter() {
                complain(violation.clone());
            }
            let Some(spec) = of(&infra) else {
                complain("no InfraMachine".to_owned());
                continue;
            };
            for resource in [Some(spec.clone()), of(&configs)].into_iter().flatten() {
                let found =
                    resource.metadata.annotations.keys().filter(|key| key.starts_with("chaos/")).count();
                if found != machine.notes {
                    complain(format!("{} notes were written, {found} are left", machine.notes));
                }
            }
            let spec: InfraMachineSpec = spec.decode().unwrap();
            let status: Option<InfraMachineStatusSpec> = of(&statuses).map(|status| status.decode().unwrap());
            let record = records.iter().find(|(record, _)| record == id).map(|(_, record)| record);
            if let Err(what) = check(machine, *plan, &spec, status.as_ref(), record) {
                complain(format!("{what}; {status:?}"));
            }
        }
        wrong
    }

    async fn all<T: ResourceSpec>(&self) -> Vec<Resource> {
        let kind = &cosi::Kind::new(T::NAMESPACE, T::TYPE);
        self.insist(T::TYPE, |state| async move { state.list(kind, &ListOptions::default()).await }).await
    }
}

impl Machine {
    pub(crate) fn orders(&self) -> Vec<String> {
        self.orders.lock().unwrap().clone()
    }
}

/// Wiped, off, and free.
fn idle(known: &Known) -> bool {
    let (Some(infra), Some(status), Some(wipe)) = (&known.infra, &known.status, &known.wipe) else {
        return false;
    };
    infra.spec.cluster_talos_version.is_empty()
        && status.spec.ready_to_use
        && !status.spec.installed
        && status.spec.power_state() == MachinePowerState::PowerStateOff
        && wipe.spec.last_wipe_id == infra.spec.wipe_id
}

/// On, and running from its disk.
fn in_use(known: &Known) -> bool {
    known.status.as_ref().is_some_and(|status| {
        status.spec.installed && status.spec.power_state() == MachinePowerState::PowerStateOn
    })
}

fn check(
    machine: &Machine,
    plan: Plan,
    infra: &InfraMachineSpec,
    status: Option<&InfraMachineStatusSpec>,
    record: Option<&WipeStatusSpec>,
) -> Result<(), String> {
    let holds = |condition: bool, what: &str| if condition { Ok(()) } else { Err(what.to_owned()) };
    let done = machine.wipes_done.load(Ordering::SeqCst);
    let asked = machine.wipes_asked.load(Ordering::SeqCst);
    let unheard = machine.wipes_unheard.load(Ordering::SeqCst);
    // One wipe more is allowed for each answer that was cut off: when the tunnel or the link died while the wipe ran,
    // or before its end was written down. Omni's agents have no name for a wipe (`WipeDisks` says only how), and
    // Omni's record of it follows the answer; so nobody can tell such a wipe from one that never began, and to allocate
    // a machine that may not be wiped is the worse of the two. Whatever else breaks (hub, line, clock, writers,
    // BMCs), each wipe that was asked for is done once.
    if !(asked..=asked + unheard).contains(&done) {
        return Err(format!("wiped {done} times; {asked} were asked for, {unheard} were not heard of"));
    }
    let disk = *machine.disk.lock().unwrap();
    if matches!(plan, Plan::Pending | Plan::Rejected) {
        holds(machine.orders().is_empty(), "its power was touched")?;
        holds(disk == Disk::Foreign, "its disk was touched")?;
        return holds(status.is_none(), "it has a status");
    }
    let status = status.ok_or("it has no status")?;
    let record = record.ok_or("it has no wipe record")?;
    holds(record.initial_wipe_done, "its record is not of a wipe")?;
    holds(record.last_wipe_id == infra.wipe_id, "its last wipe is not the one that was asked for")?;
    holds(status.wiped_node_unique_token == infra.node_unique_token, "its token was not taken note of")?;
    holds(status.ready_to_use, "it is not ready")?;
    let used = plan == Plan::Allocated;
    holds(used == status.installed, "installed or not is wrong")?;
    holds(used == machine.is_on(), "its power is wrong")?;
    let on = status.power_state() == MachinePowerState::PowerStateOn;
    holds(used == on, "its power is told wrong")?;
    holds(disk == if used { Disk::Talos } else { Disk::Blank }, "its disk is wrong")
}

/// Long on any machine; a test that waits this long has failed.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
