//! The validated configuration: made from `appliance.toml` and the flags of `bootlace run` before
//! anything is opened or bound.

mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use file::File;
use netboot::ipxe::{DiskMethod, KernelArgs};
use netboot_assets::factory::FactoryConfig;
use power::PxeMode;
use provider::machine_config::ExtraDocuments;
use toml::Spanned;
use tracing_subscriber::EnvFilter;

/// Where a configuration is looked for when none is named.
pub(crate) const DEFAULT_PATH: &str = "/etc/bootlace/appliance.toml";
const DEFAULT_STATE_DIR: &str = "/var/lib/bootlace";
/// Image Factory's schematic without any customization.
const EMPTY_SCHEMATIC: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";
/// `sockaddr_un.sun_path` holds 108 bytes with its NUL.
const SOCKET_PATH_MAX: usize = 107;
const SOCKET_NAME: &str = "bootlace.sock";
/// The hub's API is for this host unless told otherwise.
const HUB_API_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50044);
const PROVIDER_ID_MAX: usize = 63;

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
    /// Network boot protocols.
    pub netboot: Netboot,
    /// What machines boot.
    pub boot: Boot,
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
    /// Documents that every machine gets after Omni's.
    pub extra_documents: ExtraDocuments,
    /// Kernel arguments for Talos.
    pub extra_kernel_args: KernelArgs,
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
}

/// Flags that override keys of the file. The names are those of the peer provider.
#[derive(Debug, Default, Clone, clap::Args)]
pub(crate) struct Overrides {
    /// Provider id in Omni [default: bare-metal]
    #[arg(long)]
    pub id: Option<String>,
    /// Omni's URL [default: the embedded hub]
    #[arg(long, value_name = "URL", env = "OMNI_ENDPOINT")]
    pub omni_api_endpoint: Option<String>,
    /// Certificates (PEM) to trust for Omni besides the system's
    #[arg(long, value_name = "FILE")]
    pub omni_ca_file: Option<PathBuf>,
    /// Do not check Omni's certificate
    #[arg(long)]
    pub insecure_skip_tls_verify: bool,
    /// Allow a plain http endpoint on another host, where signed calls can be replayed
    #[arg(long)]
    pub omni_allow_plaintext: bool,
    /// Name shown in Omni [default: Bare Metal]
    #[arg(long, value_name = "NAME")]
    pub provider_name: Option<String>,
    /// Description shown in Omni [default: Bare metal infrastructure provider]
    #[arg(long, value_name = "TEXT")]
    pub provider_description: Option<String>,
    /// Image Factory that makes schematics [default: https://factory.talos.dev]
    #[arg(long, value_name = "URL")]
    pub image_factory_base_url: Option<String>,
    /// Image Factory that machines boot from [default: https://pxe.factory.talos.dev]
    #[arg(long, value_name = "URL")]
    pub image_factory_pxe_base_url: Option<String>,
    /// YAML documents that every machine gets after Omni's
    #[arg(long, value_name = "FILE")]
    pub extra_machine_config_path: Option<PathBuf>,
    /// Talos version of the agent when [agent] kind is "talos" [default: v1.13.7]
    #[arg(long, value_name = "VERSION")]
    pub agent_mode_talos_version: Option<String>,
    /// Limit of one call to an agent [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub agent_call_timeout: Option<String>,
    /// Limit of a wipe of signatures [default: 5m]
    #[arg(long, value_name = "DURATION")]
    pub agent_fast_wipe_timeout: Option<String>,
    /// Limit of a wipe with zeroes [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub agent_zeroes_wipe_timeout: Option<String>,
    /// Boot device setting for BMCs: bios or uefi [default: uefi]
    #[arg(long, value_name = "MODE")]
    pub ipmi_pxe_boot_mode: Option<String>,
    /// Log at debug level
    #[arg(long)]
    pub debug: bool,
    /// Directory of the store, the journal and the operator socket [default: /var/lib/bootlace]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Address to bind for HTTP and TFTP [default: all]
    #[arg(long, value_name = "IP")]
    pub api_listen_address: Option<IpAddr>,
    /// Address of this appliance as machines reach it [default: the only routable IPv4 address]
    #[arg(long, value_name = "IP")]
    pub api_advertise_address: Option<Ipv4Addr>,
    /// TCP port for HTTP and gRPC [default: 50042]
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<u16>,
    /// Directory of *.config files that name a power API per machine
    #[arg(long, value_name = "DIR")]
    pub api_power_mgmt_state_dir: Option<PathBuf>,
    /// Directory of kernels and initramfs images [default: /assets]
    #[arg(long, value_name = "DIR")]
    pub boot_assets_path: Option<PathBuf>,
    /// How iPXE boots from disk: ipxe-exit, http-404, ipxe-sanboot [default: ipxe-exit]
    #[arg(long, value_name = "METHOD")]
    pub boot_from_disk_method: Option<String>,
    /// Interface that answers DHCP [default: the one with the advertised address]
    #[arg(long, value_name = "IFACE")]
    pub dhcp_proxy_iface_or_ip: Option<String>,
    /// Do not answer DHCP
    #[arg(long)]
    pub disable_dhcp_proxy: bool,
    /// Machines say that they are switched by the HTTP power API
    #[arg(long)]
    pub agent_test_mode: bool,
    /// Write zeroes over whole disks when wiping
    #[arg(long)]
    pub wipe_with_zeroes: bool,
    /// A machine is rebooted on request at most once in this time [default: 15m]
    #[arg(long, value_name = "DURATION")]
    pub min_reboot_interval: Option<String>,
    /// Labels for every machine, key=value
    #[arg(long, value_name = "K=V", value_delimiter = ',')]
    pub machine_labels: Vec<String>,
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

fn line_of(text: &str, span: &Range<usize>) -> usize {
    text[..span.start.min(text.len())].matches('\n').count() + 1
}

/// Knows the text, so that a wrong value can be pointed at.
struct Checker<'a> {
    text: &'a str,
    name: &'a str,
}

impl Checker<'_> {
    fn check(&self, file: File, flags: &Overrides) -> Result<Config, ConfigError> {
        let id = self.pick(&flags.id, "--id", &file.id, "id", "bare-metal", |id| {
            let ok = !id.is_empty()
                && id.len() <= PROVIDER_ID_MAX
                && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            ok.then(|| id.to_owned()).ok_or("use lower-case letters, digits and hyphens, at most 63")
        })?;
        let state_dir =
            flags.state_dir.clone().or(file.state_dir).unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR));
        let socket = state_dir.join(SOCKET_NAME);
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(self.wrong(
                "state_dir",
                format!("{} is too long for a unix socket; use a shorter directory", socket.display()),
            ));
        }
        let mut machine_labels = file.machine_labels;
        for label in &flags.machine_labels {
            let (key, value) = label.split_once('=').ok_or_else(|| ConfigError::Invalid {
                place: "--machine-labels".into(),
                message: format!("`{label}` is no label; write key=value"),
            })?;
            machine_labels.insert(key.to_owned(), value.to_owned());
        }
        if let Some(key) = machine_labels.keys().find(|key| key.starts_with("omni.sidero.dev/")) {
            return Err(
                self.wrong("machine_labels", format!("`{key}`: labels of omni.sidero.dev/ are Omni's own"))
            );
        }
        let listen = flags.api_listen_address.or(file.api.listen_address);
        let port = flags.api_port.or(file.api.port).unwrap_or(50042);
        let hub = Hub {
            api_listen: file.hub.api_listen.unwrap_or(HUB_API_LISTEN),
            machine_api_port: file.hub.machine_api_port.unwrap_or(8090),
        };
        let ports = [port, hub.machine_api_port, hub.api_listen.port()];
        let distinct = ports.iter().collect::<std::collections::BTreeSet<_>>().len() == ports.len();
        if !distinct || ports.contains(&0) {
            return Err(self.wrong(
                "api.port",
                format!(
                    "api.port ({}), hub.machine_api_port ({}) and the port of hub.api_listen ({}) must be three \
                     ports above 0",
                    ports[0], ports[1], ports[2]
                ),
            ));
        }
        Ok(Config {
            id,
            state_dir,
            machine_labels,
            min_reboot_interval: self.duration(
                &flags.min_reboot_interval,
                "--min-reboot-interval",
                &file.min_reboot_interval,
                "min_reboot_interval",
                "15m",
            )?,
            wipe_with_zeroes: flags.wipe_with_zeroes || file.wipe_with_zeroes,
            api: Api {
                listen: SocketAddr::new(listen.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), port),
                advertise: flags.api_advertise_address.or(file.api.advertise_address),
                power_mgmt_state_dir: flags
                    .api_power_mgmt_state_dir
                    .clone()
                    .or(file.api.power_mgmt_state_dir),
            },
            netboot: Netboot {
                interface: flags.dhcp_proxy_iface_or_ip.clone().or(file.netboot.dhcp_proxy_iface_or_ip),
                dhcp_proxy: !(flags.disable_dhcp_proxy || file.netboot.disable_dhcp_proxy),
                ipxe_dir: file.netboot.ipxe_dir.unwrap_or_else(|| PathBuf::from("/usr/lib/ipxe")),
                tftp_port: file.netboot.tftp_port.unwrap_or(69),
            },
            boot: self.boot(&file.boot, flags.omni_ca_file.clone().or(file.omni.ca_file.clone()), flags)?,
            agent: self.agent(&file.agent, flags)?,
            omni: self.omni(&file.omni, flags)?,
            provider: Provider {
                name: flags
                    .provider_name
                    .clone()
                    .or(file.provider.name)
                    .unwrap_or_else(|| "Bare Metal".into()),
                description: flags
                    .provider_description
                    .clone()
                    .or(file.provider.description)
                    .unwrap_or_else(|| "Bare metal infrastructure provider".into()),
            },
            hub,
            log_level: self.log_level(&file.log.level, flags.debug)?,
            log_json: file.log.json,
        })
    }

    fn omni(&self, omni: &file::Omni, flags: &Overrides) -> Result<Option<Omni>, ConfigError> {
        if flags.omni_api_endpoint.is_none() && omni.api_endpoint.is_none() {
            return Ok(None);
        }
        let endpoint = self.pick(
            &flags.omni_api_endpoint,
            "--omni-api-endpoint",
            &omni.api_endpoint,
            "omni.api_endpoint",
            "",
            |url| {
                let known = ["https://", "http://", "grpc://"].iter().any(|scheme| url.starts_with(scheme));
                known.then(|| url.to_owned()).ok_or("write https://<host>[:port]")
            },
        )?;
        Ok(Some(Omni {
            endpoint,
            ca_file: flags.omni_ca_file.clone().or_else(|| omni.ca_file.clone()),
            insecure_skip_tls_verify: flags.insecure_skip_tls_verify || omni.insecure_skip_tls_verify,
            allow_plaintext: flags.omni_allow_plaintext || omni.allow_plaintext,
        }))
    }

    fn boot(
        &self,
        boot: &file::Boot,
        omni_ca_file: Option<PathBuf>,
        flags: &Overrides,
    ) -> Result<Boot, ConfigError> {
        Ok(Boot {
            assets_path: flags
                .boot_assets_path
                .clone()
                .or_else(|| boot.assets_path.clone())
                .unwrap_or_else(|| PathBuf::from("/assets")),
            disk_method: self.pick(
                &flags.boot_from_disk_method,
                "--boot-from-disk-method",
                &boot.from_disk_method,
                "boot.from_disk_method",
                "ipxe-exit",
                |method| match method {
                    "ipxe-exit" => Ok(DiskMethod::IpxeExit),
                    "http-404" => Ok(DiskMethod::Http404),
                    "ipxe-sanboot" => Ok(DiskMethod::IpxeSanboot),
                    _ => Err("use ipxe-exit, http-404 or ipxe-sanboot"),
                },
            )?,
            pxe_mode: self.pick(
                &flags.ipmi_pxe_boot_mode,
                "--ipmi-pxe-boot-mode",
                &boot.pxe_mode,
                "boot.pxe_mode",
                "uefi",
                |mode| match mode {
                    "bios" => Ok(PxeMode::Bios),
                    "uefi" => Ok(PxeMode::Uefi),
                    _ => Err("use bios or uefi"),
                },
            )?,
            schematic: self.pick(&None, "", &boot.schematic, "boot.schematic", EMPTY_SCHEMATIC, |id| {
                let ok = id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit());
                ok.then(|| id.to_owned()).ok_or("a schematic id is 64 hexadecimal digits")
            })?,
            factory: self.factory(boot, omni_ca_file, flags)?,
            extra_documents: self.extra_documents(boot, flags)?,
            extra_kernel_args: self.kernel_args(&boot.extra_kernel_args, "boot.extra_kernel_args")?,
        })
    }

    /// The factory's certificate may be signed by the authority that signs Omni's.
    fn factory(
        &self,
        boot: &file::Boot,
        ca_file: Option<PathBuf>,
        flags: &Overrides,
    ) -> Result<FactoryConfig, ConfigError> {
        let default = FactoryConfig::default();
        let url = |url: &str| {
            let ok = url.starts_with("https://") || url.starts_with("http://");
            ok.then(|| url.trim_end_matches('/').to_owned()).ok_or("write https://<host>")
        };
        Ok(FactoryConfig {
            base_url: self.pick(
                &flags.image_factory_base_url,
                "--image-factory-base-url",
                &boot.image_factory_base_url,
                "boot.image_factory_base_url",
                &default.base_url,
                url,
            )?,
            pxe_base_url: self.pick(
                &flags.image_factory_pxe_base_url,
                "--image-factory-pxe-base-url",
                &boot.image_factory_pxe_base_url,
                "boot.image_factory_pxe_base_url",
                &default.pxe_base_url,
                url,
            )?,
            ca_file,
            timeout: default.timeout,
        })
    }

    /// Checked before anything opens: a machine that gets a wrong document does not join.
    fn extra_documents(&self, boot: &file::Boot, flags: &Overrides) -> Result<ExtraDocuments, ConfigError> {
        let path = flags.extra_machine_config_path.as_ref().or(boot.extra_machine_config_path.as_ref());
        let Some(path) = path else { return Ok(ExtraDocuments::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        ExtraDocuments::parse(&text).map_err(|error| ConfigError::Invalid {
            place: path.display().to_string(),
            message: error.to_string(),
        })
    }

    fn agent(&self, agent: &file::Agent, flags: &Overrides) -> Result<Agent, ConfigError> {
        let version = self.pick(
            &flags.agent_mode_talos_version,
            "--agent-mode-talos-version",
            &agent.mode_talos_version,
            "agent.mode_talos_version",
            "v1.13.7",
            |version| {
                let ok = version.starts_with('v') && version.split('.').count() >= 3;
                ok.then(|| version.to_owned()).ok_or("write a version such as v1.13.7")
            },
        )?;
        Ok(Agent {
            kind: self.pick(&None, "", &agent.kind, "agent.kind", "bootlace", |kind| match kind {
                "bootlace" => Ok(AgentKind::Bootlace),
                "talos" => Ok(AgentKind::Talos { version: version.clone() }),
                _ => Err("use bootlace or talos"),
            })?,
            test_mode: flags.agent_test_mode || agent.test_mode,
            call_timeout: self.duration(
                &flags.agent_call_timeout,
                "--agent-call-timeout",
                &agent.call_timeout,
                "agent.call_timeout",
                "30s",
            )?,
            fast_wipe_timeout: self.duration(
                &flags.agent_fast_wipe_timeout,
                "--agent-fast-wipe-timeout",
                &agent.fast_wipe_timeout,
                "agent.fast_wipe_timeout",
                "5m",
            )?,
            zeroes_wipe_timeout: self.duration(
                &flags.agent_zeroes_wipe_timeout,
                "--agent-zeroes-wipe-timeout",
                &agent.zeroes_wipe_timeout,
                "agent.zeroes_wipe_timeout",
                "24h",
            )?,
            extra_kernel_args: self.kernel_args(&agent.extra_kernel_args, "agent.extra_kernel_args")?,
        })
    }

    /// Checked here, so that a machine never gets a script that cannot be written.
    fn kernel_args(&self, args: &[Spanned<String>], key: &str) -> Result<KernelArgs, ConfigError> {
        args.iter().try_fold(KernelArgs::new(), |all, arg| {
            all.arg(arg.get_ref()).map_err(|error| ConfigError::Invalid {
                place: format!("{}:{}: {key}", self.name, line_of(self.text, &arg.span())),
                message: error.to_string(),
            })
        })
    }

    fn log_level(&self, level: &Option<Spanned<String>>, debug: bool) -> Result<String, ConfigError> {
        if debug {
            return Ok("debug".into());
        }
        self.pick(&None, "", level, "log.level", "info", |level| match EnvFilter::try_new(level) {
            Ok(_) => Ok(level.to_owned()),
            Err(_) => {
                Err("use error, warn, info, debug or trace, or a filter such as info,netboot_link=debug")
            }
        })
    }

    /// The flag if given, else the file's value, else the default, read by `parse`.
    fn pick<T>(
        &self,
        flag: &Option<String>,
        flag_name: &str,
        value: &Option<Spanned<String>>,
        key: &str,
        default: &str,
        parse: impl Fn(&str) -> Result<T, &'static str>,
    ) -> Result<T, ConfigError> {
        let (text, place) = match (flag, value) {
            (Some(flag), _) => (flag.as_str(), flag_name.to_owned()),
            (None, Some(value)) => (
                value.get_ref().as_str(),
                format!("{}:{}: {key}", self.name, line_of(self.text, &value.span())),
            ),
            (None, None) => (default, key.to_owned()),
        };
        parse(text)
            .map_err(|hint| ConfigError::Invalid { place, message: format!("`{text}` will not do: {hint}") })
    }

    fn duration(
        &self,
        flag: &Option<String>,
        flag_name: &str,
        value: &Option<Spanned<String>>,
        key: &str,
        default: &str,
    ) -> Result<Duration, ConfigError> {
        self.pick(flag, flag_name, value, key, default, |text| {
            text.parse::<jiff::SignedDuration>()
                .ok()
                .and_then(|duration| Duration::try_from(duration).ok())
                .ok_or("write a duration such as 30s, 15m or 1h30m")
        })
    }

    fn wrong(&self, key: &str, message: String) -> ConfigError {
        ConfigError::Invalid { place: format!("{}: {key}", self.name), message }
    }
}

#[cfg(test)]
mod tests;
