//! Disks that real tools have written. A tool that is not installed is skipped, and said so.

use std::process::Command;

use super::*;

/// Runs a tool on a disk of this size, the path in place of `%`. None when it is not installed.
fn written_by(directory: &Path, mebibytes: u64, tool: &[&str]) -> Option<Disk> {
    let disk = Disk { size: mebibytes << 20, ..file_disk(directory, "disk", &[]) };
    fs::OpenOptions::new().write(true).open(&disk.path).unwrap().set_len(disk.size).unwrap();
    let path = disk.path.to_str().unwrap();
    let arguments = tool[1..].iter().map(|word| if *word == "%" { path } else { word });
    let output =
        match Command::new(tool[0]).args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").output() {
            Ok(output) => output,
            Err(_) => {
                eprintln!("skipped: {} is not installed", tool[0]);
                return None;
            }
        };
    assert!(output.status.success(), "{tool:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(disk)
}

#[test]
fn what_real_tools_write_is_recognized_and_gone_also_for_wipefs() {
    let directory = tempfile::tempdir().unwrap();
    let luks = directory.path().join("passphrase");
    fs::write(&luks, "x").unwrap();
    let luks = ["--key-file", luks.to_str().unwrap()];
    let cases: &[(&str, u64, &[&str])] = &[
        ("ext", 8, &["mkfs.ext4", "-q", "-F", "%"]),
        ("xfs", 320, &["mkfs.xfs", "-q", "-f", "%"]),
        ("btrfs", 128, &["mkfs.btrfs", "-q", "-f", "%"]),
        ("fat", 32, &["mkfs.vfat", "-F", "16", "%"]),
        ("fat", 64, &["mkfs.vfat", "-F", "32", "%"]),
        ("swap", 8, &["mkswap", "%"]),
        (
            "luks",
            32,
            &[
                "cryptsetup",
                "luksFormat",
                "-q",
                "--pbkdf",
                "pbkdf2",
                "--pbkdf-force-iterations",
                "1000",
                luks[0],
                luks[1],
                "%",
            ],
        ),
    ];
    for (name, mebibytes, tool) in cases {
        let Some(disk) = written_by(directory.path(), *mebibytes, tool) else { continue };
        let done = fast(&disk).unwrap();
        assert!(done.found.contains_key(name), "{name}: {:?}", done.found);
        assert!(fast(&disk).unwrap().found.is_empty(), "{name} is not gone");
        if let Ok(left) = Command::new("/usr/sbin/wipefs").args(["-n", "-p"]).arg(&disk.path).output() {
            assert_eq!(String::from_utf8_lossy(&left.stdout), "", "{name}");
        }
    }
}

#[test]
fn partitions_of_sfdisk_are_found() {
    let directory = tempfile::tempdir().unwrap();
    for (label, kinds) in [("gpt", 3), ("dos", 1)] {
        let script = directory.path().join("script");
        fs::write(&script, format!("label: {label}\n,4M\n,4M\n,4M\n")).unwrap();
        let shell = format!("sfdisk -q $0 < {}", script.display());
        if Command::new("/usr/sbin/sfdisk").arg("-v").output().is_err() {
            eprintln!("skipped: sfdisk is not installed");
            return;
        }
        let disk = written_by(directory.path(), 32, &["sh", "-c", &shell, "%"]).unwrap();
        let done = fast(&disk).unwrap();
        assert_eq!((done.partitions, done.found.len()), (3, kinds), "{label}: {:?}", done.found);
        assert_eq!(used_bytes(&disk).1, 0);
    }
}
