//! The table `[box]` of a stick's `appliance.toml`; the rest of the file is the appliance's.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use toml::Spanned;

/// The longest host name (RFC 1035, a label).
const MAX_NAME: usize = 63;
/// The longest interface name of Linux.
const MAX_INTERFACE: usize = 15;

/// The words of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    #[serde(rename = "box")]
    stick: Words,
}

/// `[box]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Words {
    /// The box's host name.
    name: Option<Spanned<String>>,
    /// The interface with the address; all of them by DHCP when absent.
    interface: Option<Spanned<String>>,
    /// VLAN on that interface.
    vlan: Option<Spanned<u16>>,
    /// Address and prefix length; DHCP when absent.
    address: Option<Spanned<String>>,
    /// Default gateway of a static address.
    gateway: Option<Spanned<Ipv4Addr>>,
    /// Name servers; DHCP's when absent.
    dns: Vec<Ipv4Addr>,
    /// Time servers, names or addresses.
    time_servers: Option<Vec<String>>,
    /// Omni's service account key.
    omni_service_account_key: Option<String>,
    /// Whether a hardware watchdog is used.
    watchdog: Option<bool>,
    /// Another version to fetch: a slot, by plain http.
    update_url: Option<Spanned<String>>,
    /// What its bytes hash to.
    update_sha256: Option<Spanned<String>>,
}

/// A static address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Static {
    /// Ours.
    pub address: Ipv4Addr,
    /// Of the subnet.
    pub prefix: u8,
    /// The default gateway.
    pub gateway: Option<Ipv4Addr>,
}

/// A version to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// From where.
    pub url: String,
    /// SHA-256 in hexadecimal digits.
    pub hash: String,
}

/// What the box does, validated.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// Its host name.
    pub name: String,
    /// The interface to configure; every one when absent.
    pub interface: Option<String>,
    /// VLAN on it.
    pub vlan: Option<u16>,
    /// Its address; DHCP when absent.
    pub address: Option<Static>,
    /// Name servers besides DHCP's.
    pub dns: Vec<Ipv4Addr>,
    /// Time servers.
    pub time_servers: Vec<String>,
    /// Omni's key. Not shown anywhere.
    pub key: Option<String>,
    /// Whether a watchdog is used.
    pub watchdog: bool,
    /// The version to run.
    pub update: Option<Update>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key is a secret.
        f.debug_struct("Config")
            .field("name", &self.name)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "bootlace".to_owned(),
            interface: None,
            vlan: None,
            address: None,
            dns: Vec::new(),
            time_servers: vec!["pool.ntp.org".to_owned()],
            key: None,
            watchdog: true,
            update: None,
        }
    }
}

/// Reads and checks a file.
pub fn check_file(path: &Path) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).map(drop).with_context(|| format!("{}", path.display()))
}

/// Reads the text of `appliance.toml`.
pub fn parse(text: &str) -> Result<Config> {
    let file: File = toml::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.to_string().trim()))?;
    let words = file.stick;
    let default = Config::default();
    let text = Text(text);
    text.check("name", words.name.as_ref(), is_name, "host name: letters, digits and hyphens")?;
    text.check("interface", words.interface.as_ref(), is_interface, "interface name such as eth0")?;
    if let Some(vlan) = words.vlan.as_ref().filter(|vlan| !(1..=4094).contains(vlan.as_ref())) {
        return Err(text.refuse(vlan, "vlan", format!("{} is no VLAN: 1 to 4094", vlan.as_ref())));
    }
    let address = text.address(&words)?;
    let update = text.update(&words)?;
    if words.time_servers.as_ref().is_some_and(|servers| servers.len() > 8) {
        bail!("box.time_servers: more than eight of them");
    }
    Ok(Config {
        name: words.name.map_or(default.name, Spanned::into_inner),
        interface: words.interface.map(Spanned::into_inner),
        vlan: words.vlan.map(Spanned::into_inner),
        address,
        dns: words.dns,
        time_servers: words.time_servers.unwrap_or(default.time_servers),
        key: words.omni_service_account_key,
        watchdog: words.watchdog.unwrap_or(true),
        update,
    })
}

/// The file, so that a wrong value can be pointed at.
struct Text<'a>(&'a str);

impl Text<'_> {
    /// `line 3, box.vlan: …`
    fn refuse<T>(&self, value: &Spanned<T>, key: &str, message: String) -> anyhow::Error {
        let line = self.0[..value.span().start.min(self.0.len())].matches('\n').count() + 1;
        anyhow::anyhow!("line {line}, box.{key}: {message}")
    }

    fn check(
        &self,
        key: &str,
        value: Option<&Spanned<String>>,
        fits: fn(&str) -> bool,
        want: &str,
    ) -> Result<()> {
        match value {
            Some(value) if !fits(value.as_ref()) => {
                Err(self.refuse(value, key, format!("{:?} is no {want}", value.as_ref())))
            }
            _ => Ok(()),
        }
    }

    fn address(&self, words: &Words) -> Result<Option<Static>> {
        let Some(text) = &words.address else {
            return match &words.gateway {
                None => Ok(None),
                Some(gateway) => {
                    let message = "there is no address; DHCP tells its own gateway".to_owned();
                    Err(self.refuse(gateway, "gateway", message))
                }
            };
        };
        let Some((address, prefix)) = parse_address(text.as_ref()) else {
            let message = format!("{:?} is no address such as 192.0.2.10/24", text.as_ref());
            return Err(self.refuse(text, "address", message));
        };
        let gateway = words.gateway.as_ref().map(|gateway| *gateway.as_ref());
        Ok(Some(Static { address, prefix, gateway }))
    }

    fn update(&self, words: &Words) -> Result<Option<Update>> {
        let is_url = |url: &str| url.starts_with("http://");
        let (url, hash) = (words.update_url.as_ref(), words.update_sha256.as_ref());
        self.check("update_url", url, is_url, "address such as http://192.0.2.1/bootlace.slot")?;
        self.check("update_sha256", hash, is_hash, "SHA-256: 64 hexadecimal digits")?;
        match (url, hash) {
            (Some(url), Some(hash)) => {
                Ok(Some(Update { url: url.as_ref().clone(), hash: hash.as_ref().to_ascii_lowercase() }))
            }
            (None, None) => Ok(None),
            (Some(one), None) => Err(self.refuse(one, "update_url", "it needs update_sha256".to_owned())),
            (None, Some(one)) => Err(self.refuse(one, "update_sha256", "it needs update_url".to_owned())),
        }
    }
}

fn is_name(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    plain && !text.is_empty() && text.len() <= MAX_NAME && !text.starts_with('-')
}

fn is_interface(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':');
    plain && !text.is_empty() && text.len() <= MAX_INTERFACE
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn parse_address(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let prefix = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix))?;
    Some((address.parse().ok()?, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_dhcp_everywhere() {
        assert_eq!(parse("").unwrap(), Config::default());
        assert_eq!(parse("id = \"x\"\n[api]\nport = 1\n").unwrap(), Config::default());
    }

    #[test]
    fn everything_is_read() {
        let config = parse(
            "[box]\nname = \"edge-1\"\ninterface = \"eth1\"\nvlan = 20\naddress = \"192.0.2.10/24\"\n\
             gateway = \"192.0.2.1\"\ndns = [\"192.0.2.53\"]\ntime_servers = []\nwatchdog = false\n\
             omni_service_account_key = \"secret\"\n",
        )
        .unwrap();
        assert_eq!(config.address.unwrap().prefix, 24);
        assert_eq!((config.vlan, config.watchdog, config.dns.len()), (Some(20), false, 1));
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_key() {
        for (text, place) in [
            ("[box]\nvlan = 5000\n", "line 2, box.vlan"),
            ("\n[box]\naddress = \"192.0.2.10\"\n", "line 3, box.address"),
            ("[box]\nname = \"a b\"\n", "line 2, box.name"),
            ("[box]\ninterface = \"\"\n", "line 2, box.interface"),
            ("[box]\ngateway = \"192.0.2.1\"\n", "line 2, box.gateway"),
            ("[box]\nupdate_url = \"http://192.0.2.1/x\"\n", "line 2, box.update_url: it needs"),
            ("[box]\nupdate_sha256 = \"12\"\n", "line 2, box.update_sha256"),
            ("[box]\nvlam = 5\n", "line 2"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(place), "{text}: {error}");
        }
    }
}
