//! Omni's management API: schematics and images for providers, kernel logs for those who look for a reason.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use omni_auth::{ServiceAccountKey, Signed};
use provider::specs::{FeaturesConfigSpec, InfraMachineSpec};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::Channel;

use super::site::*;
use crate::image_factory::{ImageFactory, SchematicError};
use crate::limits::MAX_SCHEMATIC;
use crate::management::wire::management as api;
use crate::{HubConfig, Received};
use api::management_service_client::ManagementServiceClient;

type Client = ManagementServiceClient<Signed<Channel>>;

/// What the factory was told.
#[derive(Debug, Default)]
struct Factory(Mutex<Vec<String>>);

#[async_trait]
impl ImageFactory for Factory {
    fn base_url(&self) -> &str {
        "https://me:hunter2@factory.example.org"
    }

    fn pxe_base_url(&self) -> &str {
        "https://me:hunter2@pxe.factory.example.org/"
    }

    async fn ensure_schematic(&self, yaml: &str) -> Result<String, SchematicError> {
        self.0.lock().unwrap().push(yaml.to_owned());
        match yaml {
            "customization: {}\n" => Ok("5c4".to_owned()),
            "away: 1" => Err(SchematicError::Unavailable("image factory does not answer".to_owned())),
            _ => Err(SchematicError::Refused("image factory refuses the schematic: overlay".to_owned())),
        }
    }
}

async fn site(disk: &Disk) -> (Site, Arc<Factory>) {
    let factory = Arc::new(Factory::default());
    let config = HubConfig { image_factory: Some(factory.clone()), ..config() };
    (Site::start_with(config, disk.open().await).await, factory)
}

async fn client(site: &Site, key: ServiceAccountKey) -> Client {
    ManagementServiceClient::new(site.signed(Some(key)).await)
}

async fn of_provider(site: &Site) -> Client {
    let (_, key) = site.hub.create_provider(PROVIDER, SystemTime::now(), YEAR).await.unwrap();
    client(site, key).await
}

async fn of_admin(site: &Site) -> Client {
    let key = site.hub.create_admin_key("ops", SystemTime::now(), YEAR).await.unwrap();
    client(site, key).await
}

fn raw(schematic: impl Into<Vec<u8>>) -> api::CreateSchematicFromRawRequest {
    api::CreateSchematicFromRawRequest { raw_schematic: schematic.into(), talos_version: "1.13.7".to_owned() }
}

#[tokio::test]
async fn a_provider_has_its_schematic_made_by_the_hub() {
    let disk = Disk::new();
    let (site, factory) = site(&disk).await;
    let mut provider = of_provider(&site).await;
    let made = provider.create_schematic_from_raw(raw("customization: {}\n")).await.unwrap().into_inner();
    assert_eq!(made.schematic_id, "5c4");
    let refused = provider.create_schematic_from_raw(raw("overlay: x")).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "image factory refuses the schematic: overlay")
    );
    let away = provider.create_schematic_from_raw(raw("away: 1")).await.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable);
    let told = factory.0.lock().unwrap().len();
    for garbage in [&b":\n  - {"[..], b"\xff\xfe", b"- a list", &vec![b'#'; MAX_SCHEMATIC + 1]] {
        let refused = provider.create_schematic_from_raw(raw(garbage)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    assert_eq!(factory.0.lock().unwrap().len(), told, "the factory is not told of what is no schematic");
    site.kill().await;
}

#[tokio::test]
async fn images_are_where_the_hubs_factory_is_and_only_who_may_learns_its_password() {
    let disk = Disk::new();
    let (site, _) = site(&disk).await;
    let asked = api::BootAssetUrlRequest {
        schematic_id: "5c4".to_owned(),
        boot_asset_kind: api::boot_asset_url_request::BootAssetKind::Pxe as i32,
        platform: "metal".to_owned(),
        architecture: "arm64".to_owned(),
        talos_version: "1.13.7".to_owned(),
        ..api::BootAssetUrlRequest::default()
    };
    let asset = of_provider(&site).await.get_boot_asset_url(asked.clone()).await.unwrap().into_inner();
    assert_eq!(asset.url, "https://me:hunter2@pxe.factory.example.org/pxe/5c4/v1.13.7/metal-arm64");
    let stranger = ServiceAccountKey::generate("x", SystemTime::now(), YEAR).unwrap();
    let refused = client(&site, stranger).await.get_boot_asset_url(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let features = site.find::<FeaturesConfigSpec>("features-config").await.unwrap().spec;
    assert_eq!(features.image_factory_base_url, "https://factory.example.org");
    assert_eq!(features.image_factory_pxe_base_url, "https://pxe.factory.example.org");
    site.kill().await;
}

#[tokio::test]
async fn a_hub_without_a_factory_says_so() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let refused = of_provider(&site).await.create_schematic_from_raw(raw("{}")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("without an Image Factory"), "{}", refused.message());
    site.kill().await;
}

fn line(text: &str) -> String {
    format!("{{\"msg\":\"{text}\",\"talos-level\":\"info\"}}\n")
}

async fn logs_of(
    client: &mut Client,
    machine: &str,
    follow: bool,
    tail_lines: i32,
) -> tonic::Streaming<crate::management::wire::common::Data> {
    let request = api::MachineLogsRequest { machine_id: machine.to_owned(), follow, tail_lines };
    client.machine_logs(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn the_kernel_log_of_a_machine_is_read_by_its_id_and_followed() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let (mut machine, connection) = tokio::io::duplex(1024);
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn({
        let (hub, shutdown) = (site.hub.clone(), shutdown.clone());
        let connections = stream::iter([Ok((connection, address(7)))]).chain(stream::pending());
        async move { hub.serve_kernel_logs(connections, shutdown).await }
    });
    machine.write_all(line("before it joined").as_bytes()).await.unwrap();
    let mut admin = of_admin(&site).await;
    soon("the log of a machine that nobody knows", async {
        while site.hub.logs.keys() != ["127.0.0.7"] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut by_address = logs_of(&mut admin, "127.0.0.7", false, -1).await;
    assert_eq!(by_address.next().await.unwrap().unwrap().bytes, line("before it joined").trim().as_bytes());
    assert!(by_address.next().await.is_none());

    site.join(address(7), MACHINE, &unique("f", "t")).await;
    site.until::<InfraMachineSpec>(MACHINE, |_| true).await;
    machine.write_all(line("after it joined").as_bytes()).await.unwrap();
    soon("the log of the machine", async {
        while site.hub.logs.keys() != [MACHINE] {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut followed = logs_of(&mut admin, &MACHINE[..8], true, 1).await;
    assert_eq!(followed.next().await.unwrap().unwrap().bytes, line("after it joined").trim().as_bytes());
    let more = format!("{}garbage\n{}{}", line("one"), "x".repeat(20_000) + "\n", line("two"));
    let (_, written) = tokio::join!(
        async {
            for text in ["one", "two"] {
                assert_eq!(followed.next().await.unwrap().unwrap().bytes, line(text).trim().as_bytes());
            }
        },
        machine.write_all(more.as_bytes()),
    );
    written.unwrap();
    let missing = api::MachineLogsRequest { machine_id: OTHER.to_owned(), follow: false, tail_lines: -1 };
    assert_eq!(admin.machine_logs(missing.clone()).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(
        of_provider(&site).await.machine_logs(missing).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    shutdown.cancel();
    serving.await.unwrap();
    site.kill().await;
}

#[tokio::test]
async fn what_is_no_log_is_counted_and_the_connection_goes_on() {
    let disk = Disk::new();
    let site = Site::start(&disk).await;
    let bytes = format!("{}<6>text\n[1]\n{}", line("a"), line("b"));
    let received = site.hub.receive_kernel_log(bytes.as_bytes(), IpAddr::from([10, 0, 0, 9])).await.unwrap();
    assert_eq!(received, Received { lines: 2, dropped: 2 });
    site.kill().await;
}
