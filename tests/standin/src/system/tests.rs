use super::*;

#[test]
fn the_arguments_of_a_network_boot_are_read() {
    let arguments = Arguments::parse(
        "talos.platform=metal standin.installer=http://10.0.0.1:50042/image/376567/v1.13.9/metal-amd64.raw quiet\n",
    );
    assert_eq!(
        arguments.installer.as_deref(),
        Some("http://10.0.0.1:50042/image/376567/v1.13.9/metal-amd64.raw")
    );
    assert_eq!(arguments.version().as_deref(), Some("v1.13.9"));
    assert!(!arguments.from_disk);
}

#[test]
fn a_boot_from_disk_is_known_by_its_boot_loader() {
    assert!(Arguments::parse("BOOT_IMAGE=/vmlinuz standin.boot=disk").from_disk);
    assert_eq!(Arguments::parse("standin.boot standin.installer= quiet"), Arguments::default());
}

#[test]
fn a_url_without_a_version_gives_none() {
    for url in ["http://10.0.0.1/metal-amd64.raw", "http://10.0.0.1/image/x/latest/metal-amd64.raw", "x"] {
        assert_eq!(Arguments { installer: Some(url.to_owned()), from_disk: false }.version(), None, "{url}");
    }
}

#[test]
fn a_network_boot_looks_at_no_disk() {
    let boot = Boot::find("talos.config=http://10.0.0.1/config standin.installer=x").unwrap();
    assert_eq!(boot.state, None);
    assert_eq!(boot.arguments.installer.as_deref(), Some("x"));
}
