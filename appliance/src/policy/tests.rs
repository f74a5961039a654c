use std::net::Ipv4Addr;

use cosi::{Resource, Version};
use netboot_assets::AssetDir;
use netboot_assets::cache::{CacheConfig, ImageCache};
use netboot_assets::factory::{BootSource, Factory, FactoryConfig, Image, ImageSource};
use omni_link::view::Part;
use prost::Message;
use provider::private::inventory_spec::Nic;
use provider::private::{BmcConfigurationSpec, InventorySpec, WipeStatusSpec};
use provider::schematic::Schematic;
use provider::specs::infra_machine_config_spec::AcceptanceStatus;
use provider::specs::{InfraMachineSpec, JoinConfig, ProviderJoinConfigSpec};

use super::scripts::words;
use super::*;

const UUID: &str = "11111111-2222-3333-4444-555555555555";
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 100));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 88, 0, 66));
const SCHEMATIC: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";

fn apply(view: &View, part: Part, id: &str, spec: &impl Message) {
    let mut resource = Resource::empty(&part.kind("bare-metal").pointer(id)).with_spec(spec);
    resource.metadata.version = Version::Number(1);
    view.apply(part, &resource);
}

fn view() -> Arc<View> {
    let view = View::new("bare-metal", Arc::new(|_, _| ()));
    let config = JoinConfig {
        config: "apiVersion: v1alpha1\nkind: SideroLinkConfig\napiUrl: grpc://192.0.2.1:8090\n".into(),
        ..JoinConfig::default()
    };
    let spec = ProviderJoinConfigSpec { config: Some(config), ..ProviderJoinConfigSpec::default() };
    apply(&view, Part::JoinConfig, "bare-metal", &spec);
    view
}

fn set_images(policy: &mut Policy, images: Images) {
    policy.scripts = Scripts::new(Arc::clone(&policy.settings), Arc::new(images));
}

/// A factory that knows every schematic, or none.
struct FakeFactory(bool);

impl ImageSource for FakeFactory {
    fn boot(&self, image: &Image<'_>) -> BootSource {
        match self.0 {
            true => BootSource::Chain { url: format!("https://pxe.example.org/{}", image.version) },
            false => BootSource::NotYet { reason: "the factory is away".into() },
        }
    }
}

fn policy(view: Arc<View>) -> Policy {
    policy_with(view, true, FakeFactory(false), AgentKind::Bootlace)
}

/// `local`: whether the image is in the asset directory.
fn policy_with(view: Arc<View>, local: bool, factory: FakeFactory, agent: AgentKind) -> Policy {
    let dir = tempfile::tempdir().unwrap();
    let assets = AssetDir::new(dir.path()).unwrap();
    if local {
        let image = dir.path().join(format!("image/{SCHEMATIC}/v1.13.9"));
        std::fs::create_dir_all(&image).unwrap();
        std::fs::write(image.join("kernel-amd64"), "kernel").unwrap();
    }
    let images = Images { assets, cache: None, factory: Arc::new(factory) };
    // The directory outlives the policy's handle on it only as long as somebody keeps it.
    std::mem::forget(dir);
    let settings = Settings {
        base: BaseUrl::new(Ipv4Addr::new(10, 88, 0, 1), 50042),
        disk_method: DiskMethod::IpxeExit,
        schematic: SCHEMATIC.into(),
        agent,
        extra_documents: ExtraDocuments::default(),
        tls: None,
        agent_test_mode: false,
        agent_args: KernelArgs::new(),
        talos_args: KernelArgs::new(),
    };
    Policy::new(settings, images, view)
}

fn request() -> BootRequest {
    BootRequest {
        uuid: UUID.parse().unwrap(),
        mac: Some("52:54:00:88:00:01".parse().unwrap()),
        hostname: None,
        serial: None,
        domain: None,
        arch: Arch::Amd64,
        peer: PEER,
    }
}

fn accepted() -> InfraMachineSpec {
    InfraMachineSpec { acceptance_status: AcceptanceStatus::Accepted as i32, ..InfraMachineSpec::default() }
}

fn allocated(view: &View, install_event_id: u64) {
    let spec = InfraMachineSpec { cluster_talos_version: "1.13.9".into(), install_event_id, ..accepted() };
    apply(view, Part::Infra, UUID, &spec);
    apply(view, Part::Bmc, UUID, &BmcConfigurationSpec::default());
    apply(view, Part::Wipe, UUID, &WipeStatusSpec { initial_wipe_done: true, ..WipeStatusSpec::default() });
}

fn text(answer: &BootAnswer) -> String {
    match &answer.body {
        BootBody::Script(script) => script.text(),
        BootBody::NotFound(text) => format!("404 {text}"),
    }
}

#[test]
fn before_the_first_sight_of_omni_an_unknown_machine_is_told_to_wait() {
    let answer = policy(view()).boot(&request());
    assert_eq!(answer.mode, "wait");
    assert!(text(&answer).starts_with("404"));
}

#[test]
fn a_pending_machine_boots_the_agent_and_may_fetch_its_configuration() {
    let view = view();
    apply(&view, Part::Infra, UUID, &InfraMachineSpec::default());
    let policy = policy(view);
    let answer = policy.boot(&request());
    assert_eq!(answer.mode, "agent-pxe");
    assert!(text(&answer).contains("/assets/kernel-amd64"), "{}", text(&answer));
    assert!(policy.join_config(Some(request().uuid), PEER).unwrap().contains("SideroLinkConfig"));
}

#[test]
fn with_tls_the_agent_is_told_where_and_whom_to_trust() {
    let (view, directory) = (view(), tempfile::tempdir().unwrap());
    apply(&view, Part::Infra, UUID, &InfraMachineSpec::default());
    let plain = policy(view);
    let year = std::time::Duration::from_secs(365 * 24 * 3600);
    let tls = crate::config::Tls {
        port: 50043,
        agent_skip_verify: false,
        certificates: crate::config::Certificates::Own { ca_ttl: year, cert_ttl: year / 365 },
    };
    let address = Ipv4Addr::new(10, 88, 0, 1);
    let certificates = Certificates::open(&tls, directory.path(), vec![address.into()]).unwrap();
    let ca = certificates.ca().unwrap();
    let mut settings = Settings::clone(&plain.settings);
    settings.tls = Some((AgentTls { port: 50043, skip_verify: false }, certificates));
    let policy = plain.for_network(settings, address, address);
    let script = text(&policy.boot(&request()));
    assert!(script.contains(" metal.provider.address=https://10.88.0.1:50043"), "{script}");
    let config = policy.join_config(Some(request().uuid), PEER).unwrap();
    assert!(config.contains("SideroLinkConfig") && config.contains("name: infra-provider-ca"), "{config}");
    let indented = ca.trim_end().replace('\n', "\n    ");
    assert!(
        config.contains(&format!(
            "kind: TrustedRootsConfig\nname: infra-provider-ca\ncertificates: |\n    {indented}\n"
        )),
        "{config}"
    );
}

#[test]
fn nobody_else_gets_the_join_token() {
    let view = view();
    apply(&view, Part::Infra, UUID, &InfraMachineSpec::default());
    let policy = policy(view);
    policy.boot(&request());
    assert!(matches!(policy.join_config(Some(request().uuid), STRANGER), Err(Refusal::Forbidden(_))));
    assert!(matches!(policy.join_config(Some(Uuid::nil()), PEER), Err(Refusal::Forbidden(_))));
    assert!(matches!(policy.join_config(None, PEER), Err(Refusal::Forbidden(_))));
}

#[test]
fn a_system_that_got_another_lease_than_its_firmware_may_fetch_it_too() {
    let view = view();
    apply(&view, Part::Infra, UUID, &InfraMachineSpec::default());
    let policy = policy(view);
    policy.boot(&request());
    let sighting =
        Event::new(0, netboot::journal::Step::Pending).with_mac(request().mac).with_address(STRANGER);
    policy.saw(&sighting);
    assert!(policy.join_config(Some(request().uuid), STRANGER).is_ok());
}

#[test]
fn a_rejected_machine_boots_from_its_disk_and_gets_no_token() {
    let view = view();
    let spec = InfraMachineSpec {
        acceptance_status: AcceptanceStatus::Rejected as i32,
        ..InfraMachineSpec::default()
    };
    apply(&view, Part::Infra, UUID, &spec);
    let policy = policy(view);
    let answer = policy.boot(&request());
    assert_eq!(answer.mode, "talos-disk");
    assert!(text(&answer).contains("exit"));
    assert!(policy.join_config(Some(request().uuid), PEER).is_err());
}

#[test]
fn an_allocated_machine_boots_its_talos_until_it_is_installed() {
    let view = view();
    allocated(&view, 0);
    let answer = policy(Arc::clone(&view)).boot(&request());
    assert_eq!(answer.mode, "talos-pxe");
    assert!(text(&answer).contains(&format!("/image/{SCHEMATIC}/v1.13.9/kernel-amd64")), "{}", text(&answer));
    assert!(text(&answer).contains(" slab_nomerge pti=on"), "Talos demands them: {}", text(&answer));
}

#[test]
fn an_installed_machine_boots_from_disk_and_may_always_fetch_its_configuration() {
    let view = view();
    allocated(&view, 1);
    let policy = policy(Arc::clone(&view));
    assert!(policy.join_config(Some(request().uuid), STRANGER).is_ok());
    assert_eq!(policy.boot(&request()).mode, "talos-disk");
}

#[test]
fn a_second_machine_with_the_same_uuid_only_gets_the_agent() {
    let view = view();
    allocated(&view, 0);
    let nics = vec![Nic { mac: "52:54:00:88:00:99".into(), ..Nic::default() }];
    apply(&view, Part::Inventory, UUID, &InventorySpec { nics, ..InventorySpec::default() });
    let answer = policy(view).boot(&request());
    assert_eq!(answer.mode, "agent-pxe");
    assert!(answer.reason.contains("second machine"), "{}", answer.reason);
}

#[test]
fn kernel_arguments_that_cannot_be_passed_are_no_script() {
    let view = view();
    allocated(&view, 0);
    let spec = InfraMachineSpec {
        cluster_talos_version: "1.13.9".into(),
        extra_kernel_args: "quiet\nboot".repeat(1000),
        ..accepted()
    };
    let view2 = View::new("bare-metal", Arc::new(|_, _| ()));
    apply(&view2, Part::Infra, UUID, &spec);
    apply(&view2, Part::Bmc, UUID, &BmcConfigurationSpec::default());
    apply(&view2, Part::Wipe, UUID, &WipeStatusSpec { initial_wipe_done: true, ..WipeStatusSpec::default() });
    let answer = policy(view2).boot(&request());
    assert_eq!(answer.mode, "none");
    assert!(text(&answer).starts_with("404"));
}

#[test]
fn a_machine_without_a_uuid_of_its_own_is_told_so() {
    for uuid in [Uuid::nil(), Uuid::max()] {
        let answer = policy(view()).boot(&BootRequest { uuid, ..request() });
        assert_eq!(answer.mode, "none");
        assert!(answer.reason.contains("UUID"), "{}", answer.reason);
    }
}

#[test]
fn an_image_that_is_not_here_comes_from_the_factory() {
    let view = view();
    allocated(&view, 0);
    let policy = policy_with(view, false, FakeFactory(true), AgentKind::Bootlace);
    let answer = policy.boot(&request());
    assert_eq!(answer.mode, "talos-pxe");
    assert!(text(&answer).contains("chain --replace https://pxe.example.org/v1.13.9"), "{}", text(&answer));
}

/// A factory with one schematic and its image, until it is dropped.
struct OneImage {
    url: String,
    server: tokio::task::JoinHandle<()>,
}

impl OneImage {
    /// The schematic is Talos with these arguments.
    async fn new(args: &str) -> Self {
        let script = format!(
            "#!ipxe\nkernel http://f/k talos.platform=metal console=tty0 slab_nomerge pti=on {args}\ninitrd \
             http://f/i\nboot\n"
        );
        let script = |_: axum::extract::Path<(String, String, String)>| async { script };
        let file = |path: axum::extract::Path<(String, String, String)>| async move {
            if path.2.starts_with("kernel") { "MZ the kernel" } else { "070701 the initramfs" }
        };
        let schematic = Schematic::talos([], words(args)).unwrap();
        let created = move |yaml: String| async move {
            let id = if yaml == schematic.yaml() { schematic.id() } else { "none".to_owned() };
            format!(r#"{{"id":"{id}"}}"#)
        };
        let router = axum::Router::new()
            .route("/schematics", axum::routing::post(created))
            .route("/pxe/{id}/{version}/{platform}", axum::routing::get(script))
            .route("/image/{id}/{version}/{file}", axum::routing::get(file));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, server }
    }
}

#[tokio::test]
async fn the_first_boot_is_chained_to_the_factory_and_the_next_is_from_the_cache() {
    let own = "talos.config=http://10.88.0.1:50042/config?u=${uuid} console=tty0 console=ttyS0 talos.platform=metal";
    let (view, directory, factory) = (view(), tempfile::tempdir().unwrap(), OneImage::new(own).await);
    let id = Schematic::talos([], words(own)).unwrap().id();
    allocated(&view, 0);
    let mut policy = policy_with(Arc::clone(&view), false, FakeFactory(true), AgentKind::Bootlace);
    let config = FactoryConfig {
        base_url: factory.url.clone(),
        pxe_base_url: factory.url.clone(),
        ..FactoryConfig::default()
    };
    let root = directory.path().to_owned();
    let config_of_cache = CacheConfig { root, bytes_max: 1 << 30, reserve: 0 };
    let client = Arc::new(Factory::new(&config).unwrap());
    let (cache, worker) = ImageCache::open(config_of_cache, client).unwrap();
    let assets = policy.scripts.images.assets.clone();
    set_images(
        &mut policy,
        Images { assets: assets.clone(), cache: Some(cache.clone()), factory: Arc::new(FakeFactory(true)) },
    );
    let worker = worker.run(tokio_util::sync::CancellationToken::new());
    let first = text(&policy.boot(&request()));
    assert!(first.contains("chain --replace https://pxe.example.org/v1.13.9"), "{first}");
    let come = async {
        while cache.size().images == 0 || cache.size().coming > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = worker => panic!("the worker runs"),
        come = tokio::time::timeout(Duration::from_secs(30), come) => come.unwrap(),
    }
    // The factory is not needed any more.
    factory.server.abort();
    let second = text(&policy.boot(&request()));
    let folder = format!("http://10.88.0.1:50042/image/{id}/v1.13.9");
    let kernel = format!("kernel {folder}/kernel-amd64 initrd=initramfs-amd64.xz slab_nomerge pti=on {own} ");
    assert!(second.contains(&kernel), "{second}");
    assert!(second.contains(&format!("{folder}/initramfs-amd64.xz")), "{second}");
    let (_, length) =
        assets.with_cache(Some(cache)).open(&format!("image/{id}/v1.13.9/kernel-amd64")).unwrap();
    assert_eq!(length, 13);
    // An argument that takes a default away is the factory's to understand.
    let spec = InfraMachineSpec {
        cluster_talos_version: "1.13.9".into(),
        extra_kernel_args: "-pti".into(),
        ..accepted()
    };
    policy.view = View::new("bare-metal", Arc::new(|_, _| ()));
    apply(&policy.view, Part::Infra, UUID, &spec);
    apply(&policy.view, Part::Bmc, UUID, &BmcConfigurationSpec::default());
    let wiped = WipeStatusSpec { initial_wipe_done: true, ..WipeStatusSpec::default() };
    apply(&policy.view, Part::Wipe, UUID, &wiped);
    let third = text(&policy.boot(&request()));
    assert!(third.contains("chain --replace https://pxe.example.org/v1.13.9"), "{third}");
}

#[tokio::test]
async fn an_image_is_fetched_as_soon_as_a_machine_is_allocated() {
    let (view, directory) = (view(), tempfile::tempdir().unwrap());
    let mut policy = policy_with(Arc::clone(&view), false, FakeFactory(true), AgentKind::Bootlace);
    let client = Arc::new(Factory::new(&FactoryConfig::default()).unwrap());
    let config = CacheConfig { root: directory.path().to_owned(), bytes_max: 1 << 30, reserve: 0 };
    let (cache, _worker) = ImageCache::open(config, client).unwrap();
    let assets = policy.scripts.images.assets.clone();
    set_images(
        &mut policy,
        Images { assets, cache: Some(cache.clone()), factory: Arc::new(FakeFactory(true)) },
    );
    let other = UUID.replace('1', "2");
    apply(&view, Part::Infra, &other, &accepted());
    policy.prefetch(false);
    assert_eq!(cache.size().coming, 0, "nobody said which");
    allocated(&view, 0);
    policy.prefetch(true);
    assert_eq!(cache.size().coming, 0, "it boots on another network");
    policy.prefetch(false);
    policy.prefetch(false);
    assert_eq!(cache.size().coming, 1);
    policy.boot(&request());
    policy.prefetch(true);
    assert_eq!(cache.size().coming, 1);
    // A machine that installed boots from its disk.
    policy.view = super::tests::view();
    let (again, _worker) = {
        let root = directory.path().join("other");
        let config = CacheConfig { root, bytes_max: 1 << 30, reserve: 0 };
        ImageCache::open(config, Arc::new(Factory::new(&FactoryConfig::default()).unwrap())).unwrap()
    };
    let assets = policy.scripts.images.assets.clone();
    set_images(
        &mut policy,
        Images { assets, cache: Some(again.clone()), factory: Arc::new(FakeFactory(true)) },
    );
    allocated(&policy.view, 1);
    policy.prefetch(false);
    assert_eq!(again.size().coming, 0);
}

#[test]
fn a_factory_that_is_away_makes_the_machine_ask_again() {
    let view = view();
    allocated(&view, 0);
    let policy = policy_with(view, false, FakeFactory(false), AgentKind::Bootlace);
    let answer = policy.boot(&request());
    assert!(text(&answer).starts_with("404"));
    assert!(answer.reason.contains("the factory is away"), "{}", answer.reason);
}

#[test]
fn talos_own_agent_comes_from_the_factory() {
    let view = view();
    apply(&view, Part::Infra, UUID, &InfraMachineSpec::default());
    let agent = AgentKind::Talos { version: "v1.13.7".into() };
    let answer = policy_with(view, true, FakeFactory(true), agent).boot(&request());
    assert_eq!(answer.mode, "agent-pxe");
    assert!(text(&answer).contains("https://pxe.example.org/v1.13.7"), "{}", text(&answer));
}

#[test]
fn talos_own_agent_in_the_asset_directory_needs_no_factory() {
    let view = view();
    apply(&view, Part::Infra, UUID, &InfraMachineSpec::default());
    let agent = || AgentKind::Talos { version: "v1.13.9".into() };
    let mut policy = policy_with(view, true, FakeFactory(false), agent());
    // There is only Talos for clusters.
    assert!(text(&policy.boot(&request())).starts_with("404"));

    let dir = tempfile::tempdir().unwrap();
    // Operators put it there by this name (docs/configure.md).
    let id = "e1f4d5ff042cbfd1de63dabd6e7412f60807cf6ba3522beb8d935ff92042fe30";
    let image = dir.path().join(format!("image/{id}/v1.13.9"));
    std::fs::create_dir_all(&image).unwrap();
    std::fs::write(image.join("kernel-amd64"), "kernel").unwrap();
    let assets = AssetDir::new(dir.path()).unwrap();
    set_images(&mut policy, Images { assets, cache: None, factory: Arc::new(FakeFactory(false)) });
    let answer = policy.boot(&request());
    assert_eq!(answer.mode, "agent-pxe");
    let script = text(&answer);
    let kernel = format!("/image/{id}/v1.13.9/kernel-amd64");
    for word in [&kernel, "metal.provider.address=10.88.0.1:50042", "talos.platform=metal", "pti=on"] {
        assert!(script.contains(word), "{word}: {script}");
    }
}

#[test]
fn a_boot_in_progress_outlives_the_appliance() {
    let view = view();
    apply(&view, Part::Infra, UUID, &InfraMachineSpec::default());
    let policy = policy(view);
    let script = |at_ms, mode: &str, uuid: Uuid| {
        let step = Step::ScriptServed { mode: mode.into(), reason: String::new() };
        Event::new(at_ms, step).with_uuid(uuid).with_mac(request().mac).with_address(PEER)
    };
    let minute = 60_000;
    let (old, rejected) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let journal = [
        script(0, "agent-pxe", old),
        script(19 * minute, "talos-disk", rejected),
        script(19 * minute, "agent-pxe", request().uuid),
    ];
    policy.recall(&journal, 20 * minute);
    assert!(policy.join_config(Some(request().uuid), PEER).is_ok());
    assert!(policy.join_config(Some(request().uuid), STRANGER).is_err());
    assert!(policy.join_config(Some(old), PEER).is_err(), "long over");
    assert!(policy.join_config(Some(rejected), PEER).is_err(), "a rejected machine gets no token");
}

#[test]
fn a_network_of_its_own_is_told_its_own_address_of_the_hub() {
    let (main, own) = ([192, 0, 2, 1].into(), [10, 1, 0, 1].into());
    let join =
        "apiUrl: grpc://192.0.2.1:8090?x\nendpoint: '192.0.2.1:8090'\nother: 1192.0.2.1:80 192.0.2.10:8090\n";
    let told = readdressed(join, main, own);
    assert_eq!(
        told,
        "apiUrl: grpc://10.1.0.1:8090?x\nendpoint: '10.1.0.1:8090'\nother: 1192.0.2.1:80 192.0.2.10:8090\n"
    );
}
