use tempfile::TempDir;

use super::*;

/// A little kernel, its dependencies written in depmod's order.
fn tree(files: &[(&str, &str)]) -> (Tree, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let version = dir.path().join("6.1.0-test");
    fs::create_dir(&version).unwrap();
    for (name, text) in files {
        fs::write(version.join(name), text).unwrap();
    }
    (Tree::open(&version).unwrap(), dir)
}

const DEP: &str = "\
kernel/v/virtio_net.ko: kernel/n/net_failover.ko kernel/n/failover.ko kernel/v/virtio.ko kernel/v/virtio_ring.ko
kernel/v/virtio_pci.ko: kernel/v/virtio.ko kernel/v/virtio_ring.ko
kernel/v/virtio.ko: kernel/v/virtio_ring.ko
kernel/v/virtio_ring.ko:
kernel/n/net_failover.ko: kernel/n/failover.ko
kernel/n/failover.ko:
kernel/n/r8169.ko: kernel/n/libphy.ko
kernel/n/libphy.ko:
kernel/n/realtek-phy.ko: kernel/n/libphy.ko
kernel/c/msg.ko:
kernel/c/dev.ko: kernel/c/msg.ko
kernel/x/packed.ko.xz:
";
const SOFT: &str = "# comment\nsoftdep r8169 pre: realtek_phy not_there\nsoftdep msg post: dev\nsoftdep odd words\n\
    softdep net_failover pre: crc\n";
const ALIAS: &str = "alias pci:v00* msg\nalias crc libphy\nalias crc gone\n";

fn small() -> (Tree, TempDir) {
    tree(&[
        ("modules.dep", DEP),
        ("modules.softdep", SOFT),
        ("modules.alias", ALIAS),
        ("modules.builtin", "kernel/d/sd_mod.ko\n"),
    ])
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

fn names(plan: &Plan) -> Vec<String> {
    plan.order.iter().map(|path| module_name(path)).collect()
}

#[test]
fn dependencies_come_first_and_once() {
    let (tree, _dir) = small();
    let plan = tree.plan(&words(&["virtio_pci", "virtio-net", "virtio_pci"])).unwrap();
    assert_eq!(
        names(&plan),
        ["virtio_ring", "virtio", "virtio_pci", "failover", "libphy", "net_failover", "virtio_net"]
    );
}

#[test]
fn soft_dependencies_come_before_and_after_when_they_are_there() {
    let (tree, _dir) = small();
    assert_eq!(names(&tree.plan(&words(&["r8169"])).unwrap()), ["libphy", "realtek_phy", "r8169"]);
    assert_eq!(names(&tree.plan(&words(&["msg"])).unwrap()), ["msg", "dev"]);
    assert_eq!(names(&tree.plan(&words(&["dev"])).unwrap()), ["msg", "dev"]);
}

#[test]
fn a_set_skips_what_the_kernel_lacks_and_what_is_built_in() {
    let (tree, _dir) = small();
    let plan = tree.plan(&words(&["virtio"])).unwrap();
    assert_eq!(plan.missing, ["virtio_blk", "virtio_scsi"]);
    assert_eq!(names(&plan).last().unwrap(), "virtio_net");
}

#[test]
fn a_driver_asked_for_by_name_must_be_there() {
    let (tree, _dir) = small();
    let error = tree.plan(&words(&["virtioo"])).unwrap_err().to_string();
    assert!(error.contains("virtioo") && error.contains("sets: virtio, metal"), "{error}");
}

#[test]
fn compressed_and_absent_modules_are_clear_errors() {
    let (tree, _dir) = small();
    assert!(tree.read("kernel/x/packed.ko.xz").unwrap_err().to_string().contains("compressed"));
    assert!(tree.read("kernel/v/virtio.ko").unwrap_err().to_string().contains("depmod"));
}

#[test]
fn a_directory_without_modules_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tree::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("no kernel module directory"), "{error}");
}

#[test]
fn a_circle_of_dependencies_ends() {
    let (tree, _dir) = tree(&[("modules.dep", "a.ko: b.ko\nb.ko: a.ko\n")]);
    assert_eq!(names(&tree.plan(&words(&["a"])).unwrap()), ["b", "a"]);
}

#[test]
fn every_installed_kernel_has_its_drivers_in_a_loadable_order() {
    for entry in fs::read_dir("/lib/modules").into_iter().flatten() {
        let directory = entry.unwrap().path();
        let Ok(tree) = Tree::open(&directory) else { continue };
        let plan = tree.plan(&words(&["metal", "virtio"])).unwrap();
        for (index, path) in plan.order.iter().enumerate() {
            for dependency in &tree.dependencies[path] {
                let at = plan.order.iter().position(|path| path == dependency).unwrap();
                assert!(at < index, "{path} before {dependency} in {}", directory.display());
            }
        }
    }
}
