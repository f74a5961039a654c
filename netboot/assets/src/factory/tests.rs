use super::*;

mod answers;
pub(crate) mod fake;
mod images;
mod trust;

use fake::{Fake, Reply, answer};

/// What `customization: {}` is called.
const EMPTY: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";
const EMPTY_YAML: &str = "customization: {}\n";

fn config(url: String) -> FactoryConfig {
    FactoryConfig { base_url: url.clone(), pxe_base_url: url, ..FactoryConfig::default() }
}

fn factory(fake: &Fake) -> Factory {
    Factory::new(&config(fake.url())).unwrap()
}

fn created(id: &str) -> Reply {
    answer("201 Created", &format!(r#"{{"id":"{id}","schematic":"customization: {{}}\n","new":[1]}}"#))
}

fn empty() -> SchematicId {
    EMPTY.parse().unwrap()
}

#[test]
fn urls_are_the_factorys() {
    let factory = Factory::new(&FactoryConfig {
        base_url: "http://factory".into(),
        pxe_base_url: "http://user:secret@pxe:8080/mirror/".into(),
        ..FactoryConfig::default()
    })
    .unwrap();
    let pxe = "http://user:secret@pxe:8080/mirror";
    for (version, secure_boot, path) in [
        ("1.13.7", false, "v1.13.7/metal-arm64"),
        ("v1.13.7", false, "v1.13.7/metal-arm64"),
        ("v1.14.0-alpha.0+x", true, "v1.14.0-alpha.0+x/metal-arm64-secureboot"),
    ] {
        let url = factory.pxe_url(&empty(), version, Arch::Arm64, secure_boot).unwrap();
        assert_eq!(url, format!("{pxe}/pxe/{EMPTY}/{path}"));
    }
    for (file, name) in [
        (ImageFile::Kernel, "kernel-amd64"),
        (ImageFile::Initramfs, "initramfs-amd64.xz"),
        (ImageFile::Cmdline, "cmdline-metal-amd64"),
        (ImageFile::SecureBootUki, "metal-amd64-secureboot-uki.efi"),
    ] {
        let url = factory.image_url(&empty(), "1.13.7", Arch::Amd64, file).unwrap();
        assert_eq!(url, format!("{pxe}/image/{EMPTY}/v1.13.7/{name}"));
    }
    for version in ["", "v", "latest", "1.13/..", "..", "1 2", "1${uuid}", &"1".repeat(65)] {
        assert!(factory.pxe_url(&empty(), version, Arch::Amd64, false).is_err(), "{version:?}");
        assert!(factory.image_url(&empty(), version, Arch::Amd64, ImageFile::Kernel).is_err());
    }
    assert!(!format!("{factory:?}").contains("secret"));
}

#[test]
fn ids_are_64_digits() {
    assert_eq!(SchematicId::computed(EMPTY_YAML), empty());
    assert_eq!(empty().to_string(), EMPTY);
    for text in ["", &EMPTY[1..], &EMPTY.to_uppercase(), &format!("{EMPTY}0"), &EMPTY.replace('3', "/")] {
        assert!(text.parse::<SchematicId>().is_err(), "{text:?}");
    }
}

#[test]
fn the_eldest_schematics_are_forgotten() {
    let id = |n: usize| SchematicId::computed(&n.to_string());
    let mut known = Known::default();
    for n in 0..=KNOWN_MAX {
        known.learn(id(n), empty());
        known.learn(id(n), empty());
    }
    assert_eq!((known.ids.len(), known.order.len()), (KNOWN_MAX, KNOWN_MAX));
    assert!(!known.ids.contains_key(&id(0)) && known.ids.contains_key(&id(1)));
}

#[test]
fn a_wrong_configuration_is_an_error_before_anything_is_asked() {
    let base = |url: &str| FactoryConfig { base_url: url.into(), ..config("http://h".into()) };
    let pxe = |url: &str| FactoryConfig { pxe_base_url: url.into(), ..config("http://h".into()) };
    assert!(matches!(Factory::new(&base("h")), Err(FactoryConfigError::Base(UrlError::Form))));
    assert!(matches!(Factory::new(&pxe("ftp://h")), Err(FactoryConfigError::Pxe(UrlError::Scheme))));
}
