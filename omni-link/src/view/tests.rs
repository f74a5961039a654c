use std::sync::Mutex;

use cosi::State;
use cosi::embedded::EmbeddedState;
use provider::resources::ResourceSpec;
use provider::specs::InfraMachineSpec;
use provider::specs::infra_machine_config_spec::AcceptanceStatus;

use tokio_util::sync::CancellationToken;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

type News = Arc<Mutex<Vec<Happening>>>;

fn view() -> (Arc<View>, News) {
    let news = News::default();
    let observer = {
        let news = Arc::clone(&news);
        Arc::new(move |_: &str, happening| news.lock().unwrap().push(happening))
    };
    (View::new("bare-metal", observer), news)
}

fn machine(id: &str, acceptance: AcceptanceStatus) -> Resource {
    let spec = InfraMachineSpec { acceptance_status: acceptance as i32, ..InfraMachineSpec::default() };
    Resource::new(InfraMachineSpec::NAMESPACE, InfraMachineSpec::TYPE, id, Vec::new()).with_spec(&spec)
}

async fn until(view: &View, holds: impl Fn(&View) -> bool) {
    let mut generation = view.generation();
    tokio::time::timeout(LIMIT, async {
        while !holds(view) {
            generation.changed().await.unwrap();
        }
    })
    .await
    .expect("the view comes to hold it in time");
}

#[tokio::test]
async fn what_is_there_at_the_start_is_no_news_and_what_comes_later_is() {
    let dir = tempfile::tempdir().unwrap();
    let state: Arc<dyn State> = Arc::new(EmbeddedState::open(dir.path().join("state.redb")).unwrap());
    state.create(machine("old", AcceptanceStatus::Accepted), "x").await.unwrap();
    let (view, news) = view();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(Arc::clone(&view), Arc::clone(&state), shutdown.clone()));
    until(&view, View::fresh).await;
    assert!(view.machine("old").is_some());
    assert!(news.lock().unwrap().is_empty());

    let new = state.create(machine("new", AcceptanceStatus::Pending), "x").await.unwrap();
    until(&view, |view| view.machine("new").is_some()).await;
    assert_eq!(*news.lock().unwrap(), [Happening::Pending]);

    let mut accepted = machine("new", AcceptanceStatus::Accepted);
    accepted.metadata = new.metadata;
    state.update(accepted, &cosi::UpdateOptions::owner("x")).await.unwrap();
    until(&view, |view| {
        view.machine("new").is_some_and(|machine| {
            machine.infra.as_ref().unwrap().spec.acceptance_status() == AcceptanceStatus::Accepted
        })
    })
    .await;
    state.destroy(&machine("new", AcceptanceStatus::Pending).pointer(), "x").await.unwrap();
    until(&view, |view| view.machine("new").is_none()).await;
    assert_eq!(*news.lock().unwrap(), [Happening::Pending, Happening::Accepted, Happening::Removed]);
    shutdown.cancel();
    task.await.unwrap();
}

#[test]
fn an_older_version_never_replaces_a_newer_one() {
    let (view, _) = view();
    let mut resource = machine("a", AcceptanceStatus::Accepted);
    resource.metadata.version = cosi::Version::Number(5);
    view.apply(Part::Infra, &resource);
    let mut old = machine("a", AcceptanceStatus::Pending);
    old.metadata.version = cosi::Version::Number(4);
    view.apply(Part::Infra, &old);
    let known = view.machine("a").unwrap();
    assert_eq!(known.infra.as_ref().unwrap().spec.acceptance_status(), AcceptanceStatus::Accepted);
}

#[test]
fn a_recreated_resource_replaces_its_namesake() {
    let (view, _) = view();
    let mut resource = machine("a", AcceptanceStatus::Accepted);
    resource.metadata.version = cosi::Version::Number(5);
    view.apply(Part::Infra, &resource);
    let mut new = machine("a", AcceptanceStatus::Pending);
    new.metadata.version = cosi::Version::Number(1);
    new.metadata.created.seconds += 1;
    view.apply(Part::Infra, &new);
    let known = view.machine("a").unwrap();
    assert_eq!(known.infra.as_ref().unwrap().spec.acceptance_status(), AcceptanceStatus::Pending);
}

#[test]
fn bytes_that_are_no_message_are_passed_over() {
    let (view, _) = view();
    let mut resource = machine("a", AcceptanceStatus::Accepted);
    resource.metadata.version = cosi::Version::Number(1);
    view.apply(Part::Infra, &resource);
    let mut garbage = resource.clone();
    garbage.metadata.version = cosi::Version::Number(2);
    garbage.spec.proto = vec![0xff; 9].into();
    view.apply(Part::Infra, &garbage);
    let known = view.machine("a").unwrap();
    assert_eq!(known.infra.as_ref().unwrap().metadata.version, cosi::Version::Number(1));
}

#[test]
fn the_view_is_fresh_only_with_every_part_in_sync() {
    let (view, _) = view();
    for part in Part::ALL {
        assert!(!view.fresh());
        view.set_synced(part);
    }
    assert!(view.fresh());
    view.set_broken(Part::Wipe, "cut".to_owned());
    assert!(!view.fresh());
}

impl View {
    /// As if every watch stood.
    pub(crate) fn all_synced(&self) {
        for part in Part::ALL {
            self.set_synced(part);
        }
    }
}

#[test]
fn what_waits_to_be_sent_shows_until_omni_says_otherwise() {
    let (view, _) = view();
    let mut resource = machine("a", AcceptanceStatus::Accepted);
    resource.metadata.version = cosi::Version::Number(5);
    view.apply(Part::Infra, &resource);
    let mut wanted = machine("a", AcceptanceStatus::Rejected);
    wanted.metadata.version = cosi::Version::Number(5);
    view.want(Part::Infra, &wanted);
    let known = |view: &View| view.machine("a").unwrap().infra.as_ref().unwrap().spec.acceptance_status();
    assert_eq!(known(&view), AcceptanceStatus::Rejected);
    view.apply(Part::Infra, &resource);
    assert_eq!(known(&view), AcceptanceStatus::Rejected, "a listing of what was is no news");
    view.retain(Part::Infra, &BTreeSet::new());
    assert_eq!(known(&view), AcceptanceStatus::Rejected, "it need not be there yet");
    resource.metadata.version = cosi::Version::Number(6);
    view.apply(Part::Infra, &resource);
    assert_eq!(known(&view), AcceptanceStatus::Accepted);
}

#[tokio::test]
async fn an_omni_that_was_restored_from_a_backup_is_believed() {
    let (view, _) = view();
    let mut late = machine("a", AcceptanceStatus::Accepted);
    late.metadata.version = cosi::Version::Number(50);
    view.apply(Part::Infra, &late);
    let state: Arc<dyn State> = Arc::new(
        EmbeddedState::in_memory(cosi::embedded::Options {
            clock: Arc::new(prost_types::Timestamp::default),
            ..cosi::embedded::Options::default()
        })
        .unwrap(),
    );
    state.create(machine("a", AcceptanceStatus::Pending), "x").await.unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(Arc::clone(&view), state, shutdown.clone()));
    until(&view, View::fresh).await;
    let known = view.machine("a").unwrap();
    assert_eq!(known.infra.as_ref().unwrap().spec.acceptance_status(), AcceptanceStatus::Pending);
    shutdown.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_view_on_disk_is_there_before_omni_is_and_what_changed_meanwhile_is_news() {
    let disk = Arc::new(Disk::in_memory().unwrap());
    let state: Arc<dyn State> =
        Arc::new(EmbeddedState::in_memory(cosi::embedded::Options::default()).unwrap());
    let open = |news: &News| {
        let news = Arc::clone(news);
        let observer = Arc::new(move |_: &str, happening| news.lock().unwrap().push(happening));
        let options = ViewOptions { disk: Arc::clone(&disk), origin: "omni".into(), grace: GRACE };
        View::open("bare-metal", observer, options).unwrap()
    };
    let created = state.create(machine("a", AcceptanceStatus::Pending), "x").await.unwrap();
    let first = open(&News::default());
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(Arc::clone(&first), Arc::clone(&state), shutdown.clone()));
    until(&first, View::fresh).await;
    shutdown.cancel();
    task.await.unwrap();

    let mut accepted = machine("a", AcceptanceStatus::Accepted);
    accepted.metadata = created.metadata;
    state.update(accepted, &cosi::UpdateOptions::owner("x")).await.unwrap();
    state.create(machine("b", AcceptanceStatus::Pending), "x").await.unwrap();

    let news = News::default();
    let second = open(&news);
    assert!(!second.fresh() && second.machine("a").is_some() && second.machine("b").is_none());
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run(Arc::clone(&second), state, shutdown.clone()));
    until(&second, View::fresh).await;
    assert_eq!(*news.lock().unwrap(), [Happening::Accepted, Happening::Pending]);
    shutdown.cancel();
    task.await.unwrap();
}
