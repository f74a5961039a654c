use super::*;

#[test]
fn the_newest_release_is_by_number_and_needs_its_modules() {
    let root = tempfile::tempdir().unwrap();
    let (boot, modules) = (root.path().join("boot"), root.path().join("modules"));
    fs::create_dir(&boot).unwrap();
    for release in ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.1.0-57-amd64", "6.12.0-1-cloud-amd64"] {
        fs::write(boot.join(format!("vmlinuz-{release}")), "").unwrap();
        if !release.starts_with("6.12") {
            fs::create_dir_all(modules.join(release)).unwrap();
        }
    }
    let newest = Kernel::newest_in(&boot, &modules, "-cloud-amd64").unwrap();
    assert_eq!(newest.release, "6.1.0-56-cloud-amd64");
    assert_eq!(newest.image, boot.join("vmlinuz-6.1.0-56-cloud-amd64"));
    // One flavour's name ends with the other's.
    assert_eq!(Kernel::newest_in(&boot, &modules, "-amd64").unwrap().release, "6.1.0-57-amd64");
}
