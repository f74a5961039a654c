use tonic::Code;

use super::{BootAssetKind, api, locate};

const ID: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";
const FACTORY: &str = "https://me:hunter2@factory.example.org/";
const PXE: &str = "https://me:hunter2@pxe.factory.example.org";

fn asset(kind: BootAssetKind) -> api::BootAssetUrlRequest {
    api::BootAssetUrlRequest {
        talos_version: "1.13.0".to_owned(),
        schematic_id: ID.to_owned(),
        standalone_url: false,
        boot_asset_kind: kind as i32,
        platform: "metal".to_owned(),
        architecture: "amd64".to_owned(),
        format: String::new(),
        secure_boot: false,
    }
}

#[test]
fn an_image_is_named_as_the_factory_names_it() {
    let url = |request| locate(&request, "http://factory", "http://pxe").unwrap().url;
    let image = format!("http://factory/image/{ID}/v1.13.0/metal-amd64");
    assert_eq!(url(asset(BootAssetKind::Iso)), format!("{image}.iso"));
    let secure = api::BootAssetUrlRequest { secure_boot: true, ..asset(BootAssetKind::Iso) };
    assert_eq!(url(secure), format!("{image}-secureboot.iso"));
    let disk = api::BootAssetUrlRequest { format: "raw.xz".to_owned(), ..asset(BootAssetKind::Disk) };
    assert_eq!(url(disk), format!("{image}.raw.xz"));
    assert_eq!(url(asset(BootAssetKind::Pxe)), format!("http://pxe/pxe/{ID}/v1.13.0/metal-amd64"));
    let version =
        |text: &str| api::BootAssetUrlRequest { talos_version: text.to_owned(), ..asset(BootAssetKind::Pxe) };
    assert!(url(version("v1.14.0-alpha.2")).contains("/v1.14.0-alpha.2/"));
    assert!(url(version("")).contains("/v1.13.7/"), "a version is there when none is asked for");
}

#[test]
fn credentials_are_in_headers_unless_only_the_url_is_used() {
    let iso = locate(&asset(BootAssetKind::Iso), FACTORY, PXE).unwrap();
    assert_eq!(iso.url, format!("https://factory.example.org/image/{ID}/v1.13.0/metal-amd64.iso"));
    assert_eq!(iso.headers["Authorization"], "Basic bWU6aHVudGVyMg==");
    let standalone = api::BootAssetUrlRequest { standalone_url: true, ..asset(BootAssetKind::Iso) };
    let standalone = locate(&standalone, FACTORY, PXE).unwrap();
    assert!(
        standalone.url.starts_with("https://me:hunter2@factory.example.org/image/"),
        "{}",
        standalone.url
    );
    assert!(standalone.headers.is_empty());
    let pxe = locate(&asset(BootAssetKind::Pxe), FACTORY, PXE).unwrap();
    assert!(pxe.url.starts_with("https://me:hunter2@pxe.factory.example.org/pxe/"), "{}", pxe.url);
    assert!(pxe.headers.is_empty());
    assert_eq!(pxe.image_factory_host, "pxe.factory.example.org");
}

#[test]
fn the_key_of_an_asset_is_the_same_whatever_the_credentials_are() {
    let key = |base| locate(&asset(BootAssetKind::Iso), base, PXE).unwrap().storage_key;
    assert_eq!(key(FACTORY), key("https://factory.example.org"));
    assert_ne!(key(FACTORY), key("https://other.example.org"));
    assert_eq!(key(FACTORY).len(), 64);
}

#[test]
fn what_would_lead_elsewhere_is_refused_and_named() {
    type Change = fn(&mut api::BootAssetUrlRequest);
    let wrong: &[(&str, Change)] = &[
        ("kind is not set", |asked| asked.boot_asset_kind = 0),
        ("kind 9 is not known", |asked| asked.boot_asset_kind = 9),
        ("platform", |asked| asked.platform = "../../secret".to_owned()),
        ("platform", |asked| asked.platform = String::new()),
        ("architecture", |asked| asked.architecture = "amd64?x".to_owned()),
        ("disk format", |asked| asked.format = "a/b".to_owned()),
        ("schematic id", |asked| asked.schematic_id = "..".to_owned()),
        ("schematic id", |asked| asked.schematic_id = "a".repeat(200)),
        ("Talos version", |asked| asked.talos_version = "latest".to_owned()),
        ("Talos version", |asked| asked.talos_version = "1.13.0/..".to_owned()),
    ];
    for (text, change) in wrong {
        let mut asked = asset(BootAssetKind::Disk);
        asked.format = "qcow2".to_owned();
        change(&mut asked);
        let refused = locate(&asked, FACTORY, PXE).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{text}");
        assert!(refused.message().contains(text), "{}", refused.message());
        assert!(!refused.message().contains("hunter2"));
    }
}
