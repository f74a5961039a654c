use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;

fn sample() -> Archive {
    let mut archive = Archive::new();
    archive.file("/init", 0o755, b"odd".to_vec()).unwrap();
    archive.file("etc/modules.order", 0o644, Vec::new()).unwrap();
    archive.character_device("/dev/console", 0o600, 5, 1).unwrap();
    archive.directory("/proc").unwrap();
    archive
}

#[test]
fn headers_are_written_as_the_kernel_reads_them() {
    let bytes = sample().emit();
    let first = "070701\
        00000001000041ed0000000000000000000000020000000000000000\
        000000000000000000000000000000000000000400000000dev\0";
    assert_eq!(std::str::from_utf8(&bytes[..first.len()]).unwrap(), first);
    assert_eq!(bytes.len() % BLOCK, 0);
}

#[test]
fn the_order_of_adding_does_not_matter() {
    let mut other = Archive::new();
    other.directory("proc").unwrap();
    other.directory("dev").unwrap();
    other.character_device("/dev/console", 0o600, 5, 1).unwrap();
    other.file("/etc/modules.order", 0o644, Vec::new()).unwrap();
    other.file("init", 0o755, b"odd".to_vec()).unwrap();
    assert_eq!(other.emit(), sample().emit());
}

#[test]
fn paths_that_leave_the_root_or_are_there_twice_are_refused() {
    let mut archive = sample();
    for path in ["", "/", "../x", "a/./b", "a\0b"] {
        assert!(archive.file(path, 0o644, Vec::new()).is_err(), "{path:?}");
    }
    assert!(archive.file("/init", 0o644, Vec::new()).is_err());
    assert!(archive.file("/init/x", 0o644, Vec::new()).is_err(), "a file cannot be a directory");
}

/// The one reader that others wrote, where it is installed.
#[test]
fn the_cpio_tool_reads_the_archive() {
    let Ok(mut tool) =
        Command::new("cpio").args(["-t", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
    else {
        eprintln!("skipped: cpio is not installed");
        return;
    };
    tool.stdin.take().unwrap().write_all(&sample().emit()).unwrap();
    let output = tool.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "dev\ndev/console\netc\netc/modules.order\ninit\nproc\n"
    );
}
