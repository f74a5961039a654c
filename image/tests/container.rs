//! The container image: read by the tools that people use, and its root file system run. What is not on this
//! machine is skipped, and said so.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// More than the binary, the agent image and iPXE need.
const LIMIT_BYTES: u64 = 60 << 20;

/// `<target>/<triple>`, next to which this test was built.
fn triple() -> PathBuf {
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

fn run(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A layout of the release build of the appliance, with a little agent image.
fn layout(directory: &Path) -> Option<PathBuf> {
    let binary = triple().join("release/bootlace");
    if !binary.exists() || !Path::new("/usr/lib/ipxe/undionly.kpxe").exists() {
        eprintln!("skipped: no release build of the appliance, or no iPXE");
        return None;
    }
    std::fs::write(directory.join("kernel-amd64"), b"kernel").unwrap();
    std::fs::write(directory.join("initramfs-metal-amd64.xz"), b"initramfs").unwrap();
    let binary = format!("amd64={}", binary.display());
    let build = |name: &str| {
        let output = directory.join(name);
        run(
            env!("CARGO_BIN_EXE_bootlace-image"),
            &[
                "oci",
                "--bootlace",
                &binary,
                "--assets",
                directory.to_str().unwrap(),
                "-o",
                output.to_str().unwrap(),
            ],
        );
        output
    };
    let (one, other) = (std::fs::read(build("one.tar")).unwrap(), std::fs::read(build("other.tar")).unwrap());
    assert!(one == other, "two builds give the same bytes");
    Some(build("layout"))
}

#[test]
fn skopeo_and_umoci_read_the_image_and_its_root_runs() {
    let directory = tempfile::tempdir().unwrap();
    let Some(layout) = layout(directory.path()) else { return };
    let tag = concat!("v", env!("CARGO_PKG_VERSION"));
    if has("skopeo") {
        let image = format!("oci:{}:{tag}", layout.display());
        let inspected: serde_json::Value =
            serde_json::from_slice(&run("skopeo", &["inspect", "--config", &image]).stdout).unwrap();
        assert_eq!(inspected["config"]["Entrypoint"], serde_json::json!(["/bootlace", "run"]));
        let copy = format!("oci:{}:{tag}", directory.path().join("copy").display());
        run("skopeo", &["copy", "--quiet", "--all", &image, &copy]);
        let archive = format!("oci-archive:{}:{tag}", directory.path().join("one.tar").display());
        run("skopeo", &["inspect", &archive]);
    }
    let root = is_root();
    if !has("umoci") || !root {
        return eprintln!("skipped: running the root file system needs umoci and root");
    }
    let bundle = directory.path().join("bundle");
    run(
        "umoci",
        &["unpack", "--image", &format!("{}:{tag}-amd64", layout.display()), bundle.to_str().unwrap()],
    );
    let rootfs = bundle.join("rootfs");
    let rootfs = rootfs.to_str().unwrap();
    let help = run("chroot", &[rootfs, "/bootlace", "run", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("--api-advertise-address"));

    // As in `docker run … --api-advertise-address=…`: devices as every runtime gives them, a network of its own.
    std::fs::create_dir(bundle.join("rootfs/dev")).unwrap();
    let script = format!(
        "ip link set lo up && mount --bind /dev {rootfs}/dev && exec chroot {rootfs} /bootlace run \
         --api-advertise-address=127.0.0.1 --disable-dhcp-proxy"
    );
    let mut child = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", &script])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The log ends when the appliance does, so this does not hang on one that does not start.
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut seen = Vec::new();
    let serves = lines.any(|line| {
        seen.push(line.clone());
        line.contains("serving")
    });
    let _ = child.kill();
    let _ = child.wait();
    assert!(serves, "{seen:#?}");
    let size: u64 = std::fs::read_dir(layout.join("blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(size <= LIMIT_BYTES, "{size} bytes");
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout == b"0\n"
}
