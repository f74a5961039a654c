use super::*;

fn installed() -> bool {
    let files = [BOOT_CODE, uki::STUB, "/usr/bin/mcopy", "/usr/bin/syslinux", "/usr/bin/objcopy"];
    files.iter().all(|path| Path::new(path).exists())
}

fn build_in(directory: &Path) -> Result<Vec<u8>> {
    let (kernel, initramfs, output) =
        (directory.join("k"), directory.join("i"), directory.join("metal-amd64.raw"));
    fs::write(&kernel, vec![1; 100_000])?;
    fs::write(&initramfs, vec![2; 50_001])?;
    let inputs = Inputs {
        kernel: &kernel,
        initramfs: &initramfs,
        cmdline: "standin.boot=disk",
        stub: Path::new(uki::STUB),
    };
    build(&inputs, &output)?;
    Ok(fs::read(&output)?)
}

#[test]
fn the_image_has_both_ways_to_boot() {
    if !installed() {
        eprintln!("skipped: the packages of `standin-image --help` are not installed");
        return;
    }
    let first = tempfile::tempdir().unwrap();
    let image = build_in(first.path()).unwrap();
    assert_eq!(&image[510..512], b"\x55\xaa", "boot signature");
    assert_eq!(&image[512..520], b"EFI PART", "GPT");
    assert_eq!(image[..8], fs::read(BOOT_CODE).unwrap()[..8], "boot code");
    assert_eq!(fs::read_dir(first.path()).unwrap().count(), 3, "nothing is left behind");

    let list = Command::new("/usr/bin/mdir")
        .args([
            "-a",
            "-b",
            "-s",
            "-i",
            &format!("{}@@2M", first.path().join("metal-amd64.raw").display()),
            "::",
        ])
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    for name in
        ["EFI/BOOT/BOOTX64.EFI", "vmlinuz", "initrd.img", "syslinux/syslinux.cfg", "syslinux/ldlinux.c32"]
    {
        assert!(list.contains(name), "{name} is not among {list}");
    }
}

#[test]
fn a_tool_that_is_not_there_names_its_package() {
    let error = run("some-package", &mut tool("no-such-tool")).unwrap_err();
    assert!(format!("{error:#}").contains("apt-get install some-package"), "{error:#}");
}

#[test]
fn a_missing_kernel_is_a_clear_error() {
    if !installed() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none");
    let inputs = Inputs { kernel: &none, initramfs: &none, cmdline: "", stub: Path::new(uki::STUB) };
    let error = format!("{:#}", build(&inputs, &dir.path().join("out")).unwrap_err());
    assert!(error.contains("none"), "{error}");
}
