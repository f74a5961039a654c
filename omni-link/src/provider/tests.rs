use std::collections::HashMap;
use std::sync::Mutex;

use cosi::{EventStream, Kind, ListOptions, WatchOptions, WatchTarget};

use super::*;

/// Omni, as far as a provider that only tells needs it. Counts calls.
#[derive(Default)]
struct Omni {
    stored: Mutex<HashMap<Pointer, Resource>>,
    calls: Mutex<Vec<&'static str>>,
    away: Mutex<bool>,
}

impl Omni {
    fn called(&self, name: &'static str) -> Result<(), StateError> {
        self.calls.lock().unwrap().push(name);
        if *self.away.lock().unwrap() { Err(StateError::Unavailable("away".into())) } else { Ok(()) }
    }

    fn read<T: Message + Default + ResourceSpec>(&self) -> (Metadata, T) {
        let stored = self.stored.lock().unwrap();
        let resource = &stored[&Pointer::new(T::NAMESPACE, T::TYPE, "bare-metal")];
        (resource.metadata.clone(), resource.decode().unwrap())
    }

    fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

#[tonic::async_trait]
impl State for Omni {
    async fn get(&self, pointer: &Pointer) -> Result<Resource, StateError> {
        self.called("get")?;
        let stored = self.stored.lock().unwrap();
        stored.get(pointer).cloned().ok_or_else(|| StateError::NotFound("none".into()))
    }

    async fn list(&self, _: &Kind, _: &ListOptions) -> Result<Vec<Resource>, StateError> {
        unreachable!("nothing is listed")
    }

    async fn create(&self, mut resource: Resource, owner: &str) -> Result<Resource, StateError> {
        self.called("create")?;
        let mut stored = self.stored.lock().unwrap();
        if stored.contains_key(&resource.pointer()) {
            return Err(StateError::AlreadyExists("there".into()));
        }
        resource.metadata.version = Version::Number(1);
        owner.clone_into(&mut resource.metadata.owner);
        stored.insert(resource.pointer(), resource.clone());
        Ok(resource)
    }

    async fn update(&self, mut resource: Resource, options: &UpdateOptions) -> Result<Resource, StateError> {
        self.called("update")?;
        let mut stored = self.stored.lock().unwrap();
        let known = stored.get(&resource.pointer()).ok_or_else(|| StateError::NotFound("none".into()))?;
        assert_eq!(known.metadata.owner, options.owner);
        if known.metadata.version != resource.metadata.version {
            return Err(StateError::VersionConflict("older".into()));
        }
        resource.metadata.version = resource.metadata.version.next();
        stored.insert(resource.pointer(), resource.clone());
        Ok(resource)
    }

    async fn destroy(&self, _: &Pointer, _: &str) -> Result<(), StateError> {
        unreachable!("nothing is destroyed")
    }

    async fn teardown(&self, _: &Pointer, _: &str) -> Result<bool, StateError> {
        unreachable!("nothing is torn down")
    }

    async fn watch(&self, _: &WatchTarget, _: &WatchOptions) -> Result<EventStream, StateError> {
        unreachable!("nothing is watched")
    }
}

fn provider(omni: &Arc<Omni>, key_expires: Option<SystemTime>) -> Provider {
    let info = ProviderInfo {
        id: "bare-metal".into(),
        name: "Bare Metal".into(),
        description: "of the site".into(),
        version: "1.2.3".into(),
        key_expires,
    };
    let view = View::new("bare-metal", Arc::new(|_: &str, _| {}));
    Provider::new(info, Arc::clone(omni) as Arc<dyn State>, view)
}

fn fresh(provider: &Provider) {
    provider.view.all_synced();
}

#[tokio::test]
async fn it_registers_as_a_static_provider_with_a_picture() {
    let omni = Arc::new(Omni::default());
    provider(&omni, None).step().await.unwrap();
    let (metadata, status) = omni.read::<InfraProviderStatusSpec>();
    assert_eq!(metadata.labels.get(LABEL_IS_STATIC_INFRA_PROVIDER).map(String::as_str), Some(""));
    assert_eq!(
        (status.name.as_str(), status.version.as_str(), status.schema.as_str()),
        ("Bare Metal", "1.2.3", "")
    );
    assert!(!status.icon.contains('='), "without padding");
    assert_eq!(STANDARD_NO_PAD.decode(status.icon).unwrap(), ICON);
}

#[tokio::test]
async fn an_old_registration_is_corrected_and_keeps_what_is_not_ours() {
    let omni = Arc::new(Omni::default());
    let old = Resource::new(
        InfraProviderStatusSpec::NAMESPACE,
        InfraProviderStatusSpec::TYPE,
        "bare-metal",
        vec![],
    )
    .with_label("of-a-person", "yes");
    omni.create(old, "the go provider").await.unwrap();
    let mut provider = provider(&omni, None);
    fresh(&provider);
    provider.step().await.unwrap();
    let (metadata, status) = omni.read::<InfraProviderStatusSpec>();
    assert_eq!(status.name, "Bare Metal");
    assert_eq!(metadata.labels.len(), 2);
    assert_eq!(metadata.owner, "the go provider");
    omni.calls();
    provider.step().await.unwrap();
    assert_eq!(omni.calls(), ["update"], "a beat is one call");
}

#[tokio::test]
async fn a_beat_survives_that_omni_forgets_it_and_that_another_one_beats() {
    let omni = Arc::new(Omni::default());
    let mut provider = provider(&omni, None);
    fresh(&provider);
    provider.step().await.unwrap();
    let (metadata, _) = omni.read::<InfraProviderHealthStatusSpec>();
    assert_eq!(metadata.owner, "bare-metal.ProviderHealthStatusController");
    let pointer = provider.pointer::<InfraProviderHealthStatusSpec>();
    omni.stored.lock().unwrap().remove(&pointer);
    omni.calls();
    provider.step().await.unwrap();
    assert_eq!(omni.calls(), ["update", "create"]);
    omni.stored.lock().unwrap().get_mut(&pointer).unwrap().metadata.version = Version::Number(9);
    provider.step().await.unwrap();
    assert_eq!(omni.calls(), ["update", "get", "update"]);
}

#[tokio::test]
async fn the_beat_says_since_when_omni_is_unknown_and_that_the_key_ends() {
    let omni = Arc::new(Omni::default());
    let soon = SystemTime::now() + Duration::from_secs(5 * 24 * 60 * 60 + 60);
    let mut provider = provider(&omni, Some(soon));
    provider.step().await.unwrap();
    let (_, health) = omni.read::<InfraProviderHealthStatusSpec>();
    assert!(health.error.starts_with("Omni's wishes are not known since 20"), "{}", health.error);
    assert!(
        health.error.ends_with(
            "the service account key expires in 5 days: renew it with `omnictl infraprovider renewkey`"
        ),
        "{}",
        health.error
    );
    fresh(&provider);
    provider.view.board().trouble("m1", "its BMC does not answer");
    provider.step().await.unwrap();
    let (_, health) = omni.read::<InfraProviderHealthStatusSpec>();
    assert!(health.error.starts_with("1 machines need help: m1 (since 20"), "{}", health.error);
    provider.view.board().well("m1");
    provider.info.key_expires = None;
    provider.step().await.unwrap();
    assert_eq!(omni.read::<InfraProviderHealthStatusSpec>().1.error, "");
}

#[tokio::test(start_paused = true)]
async fn it_beats_every_ten_seconds_whatever_happens() {
    let omni = Arc::new(Omni::default());
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(provider(&omni, None).run(shutdown.clone()));
    tokio::time::sleep(Duration::from_secs(35)).await;
    let beats = omni.read::<InfraProviderHealthStatusSpec>().0.version;
    assert_eq!(beats, Version::Number(4));
    *omni.away.lock().unwrap() = true;
    tokio::time::sleep(Duration::from_secs(60)).await;
    *omni.away.lock().unwrap() = false;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(omni.read::<InfraProviderHealthStatusSpec>().0.version, Version::Number(5));
    shutdown.cancel();
    task.await.unwrap();
}
