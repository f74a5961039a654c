//! Finds a virtual machine's power API in the state directory of the tool that made the machine.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use uuid::Uuid;

/// The longest configuration file that is read. The real ones have a few KiB.
const FILE_LIMIT: u64 = 1024 * 1024;

/// How many files of a directory are looked at: more virtual machines than one host can run.
const FILES_LIMIT: usize = 4096;

/// A directory of `*.config` files, one for each machine. It is read anew at each call, since machines are
/// made and removed while we run.
#[derive(Debug, Clone)]
pub struct AddressBook {
    state_dir: PathBuf,
}

/// Why no address was found.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The directory cannot be read.
    #[error("cannot read the power state directory {}: check --api-power-mgmt-state-dir", .state_dir.display())]
    Directory {
        /// The directory.
        state_dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No usable file is about this machine.
    #[error("none of the {files} *.config files in {} has the power address of machine {uuid}: was the machine made on this host?", .state_dir.display())]
    NotFound {
        /// The machine that was looked for.
        uuid: Uuid,
        /// The directory.
        state_dir: PathBuf,
        /// How many files were looked at.
        files: usize,
    },
}

/// Why one file is of no use. It is warned about and skipped, so that one broken file costs one machine.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    #[error("it is larger than {FILE_LIMIT} bytes")]
    TooLong,
    #[error("it is no machine configuration: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has no gateway address")]
    NoGateway,
    #[error("it has no API port")]
    NoPort,
}

/// The fields that matter, in both spellings that the tool has had. Go writes `null` for what is not there.
#[derive(Deserialize)]
struct LaunchConfig {
    #[serde(rename = "NodeUUID")]
    node_uuid: Option<String>,
    #[serde(rename = "GatewayAddrs")]
    gateway_addrs: Option<Vec<IpAddr>>,
    #[serde(rename = "Network")]
    network: Option<Network>,
    #[serde(rename = "APIPort")]
    api_port: Option<u16>,
    #[serde(rename = "APIBindAddress")]
    api_bind_address: Option<BindAddress>,
}

#[derive(Deserialize)]
struct Network {
    #[serde(rename = "GatewayAddrs")]
    gateway_addrs: Option<Vec<IpAddr>>,
}

#[derive(Deserialize)]
struct BindAddress {
    #[serde(rename = "Port")]
    port: Option<u16>,
}

impl AddressBook {
    /// The files of this directory.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self { state_dir: state_dir.into() }
    }

    /// The power API of a machine: the first file, by name, that is about it and complete.
    pub fn find(&self, uuid: Uuid) -> Result<SocketAddr, AddressError> {
        let files = self
            .files()
            .map_err(|source| AddressError::Directory { state_dir: self.state_dir.clone(), source })?;
        for path in &files {
            match address_in(path, uuid) {
                Ok(Some(address)) => return Ok(address),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "skipped a machine configuration")
                }
            }
        }
        Err(AddressError::NotFound { uuid, state_dir: self.state_dir.clone(), files: files.len() })
    }

    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.state_dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "config") {
                files.push(path);
            }
            if files.len() == FILES_LIMIT {
                tracing::warn!(limit = FILES_LIMIT, "too many machine configurations, the rest is not read");
                break;
            }
        }
        files.sort();
        Ok(files)
    }
}

/// The address in a file, or `None` if the file is about another machine.
fn address_in(path: &Path, uuid: Uuid) -> Result<Option<SocketAddr>, FileError> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_LIMIT {
        return Err(FileError::TooLong);
    }
    let config: LaunchConfig = serde_json::from_slice(&text)?;
    if config.node_uuid.and_then(|text| Uuid::try_parse(&text).ok()) != Some(uuid) {
        return Ok(None);
    }

    let nested = config.network.and_then(|network| network.gateway_addrs).unwrap_or_default();
    let gateways = if nested.is_empty() { config.gateway_addrs.unwrap_or_default() } else { nested };
    let gateway = gateways.first().ok_or(FileError::NoGateway)?;
    if gateways.len() > 1 {
        tracing::warn!(file = %path.display(), %gateway, "several gateway addresses, taking the first");
    }
    let port = match config.api_bind_address {
        Some(bind) => bind.port,
        None => config.api_port,
    };
    let port = port.filter(|port| *port != 0).ok_or(FileError::NoPort)?;
    Ok(Some(SocketAddr::new(*gateway, port)))
}
