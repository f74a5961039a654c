//! Killed between any two writes, the hub goes on where it was.

use std::sync::Arc;

use cosi::State;
use cosi::embedded::{EmbeddedState, Options};
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::{
    InfraMachineConfigSpec, InfraMachineSpec, MachineSetNodeSpec, NodeUniqueTokenSpec, SiderolinkSpec,
};

use super::mortal::Mortal;
use super::site::*;
use crate::store::{Typed, pointer};

/// More writes than any of the steps takes; each test proves it by reaching an attempt that survives.
const MOST_WRITES: usize = 80;

fn memory() -> Arc<dyn State> {
    Arc::new(EmbeddedState::in_memory(Options::default()).unwrap())
}

fn accepted(machine: &Typed<InfraMachineSpec>) -> bool {
    machine.spec.acceptance_status == AcceptanceStatus::Accepted as i32
}

fn allocated(machine: &Typed<InfraMachineSpec>) -> bool {
    !machine.spec.cluster_talos_version.is_empty()
}

/// Runs `step` on a hub that dies after `writes` more writes, and waits for its end or its death. Says
/// whether it lived.
async fn attempt(state: &Arc<dyn State>, writes: usize, step: impl AsyncFnOnce(&Site, &Users)) -> bool {
    let mortal = Arc::new(Mortal::new(Arc::clone(state)));
    let site = Site::start_on(Arc::clone(&mortal) as Arc<dyn State>).await;
    let users = Users::of(Arc::clone(state));
    mortal.dies_after(writes);
    let lived = tokio::select! {
        () = step(&site, &users) => true,
        () = soon("the end or the death", mortal.death()) => false,
    };
    site.kill().await;
    lived
}

async fn joined_and_ready(state: &Arc<dyn State>) {
    let site = Site::start_on(Arc::clone(state)).await;
    site.join(address(11), MACHINE, &unique("aa", "one")).await;
    site.users.decide(MACHINE, AcceptanceStatus::Accepted).await.unwrap();
    site.until::<InfraMachineSpec>(MACHINE, accepted).await;
    site.users.report_ready(MACHINE).await;
    site.users.cluster("blue", "1.13.8").await.unwrap();
    site.kill().await;
}

#[tokio::test]
async fn an_opening_that_was_cut_short_is_completed_by_the_next_one() {
    for writes in 0..MOST_WRITES {
        let state = memory();
        let mortal = Arc::new(Mortal::new(Arc::clone(&state)));
        mortal.dies_after(writes);
        let lived = crate::Hub::open(config(), mortal, Arc::new(|_| {})).await.is_ok();
        let site = Site::start_on(state).await;
        site.join(address(11), MACHINE, &unique("aa", "one")).await;
        site.kill().await;
        if lived {
            return;
        }
    }
    panic!("it never lived");
}

#[tokio::test]
async fn a_join_that_was_cut_short_succeeds_when_the_machine_calls_again() {
    for writes in 0..MOST_WRITES {
        let state = memory();
        let watched = Arc::clone(&state);
        let lived = attempt(&state, writes, async move |site: &Site, _: &Users| {
            let request = request(MACHINE, Some(site.join_token().await), Some(&unique("aa", "one")));
            let answered = site.provision(address(11), request).await.is_ok();
            if !answered {
                std::future::pending::<()>().await;
            }
            until::<InfraMachineSpec>(&*watched, MACHINE, |_| true).await;
        })
        .await;
        let site = Site::start_on(state).await;
        site.join(address(11), MACHINE, &unique("aa", "one")).await;
        site.until::<InfraMachineSpec>(MACHINE, |_| true).await;
        site.until::<NodeUniqueTokenSpec>(MACHINE, |_| true).await;
        site.kill().await;
        if lived {
            return;
        }
    }
    panic!("it never lived");
}

#[tokio::test]
async fn an_allocation_and_its_release_are_never_lost() {
    for writes in 0..MOST_WRITES {
        let state = memory();
        joined_and_ready(&state).await;
        let watched = Arc::clone(&state);
        let lived = attempt(&state, writes, async move |_: &Site, users: &Users| {
            users.allocate(MACHINE, "blue").await.unwrap();
            until::<InfraMachineSpec>(&*watched, MACHINE, allocated).await;
            users.release(MACHINE).await.unwrap();
            gone::<MachineSetNodeSpec>(&*watched, MACHINE).await;
        })
        .await;
        let site = Site::start_on(Arc::clone(&state)).await;
        if let Some(node) = site.find::<MachineSetNodeSpec>(MACHINE).await {
            if !node.tearing_down() {
                site.until::<InfraMachineSpec>(MACHINE, allocated).await;
                site.users.release(MACHINE).await.unwrap();
            }
            site.gone::<MachineSetNodeSpec>(MACHINE).await;
        }
        let machine = site.until::<InfraMachineSpec>(MACHINE, |machine| !allocated(machine)).await;
        assert_eq!(machine.spec.wipe_id.len(), 36, "{writes}: it was in a cluster, so it must be wiped");
        assert!(machine.metadata.labels.keys().all(|key| !key.contains("cluster")));
        site.kill().await;
        if lived {
            return;
        }
    }
    panic!("it never lived");
}

#[tokio::test]
async fn a_removal_that_was_cut_short_is_completed() {
    for writes in 0..MOST_WRITES {
        let state = memory();
        joined_and_ready(&state).await;
        let watched = Arc::clone(&state);
        let lived = attempt(&state, writes, async move |_: &Site, users: &Users| {
            users.state.teardown(&pointer::<SiderolinkSpec>(MACHINE), "").await.unwrap();
            gone::<SiderolinkSpec>(&*watched, MACHINE).await;
        })
        .await;
        let site = Site::start_on(Arc::clone(&state)).await;
        site.gone::<SiderolinkSpec>(MACHINE).await;
        assert!(site.find::<InfraMachineSpec>(MACHINE).await.is_none(), "{writes}");
        assert!(site.find::<InfraMachineConfigSpec>(MACHINE).await.is_none(), "{writes}");
        assert!(site.find::<NodeUniqueTokenSpec>(MACHINE).await.is_none(), "{writes}");
        site.kill().await;
        if lived {
            return;
        }
    }
    panic!("it never lived");
}

#[tokio::test]
async fn an_account_that_was_cut_short_is_made_by_the_next_attempt() {
    for writes in 0..MOST_WRITES {
        let state = memory();
        let mortal = Arc::new(Mortal::new(Arc::clone(&state)));
        mortal.dies_after(writes);
        let now = std::time::SystemTime::now();
        let lived = crate::accounts::create_provider(&*mortal, "other", now, YEAR).await.is_ok();
        let again = crate::accounts::create_provider(&*state, "other", now, YEAR).await;
        assert_eq!(again.is_err(), lived, "{writes}: {again:?}");
        crate::accounts::renew_provider(&*state, "other", now, YEAR).await.unwrap();
        if lived {
            return;
        }
    }
    panic!("it never lived");
}

#[tokio::test]
async fn the_removal_of_a_provider_that_was_cut_short_is_completed() {
    for writes in 0..MOST_WRITES {
        let state = memory();
        let provider = pointer::<provider::specs::InfraProviderSpec>(PROVIDER);
        joined_and_ready(&state).await;
        let watched = Arc::clone(&state);
        let lived = attempt(&state, writes, async |_: &Site, users: &Users| {
            users.state.teardown(&provider, "").await.unwrap();
            until::<provider::specs::InfraProviderSpec>(&*watched, PROVIDER, |provider| {
                provider.metadata.finalizers.is_empty()
            })
            .await;
        })
        .await;
        let site = Site::start_on(Arc::clone(&state)).await;
        site.until::<provider::specs::InfraProviderSpec>(PROVIDER, |provider| {
            provider.tearing_down() && provider.metadata.finalizers.is_empty()
        })
        .await;
        // A machine that was looked at in the same moment is cleared away after its provider.
        site.gone::<InfraMachineSpec>(MACHINE).await;
        site.gone::<SiderolinkSpec>(MACHINE).await;
        site.kill().await;
        if lived {
            return;
        }
    }
    panic!("it never lived");
}

#[tokio::test]
async fn a_provider_that_nobody_holds_yet_is_cleaned_up_after_too() {
    let state = memory();
    joined_and_ready(&state).await;
    let provider = pointer::<provider::specs::InfraProviderSpec>(PROVIDER);
    // As if the hub had been killed before it came to that, and the user was quicker than the next one.
    cosi::remove_finalizer(&*state, &provider, "InfraProviderCleanupController").await.unwrap();
    state.teardown(&provider, "").await.unwrap();
    let site = Site::start_on(Arc::clone(&state)).await;
    site.gone::<InfraMachineSpec>(MACHINE).await;
    site.gone::<SiderolinkSpec>(MACHINE).await;
    site.kill().await;
}
