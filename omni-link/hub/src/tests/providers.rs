//! Several providers, static or not, and what becomes of it all when one is removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use cosi::embedded::{EmbeddedState, Options};
use cosi::{
    EventStream, Kind, ListOptions, Missing, Pointer, Resource, State, StateError, UpdateOptions,
    WatchOptions, WatchTarget,
};
use provider::private::BmcConfigurationSpec;
use provider::resources::{
    LABEL_INFRA_PROVIDER_ID, LABEL_IS_STATIC_INFRA_PROVIDER, PrivateSpec, private_namespace,
};
use provider::specs::infra_machine_bmc_config_spec::Ipmi;
use provider::specs::{
    BmcConfigSpec, IdentitySpec, InfraMachineBmcConfigSpec, InfraMachineSpec, InfraMachineStatusSpec,
    InfraProviderSpec, InfraProviderStatusSpec, MachineRegistrationSpec, ProviderJoinConfigSpec,
    PublicKeySpec, SiderolinkSpec, UserSpec,
};

use super::site::*;
use crate::store::{kind, pointer};

async fn say_static(client: &impl State, provider: &str) {
    let status = Resource::empty(&pointer::<InfraProviderStatusSpec>(provider))
        .with_label(LABEL_IS_STATIC_INFRA_PROVIDER, "");
    client.create(status, "").await.unwrap();
}

async fn join_for(site: &Site, provider: &str, machine: &str) {
    let token = site.join_token_of(provider, &[]).await;
    let request = request(machine, Some(token), Some(&unique(machine, "one")));
    site.provision(address(20), request).await.unwrap();
}

#[tokio::test]
async fn each_provider_has_its_machines_once_it_says_that_it_is_static() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let other = site.provider("other").await;
    join_for(&site, "other", OTHER).await;
    site.until::<MachineRegistrationSpec>(OTHER, |seen| seen.label(LABEL_INFRA_PROVIDER_ID) == Some("other"))
        .await;
    assert!(site.find::<InfraMachineSpec>(OTHER).await.is_none(), "nobody knows yet what kind it is");
    say_static(&other, "other").await;
    site.until::<InfraMachineSpec>(OTHER, |machine| machine.label(LABEL_INFRA_PROVIDER_ID) == Some("other"))
        .await;
    join_for(&site, PROVIDER, MACHINE).await;
    site.until::<InfraMachineSpec>(MACHINE, |_| true).await;
    let seen = other.list(&kind::<InfraMachineSpec>(), &ListOptions::default()).await.unwrap();
    assert_eq!(seen.iter().map(Resource::id).collect::<Vec<_>>(), [OTHER]);
    let configs = other.list(&kind::<ProviderJoinConfigSpec>(), &ListOptions::default()).await.unwrap();
    assert_eq!(configs.iter().map(Resource::id).collect::<Vec<_>>(), ["other"]);
    site.kill().await;
}

#[tokio::test]
async fn a_provider_that_says_it_is_dynamic_gets_no_infra_machines() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let client = site.provider(PROVIDER).await;
    client.create(Resource::empty(&pointer::<InfraProviderStatusSpec>(PROVIDER)), "").await.unwrap();
    join_for(&site, PROVIDER, MACHINE).await;
    site.until::<MachineRegistrationSpec>(MACHINE, |_| true).await;
    site.users.state.destroy(&pointer::<SiderolinkSpec>(MACHINE), "").await.unwrap();
    site.gone::<SiderolinkSpec>(MACHINE).await;
    site.gone::<MachineRegistrationSpec>(MACHINE).await;
    assert!(site.find::<InfraMachineSpec>(MACHINE).await.is_none());
    site.kill().await;
}

#[tokio::test]
async fn what_a_user_types_in_of_a_bmc_reaches_the_provider_and_goes_again() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let client = site.provider(PROVIDER).await;
    join_for(&site, PROVIDER, MACHINE).await;
    let typed_in = |password: &'static str| {
        let ipmi = Ipmi { address: "10.0.0.9".to_owned(), password: password.to_owned(), ..Ipmi::default() };
        move |_: &mut cosi::Metadata, spec: &mut InfraMachineBmcConfigSpec| {
            spec.ipmi = Some(ipmi.clone());
            Ok(())
        }
    };
    for password in ["first", "second"] {
        site.hub.store.put(MACHINE, "", Missing::Create, typed_in(password)).await.unwrap();
        site.until::<BmcConfigSpec>(MACHINE, |config| {
            let ipmi = config.spec.config.as_ref().and_then(|config| config.ipmi.as_ref());
            ipmi.is_some_and(|ipmi| ipmi.password == password)
        })
        .await;
    }
    client.get(&pointer::<BmcConfigSpec>(MACHINE)).await.unwrap();
    site.users.state.destroy(&pointer::<InfraMachineBmcConfigSpec>(MACHINE), "").await.unwrap();
    site.gone::<BmcConfigSpec>(MACHINE).await;
    site.kill().await;
}

#[tokio::test]
async fn a_removed_provider_leaves_nothing_and_its_key_is_worth_nothing() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let (_, key) = site.hub.create_provider("other", SystemTime::now(), YEAR).await.unwrap();
    let fingerprint = key.fingerprint().to_owned();
    let other = site.client(Some(key)).await;
    say_static(&other, "other").await;
    for (provider, machine) in [("other", OTHER), (PROVIDER, MACHINE)] {
        join_for(&site, provider, machine).await;
        site.until::<InfraMachineSpec>(machine, |_| true).await;
    }
    cosi::add_finalizer(&other, &pointer::<InfraMachineSpec>(OTHER), "other.Controller").await.unwrap();
    other.create(Resource::empty(&pointer::<InfraMachineStatusSpec>(OTHER)), "x").await.unwrap();
    let private =
        Pointer::new(private_namespace("other"), BmcConfigurationSpec::resource_type("other"), OTHER);
    other.create(Resource::empty(&private), "x").await.unwrap();
    let user =
        site.find::<IdentitySpec>("other@infra-provider.serviceaccount.omni.sidero.dev").await.unwrap();

    soon("the removal", crate::accounts::delete_provider(&*site.users.state, "other", PATIENCE))
        .await
        .unwrap();

    assert!(site.find::<InfraProviderSpec>("other").await.is_none());
    assert!(site.find::<SiderolinkSpec>(OTHER).await.is_none());
    assert!(site.find::<InfraMachineSpec>(OTHER).await.is_none());
    assert!(site.find::<InfraMachineStatusSpec>(OTHER).await.is_none());
    assert!(site.find::<InfraProviderStatusSpec>("other").await.is_none());
    assert!(site.find::<ProviderJoinConfigSpec>("other").await.is_none());
    assert!(site.find::<PublicKeySpec>(&fingerprint).await.is_none());
    assert!(site.find::<UserSpec>(&user.spec.user_id).await.is_none());
    assert!(site.find::<IdentitySpec>(&user.metadata.id).await.is_none());
    assert!(matches!(site.state.get(&private).await, Err(StateError::NotFound(_))));
    assert!(site.find::<InfraMachineSpec>(MACHINE).await.is_some(), "others are untouched");
    let missing = crate::accounts::delete_provider(&*site.users.state, "other", PATIENCE).await;
    assert!(matches!(missing, Err(crate::AccountError::Missing(_))));
    site.hub.create_provider("other", SystemTime::now(), YEAR).await.unwrap();
    site.kill().await;
}

/// Counts how often all links are listed.
struct Counting {
    inner: Arc<dyn State>,
    lists: AtomicUsize,
}

#[async_trait]
impl State for Counting {
    async fn get(&self, pointer: &Pointer) -> Result<Resource, StateError> {
        self.inner.get(pointer).await
    }

    async fn list(&self, kind: &Kind, options: &ListOptions) -> Result<Vec<Resource>, StateError> {
        if *kind == crate::store::kind::<SiderolinkSpec>() {
            self.lists.fetch_add(1, Ordering::SeqCst);
        }
        self.inner.list(kind, options).await
    }

    async fn create(&self, resource: Resource, owner: &str) -> Result<Resource, StateError> {
        self.inner.create(resource, owner).await
    }

    async fn update(&self, resource: Resource, options: &UpdateOptions) -> Result<Resource, StateError> {
        self.inner.update(resource, options).await
    }

    async fn destroy(&self, pointer: &Pointer, owner: &str) -> Result<(), StateError> {
        self.inner.destroy(pointer, owner).await
    }

    async fn teardown(&self, pointer: &Pointer, owner: &str) -> Result<bool, StateError> {
        self.inner.teardown(pointer, owner).await
    }

    async fn watch(&self, target: &WatchTarget, options: &WatchOptions) -> Result<EventStream, StateError> {
        self.inner.watch(target, options).await
    }
}

#[tokio::test]
async fn joining_and_reporting_never_list_the_links() {
    const MACHINES: usize = 300;
    let inner: Arc<dyn State> = Arc::new(EmbeddedState::in_memory(Options::default()).unwrap());
    let counting = Arc::new(Counting { inner, lists: AtomicUsize::new(0) });
    let state = Arc::clone(&counting) as Arc<dyn State>;
    let hub = crate::Hub::open(config(), state, Arc::new(|_| {})).await.unwrap();
    let secret = hub.store.find::<ProviderJoinConfigSpec>(PROVIDER).await.unwrap().unwrap().spec.join_token;
    let extra = [(LABEL_INFRA_PROVIDER_ID.to_owned(), PROVIDER.to_owned())].into();
    let token = crate::JoinToken::sign_v2(&secret, &extra);
    counting.lists.store(0, Ordering::SeqCst);
    for number in 0..MACHINES {
        let id = format!("machine-{number}");
        let at = std::net::IpAddr::from([10, 0, u8::try_from(number / 250).unwrap(), (number % 250) as u8]);
        let request = request(&id, Some(token.clone()), Some(&unique(&id, "one")));
        hub.provision(request, Some(at)).await.unwrap();
        let nobody = hub.publish(agent_wire::events::EventRequest::default(), Some(at)).await;
        assert!(nobody.is_err(), "it is not accepted");
    }
    assert_eq!(hub.index.machines(), MACHINES);
    assert_eq!(counting.lists.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_removal_that_somebody_holds_is_told_of_in_time() {
    let disk = Disk::new();
    let state = disk.open().await;
    let provider = pointer::<InfraProviderSpec>(PROVIDER);
    state.create(Resource::empty(&provider), "").await.unwrap();
    cosi::add_finalizer(&*state, &provider, "SomebodysController").await.unwrap();
    let patience = std::time::Duration::from_millis(1);
    let held = crate::accounts::delete_provider(&*state, PROVIDER, patience).await.unwrap_err();
    assert_eq!(
        held.to_string(),
        "infra provider bare-metal is being removed but not gone yet; it is held by SomebodysController"
    );
    assert!(state.get(&provider).await.unwrap().is_tearing_down(), "it goes on");
    cosi::remove_finalizer(&*state, &provider, "SomebodysController").await.unwrap();
    crate::accounts::delete_provider(&*state, PROVIDER, PATIENCE).await.unwrap();
}
