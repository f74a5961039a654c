//! The files of an arm64 image, from a kernel and modules of crafted bytes.

use std::fs;
use std::io::Read;

use bootlace_image::agent;
use bootlace_image::binary::Arch;
use bootlace_image::modules::Tree;
use flate2::read::GzDecoder;

#[test]
fn an_arm64_image_has_its_own_names_and_misses_nothing_that_only_others_have() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let mut kernel = vec![0; 64];
    kernel[0x38..0x3c].copy_from_slice(b"ARM\x64");
    fs::write(at("vmlinuz"), &kernel).expect("written");
    let mut init = vec![0; 64];
    init[..6].copy_from_slice(b"\x7fELF\x02\x01");
    init[18] = 183;
    init[32] = 64;
    init[54] = 56;
    fs::write(at("agent"), init).expect("written");
    let modules = at("6.1.0-test");
    fs::create_dir_all(modules.join("kernel")).expect("made");
    fs::write(modules.join("kernel/hns3.ko"), b"module").expect("written");
    fs::write(modules.join("modules.dep"), "kernel/hns3.ko:\n").expect("written");
    let tree = Tree::open(&modules).expect("a tree");

    let drivers = ["metal".to_owned()];
    let out = at("out");
    let image = agent::build(Arch::Arm64, &at("vmlinuz"), &tree, &drivers, None, &at("agent"), &out)
        .expect("an image");
    let (mut unpacked, served) = (Vec::new(), fs::File::open(out.join("kernel-arm64")).expect("the kernel"));
    GzDecoder::new(served).read_to_end(&mut unpacked).expect("what iPXE unpacks");
    assert_eq!(unpacked, kernel);
    let mut names: Vec<_> =
        fs::read_dir(out).expect("made").flatten().map(|entry| entry.file_name().into_string()).collect();
    names.sort();
    assert_eq!(names, [Ok("initramfs-metal-arm64.xz".to_owned()), Ok("kernel-arm64".to_owned())]);
    let missing = &image.contents.missing;
    assert!(missing.contains(&"e1000e".to_owned()) && missing.contains(&"nicvf".to_owned()));
    assert!(!missing.contains(&"ata_piix".to_owned()) && !missing.contains(&"hns3".to_owned()));
}
