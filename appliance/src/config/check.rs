//! From the file's words and the flags to the validated value; errors point at line and key.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use netboot::ipxe::KernelArgs;
use netboot::{ParseSubnetError, Subnet};
use toml::Spanned;
use tracing_subscriber::EnvFilter;

use super::file::{self, File};
use super::flags::Overrides;
use super::{Api, Config, ConfigError, Netboot, Omni, Provider, SOCKET_NAME};

const DEFAULT_STATE_DIR: &str = "/var/lib/bootlace";
/// `sockaddr_un.sun_path` holds 108 bytes with its NUL.
const SOCKET_PATH_MAX: usize = 107;
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
        let id = self.id(&file.id, flags)?;
        let state_dir = self.state_dir(file.state_dir, flags)?;
        let machine_labels = self.machine_labels(file.machine_labels, flags)?;
        let listen = flags.api_listen_address.or(file.api.listen_address);
        let port = flags.api_port.or(file.api.port).unwrap_or(50042);
        let hub = self.hub(&file.hub)?;
        let tls = self.tls(&file.tls, &file.agent, flags)?;
        self.ports_are_distinct(port, &hub, tls.as_ref())?;
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

    fn id(&self, id: &Option<Spanned<String>>, flags: &Overrides) -> Result<String, ConfigError> {
        self.pick(&flags.id, "--id", id, "id", "bare-metal", |id| {
            let ok = !id.is_empty()
                && id.len() <= PROVIDER_ID_MAX
                && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            ok.then(|| id.to_owned()).ok_or("use lower-case letters, digits and hyphens, at most 63")
        })
    }

    fn state_dir(&self, of_file: Option<PathBuf>, flags: &Overrides) -> Result<PathBuf, ConfigError> {
        let state_dir =
            flags.state_dir.clone().or(of_file).unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR));
        let socket = state_dir.join(SOCKET_NAME);
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(self.wrong(
                "state_dir",
                format!("{} is too long for a unix socket; use a shorter directory", socket.display()),
            ));
        }
        Ok(state_dir)
    }

    fn machine_labels(
        &self,
        of_file: BTreeMap<String, String>,
        flags: &Overrides,
    ) -> Result<BTreeMap<String, String>, ConfigError> {
        let mut machine_labels = of_file;
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
        Ok(machine_labels)
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
    pub(super) fn pick<T>(
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
