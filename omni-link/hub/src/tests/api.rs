//! Omni's API over TCP: who gets in, and what the Go provider asks for when it starts.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cosi::{
    EventType, Kind, ListOptions, Pointer, Resource, State, StateError, UpdateOptions, WatchOptions,
    WatchTarget,
};
use cosi_wire::resource as wire;
use futures_util::StreamExt;
use omni_auth::{ServiceAccountKey, Signed};
use prost::Message as _;
use provider::private::{
    BmcConfigurationSpec, MachineStatusSpec, PowerOperationSpec, RebootStatusSpec, WipeStatusSpec,
};
use provider::resources::{
    LABEL_INFRA_PROVIDER_ID, LABEL_IS_STATIC_INFRA_PROVIDER, PrivateSpec, ResourceSpec, private_namespace,
};
use provider::specs::{
    BmcConfigSpec, ConnectionParamsSpec, FeaturesConfigSpec, InfraMachineSpec, InfraMachineStatusSpec,
    InfraProviderHealthStatusSpec, InfraProviderSpec, InfraProviderStatusSpec, ProviderJoinConfigSpec,
    ResourceDefinitionSpec, SiderolinkApiConfigSpec, SiderolinkSpec, SysVersionSpec,
};
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic::transport::Endpoint;

use super::site::*;
use crate::store::{kind, pointer};

fn unauthenticated<T: std::fmt::Debug>(result: Result<T, StateError>) {
    match result {
        Err(StateError::Unauthenticated(text)) => assert_eq!(text, "invalid signature"),
        other => panic!("let in: {other:?}"),
    }
}

fn denied<T: std::fmt::Debug>(result: Result<T, StateError>) {
    assert!(matches!(result, Err(StateError::PermissionDenied(_))), "{result:?}");
}

fn sys_version() -> Pointer {
    pointer::<SysVersionSpec>("current")
}

#[tokio::test]
async fn only_who_signs_with_a_known_key_gets_in() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    unauthenticated(site.client(None).await.get(&sys_version()).await);
    let stranger = ServiceAccountKey::generate(PROVIDER, SystemTime::now(), YEAR).unwrap();
    unauthenticated(site.client(Some(stranger)).await.get(&sys_version()).await);
    let known = site.provider(PROVIDER).await;
    let version: SysVersionSpec = known.get(&sys_version()).await.unwrap().decode().unwrap();
    assert_eq!((version.backend_version.as_str(), version.backend_api_version), ("v1.10.4", 3));
    site.kill().await;
}

#[tokio::test]
async fn a_watch_of_a_stranger_does_not_begin() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let target = WatchTarget::kind(kind::<InfraMachineSpec>());
    unauthenticated(
        site.client(None).await.watch(&target, &WatchOptions::default()).await.map(|_| "it begins"),
    );
    site.kill().await;
}

#[tokio::test]
async fn a_renewed_account_has_two_keys_that_work_and_an_ended_one_does_not() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let now = SystemTime::now();
    let before = now - Duration::from_secs(3600);
    let short = Duration::from_secs(1800);
    let (_, ended) = site.hub.create_provider(PROVIDER, before, short).await.unwrap();
    unauthenticated(site.client(Some(ended)).await.get(&sys_version()).await);
    for _ in 0..2 {
        let key = site.hub.renew_provider(PROVIDER, now, YEAR).await.unwrap();
        site.client(Some(key)).await.get(&sys_version()).await.unwrap();
    }
    let providers = crate::accounts::list_providers(&*site.state).await.unwrap();
    assert_eq!(providers.len(), 1);
    assert_eq!((providers[0].id.as_str(), providers[0].keys.len()), (PROVIDER, 3));
    assert!(providers[0].keys[0].expires > providers[0].keys[2].expires, "the last to end first");
    let again = site.hub.create_provider(PROVIDER, now, YEAR).await;
    assert!(matches!(again, Err(crate::AccountError::Exists(_))), "{again:?}");
    let nobody = site.hub.renew_provider("nobody", now, YEAR).await;
    assert!(matches!(nobody, Err(crate::AccountError::Missing(_))), "{nobody:?}");
    site.kill().await;
}

#[tokio::test]
async fn a_key_of_another_process_works_once_it_is_stored_and_until_it_is_removed() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let now = SystemTime::now();
    // As an operator does it, over the operators' socket.
    let (_, key) = crate::accounts::create_provider(&*site.users.state, "other", now, YEAR).await.unwrap();
    let fingerprint = key.fingerprint().to_owned();
    let stored = soon("the key", async {
        while site.hub.keys.find(&fingerprint).is_none() {
            tokio::task::yield_now().await;
        }
    });
    stored.await;
    let client = site.client(Some(key)).await;
    client.get(&sys_version()).await.unwrap();
    site.until::<ProviderJoinConfigSpec>("other", |_| true).await;
    let key = pointer::<provider::specs::PublicKeySpec>(&fingerprint);
    site.users.state.destroy(&key, "").await.unwrap();
    soon("the end of the key", async {
        while site.hub.keys.find(&fingerprint).is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    unauthenticated(client.get(&sys_version()).await);
    site.kill().await;
}

#[tokio::test]
async fn an_admin_may_do_everything_and_by_the_rules_for_users() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let key = site.hub.create_admin_key("ci", SystemTime::now(), YEAR).await.unwrap();
    assert_eq!(key.name(), "ci");
    let admin = site.client(Some(key)).await;
    let path = Resource::new("anywhere", "os/path", "var/run", b"\xff".to_vec()).with_yaml("a: b\n");
    let path = admin.create(path, "").await.unwrap();
    assert_eq!((&path.spec.proto[..], path.spec.yaml.as_str()), (&b"\xff"[..], "a: b\n"));
    admin.list(&kind::<SiderolinkSpec>(), &ListOptions::default()).await.unwrap();
    let odd = Resource::empty(&pointer::<provider::specs::ClusterSpec>("blue"));
    assert!(matches!(admin.create(odd, "").await, Err(StateError::InvalidArgument(_))), "no version");
    site.hub.create_admin_key("ci", SystemTime::now(), YEAR).await.unwrap();
    let reserved = site.hub.create_admin_key("infra-provider:x", SystemTime::now(), YEAR).await;
    assert!(matches!(reserved, Err(crate::AccountError::Name(_))));
    site.kill().await;
}

#[tokio::test]
async fn keys_that_cannot_be_read_are_not_used() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let key = site.hub.create_admin_key("ci", SystemTime::now(), YEAR).await.unwrap();
    let id = key.fingerprint().to_owned();
    let stored = site.find::<provider::specs::PublicKeySpec>(&id).await.unwrap().spec;
    let spoil: [fn(&mut provider::specs::PublicKeySpec); 7] = [
        |key| key.confirmed = false,
        |key| key.role = "Emperor".to_owned(),
        |key| key.identity = None,
        |key| key.expiration = None,
        |key| key.public_key = b"\xff\xfe".to_vec(),
        |key| key.public_key.truncate(100),
        |key| key.r#type = provider::specs::public_key_spec::Type::Plain as i32,
    ];
    for (row, spoil) in spoil.iter().enumerate() {
        let mut spoilt = stored.clone();
        spoil(&mut spoilt);
        let resource = Resource::empty(&pointer::<provider::specs::PublicKeySpec>(&id)).with_spec(&spoilt);
        site.hub.keys.put(&resource);
        assert!(site.hub.keys.find(&id).is_none(), "row {row}");
        site.hub.keys.load(&site.hub.store).await.unwrap();
        assert!(site.hub.keys.find(&id).is_some());
    }
    site.kill().await;
}

/// In the order in which it was seen on the wire of the real one.
#[tokio::test]
async fn the_go_provider_gets_the_answers_of_omni_when_it_starts() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    site.join(address(11), MACHINE, &unique("aa", "one")).await;
    site.until::<InfraMachineSpec>(MACHINE, |_| true).await;
    let client = site.provider(PROVIDER).await;

    // 1. Its status; the second start finds the first one's.
    let spec = InfraProviderStatusSpec { name: "Bare Metal".to_owned(), ..Default::default() };
    let status = Resource::empty(&pointer::<InfraProviderStatusSpec>(PROVIDER))
        .with_spec(&spec)
        .with_label(LABEL_IS_STATIC_INFRA_PROVIDER, "");
    let stored = client.create(status.clone(), "").await.unwrap();
    assert_eq!(stored.label(LABEL_INFRA_PROVIDER_ID), Some(PROVIDER));
    assert!(stored.spec.yaml.contains("name: Bare Metal\n"), "the server renders");
    assert!(matches!(client.create(status, "").await, Err(StateError::AlreadyExists(_))));
    let stored = client.get(&stored.pointer()).await.unwrap();
    client.update(stored, &UpdateOptions::default()).await.unwrap();

    // 2. Whether there are v2 tokens.
    let definition = pointer::<ResourceDefinitionSpec>("providerjoinconfigs.omni.sidero.dev");
    let definition: ResourceDefinitionSpec = client.get(&definition).await.unwrap().decode().unwrap();
    assert_eq!(definition.resource_type, ProviderJoinConfigSpec::TYPE);

    // 3. What machines join with; older ones read the parameters.
    let config = client.get(&pointer::<ProviderJoinConfigSpec>(PROVIDER)).await.unwrap();
    let config: ProviderJoinConfigSpec = config.decode().unwrap();
    assert!(config.config.unwrap().config.contains("kind: SideroLinkConfig"));
    let params = client.get(&pointer::<ConnectionParamsSpec>("siderolink-config")).await.unwrap();
    let params: ConnectionParamsSpec = params.decode().unwrap();
    assert_eq!(params.api_endpoint, "grpc://127.0.0.1:8090");
    assert!(!params.join_token.is_empty());
    client.get(&pointer::<SiderolinkApiConfigSpec>("siderolink-config")).await.unwrap();
    client.get(&pointer::<FeaturesConfigSpec>("features-config")).await.unwrap();

    // 4. Eight watches: a bookmark first, then what happens.
    let private = |name: String| Kind::new(private_namespace(PROVIDER), name);
    let kinds = [
        private(WipeStatusSpec::resource_type(PROVIDER)),
        private(PowerOperationSpec::resource_type(PROVIDER)),
        private(BmcConfigurationSpec::resource_type(PROVIDER)),
        private(RebootStatusSpec::resource_type(PROVIDER)),
        private(MachineStatusSpec::resource_type(PROVIDER)),
        kind::<BmcConfigSpec>(),
        kind::<InfraMachineSpec>(),
        kind::<InfraMachineStatusSpec>(),
    ];
    let options = WatchOptions { aggregated: true, bootstrap_bookmark: true, ..WatchOptions::default() };
    for kind in kinds {
        let mut events = client.watch(&WatchTarget::kind(kind.clone()), &options).await.unwrap();
        let first = soon("the bookmark", events.next()).await.unwrap().unwrap();
        assert_eq!((first.len(), first[0].typ), (1, EventType::Noop), "{kind}");
        assert_eq!(first[0].bookmark.as_ref().unwrap().len(), 8);
    }

    // 5. Its machines, and its heartbeat.
    let machines = client.list(&kind::<InfraMachineSpec>(), &ListOptions::default()).await.unwrap();
    assert_eq!(machines.len(), 1);
    let health = pointer::<InfraProviderHealthStatusSpec>(PROVIDER);
    assert!(matches!(client.get(&health).await, Err(StateError::NotFound(_))));
    let beat = InfraProviderHealthStatusSpec {
        last_heartbeat_timestamp: Some(SystemTime::now().into()),
        error: String::new(),
    };
    let owner = "bare-metal.ProviderHealthStatusController";
    let stored = client.create(Resource::empty(&health).with_spec(&beat), owner).await.unwrap();
    client.update(stored, &UpdateOptions::owner(owner)).await.unwrap();
    site.until::<provider::specs::InfraProviderCombinedStatusSpec>(PROVIDER, |combined| {
        combined.spec.health.as_ref().is_some_and(|health| health.connected)
    })
    .await;

    // 6. Finalizers, by updates that race, as the owner of the machine.
    let machine = machines[0].pointer();
    let finalizers = ["PowerOperation", "WipeStatus", "MachineStatus", "RebootStatus"];
    let held = finalizers.map(|name| {
        let (client, machine) = (client.clone(), machine.clone());
        async move { cosi::add_finalizer(&client, &machine, &format!("bare-metal.{name}Controller")).await }
    });
    for result in futures_util::future::join_all(held).await {
        result.unwrap();
    }
    assert_eq!(client.get(&machine).await.unwrap().metadata.finalizers.len(), finalizers.len());

    // After acceptance: its status of the machine, later its end.
    let status = Resource::empty(&pointer::<InfraMachineStatusSpec>(MACHINE))
        .with_spec(&InfraMachineStatusSpec { ready_to_use: true, ..Default::default() });
    let owner = "bare-metal.InfraMachineStatusController";
    let status = client.create(status, owner).await.unwrap();
    client.destroy(&status.pointer(), owner).await.unwrap();
    for typ in [SiderolinkSpec::TYPE, "Clusters.omni.sidero.dev", "InfraMachineConfigs.omni.sidero.dev"] {
        denied(client.list(&Kind::new("default", typ), &ListOptions::default()).await);
    }
    site.kill().await;
}

#[tokio::test]
async fn compressed_calls_are_taken_as_go_sends_them() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let (_, key) = site.hub.create_provider(PROVIDER, SystemTime::now(), YEAR).await.unwrap();
    let channel = Endpoint::from_shared(format!("http://{}", site.omni)).unwrap().connect().await.unwrap();
    let signed = Signed::new(channel, Some(Arc::new(key)));
    let client = wire::state_client::StateClient::new(signed);
    let mut client = client.send_compressed(CompressionEncoding::Gzip);
    let pointer = sys_version();
    let request =
        wire::GetRequest { namespace: pointer.namespace, r#type: pointer.typ, id: pointer.id, options: None };
    client.get(request).await.unwrap();
    site.kill().await;
}

#[tokio::test]
async fn what_the_hub_does_not_have_is_unimplemented_for_who_signs() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let (_, key) = site.hub.create_provider(PROVIDER, SystemTime::now(), YEAR).await.unwrap();
    for (key, code) in [(Some(Arc::new(key)), Code::Unimplemented), (None, Code::Unauthenticated)] {
        let channel =
            Endpoint::from_shared(format!("http://{}", site.omni)).unwrap().connect().await.unwrap();
        let mut client = tonic::client::Grpc::new(Signed::new(channel, key));
        client.ready().await.unwrap();
        let path = "/management.ManagementService/Kubeconfig".parse().unwrap();
        let codec = tonic_prost::ProstCodec::<wire::GetOptions, wire::GetOptions>::default();
        let status =
            client.unary(tonic::Request::new(wire::GetOptions::default()), path, codec).await.unwrap_err();
        assert_eq!(status.code(), code);
    }
    site.kill().await;
}

#[tokio::test]
async fn a_resource_that_is_too_large_or_garbage_is_refused_and_the_hub_lives() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let client = site.provider(PROVIDER).await;
    let typ = WipeStatusSpec::resource_type(PROVIDER);
    let huge = Resource::new(private_namespace(PROVIDER), &typ, "huge", vec![0u8; 10 << 20]);
    assert!(matches!(client.create(huge, "x").await, Err(StateError::InvalidArgument(_))));
    let garbage =
        Resource::new("infra-provider", InfraMachineStatusSpec::TYPE, "x", b"\xff\xff\xff".to_vec());
    assert!(matches!(client.create(garbage, "x").await, Err(StateError::InvalidArgument(_))));
    let unknown = InfraMachineStatusSpec { ready_to_use: true, ..Default::default() };
    let mut proto = unknown.encode_to_vec();
    proto.extend([0x98, 0x06, 0x07]);
    let kept = Resource::new("infra-provider", InfraMachineStatusSpec::TYPE, "kept", proto.clone());
    let kept = client.create(kept, "x").await.unwrap();
    assert_eq!(client.get(&kept.pointer()).await.unwrap().spec.proto, proto, "unknown fields are kept");
    let newer = InfraMachineStatusSpec { power_state: 77, ..Default::default() };
    let newer = Resource::empty(&pointer::<InfraMachineStatusSpec>("newer")).with_spec(&newer);
    let newer = client.create(newer, "x").await.unwrap();
    let stored = client.get(&newer.pointer()).await.unwrap();
    assert_eq!(
        stored.decode::<InfraMachineStatusSpec>().unwrap().power_state,
        77,
        "and so are unknown values"
    );
    assert!(stored.spec.yaml.contains("77"), "{}", stored.spec.yaml);
    assert!(client.get(&pointer::<InfraProviderSpec>(PROVIDER)).await.is_err(), "and it still answers");
    site.kill().await;
}

/// A message of bytes, whatever they are.
#[derive(Default)]
struct RawCodec;

impl tonic::codec::Codec for RawCodec {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for RawCodec {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn encode(
        &mut self,
        item: Vec<u8>,
        buffer: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), tonic::Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for RawCodec {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn decode(&mut self, buffer: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Vec<u8>>, tonic::Status> {
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, bytes::Buf::remaining(buffer)).to_vec()))
    }
}

#[tokio::test]
async fn garbage_in_the_place_of_any_message_is_refused_with_its_reason_and_the_hub_lives() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let key = site.hub.create_admin_key("ops", SystemTime::now(), YEAR).await.unwrap();
    let text = key.encode();
    let garbage: [&[u8]; 4] = [b"\xff\xff\xff\xff", b"\x0a\x7fshort", b"\x03\x04", &[0x0a; 100]];
    for service in ["cosi.resource.State", "management.ManagementService"] {
        let methods: &[&str] = match service {
            "cosi.resource.State" => &["Get", "List", "Create", "Update", "Destroy", "Watch", "Teardown"],
            _ => &["CreateServiceAccount", "CreateSchematicFromRaw", "GetBootAssetURL", "MachineLogs"],
        };
        for method in methods {
            let path = format!("/{service}/{method}");
            for bytes in garbage {
                let mut client = tonic::client::Grpc::new(
                    site.signed(Some(ServiceAccountKey::from_env_value(&text).unwrap())).await,
                );
                client.ready().await.unwrap();
                let request = tonic::Request::new(bytes.to_vec());
                let refused = client.unary(request, path.parse().unwrap(), RawCodec).await.unwrap_err();
                assert!(
                    matches!(refused.code(), Code::Internal | Code::InvalidArgument),
                    "{path}: {refused:?}"
                );
                assert!(!refused.message().is_empty());
            }
        }
    }
    site.provider(PROVIDER).await.get(&sys_version()).await.unwrap();
    site.kill().await;
}
