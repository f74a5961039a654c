//! Every way to join, and not to.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use provider::resources::{
    ANNOTATION_FORCE_VALID_TOKEN, ANNOTATION_UUID_CONFLICT, EPHEMERAL_NAMESPACE, LABEL_ACCEPT_PENDING,
    LABEL_INFRA_PROVIDER_ID, LABEL_MACHINE_UUID, PENDING_MACHINE_TYPE,
};
use provider::specs::{InfraMachineSpec, NodeUniqueTokenSpec, SiderolinkConfigSpec, SiderolinkSpec};
use tonic::Code;

use super::site::*;
use crate::{Hub, HubEventKind, JoinToken};
use cosi::{Kind, ListOptions, Missing, Resource};

async fn limbo(site: &Site) -> Vec<Resource> {
    let kind = Kind::new(EPHEMERAL_NAMESPACE, PENDING_MACHINE_TYPE);
    site.state.list(&kind, &ListOptions::default()).await.unwrap()
}

async fn link(site: &Site, machine: &str) -> SiderolinkSpec {
    site.find::<SiderolinkSpec>(machine).await.expect("there is a link").spec
}

fn refused() -> HubEventKind {
    HubEventKind::JoinRefused { reason: String::new() }
}

#[tokio::test]
async fn a_machine_with_join_and_unique_token_becomes_pending() {
    let disk = Disk::new();
    let mut site = Site::start(&disk).await;
    let token = unique("aa", "one");
    let answer = site.join(address(11), MACHINE, &token).await;
    assert!(answer.node_address_prefix.starts_with("fdae:41e4:649b:9303:"), "{answer:?}");
    assert!(answer.node_address_prefix.ends_with("/64"));
    assert_eq!(answer.server_address, "fdae:41e4:649b:9303::1");
    let event = site.told(&HubEventKind::Joined).await;
    assert_eq!((event.machine.as_str(), event.peer), (MACHINE, Some(address(11))));
    let machine = site.until::<InfraMachineSpec>(MACHINE, |_| true).await;
    assert_eq!(machine.metadata.owner, "InfraMachineController");
    assert_eq!(machine.label(LABEL_INFRA_PROVIDER_ID), Some(PROVIDER));
    assert_eq!(machine.label(LABEL_ACCEPT_PENDING), Some(""));
    assert_eq!(machine.spec.node_unique_token, token.to_json());
    assert_eq!(site.find::<NodeUniqueTokenSpec>(MACHINE).await.unwrap().spec.token, token.to_json());
    assert_eq!(link(&site, MACHINE).await.remote_addr, "127.0.0.11");
    site.told(&HubEventKind::Pending).await;
    site.kill().await;
}

#[tokio::test]
async fn the_served_join_token_is_the_one_in_the_configuration() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let config = site.find::<provider::specs::ProviderJoinConfigSpec>(PROVIDER).await.unwrap();
    assert_eq!(config.label(LABEL_INFRA_PROVIDER_ID), Some(PROVIDER));
    assert_eq!(config.spec.join_token.len(), 43);
    let told = config.spec.config.unwrap();
    let token = crate::token::query_escape(&site.join_token().await);
    let api = format!("grpc://127.0.0.1:8090?jointoken={token}");
    assert_eq!(told.kernel_args[0], format!("siderolink.api={api}"));
    assert!(token.starts_with("v2%3A"));
    assert_eq!(
        told.config,
        format!(
            "apiVersion: v1alpha1\nkind: SideroLinkConfig\napiUrl: {api}\n---\n\
             apiVersion: v1alpha1\nkind: EventSinkConfig\nendpoint: '127.0.0.1:8090'\n---\n\
             apiVersion: v1alpha1\nkind: KmsgLogConfig\nname: omni-kmsg\nurl: tcp://127.0.0.1:8092\n"
        )
    );
    site.kill().await;
}

#[tokio::test]
async fn an_old_talos_joins_without_a_unique_token() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    for (machine, version) in [(MACHINE, None), (OTHER, Some("v1.5.5")), ("odd-id", Some("abc"))] {
        let mut request = request(machine, Some(site.join_token().await), None);
        request.talos_version = version.map(str::to_owned);
        site.provision(address(11), request).await.unwrap();
        assert_eq!(link(&site, machine).await.node_unique_token, "");
    }
    assert!(limbo(&site).await.is_empty());
    site.kill().await;
}

#[tokio::test]
async fn an_old_talos_may_not_take_the_place_of_a_machine_with_a_token() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    site.join(address(11), MACHINE, &unique("aa", "one")).await;
    let before = link(&site, MACHINE).await;
    let mut request = request(MACHINE, Some(site.join_token().await), None);
    request.talos_version = None;
    let status = site.provision(address(12), request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(link(&site, MACHINE).await, before);
    site.kill().await;
}

#[tokio::test]
async fn a_machine_without_a_unique_token_waits_in_limbo_and_is_forgotten() {
    let disk = Disk::new();
    let now = std::sync::Arc::new(Mutex::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)));
    let clock = std::sync::Arc::clone(&now);
    let hub = Hub::open(config(), disk.open().await, std::sync::Arc::new(|_| {})).await.unwrap();
    let hub = hub.with_clock(std::sync::Arc::new(move || *clock.lock().unwrap()));
    let state = hub.store.state();
    let secret = hub.store.find::<SiderolinkConfigSpec>("siderolink-config").await.unwrap().unwrap();
    let first = request(MACHINE, Some(secret.spec.join_token.clone()), None);
    let answer = hub.provision(first.clone(), Some(address(11))).await.unwrap();
    let kind = Kind::new(EPHEMERAL_NAMESPACE, PENDING_MACHINE_TYPE);
    let waiting = state.list(&kind, &ListOptions::default()).await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].id(), first.node_public_key);
    assert_eq!(waiting[0].label(LABEL_MACHINE_UUID), Some(MACHINE));
    assert!(hub.store.find::<SiderolinkSpec>(MACHINE).await.unwrap().is_none(), "no link");
    *now.lock().unwrap() += Duration::from_secs(20);
    let again = hub.provision(first, Some(address(11))).await.unwrap();
    assert_eq!(again.node_address_prefix, answer.node_address_prefix, "the address stays");
    *now.lock().unwrap() += Duration::from_secs(29);
    assert_eq!(hub.expire_pending().await.unwrap(), Some(Duration::from_secs(1)));
    *now.lock().unwrap() += Duration::from_secs(1);
    assert_eq!(hub.expire_pending().await.unwrap(), None);
    assert!(state.list(&kind, &ListOptions::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_machine_keeps_its_address_from_limbo_to_link_and_ever_after() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let token = Some(site.join_token().await);
    let first = site.provision(address(11), request(MACHINE, token.clone(), None)).await.unwrap();
    let joined = site.join(address(11), MACHINE, &unique("aa", "one")).await;
    assert_eq!(joined.node_address_prefix, first.node_address_prefix);
    assert!(limbo(&site).await.is_empty(), "it left limbo");
    let again = site.join(address(12), MACHINE, &unique("aa", "one")).await;
    assert_eq!(again.node_address_prefix, first.node_address_prefix);
    assert_eq!(again.server_public_key, first.server_public_key);
    site.kill().await;
}

#[tokio::test]
async fn wrong_join_tokens_are_refused_and_leave_nothing() {
    let disk = Disk::new();
    let mut site = Site::start(&disk).await;
    let extra = [(LABEL_INFRA_PROVIDER_ID.to_owned(), PROVIDER.to_owned())].into();
    let wrong = [
        (None, Code::PermissionDenied),
        (Some("nonsense".to_owned()), Code::PermissionDenied),
        (Some("v2:nonsense".to_owned()), Code::PermissionDenied),
        (Some(JoinToken::sign_v2("guess", &extra)), Code::PermissionDenied),
        (Some(JoinToken::sign_v2("guess", &extra).replacen("v2", "v1", 1)), Code::PermissionDenied),
    ];
    for (token, code) in wrong {
        let request = request(MACHINE, token.clone(), Some(&unique("aa", "one")));
        let status = site.provision(address(11), request).await.unwrap_err();
        assert_eq!(status.code(), code, "{token:?}");
        let event = site.told(&refused()).await;
        assert_eq!(event.machine, MACHINE);
    }
    assert!(site.find::<SiderolinkSpec>(MACHINE).await.is_none());
    assert!(limbo(&site).await.is_empty());
    site.kill().await;
}

#[tokio::test]
async fn the_default_join_token_works_plain_and_as_v1() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let secret = site.find::<SiderolinkConfigSpec>("siderolink-config").await.unwrap().spec.join_token;
    let plain = request(MACHINE, Some(secret.clone()), Some(&unique("aa", "one")));
    site.provision(address(11), plain).await.unwrap();
    let extra = [(LABEL_INFRA_PROVIDER_ID.to_owned(), PROVIDER.to_owned())].into();
    let v1 = JoinToken::sign_v2(&secret, &extra).replacen("v2", "v1", 1);
    site.provision(address(12), request(OTHER, Some(v1), Some(&unique("bb", "two")))).await.unwrap();
    site.until::<InfraMachineSpec>(OTHER, |_| true).await;
    let plain = site.find::<SiderolinkSpec>(MACHINE).await.unwrap();
    assert_eq!(plain.label(LABEL_INFRA_PROVIDER_ID), None, "a bare token names no provider");
    site.kill().await;
}

#[tokio::test]
async fn a_token_of_a_provider_that_does_not_exist_is_not_found() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let extra = [(LABEL_INFRA_PROVIDER_ID.to_owned(), "nobody".to_owned())].into();
    let token = JoinToken::sign_v2("secret", &extra);
    let status = site.provision(address(11), request(MACHINE, Some(token), None)).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    site.kill().await;
}

#[tokio::test]
async fn the_same_token_joins_again_without_a_join_token() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let token = unique("aa", "one");
    site.join(address(11), MACHINE, &token).await;
    let mut again = request(MACHINE, None, Some(&token));
    again.node_public_key = public_key(2);
    site.provision(address(12), again).await.unwrap();
    let link = link(&site, MACHINE).await;
    assert_eq!(link.node_public_key, public_key(2));
    assert_eq!(link.remote_addr, "127.0.0.12");
    site.kill().await;
}

#[tokio::test]
async fn the_same_hardware_with_a_new_token_replaces_the_old_one() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    site.join(address(11), MACHINE, &unique("aa", "one")).await;
    let new = unique("aa", "two");
    let status = site.provision(address(11), request(MACHINE, None, Some(&new))).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "not without a join token");
    site.join(address(11), MACHINE, &new).await;
    assert_eq!(link(&site, MACHINE).await.node_unique_token, new.to_json());
    site.until::<InfraMachineSpec>(MACHINE, |machine| machine.spec.node_unique_token == new.to_json()).await;
    site.kill().await;
}

#[tokio::test]
async fn an_installed_machine_keeps_its_token_until_it_is_wiped() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let old = unique("aa", "one");
    site.join(address(11), MACHINE, &old).await;
    let force = |metadata: &mut cosi::Metadata, _: &mut SiderolinkSpec| {
        metadata.annotations.insert(ANNOTATION_FORCE_VALID_TOKEN.to_owned(), String::new());
        Ok(())
    };
    site.hub.store.put::<SiderolinkSpec, _>(MACHINE, "", Missing::Fail, force).await.unwrap();
    let new = unique("aa", "two");
    let attempt = request(MACHINE, Some(site.join_token().await), Some(&new));
    let status = site.provision(address(11), attempt.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let wiped = |_: &mut cosi::Metadata, spec: &mut provider::specs::InfraMachineStatusSpec| {
        spec.wiped_node_unique_token = old.to_json();
        Ok(())
    };
    site.hub.store.put(MACHINE, "p", Missing::Create, wiped).await.unwrap();
    site.provision(address(11), attempt).await.unwrap();
    let link = site.find::<SiderolinkSpec>(MACHINE).await.unwrap();
    assert_eq!(link.spec.node_unique_token, new.to_json());
    assert!(!link.metadata.annotations.contains_key(ANNOTATION_FORCE_VALID_TOKEN));
    site.kill().await;
}

#[tokio::test]
async fn a_second_machine_with_the_same_uuid_stays_in_limbo() {
    let disk = Disk::new();
    let mut site = Site::start(&disk).await;
    site.join(address(11), MACHINE, &unique("aa", "one")).await;
    site.until::<InfraMachineSpec>(MACHINE, |_| true).await;
    let before = site.find::<SiderolinkSpec>(MACHINE).await.unwrap();
    let mut second = request(MACHINE, Some(site.join_token().await), Some(&unique("bb", "two")));
    second.node_public_key = public_key(9);
    let answer = site.provision(address(12), second).await.unwrap();
    assert_ne!(answer.node_address_prefix, before.spec.node_subnet);
    let event = site.told(&HubEventKind::UuidConflict { reason: String::new() }).await;
    assert_eq!((event.machine.as_str(), event.peer), (MACHINE, Some(address(12))));
    let after = site.find::<SiderolinkSpec>(MACHINE).await.unwrap();
    assert_eq!((after.metadata, after.spec), (before.metadata, before.spec), "the first is untouched");
    let waiting = limbo(&site).await;
    assert_eq!(waiting.len(), 1);
    assert!(waiting[0].metadata.annotations.contains_key(ANNOTATION_UUID_CONFLICT));
    site.kill().await;
}

#[tokio::test]
async fn a_conflicting_machine_needs_a_join_token_too() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    site.join(address(11), MACHINE, &unique("aa", "one")).await;
    let second = request(MACHINE, None, Some(&unique("bb", "two")));
    let status = site.provision(address(12), second).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(limbo(&site).await.is_empty());
    site.kill().await;
}

#[tokio::test]
async fn malformed_requests_are_invalid() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let good = request(MACHINE, Some(site.join_token().await), Some(&unique("aa", "one")));
    let spoil: [fn(&mut agent_wire::link::ProvisionRequest); 9] = [
        |request| request.node_uuid.clear(),
        |request| request.node_uuid = "x".repeat(65),
        |request| request.node_uuid = "with space".to_owned(),
        |request| request.node_public_key.clear(),
        |request| request.node_public_key = "AAAA".to_owned(),
        |request| request.join_token = Some("x".repeat(5000)),
        |request| request.node_unique_token = Some("{".to_owned()),
        |request| request.node_unique_token = Some("x".repeat(2000)),
        |request| request.talos_version = Some("1".repeat(100)),
    ];
    for (index, spoil) in spoil.iter().enumerate() {
        let mut request = good.clone();
        spoil(&mut request);
        let status = site.provision(address(11), request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "row {index}");
    }
    let mut huge = good;
    huge.join_token = Some("x".repeat(1 << 20));
    assert!(site.provision(address(11), huge).await.is_err());
    site.kill().await;
}

#[tokio::test]
async fn a_uuid_is_one_machine_however_it_is_written() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    site.join(address(11), &MACHINE.to_uppercase(), &unique("aa", "one")).await;
    assert!(site.find::<SiderolinkSpec>(MACHINE).await.is_some());
    site.kill().await;
}

#[tokio::test]
async fn calls_that_race_make_one_machine() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let token = unique("aa", "one");
    let calls = (0..8).map(|_| site.join(address(11), MACHINE, &token));
    let answers = futures_util::future::join_all(calls).await;
    let subnet = link(&site, MACHINE).await.node_subnet;
    assert!(answers.iter().all(|answer| answer.node_address_prefix == subnet));
    site.kill().await;
}
