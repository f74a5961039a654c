//! What is looked at before anything else.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cosi::embedded::{EmbeddedState, Options};
use proptest::prelude::*;

use super::request::{KEY_LENGTH, keeps_unique_token};
use super::*;
use crate::HubConfig;
use crate::limits::Room;

#[test]
fn talos_keeps_a_unique_token_since_1_6() {
    let rows = [
        ("v1.6.0", true),
        ("1.6", true),
        ("v1.13.7", true),
        ("v1.6.0-alpha.1", true),
        ("v2.0.0", true),
        ("v1.5.9", false),
        ("v0.14.0", false),
        ("", false),
        ("abc", false),
        ("v1", false),
        ("v1.x", false),
        ("-1.7", false),
    ];
    for (version, expected) in rows {
        assert_eq!(keeps_unique_token(version), expected, "{version}");
    }
}

#[test]
fn ids_are_uuids_or_short_visible_texts() {
    let uuid = "5b0e1d4a-7d7f-4c8e-9a53-0f9f2b6f2f01";
    assert_eq!(machine_id(uuid).as_deref(), Some(uuid));
    assert_eq!(machine_id(&uuid.to_uppercase()).as_deref(), Some(uuid));
    assert_eq!(machine_id("not-a-uuid").as_deref(), Some("not-a-uuid"));
    for bad in ["", "two words", "new\nline", "é", &"x".repeat(MAX_MACHINE_ID + 1)] {
        assert_eq!(machine_id(bad), None, "{bad:?}");
    }
}

#[test]
fn node_addresses_are_in_siderolinks_network() {
    let (one, other) = (Lot::random().unwrap().subnet, Lot::random().unwrap().subnet);
    assert!(one.starts_with("fdae:41e4:649b:9303:") && one.ends_with("/64"), "{one}");
    assert_ne!(one, other);
}

#[test]
fn errors_have_omnis_codes() {
    use tonic::Code;
    let rows = [
        (ProvisionError::InvalidArgument(String::new()), Code::InvalidArgument),
        (ProvisionError::Unauthorized, Code::PermissionDenied),
        (ProvisionError::NoProvider(String::new()), Code::NotFound),
        (ProvisionError::TearingDown, Code::AlreadyExists),
        (ProvisionError::TooMany, Code::ResourceExhausted),
        (ProvisionError::Store(StateError::Unknown("the inside".to_owned())), Code::Internal),
    ];
    for (error, code) in rows {
        let status = Status::from(error);
        assert_eq!(status.code(), code);
        assert!(!status.message().contains("the inside"));
    }
}

/// A hub with room for two machines and two in limbo, and its default join token.
async fn small_hub() -> (Hub, String) {
    let config = HubConfig {
        provider_id: "bare-metal".to_owned(),
        machine_api_url: "grpc://127.0.0.1:8090".to_owned(),
        event_endpoint: "127.0.0.1:8090".to_owned(),
        kernel_log_endpoint: None,
        wireguard: None,
        image_factory: None,
    };
    let state = Arc::new(EmbeddedState::in_memory(Options::default()).unwrap());
    let mut hub = Hub::open(config, state, Arc::new(|_| {})).await.unwrap();
    hub.room = Room { machines: 2, pending: 2 };
    let secret = hub.store.find::<SiderolinkConfigSpec>(SIDEROLINK_CONFIG_ID).await.unwrap().unwrap();
    (hub, secret.spec.join_token)
}

fn request_of(machine: u8, secret: &str) -> ProvisionRequest {
    ProvisionRequest {
        node_uuid: format!("machine-{machine}"),
        node_public_key: STANDARD.encode([machine; KEY_LENGTH]),
        join_token: Some(secret.to_owned()),
        ..ProvisionRequest::default()
    }
}

#[tokio::test]
async fn the_hub_takes_so_many_machines_and_no_more() {
    let (hub, secret) = small_hub().await;
    for machine in [1, 2] {
        hub.provision(request_of(machine, &secret), None).await.unwrap();
    }
    let error = hub.provision(request_of(3, &secret), None).await.unwrap_err();
    assert!(matches!(error, ProvisionError::TooMany));
    hub.provision(request_of(1, &secret), None).await.expect("who is there already may call again");
}

#[tokio::test]
async fn limbo_takes_so_many_and_no_more() {
    let (hub, secret) = small_hub().await;
    let in_limbo = |machine| ProvisionRequest {
        talos_version: Some("v1.13.7".to_owned()),
        ..request_of(machine, &secret)
    };
    for machine in [1, 2] {
        hub.provision(in_limbo(machine), None).await.unwrap();
    }
    let error = hub.provision(in_limbo(3), None).await.unwrap_err();
    assert!(matches!(error, ProvisionError::TooMany));
    hub.provision(in_limbo(1), None).await.expect("who is there already may call again");
}

proptest! {
    #[test]
    fn any_request_is_checked_without_a_panic(
        node_uuid in ".{0,80}",
        node_public_key in ".{0,80}",
        join_token in proptest::option::of(".{0,80}"),
        node_unique_token in proptest::option::of(".{0,80}"),
        talos_version in proptest::option::of(".{0,80}"),
    ) {
        let request = ProvisionRequest {
            node_uuid, node_public_key, join_token, node_unique_token, talos_version,
            wireguard_over_grpc: None,
        };
        let _ = Request::check(request, None, None);
    }
}
