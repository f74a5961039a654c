//! The validated configuration: made from `appliance.toml` and the flags of `bootlace run` before
//! anything is opened or bound.

mod agent;
mod boot;
mod check;
mod dhcp;
mod file;
mod flags;
mod hub;
mod interfaces;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use check::{Checker, line_of};
pub(crate) use dhcp::Ipv6;
use file::File;
pub(crate) use flags::Overrides;
pub(crate) use interfaces::{DhcpMode, Interface, Profile, Stack};
use netboot::Subnet;
use netboot::ipxe::{DiskMethod, KernelArgs};
use netboot_assets::factory::FactoryConfig;
use omni_link::controller::RedfishUse;
use power::PxeMode;
use provider::machine_config::ExtraDocuments;
pub(crate) use tls::{Certificates, Tls};

/// Where a configuration is looked for when none is named.
pub(crate) const DEFAULT_PATH: &str = "/etc/bootlace/appliance.toml";
const SOCKET_NAME: &str = "bootlace.sock";

/// Everything the appliance needs to know; only [`Config::load`] makes one.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Provider id in Omni.
    pub id: String,
    /// Where the hub's store, the journal and the operator socket live.
    pub state_dir: PathBuf,
    /// Labels put on every machine.
    pub machine_labels: BTreeMap<String, String>,
    /// A machine is rebooted on request at most once in this time.
    pub min_reboot_interval: Duration,
    /// Write zeroes over whole disks when wiping.
    pub wipe_with_zeroes: bool,
    /// The HTTP and gRPC port that machines talk to.
    pub api: Api,
    /// The same over TLS, for tunnels; `None` when it is off.
    pub tls: Option<Tls>,
    /// Network boot protocols.
    pub netboot: Netboot,
    /// What machines boot.
    pub boot: Boot,
    /// How BMCs are asked for Redfish.
    pub redfish: Redfish,
    /// Limits of calls to the agent, and its arguments.
    pub agent: Agent,
    /// The Omni to link to; the embedded hub when absent.
    pub omni: Option<Omni>,
    /// How the provider calls itself in Omni.
    pub provider: Provider,
    /// The embedded hub.
    pub hub: Hub,
    /// Log filter.
    pub log_level: String,
    /// JSON logs.
    pub log_json: bool,
}

/// See [`file::Api`].
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// Address to bind.
    pub listen: SocketAddr,
    /// Address of this appliance as machines reach it; found on the interfaces when absent.
    pub advertise: Option<Ipv4Addr>,
    /// Directory of `*.config` files that name a power API per machine.
    pub power_mgmt_state_dir: Option<PathBuf>,
}

/// See [`file::Netboot`].
#[derive(Debug, Clone)]
pub(crate) struct Netboot {
    /// Interface that answers DHCP.
    pub interface: Option<String>,
    /// Whether ProxyDHCP answers.
    pub dhcp_proxy: bool,
    /// Directory of iPXE binaries.
    pub ipxe_dir: PathBuf,
    /// UDP port for TFTP.
    pub tftp_port: u16,
    /// Networks beyond routers whose machines boot here, too.
    pub routed: Vec<Subnet>,
    /// The networks that are served; when empty, the one that the keys above name.
    pub interfaces: Vec<Interface>,
}

/// See [`file::Boot`].
#[derive(Debug, Clone)]
pub(crate) struct Boot {
    /// Directory of kernels and initramfs images.
    pub assets_path: PathBuf,
    /// How iPXE is told to boot from disk.
    pub disk_method: DiskMethod,
    /// Boot device setting for BMCs.
    pub pxe_mode: PxeMode,
    /// Schematic of the Talos images.
    pub schematic: String,
    /// Image Factory for images that are not in the asset directory.
    pub factory: FactoryConfig,
    /// Bytes of images that are kept from there; 0 for none.
    pub image_cache_bytes: u64,
    /// Documents that every machine gets after Omni's.
    pub extra_documents: ExtraDocuments,
    /// Kernel arguments for Talos.
    pub extra_kernel_args: KernelArgs,
}

/// See [`file::Redfish`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Redfish {
    /// When BMCs are switched by it.
    pub usage: RedfishUse,
    /// HTTPS; plain HTTP otherwise.
    pub https: bool,
    /// Do not check the BMCs' certificates.
    pub insecure_skip_tls_verify: bool,
    /// TCP port.
    pub port: u16,
    /// Name the firmware personality with the boot source.
    pub set_boot_source_override_mode: bool,
}

/// What a machine boots to be discovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AgentKind {
    /// `bootlace-agent` from the asset directory.
    Bootlace,
    /// Talos with its metal agent from Image Factory.
    Talos {
        /// Talos version, with its `v`.
        version: String,
    },
}

/// See [`file::Agent`].
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    /// What it is.
    pub kind: AgentKind,
    /// Machines say that they are switched by the HTTP power API.
    pub test_mode: bool,
    /// Limit of one call.
    pub call_timeout: Duration,
    /// Limit of a wipe of signatures.
    pub fast_wipe_timeout: Duration,
    /// Limit of a wipe with zeroes.
    pub zeroes_wipe_timeout: Duration,
    /// Kernel arguments for the agent.
    pub extra_kernel_args: KernelArgs,
}

/// See [`file::Omni`].
#[derive(Debug, Clone)]
pub(crate) struct Omni {
    /// Its URL.
    pub endpoint: String,
    /// Certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Do not check its certificate.
    pub insecure_skip_tls_verify: bool,
    /// Allow plain http to another host.
    pub allow_plaintext: bool,
}

/// See [`file::Provider`].
#[derive(Debug, Clone)]
pub(crate) struct Provider {
    /// Its name.
    pub name: String,
    /// Its description.
    pub description: String,
}

/// See [`file::Hub`].
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    /// Where its API listens.
    pub api_listen: SocketAddr,
    /// TCP port of the machine API.
    pub machine_api_port: u16,
    /// TCP port for kernel logs; `None`: machines are not told to send them.
    pub kernel_log_port: Option<u16>,
    /// `None`: machines are known by the address that they call from.
    pub wireguard: Option<Wireguard>,
}

/// See [`file::Hub`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wireguard {
    /// UDP port.
    pub port: u16,
    /// All machines come over gRPC.
    pub over_grpc: bool,
}

/// Why a configuration was refused. Its text says where and what to write instead.
#[derive(Debug)]
pub(crate) enum ConfigError {
    /// The file could not be read.
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file's text or one of its values is wrong.
    Invalid {
        /// File, line and key, or the flag.
        place: String,
        /// What is wrong and what would be right.
        message: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Self::Invalid { place, message } => write!(f, "{place}: {message}"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads the file (`path`, or [`DEFAULT_PATH`] when it exists, or nothing), applies the flags and
    /// validates all. Opens no socket and creates nothing.
    pub(crate) fn load(path: Option<&Path>, flags: &Overrides) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_PATH);
        let path = match path {
            Some(path) => Some(path),
            None if default.exists() => Some(default),
            None => None,
        };
        let Some(path) = path else {
            return Self::parse("", "defaults", flags);
        };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
        Self::parse(&text, &path.display().to_string(), flags)
    }

    /// [`Config::load`] on text that is already there; `name` stands for the file in errors.
    pub(crate) fn parse(text: &str, name: &str, flags: &Overrides) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_of(text, &span));
            // toml's own text repeats the line and points at the column.
            ConfigError::Invalid {
                place: format!("{name}:{line}"),
                message: error.to_string().trim_end().to_owned(),
            }
        })?;
        Checker { text, name }.check(file, flags)
    }

    /// The hub's API as a client on this host reaches it.
    pub(crate) fn hub_endpoint(&self) -> String {
        let mut address = self.hub.api_listen;
        if address.ip().is_unspecified() {
            address.set_ip(self.api.advertise.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4));
        }
        format!("grpc://{address}")
    }

    /// The operator's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.state_dir.join(SOCKET_NAME)
    }
}

#[cfg(test)]
mod tests;
