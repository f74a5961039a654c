//! The directory of the large files.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use thiserror::Error;

use crate::cache::ImageCache;

/// Bytes of a path. `image/<64 hex digits>/<version>/<file>` has some 120.
const MAX_PATH: usize = 512;
/// How often a lookup is repeated when the directory changes beneath it.
const LOOKUPS_MAX: u32 = 16;

/// Why a file is not served.
#[derive(Debug, Error)]
pub enum AssetError {
    /// There is no such regular file beneath the directory, or the path is not one to look for. The two are
    /// one on purpose: the network is not told which.
    #[error("no such file")]
    NotFound,
    /// It is there and cannot be read.
    #[error("cannot read the file")]
    Io(#[source] io::Error),
}

/// A directory whose regular files may be read by their path beneath it.
///
/// The kernel itself keeps every lookup beneath the directory (`openat2` with `RESOLVE_BENEATH`): no `..`, no
/// absolute path and no symbolic link leads out of it. Links that stay beneath are followed, so that a
/// version's directory can be one. The directory is held open: moving it does not change what is served.
#[derive(Clone, Debug)]
pub struct AssetDir {
    directory: Arc<OwnedFd>,
    path: PathBuf,
    /// Where images are that are not in the directory.
    cache: Option<ImageCache>,
}

impl AssetDir {
    /// Opens the directory.
    ///
    /// # Errors
    /// When it is not there, no directory, or cannot be entered.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<Self> {
        let path = root.into();
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = Arc::new(open(&path, flags, Mode::empty())?);
        Ok(Self { directory, path, cache: None })
    }

    /// The same, with the images of a cache where the directory has none of that name.
    #[must_use]
    pub fn with_cache(mut self, cache: Option<ImageCache>) -> Self {
        self.cache = cache;
        self
    }

    /// Where it was when it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a regular file and tells its length.
    ///
    /// # Errors
    /// [`AssetError::NotFound`] for whatever is not a regular file beneath the directory.
    pub fn open(&self, path: &str) -> Result<(File, u64), AssetError> {
        match (self.open_own(path), &self.cache) {
            (Err(AssetError::NotFound), Some(cache)) => cache.open_file(path),
            (opened, _) => opened,
        }
    }

    fn open_own(&self, path: &str) -> Result<(File, u64), AssetError> {
        if path.is_empty() || path.len() > MAX_PATH || path.contains(['\\', '\0']) {
            return Err(AssetError::NotFound);
        }
        let how = OpenHow::new()
            // A pipe without a writer must not block.
            .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut opened = openat2(&*self.directory, path, how);
        // A rename beside the lookup; the kernel asks to try again.
        for _ in 0..LOOKUPS_MAX {
            if !matches!(opened, Err(Errno::EAGAIN | Errno::EINTR)) {
                break;
            }
            opened = openat2(&*self.directory, path, how);
        }
        let file = match opened {
            Ok(file) => File::from(file),
            Err(
                Errno::ENOENT
                | Errno::ENOTDIR
                | Errno::EXDEV
                | Errno::ELOOP
                | Errno::ENAMETOOLONG
                | Errno::EACCES
                | Errno::ENXIO,
            ) => return Err(AssetError::NotFound),
            Err(error) => return Err(AssetError::Io(error.into())),
        };
        let metadata = file.metadata().map_err(AssetError::Io)?;
        if !metadata.is_file() {
            return Err(AssetError::NotFound);
        }
        Ok((file, metadata.len()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    /// `outside` beside the directory `root` with files, links, a pipe.
    fn tree() -> (tempfile::TempDir, AssetDir) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        std::fs::create_dir_all(root.join("image/abc/v1.13.0")).unwrap();
        std::fs::write(directory.path().join("outside"), "secret").unwrap();
        std::fs::write(root.join("kernel-amd64"), "kernel").unwrap();
        std::fs::write(root.join("empty"), "").unwrap();
        std::fs::write(root.join("image/abc/v1.13.0/kernel-amd64"), "talos").unwrap();
        symlink("v1.13.0", root.join("image/abc/latest")).unwrap();
        symlink("../outside", root.join("leaves")).unwrap();
        symlink(directory.path().join("outside"), root.join("absolute")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        let assets = AssetDir::new(&root).unwrap();
        (directory, assets)
    }

    fn content(assets: &AssetDir, path: &str) -> String {
        let (mut file, length) = assets.open(path).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text.len() as u64, length);
        text
    }

    #[test]
    fn files_beneath_the_directory_are_opened() {
        let (_directory, assets) = tree();
        assert_eq!(content(&assets, "kernel-amd64"), "kernel");
        assert_eq!(content(&assets, "empty"), "");
        assert_eq!(content(&assets, "image/abc/v1.13.0/kernel-amd64"), "talos");
    }

    #[test]
    fn links_that_stay_beneath_are_followed() {
        let (_directory, assets) = tree();
        assert_eq!(content(&assets, "image/abc/latest/kernel-amd64"), "talos");
    }

    #[test]
    fn nothing_leads_out_of_the_directory() {
        let (directory, assets) = tree();
        let absolute = directory.path().join("outside");
        for path in [
            "../outside",
            "image/../../outside",
            "/etc/passwd",
            absolute.to_str().unwrap(),
            "leaves",
            "absolute",
            "up/outside",
            "loop",
            "..\\outside",
            "kernel-amd64\0.txt",
            "",
            "..",
        ] {
            assert!(matches!(assets.open(path), Err(AssetError::NotFound)), "{path:?}");
        }
    }

    #[test]
    fn only_regular_files_are_opened() {
        let (_directory, assets) = tree();
        for path in [".", "image", "image/abc/latest", "pipe", "missing", "kernel-amd64/x", &"x".repeat(600)]
        {
            assert!(matches!(assets.open(path), Err(AssetError::NotFound)), "{path:?}");
        }
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let (directory, _assets) = tree();
        assert!(AssetDir::new(directory.path().join("none")).is_err());
        assert!(AssetDir::new(directory.path().join("outside")).is_err());
    }
}
