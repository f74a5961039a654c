//! The iPXE binaries and other small files, in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netboot::firmware::BinarySet;
use netboot::tftp::Files;
use thiserror::Error;

/// The largest file taken in. iPXE's biggest build is some 1.1 MB; a UKI served the same way may have 64 MB.
const MAX_FILE: u64 = 64 << 20;

/// Which file of the directory is served by which names. The first source that exists counts.
///
/// Debian ships `snponly.efi`, which is what the peer calls `snp.efi`: the driver that goes through the
/// firmware's own network stack. The names with an architecture in front are those of UEFI HTTP boot.
/// `undionly.kpxe.0` is for ROMs that cut the name at the second dot.
const SERVED: [(&[&str], &[&str]); 5] = [
    (&["undionly.kpxe"], &["undionly.kpxe", "undionly.kpxe.0"]),
    (&["ipxe.efi"], &["ipxe.efi", "amd64/ipxe.efi"]),
    (&["snponly.efi", "snp.efi"], &["snp.efi", "amd64/snp.efi"]),
    (&["ipxe-arm64.efi", "arm64/ipxe.efi", "arm64-efi/ipxe.efi"], &["ipxe-arm64.efi", "arm64/ipxe.efi"]),
    (
        &[
            "snponly-arm64.efi",
            "snp-arm64.efi",
            "arm64/snponly.efi",
            "arm64/snp.efi",
            "arm64-efi/snponly.efi",
        ],
        &["snp-arm64.efi", "arm64/snp.efi"],
    ),
];

/// Why the boot files could not be taken in.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The directory cannot be read.
    #[error("cannot read the iPXE directory {path}")]
    Directory {
        /// Which directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is there and cannot be read.
    #[error("cannot read {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is too large to be kept in memory.
    #[error("{path} is larger than {MAX_FILE} bytes")]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// The directory has none of the files.
    #[error("no iPXE binary in {path}")]
    Nothing {
        /// Which directory.
        path: PathBuf,
    },
}

/// The iPXE binaries of a directory: there, of a size that fits, and not read yet. DHCP needs no more than their names.
#[derive(Debug)]
pub struct FoundFiles {
    files: Vec<Found>,
}

#[derive(Debug)]
struct Found {
    path: PathBuf,
    file: File,
    length: usize,
    names: &'static [&'static str],
}

impl FoundFiles {
    /// Opens the binaries of a directory.
    ///
    /// # Errors
    /// When the directory or a file that is there cannot be opened, or no binary is there.
    pub fn of(ipxe_dir: &Path) -> Result<Self, LoadError> {
        std::fs::read_dir(ipxe_dir)
            .map_err(|source| LoadError::Directory { path: ipxe_dir.into(), source })?;
        let mut files = Vec::new();
        for (sources, names) in SERVED {
            for source in sources {
                let Some(found) = Found::open(ipxe_dir.join(source), names)? else { continue };
                files.push(found);
                break;
            }
        }
        if files.is_empty() {
            return Err(LoadError::Nothing { path: ipxe_dir.into() });
        }
        Ok(Self { files })
    }

    /// The names, for the choice of what DHCP offers.
    #[must_use]
    pub fn binaries(&self) -> BinarySet {
        self.files.iter().flat_map(|found| found.names).map(|name| (*name).to_owned()).collect()
    }

    /// Takes them in.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn load(self) -> Result<BootFiles, LoadError> {
        let mut files = BTreeMap::new();
        for found in self.files {
            let names = found.names;
            let bytes = found.read()?;
            files.extend(names.iter().map(|name| ((*name).to_owned(), bytes.clone())));
        }
        Ok(BootFiles { files })
    }
}

impl Found {
    /// `None` when it is not there.
    fn open(path: PathBuf, names: &'static [&'static str]) -> Result<Option<Self>, LoadError> {
        let failed = |source| LoadError::File { path: path.clone(), source };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        match usize::try_from(metadata.len()) {
            Ok(length) if metadata.len() <= MAX_FILE => Ok(Some(Self { path, file, length, names })),
            _ => Err(LoadError::TooLarge { path }),
        }
    }

    /// Its bytes, read to where they stay: each page of them is written once.
    fn read(mut self) -> Result<Arc<[u8]>, LoadError> {
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, self.length).collect();
        let room = Arc::get_mut(&mut bytes).expect("nobody else has it yet");
        match self.file.read_exact(room) {
            Ok(()) => Ok(bytes),
            Err(source) => Err(LoadError::File { path: self.path, source }),
        }
    }
}

/// Files by the names that TFTP and HTTP serve them by. Names of one file share its bytes.
#[derive(Clone, Debug, Default)]
pub struct BootFiles {
    files: BTreeMap<String, Arc<[u8]>>,
}

impl BootFiles {
    /// Takes in the iPXE binaries of a directory and `extra` files (which win over those of the same name).
    ///
    /// # Errors
    /// When the directory or a file that is there cannot be read, or no binary is there.
    pub fn load(ipxe_dir: &Path, extra: Vec<(String, Vec<u8>)>) -> Result<Self, LoadError> {
        Ok(FoundFiles::of(ipxe_dir)?.load()?.with(extra))
    }

    /// The same with more files, which win over those of the same name.
    #[must_use]
    pub fn with(mut self, extra: Vec<(String, Vec<u8>)>) -> Self {
        self.files.extend(extra.into_iter().map(|(name, bytes)| (name, bytes.into())));
        self
    }

    /// Files that exist nowhere on disk.
    #[must_use]
    pub fn from_memory(files: Vec<(String, Vec<u8>)>) -> Self {
        Self { files: files.into_iter().map(|(name, bytes)| (name, bytes.into())).collect() }
    }

    /// The names, for the choice of what DHCP offers.
    #[must_use]
    pub fn binaries(&self) -> BinarySet {
        self.files.keys().cloned().collect()
    }
}

impl Files for BootFiles {
    fn open(&self, name: &str) -> Option<Arc<[u8]>> {
        self.files.get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian_directory() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for name in ["undionly.kpxe", "ipxe.efi", "snponly.efi", "ipxe.lkrn"] {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        directory
    }

    #[test]
    fn debian_names_are_served_by_the_names_of_the_peer() {
        let extra = vec![("autoexec.ipxe".to_owned(), b"#!ipxe".to_vec())];
        let files = BootFiles::load(debian_directory().path(), extra).unwrap();
        for (name, content) in [
            ("undionly.kpxe", "undionly.kpxe"),
            ("undionly.kpxe.0", "undionly.kpxe"),
            ("ipxe.efi", "ipxe.efi"),
            ("snp.efi", "snponly.efi"),
            ("amd64/ipxe.efi", "ipxe.efi"),
            ("amd64/snp.efi", "snponly.efi"),
            ("autoexec.ipxe", "#!ipxe"),
        ] {
            assert_eq!(files.open(name).as_deref(), Some(content.as_bytes()), "{name}");
            assert!(files.binaries().contains(name), "{name}");
        }
        for name in ["ipxe.lkrn", "arm64/snp.efi", "../ipxe.efi", "/ipxe.efi", ""] {
            assert!(files.open(name).is_none(), "{name}");
        }
    }

    #[test]
    fn names_of_one_file_share_its_bytes() {
        let files = BootFiles::load(debian_directory().path(), Vec::new()).unwrap();
        let (one, other) = (files.open("snp.efi").unwrap(), files.open("amd64/snp.efi").unwrap());
        assert!(Arc::ptr_eq(&one, &other));
    }

    #[test]
    fn what_is_found_has_the_names_of_what_is_taken_in() {
        let directory = debian_directory();
        let found = FoundFiles::of(directory.path()).unwrap();
        // What was opened is served, whatever its name is given to meanwhile.
        std::fs::remove_file(directory.path().join("ipxe.efi")).unwrap();
        std::fs::write(directory.path().join("snponly.efi"), "").unwrap();
        let names = found.binaries();
        let error = found.load().unwrap_err();
        assert!(error.to_string().contains("snponly.efi"), "it was cut off: {error}");
        let files = BootFiles::load(debian_directory().path(), Vec::new()).unwrap();
        assert_eq!(files.binaries(), names);
    }

    #[test]
    fn arm64_binaries_are_served_when_they_are_there() {
        let directory = debian_directory();
        std::fs::create_dir(directory.path().join("arm64-efi")).unwrap();
        std::fs::write(directory.path().join("arm64-efi/snponly.efi"), "arm").unwrap();
        let files = BootFiles::load(directory.path(), Vec::new()).unwrap();
        for name in ["snp-arm64.efi", "arm64/snp.efi"] {
            assert_eq!(files.open(name).as_deref(), Some(&b"arm"[..]));
        }
        assert!(files.open("arm64/ipxe.efi").is_none());
    }

    #[test]
    fn a_directory_without_ipxe_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let error = BootFiles::load(directory.path(), Vec::new()).unwrap_err();
        assert!(matches!(error, LoadError::Nothing { .. }));
        let missing = directory.path().join("missing");
        let error = BootFiles::load(&missing, Vec::new()).unwrap_err();
        assert!(error.to_string().contains("missing"));
        assert!(matches!(error, LoadError::Directory { .. }));
    }
}
