//! From the file's words and the flags to the validated value; errors point at line and key.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use agent_wire::keep::Keep;
use netboot::ipxe::KernelArgs;
use netboot::{ParseSubnetError, Subnet};
use netboot_assets::factory::FactoryConfig;
use omni_link::controller::RedfishUse;
use power::PxeMode;
use provider::machine_config::ExtraDocuments;
use toml::Spanned;
use tracing_subscriber::EnvFilter;

use super::file::{self, File};
use super::flags::Overrides;
use super::{
    Agent, AgentKind, Api, Boot, Config, ConfigError, Hub, Netboot, Omni, Provider, Redfish, SOCKET_NAME,
    Wireguard,
};

const DEFAULT_STATE_DIR: &str = "/var/lib/bootlace";
/// Image Factory's schematic without any customization.
const EMPTY_SCHEMATIC: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";
/// Room for some thirty images of Talos.
const IMAGE_CACHE_MB: u32 = 4096;
/// Where the agent reads what to keep.
const KEEP_ARGUMENT: &str = "bootlace.keep=";
/// `sockaddr_un.sun_path` holds 108 bytes with its NUL.
const SOCKET_PATH_MAX: usize = 107;
/// The hub's API is for this host unless told otherwise.
const HUB_API_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 50044);
/// Omni's usual one.
const WIREGUARD_PORT: u16 = 50180;
const PROVIDER_ID_MAX: usize = 63;

pub(super) fn line_of(text: &str, span: &Range<usize>) -> usize {
    text[..span.start.min(text.len())].matches('\n').count() + 1
}

/// Knows the text, so that a wrong value can be pointed at.
pub(super) struct Checker<'a> {
    pub(super) text: &'a str,
    pub(super) name: &'a str,
}

impl Checker<'_> {
    pub(super) fn check(&self, file: File, flags: &Overrides) -> Result<Config, ConfigError> {
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
            kernel_log_port: Some(file.hub.kernel_log_port.unwrap_or(8092)).filter(|port| *port != 0),
            wireguard: file.hub.wireguard.unwrap_or(true).then_some(Wireguard {
                port: file.hub.wireguard_port.unwrap_or(WIREGUARD_PORT),
                over_grpc: file.hub.wireguard_over_grpc,
            }),
        };
        if hub.wireguard.is_some_and(|wireguard| wireguard.port == 0) {
            return Err(self.wrong(
                "hub.wireguard_port",
                "machines have to be told a port above 0; `wireguard = false` needs none".to_owned(),
            ));
        }
        let tls = self.tls(&file.tls, &file.agent, flags)?;
        let ports = [port, hub.machine_api_port, hub.api_listen.port()];
        if let Some(taken) = hub.kernel_log_port.filter(|log| ports.contains(log)) {
            return Err(self.wrong(
                "hub.kernel_log_port",
                format!("port {taken} is taken by another part of this file; 0 takes no kernel logs"),
            ));
        }
        let tls_port = tls.as_ref().map(|tls| tls.port);
        if let Some(taken) = tls_port.filter(|tls| ports.contains(tls) || hub.kernel_log_port == Some(*tls)) {
            return Err(
                self.wrong("tls.api_port", format!("port {taken} is taken by another part of this file"))
            );
        }
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
            tls,
            netboot: Netboot {
                interface: flags.dhcp_proxy_iface_or_ip.clone().or(file.netboot.dhcp_proxy_iface_or_ip),
                dhcp_proxy: !(flags.disable_dhcp_proxy || file.netboot.disable_dhcp_proxy),
                ipxe_dir: file.netboot.ipxe_dir.unwrap_or_else(|| PathBuf::from("/usr/lib/ipxe")),
                tftp_port: file.netboot.tftp_port.unwrap_or(69),
                routed: self.routed(&file.netboot.routed)?,
                interfaces: self.interfaces(&file.netboot.interface, &file.profile)?,
            },
            boot: self.boot(&file.boot, flags.omni_ca_file.clone().or(file.omni.ca_file.clone()), flags)?,
            redfish: self.redfish(&file.redfish, flags)?,
            agent: self.agent(&file.agent, &file.wipe, flags)?,
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
                |method| method.parse().map_err(|_| "use ipxe-exit, http-404 or ipxe-sanboot"),
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
            image_cache_bytes: {
                let mb = flags.boot_image_cache_mb.or(boot.image_cache_mb).unwrap_or(IMAGE_CACHE_MB);
                u64::from(mb) << 20
            },
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

    fn redfish(&self, redfish: &file::Redfish, flags: &Overrides) -> Result<Redfish, ConfigError> {
        let always = flags.redfish_use_always.or(redfish.use_always).unwrap_or(false);
        let available = flags.redfish_use_when_available.or(redfish.use_when_available).unwrap_or(true);
        let port = flags.redfish_port.or(redfish.port).unwrap_or(443);
        if port == 0 {
            return Err(self.wrong("redfish.port", "BMCs have it on a port above 0, mostly 443".to_owned()));
        }
        Ok(Redfish {
            usage: match (always, available) {
                (true, _) => RedfishUse::Always,
                (false, true) => RedfishUse::WhenAvailable,
                (false, false) => RedfishUse::Never,
            },
            https: flags.redfish_use_https.or(redfish.use_https).unwrap_or(true),
            insecure_skip_tls_verify: flags
                .redfish_insecure_skip_tls_verify
                .or(redfish.insecure_skip_tls_verify)
                .unwrap_or(true),
            port,
            set_boot_source_override_mode: flags
                .redfish_set_boot_source_override_mode
                .or(redfish.set_boot_source_override_mode)
                .unwrap_or(true),
        })
    }

    fn agent(&self, agent: &file::Agent, wipe: &file::Wipe, flags: &Overrides) -> Result<Agent, ConfigError> {
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
        let kind = self.pick(&None, "", &agent.kind, "agent.kind", "bootlace", |kind| match kind {
            "bootlace" => Ok(AgentKind::Bootlace),
            "talos" if !wipe.keep.is_empty() => {
                Err("with [wipe] keep only the agent of kind bootlace will do: Talos' own wipes every disk")
            }
            "talos" => Ok(AgentKind::Talos { version: version.clone() }),
            _ => Err("use bootlace or talos"),
        })?;
        Ok(Agent {
            kind,
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
            extra_kernel_args: self
                .kernel_args(&agent.extra_kernel_args, "agent.extra_kernel_args")?
                .and(&self.keep(&wipe.keep)?),
        })
    }

    /// The disks to keep, as the agent reads them.
    fn keep(&self, entries: &[Spanned<String>]) -> Result<KernelArgs, ConfigError> {
        entries.iter().try_fold(KernelArgs::new(), |args, entry| {
            let wrong = |message: String| ConfigError::Invalid {
                place: format!("{}:{}: wipe.keep", self.name, line_of(self.text, &entry.span())),
                message,
            };
            let keep = Keep::parse(entry.get_ref()).map_err(|error| wrong(error.to_string()))?;
            args.arg(&format!("{KEEP_ARGUMENT}{keep}")).map_err(|error| wrong(error.to_string()))
        })
    }

    fn routed(&self, networks: &[Spanned<String>]) -> Result<Vec<Subnet>, ConfigError> {
        let parsed = networks.iter().map(|network| {
            network.get_ref().parse().map_err(|error: ParseSubnetError| ConfigError::Invalid {
                place: format!("{}:{}: netboot.routed", self.name, line_of(self.text, &network.span())),
                message: error.to_string(),
            })
        });
        parsed.collect()
    }

    /// Checked here, so that a machine never gets a script that cannot be written.
    pub(super) fn kernel_args(&self, args: &[Spanned<String>], key: &str) -> Result<KernelArgs, ConfigError> {
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

    pub(super) fn duration(
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

    pub(super) fn wrong(&self, key: &str, message: String) -> ConfigError {
        ConfigError::Invalid { place: format!("{}: {key}", self.name), message }
    }
}
