//! The "newc" cpio archive that the kernel unpacks as its first root file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};

/// Header magic of newc without checksums.
const MAGIC: &str = "070701";
/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// The archive's length is a multiple of this, as with every cpio tool.
const BLOCK: usize = 512;

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// An archive in the making. Entries are written sorted by path, with inode numbers in that order, owner 0 and
/// time 0, so that equal contents give equal bytes.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    mode: u32,
    device: (u32, u32),
    data: Vec<u8>,
}

impl Archive {
    /// An archive with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, with its parents. It may be there already.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        let path = normal(path)?;
        self.parents(&path)?;
        if let Some(entry) = self.entries.get(&path) {
            ensure!(entry.mode & DIRECTORY == DIRECTORY, "/{path} is a file and a directory");
            return Ok(());
        }
        self.insert(path, Entry { mode: DIRECTORY | 0o755, device: (0, 0), data: Vec::new() })
    }

    /// Adds a file, with its parent directories.
    pub fn file(&mut self, path: &str, mode: u32, data: Vec<u8>) -> Result<()> {
        u32::try_from(data.len()).with_context(|| format!("{path} is too large for a cpio archive"))?;
        let path = normal(path)?;
        self.parents(&path)?;
        self.insert(path, Entry { mode: FILE | mode, device: (0, 0), data })
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> Result<()> {
        let path = normal(path)?;
        self.parents(&path)?;
        self.insert(path, Entry { mode: CHARACTER_DEVICE | mode, device: (major, minor), data: Vec::new() })
    }

    /// The paths and sizes of the files, sorted by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, usize)> {
        let files = self.entries.iter().filter(|(_, entry)| entry.mode & FILE == FILE);
        files.map(|(path, entry)| (path.as_str(), entry.data.len()))
    }

    /// The archive's bytes.
    pub fn emit(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (inode, (path, entry)) in (1..).zip(&self.entries) {
            emit_entry(&mut out, inode, path, entry);
        }
        emit_entry(&mut out, 0, TRAILER, &Entry { mode: 0, device: (0, 0), data: Vec::new() });
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }

    fn insert(&mut self, path: String, entry: Entry) -> Result<()> {
        if self.entries.contains_key(&path) {
            bail!("/{path} is there twice");
        }
        self.entries.insert(path, entry);
        Ok(())
    }
}

/// A path as the archive has it: relative to the root, without empty, `.` or `..` parts.
fn normal(path: &str) -> Result<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    ensure!(!parts.is_empty(), "{path:?} is no path in an archive");
    ensure!(!parts.iter().any(|part| matches!(*part, "." | "..")), "{path:?} has a . or .. in it");
    ensure!(!path.contains('\0'), "{path:?} has a NUL in it");
    Ok(parts.join("/"))
}

fn emit_entry(out: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) {
    let links = if entry.mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
    let length = |bytes: usize| u32::try_from(bytes).expect("checked when the entry was added");
    let fields = [
        inode,
        entry.mode,
        0, // user
        0, // group
        links,
        0, // time
        length(entry.data.len()),
        0, // major and minor of the device that the file was on
        0,
        entry.device.0,
        entry.device.1,
        length(path.len() + 1),
        0, // checksum, unused with this magic
    ];
    out.extend_from_slice(MAGIC.as_bytes());
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(&entry.data);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests;
