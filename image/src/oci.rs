//! An OCI image layout (opencontainers/image-spec v1.1): blobs by their digest, and an index of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::binary::Arch;
use crate::rootfs::Rootfs;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The annotation that gives an entry of an index its name.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The file that says that a directory is a layout; nothing else is ever replaced.
const MARK: &str = "oci-layout";

/// One image of an index.
#[derive(Debug)]
pub struct Image {
    /// For which machines.
    pub arch: Arch,
    /// Its file system, from the bottom to the top.
    pub layers: Vec<Layer>,
    /// How it is run: the image configuration's `config`.
    pub config: Value,
}

/// A layer, compressed.
#[derive(Debug, Clone)]
pub struct Layer {
    what: &'static str,
    bytes: Vec<u8>,
    diff_id: String,
}

impl Layer {
    /// Packs a tree.
    pub fn new(what: &'static str, tree: &Rootfs) -> Result<Self> {
        let tar = tree.to_tar()?;
        let diff_id = digest(&tar);
        // No name and no time in the header: the same tree gives the same bytes.
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
        gzip.write_all(&tar).context("gzip failed")?;
        let bytes = gzip.finish().context("gzip failed")?;
        Ok(Self { what, bytes, diff_id })
    }

    /// What is in it, for people.
    pub fn what(&self) -> &'static str {
        self.what
    }

    /// How large it is.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}

/// How an index names its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// The tag is an index of all images, and `<tag>-<arch>` is each of them.
    MultiArch,
    /// The only image has the tag. Talos' imager wants its images directly in the layout's index.
    Single,
}

/// A layout, complete in memory.
#[derive(Debug, Default)]
pub struct Layout {
    blobs: BTreeMap<String, Vec<u8>>,
    index: Value,
}

impl Layout {
    /// Makes a layout of images. `created` is seconds since 1970.
    pub fn build(
        images: &[Image],
        tag: &str,
        labels: &BTreeMap<String, String>,
        naming: Naming,
        created: u64,
    ) -> Result<Self> {
        check_tag(tag)?;
        let created = timestamp(created);
        let mut layout = Self::default();
        let mut manifests = Vec::new();
        for image in images {
            let manifest = layout.image(image, labels, &created);
            manifests.push((image.arch, manifest));
        }
        let named = |descriptor: &Value, name: &str| {
            let mut descriptor = descriptor.clone();
            descriptor["annotations"] = json!({ REF_NAME: name });
            descriptor
        };
        let entries = match (naming, &manifests[..]) {
            (Naming::Single, [(_, manifest)]) => vec![named(manifest, tag)],
            (Naming::Single, _) => bail!("a layout for Talos' imager has one image"),
            (Naming::MultiArch, _) => {
                let all: Vec<&Value> = manifests.iter().map(|(_, manifest)| manifest).collect();
                let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": all, "annotations": labels });
                let index = layout.blob(INDEX, to_bytes(&index));
                let each = manifests
                    .iter()
                    .map(|(arch, manifest)| named(manifest, &format!("{tag}-{}", arch.name())));
                std::iter::once(named(&index, tag)).chain(each).collect()
            }
        };
        layout.index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        Ok(layout)
    }

    fn image(&mut self, image: &Image, labels: &BTreeMap<String, String>, created: &str) -> Value {
        let platform = json!({ "architecture": image.arch.name(), "os": "linux" });
        let history: Vec<Value> = image
            .layers
            .iter()
            .map(|layer| json!({ "created": created, "created_by": format!("bootlace-image: {}", layer.what) }))
            .collect();
        let diff_ids: Vec<&str> = image.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let mut run = image.config.clone();
        run["Labels"] = json!(labels);
        let config = json!({
            "created": created,
            "architecture": image.arch.name(),
            "os": "linux",
            "config": run,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": history,
        });
        let config = self.blob(CONFIG, to_bytes(&config));
        let layers: Vec<Value> =
            image.layers.iter().map(|layer| self.blob(LAYER, layer.bytes.clone())).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": layers,
            "annotations": labels,
        });
        let mut descriptor = self.blob(MANIFEST, to_bytes(&manifest));
        descriptor["platform"] = platform;
        descriptor
    }

    /// Keeps a blob and describes it.
    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let (digest, size) = (digest(&bytes), bytes.len());
        self.blobs.insert(digest.clone(), bytes);
        json!({ "mediaType": media_type, "digest": digest, "size": size })
    }

    /// How many bytes its blobs have.
    pub fn size(&self) -> usize {
        self.blobs.values().map(Vec::len).sum()
    }

    /// The layout's files.
    pub fn tree(&self) -> Result<Rootfs> {
        let mut tree = Rootfs::new();
        tree.file(MARK, 0o644, to_bytes(&json!({ "imageLayoutVersion": "1.0.0" })))?;
        tree.file("index.json", 0o644, to_bytes(&self.index))?;
        for (digest, bytes) in &self.blobs {
            tree.file(&format!("blobs/{}", digest.replace(':', "/")), 0o644, bytes.clone())?;
        }
        Ok(tree)
    }
}

/// Writes a tree as a tar archive when the name says so, or else as a directory. A directory that is there is
/// replaced only when it has `mark` in it, so that no wrong word on a command line deletes what is not ours.
pub fn write_tree(tree: &Rootfs, output: &Path, mark: &str) -> Result<()> {
    if is_tar(output) {
        return crate::output::write(output, &tree.to_tar()?);
    }
    let parent = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let attempt = || -> Result<()> {
        let is_empty = fs::read_dir(output).map_or(true, |mut entries| entries.next().is_none());
        ensure!(
            is_empty || output.join(mark).exists(),
            "it is there, and it is none of ours (no {mark} in it); name another, or remove it"
        );
        fs::create_dir_all(parent)?;
        let new = tempfile::Builder::new().prefix(".bootlace-image").tempdir_in(parent)?;
        let (made, old) = (new.path().join("new"), new.path().join("old"));
        fs::create_dir(&made)?;
        tree.write_to(&made)?;
        if output.exists() {
            fs::rename(output, &old)?;
        }
        fs::rename(&made, output)?;
        Ok(())
    };
    attempt().with_context(|| format!("cannot write {}", output.display()))
}

/// Whether a name asks for an archive.
pub fn is_tar(output: &Path) -> bool {
    output.extension().is_some_and(|extension| extension == "tar")
}

/// Writes a layout; see [`write_tree`].
pub fn write(layout: &Layout, output: &Path) -> Result<()> {
    write_tree(&layout.tree()?, output, MARK)
}

fn check_tag(tag: &str) -> Result<()> {
    let first = tag.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let rest = tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    ensure!(
        first && rest && tag.len() <= 100,
        "{tag:?} is no tag: letters, digits, _ . - and up to 100 of them"
    );
    Ok(())
}

fn to_bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 3339 of seconds since 1970, in UTC (days to civil date as in Howard Hinnant's chrono algorithms).
pub fn timestamp(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3_600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests;
