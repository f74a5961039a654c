use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::binary::tests::elf;

/// A module directory whose modules hold their own names, with a signature's tail.
fn tree(parent: &Path) -> Tree {
    let directory = parent.join("6.1.0-test");
    fs::create_dir_all(directory.join("kernel")).unwrap();
    for name in ["virtio_ring", "virtio", "virtio_pci", "virtio_net"] {
        let data = format!("{name}~Module signature appended~\n");
        fs::write(directory.join(format!("kernel/{name}.ko")), data).unwrap();
    }
    let dep = "kernel/virtio_net.ko: kernel/virtio.ko kernel/virtio_ring.ko\n\
        kernel/virtio_pci.ko: kernel/virtio.ko kernel/virtio_ring.ko\n\
        kernel/virtio.ko: kernel/virtio_ring.ko\nkernel/virtio_ring.ko:\n";
    fs::write(directory.join("modules.dep"), dep).unwrap();
    let alias =
        "alias virtio:d00000001v* virtio_net\nalias pci:v00001AF4d* virtio_pci\nalias pci:v1* not_here\n";
    fs::write(directory.join("modules.alias"), alias).unwrap();
    Tree::open(&directory).unwrap()
}

fn build(parent: &TempDir) -> Initramfs {
    let tree = tree(parent.path());
    let extra = ExtraFile { path: "/etc/extra".to_owned(), mode: 0o600, data: b"more".to_vec() };
    build_initramfs(Contents {
        arch: Arch::Amd64,
        init: &elf(62, &[1]),
        tree: &tree,
        drivers: &["virtio".to_owned()],
        firmware: None,
        files: vec![extra],
    })
    .unwrap()
}

#[test]
fn two_runs_in_different_places_give_the_same_bytes() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_eq!(build(&first).bytes, build(&second).bytes);
}

#[test]
fn the_image_has_init_modules_their_order_and_the_extra_files() {
    let image = build(&tempfile::tempdir().unwrap());
    let plain = zstd::stream::decode_all(image.bytes.as_slice()).unwrap();
    assert_eq!(plain.len(), image.unpacked);
    let text = String::from_utf8_lossy(&plain);
    let order = "/lib/modules/6.1.0-test/kernel/virtio_ring.ko.z\n\
        /lib/modules/6.1.0-test/kernel/virtio.ko.z\n\
        /lib/modules/6.1.0-test/kernel/virtio_pci.ko.z\n\
        /lib/modules/6.1.0-test/kernel/virtio_net.ko.z\n";
    let module = compress_module(b"virtio_net~Module signature appended~\n").unwrap();
    assert!(plain.windows(module.len()).any(|bytes| bytes == module), "with its signature");
    for part in [order, "etc/extra\0", "more", "dev/console\0"] {
        assert!(text.contains(part), "{part:?} is not in the image");
    }
    let alone =
        "virtio /lib/modules/6.1.0-test/kernel/virtio_ring.ko.z /lib/modules/6.1.0-test/kernel/virtio.ko.z\n";
    for part in ["alias virtio:d00000001v* virtio_net\n", alone] {
        assert!(text.contains(part), "{part:?} is not in the image");
    }
    assert!(!text.contains("not_here"), "aliases of other modules are in the image");
    assert_eq!(image.missing, ["virtio_blk", "virtio_scsi", "sd_mod"]);
    assert_eq!(image.modules.len(), 4);
}

#[test]
fn a_foreign_init_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    let contents = Contents {
        arch: Arch::Amd64,
        init: &elf(183, &[1]),
        tree: &tree,
        drivers: &[],
        firmware: None,
        files: Vec::new(),
    };
    let error = format!("{:#}", build_initramfs(contents).unwrap_err());
    assert!(error.contains("init binary") && error.contains("arm64"), "{error}");
}

#[test]
fn foreign_modules_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(dir.path());
    fs::write(dir.path().join("6.1.0-test/kernel/virtio.ko"), elf(62, &[])).unwrap();
    let contents = Contents {
        arch: Arch::Arm64,
        init: &elf(183, &[1]),
        tree: &tree,
        drivers: &["virtio".to_owned()],
        firmware: None,
        files: Vec::new(),
    };
    let error = format!("{:#}", build_initramfs(contents).unwrap_err());
    assert!(error.contains("kernel/virtio.ko") && error.contains("built for amd64"), "{error}");
}
