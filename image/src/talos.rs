//! A Talos initramfs with extensions, put together as Talos' imager does: each extension's root file system is a
//! squashfs, and an archive of these and `extensions.yaml` follows the stock initramfs.

use std::fs;
use std::io::Read as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::cpio::Archive;
use crate::rootfs::{Node, Rootfs};

/// What the stock initramfs begins with since Talos 1.8, whatever its name says.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The list of layers; where one is already, ours would take its place.
const LAYERS: &str = "extensions.yaml";
/// Where Talos looks for a configuration that an image brings along.
const EMBEDDED_CONFIG: &str = "/rootfs/usr/local/etc/talos/config.yaml";
/// As the imager compresses.
const LEVEL: i32 = 18;
/// Unpacked, a stock initramfs is near 300 MB.
const MAX_UNPACKED: u64 = 2 << 30;
/// What Talos' metal images are started with, besides consoles.
pub const CMDLINE: &str = "talos.platform=metal console=tty0 console=ttyS0,115200 init_on_alloc=1 slab_nomerge= pti=on \
consoleblank=0 nvme_core.io_timeout=4294967295 printk.devkmsg=on";

/// An extension that holds nothing but a machine configuration.
pub fn embedded_config(config: &[u8]) -> Result<Rootfs> {
    let mut tree = Rootfs::new();
    let manifest = "version: v1alpha1\nmetadata:\n  name: embedded-config\n  version: v1\n  author: bootlace\n  \
                    description: Machine configuration of this stick.\n  compatibility:\n    talos:\n      \
                    version: \">= v1.11.0\"\n";
    tree.file(crate::extension::MARK, 0o644, manifest)?;
    // It may have secrets in it.
    tree.file(EMBEDDED_CONFIG, 0o600, config)?;
    Ok(tree)
}

/// Appends extensions, each a tree of `manifest.yaml` and `rootfs`.
pub fn append(initramfs: &[u8], extensions: &[Rootfs]) -> Result<Vec<u8>> {
    refuse_extended(initramfs)?;
    let mut archive = Archive::new();
    let mut layers = String::from("layers:\n");
    for (index, extension) in extensions.iter().enumerate() {
        let (mut manifest, mut root) = (None, Rootfs::new());
        for (path, node) in extension.nodes() {
            match (path, node) {
                (crate::extension::MARK, Node::File { data, .. }) => manifest = Some(data),
                (path, Node::File { mode, data }) => {
                    let inside = path.strip_prefix("rootfs/").context("an extension has rootfs only")?;
                    root.file(inside, *mode, data.clone())?;
                }
                (path, Node::Link(target)) => {
                    let inside = path.strip_prefix("rootfs/").context("an extension has rootfs only")?;
                    root.link(inside, target)?;
                }
                (path, Node::Directory) => {
                    if let Some(inside) = path.strip_prefix("rootfs/") {
                        root.directory(inside)?;
                    }
                }
            }
        }
        let manifest = std::str::from_utf8(manifest.context("an extension has a manifest")?)?;
        let (_, metadata) = manifest.split_once("metadata:\n").context("a manifest has metadata")?;
        layers.push_str(&format!("  - image: {index}.sqsh\n    metadata:\n"));
        for line in metadata.lines() {
            layers.push_str(&format!("    {line}\n"));
        }
        archive.file(&format!("/{index}.sqsh"), 0o644, squashfs(&root)?)?;
    }
    archive.file(&format!("/{LAYERS}"), 0o644, layers.into_bytes())?;
    let mut out = initramfs.to_vec();
    // The kernel looks for the next archive at multiples of four.
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(zstd::bulk::compress(&archive.emit(), LEVEL).context("zstd failed")?);
    Ok(out)
}

fn refuse_extended(initramfs: &[u8]) -> Result<()> {
    ensure!(
        initramfs.starts_with(&ZSTD_MAGIC),
        "it is no initramfs of Talos 1.8 or newer; take initramfs-amd64.xz of Image Factory or of a release"
    );
    // All frames: what an imager appended is one of its own, after zeros that fill up.
    let mut plain = Vec::new();
    let mut rest = initramfs;
    while rest.starts_with(&ZSTD_MAGIC) {
        let mut decoder =
            zstd::stream::read::Decoder::with_buffer(rest).context("zstd failed")?.single_frame();
        decoder.by_ref().take(MAX_UNPACKED).read_to_end(&mut plain).context("the initramfs is damaged")?;
        rest = decoder.finish();
        let filled = rest.iter().take_while(|byte| **byte == 0).count();
        rest = &rest[filled..];
    }
    let name = format!("{LAYERS}\0");
    if plain.windows(name.len()).any(|window| window == name.as_bytes()) {
        bail!(
            "it has extensions already, and ours would take their place: take one of a schematic without extensions"
        );
    }
    Ok(())
}

/// A file system by Debian's squashfs-tools, which needs no root for one whose files are all root's.
fn squashfs(root: &Rootfs) -> Result<Vec<u8>> {
    let work = tempfile::tempdir().context("no temporary directory")?;
    let (from, to) = (work.path().join("root"), work.path().join("layer.sqsh"));
    fs::create_dir(&from)?;
    root.write_to(&from)?;
    let output = Command::new("mksquashfs")
        .arg(&from)
        .arg(&to)
        .args(["-all-root", "-noappend", "-no-progress", "-no-xattrs", "-mkfs-time", "0", "-all-time", "0"])
        .args(["-comp", "zstd", "-Xcompression-level", "18"])
        .env_remove("SOURCE_DATE_EPOCH")
        .output()
        .context("cannot run mksquashfs: apt-get install squashfs-tools")?;
    if !output.status.success() {
        bail!("mksquashfs makes no file system: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    fs::read(&to).context("mksquashfs wrote nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stock(name: &str) -> Vec<u8> {
        let mut archive = Archive::new();
        archive.file(name, 0o644, b"stock".to_vec()).unwrap();
        let mut packed = zstd::bulk::compress(&archive.emit(), 1).unwrap();
        packed.resize(packed.len().next_multiple_of(4), 0);
        packed
    }

    fn extension() -> Rootfs {
        embedded_config(b"version: v1alpha1\n").unwrap()
    }

    #[test]
    fn what_follows_the_stock_initramfs_are_layers_and_their_list() {
        if Command::new("mksquashfs").arg("-version").output().is_err() {
            return eprintln!("skipped: no squashfs-tools");
        }
        let stock = stock("rootfs.sqsh");
        let image = append(&stock, &[extension(), extension()]).unwrap();
        assert!(image == append(&stock, &[extension(), extension()]).unwrap(), "the same bytes every time");
        let appended = image.strip_prefix(&stock[..]).unwrap();
        let plain = zstd::stream::decode_all(appended).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("layers.cpio");
        fs::write(&file, &plain).unwrap();
        let shell = |script: &str| {
            let output =
                Command::new("sh").args(["-ec", script]).current_dir(directory.path()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(plain.starts_with(b"070701"), "a newc archive");
        let at = plain.windows(4).position(|window| window == b"hsqs").unwrap();
        fs::write(directory.path().join("0.sqsh"), &plain[at..]).unwrap();
        let listed = shell("unsquashfs -lls -d '' 0.sqsh");
        assert!(
            listed.contains("-rw------- root/root") && listed.contains("/usr/local/etc/talos/config.yaml"),
            "{listed}"
        );
        let text = String::from_utf8_lossy(&plain);
        assert!(text.contains("  - image: 0.sqsh\n    metadata:\n      name: embedded-config\n"));
        assert!(text.contains("  - image: 1.sqsh\n"));
    }

    #[test]
    fn what_is_no_stock_initramfs_is_refused() {
        let text = |initramfs: &[u8]| format!("{:#}", append(initramfs, &[extension()]).unwrap_err());
        assert!(text(b"070701").contains("no initramfs of Talos"));
        assert!(text(&stock("extensions.yaml")).contains("extensions already"));
        assert!(text(&stock("rootfs.sqsh")[..40]).contains("damaged"));
    }
}
