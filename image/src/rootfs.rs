//! A tree of files that is yet to be written: as a tar archive, or into a directory.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};

/// Bytes of a tar record.
const RECORD: usize = 512;
/// An archive's length is a multiple of this, as with every tar tool.
const BLOCK: usize = 20 * RECORD;
/// Length of the name in a ustar header; longer ones would need extensions, and we have none.
const MAX_NAME: usize = 100;
/// Octal digits of the size in a ustar header.
const MAX_SIZE: u64 = 0o77_777_777_777;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory, for everyone to read.
    Directory,
    /// A file.
    File {
        /// Permission bits.
        mode: u32,
        /// What is in it.
        data: Vec<u8>,
    },
    /// A symbolic link.
    Link(String),
}

/// Files by their path, which is relative to the root. Owner 0, time 0, sorted: equal trees give equal bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rootfs {
    nodes: BTreeMap<String, Node>,
}

impl Rootfs {
    /// A tree with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, with its parents. It may be there already.
    pub fn directory(&mut self, path: &str) -> Result<()> {
        let path = normal(path)?;
        self.parents(&path)?;
        match self.nodes.get(&path) {
            None => drop(self.nodes.insert(path, Node::Directory)),
            Some(Node::Directory) => {}
            Some(_) => bail!("/{path} is a file and a directory"),
        }
        Ok(())
    }

    /// Adds a file, with its parent directories.
    pub fn file(&mut self, path: &str, mode: u32, data: impl Into<Vec<u8>>) -> Result<()> {
        self.insert(path, Node::File { mode, data: data.into() })
    }

    /// Adds a symbolic link, with its parent directories.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.insert(path, Node::Link(target.to_owned()))
    }

    /// Adds everything of another tree below a path.
    pub fn graft(&mut self, below: &str, other: Self) -> Result<()> {
        for (path, node) in other.nodes {
            let path = format!("{below}/{path}");
            match node {
                Node::Directory => self.directory(&path)?,
                node => self.insert(&path, node)?,
            }
        }
        Ok(())
    }

    /// All paths and what is there, sorted by path.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// How many bytes are in all files.
    pub fn bytes(&self) -> usize {
        let lengths = self.nodes.values().map(|node| match node {
            Node::File { data, .. } => data.len(),
            Node::Directory | Node::Link(_) => 0,
        });
        lengths.sum()
    }

    /// The tree as a ustar archive.
    pub fn to_tar(&self) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(self.bytes() + self.nodes.len() * 2 * RECORD + BLOCK);
        for (path, node) in &self.nodes {
            match node {
                Node::Directory => header(&mut out, &format!("{path}/"), 0o755, 0, b'5', "")?,
                Node::Link(target) => header(&mut out, path, 0o777, 0, b'2', target)?,
                Node::File { mode, data } => {
                    header(&mut out, path, *mode, data.len(), b'0', "")?;
                    out.extend_from_slice(data);
                    out.resize(out.len().next_multiple_of(RECORD), 0);
                }
            }
        }
        out.resize((out.len() + 2 * RECORD).next_multiple_of(BLOCK), 0);
        Ok(out)
    }

    /// Writes the tree into a directory that is there.
    pub fn write_to(&self, directory: &Path) -> Result<()> {
        for (path, node) in &self.nodes {
            let full = directory.join(path);
            let attempt = || match node {
                Node::Directory => fs::create_dir_all(&full),
                Node::Link(target) => symlink(target, &full),
                Node::File { mode, data } => {
                    fs::write(&full, data)?;
                    fs::set_permissions(&full, Permissions::from_mode(*mode))
                }
            };
            attempt().with_context(|| format!("cannot write {}", full.display()))?;
        }
        Ok(())
    }

    fn insert(&mut self, path: &str, node: Node) -> Result<()> {
        let path = normal(path)?;
        self.parents(&path)?;
        ensure!(!self.nodes.contains_key(&path), "/{path} is there twice");
        self.nodes.insert(path, node);
        Ok(())
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        match path.rsplit_once('/') {
            Some((parent, _)) => self.directory(parent),
            None => Ok(()),
        }
    }
}

/// A path relative to the root, without empty, `.` or `..` parts.
fn normal(path: &str) -> Result<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    ensure!(!parts.is_empty() && !path.contains('\0'), "{path:?} is no path in a tree");
    ensure!(!parts.iter().any(|part| matches!(*part, "." | "..")), "{path:?} has a . or .. in it");
    Ok(parts.join("/"))
}

fn header(out: &mut Vec<u8>, name: &str, mode: u32, size: usize, kind: u8, link: &str) -> Result<()> {
    ensure!(name.len() <= MAX_NAME && link.len() <= MAX_NAME, "{name} is too long for a tar archive");
    ensure!(size as u64 <= MAX_SIZE, "{name} is too large for a tar archive");
    let mut record = [0; RECORD];
    let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000"); // user
    put(116, b"0000000"); // group
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000"); // time
    put(148, b"        "); // the checksum counts itself as spaces
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = record.iter().copied().map(u32::from).sum();
    record[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&record);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Rootfs {
        let mut tree = Rootfs::new();
        tree.file("/usr/bin/hello", 0o755, *b"#!/bin/sh\n").unwrap();
        tree.directory("tmp").unwrap();
        tree.link("bin", "usr/bin").unwrap();
        tree
    }

    #[test]
    fn tar_reads_what_we_wrote() {
        let directory = tempfile::tempdir().unwrap();
        let archive = directory.path().join("a.tar");
        fs::write(&archive, sample().to_tar().unwrap()).unwrap();
        let output = Command::new("tar")
            .args(["--numeric-owner", "--full-time", "--utc", "-tvf"])
            .arg(&archive)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        let listed = String::from_utf8(output.stdout).unwrap();
        let words: Vec<Vec<&str>> =
            listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(words[0], ["lrwxrwxrwx", "0/0", "0", "1970-01-01", "00:00:00", "bin", "->", "usr/bin"]);
        assert_eq!(words.last().unwrap()[..3], ["-rwxr-xr-x", "0/0", "10"]);
        assert_eq!(words.len(), 5, "{listed}");
    }

    #[test]
    fn a_directory_gets_the_same_tree() {
        let directory = tempfile::tempdir().unwrap();
        sample().write_to(directory.path()).unwrap();
        assert_eq!(fs::read(directory.path().join("bin/hello")).unwrap(), b"#!/bin/sh\n");
        let mode = fs::metadata(directory.path().join("usr/bin/hello")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }

    #[test]
    fn a_path_is_there_once_and_inside() {
        let mut tree = sample();
        assert!(tree.file("tmp", 0o644, *b"").is_err());
        assert!(tree.directory("usr/bin/hello/x").is_err());
        for path in ["", "/", "../x", "a/./b", "a\0b"] {
            assert!(tree.file(path, 0o644, *b"").is_err(), "{path:?}");
        }
        tree.file(&"x".repeat(101), 0o644, *b"").unwrap();
        assert!(tree.to_tar().unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn a_grafted_tree_keeps_its_kinds() {
        let mut tree = Rootfs::new();
        tree.graft("/rootfs/x", sample()).unwrap();
        let paths: Vec<&str> = tree.nodes().map(|(path, _)| path).collect();
        assert_eq!(paths[..3], ["rootfs", "rootfs/x", "rootfs/x/bin"]);
        assert!(tree.nodes().any(|(_, node)| *node == Node::Link("usr/bin".into())));
        assert_eq!(tree.bytes(), 10);
    }
}
