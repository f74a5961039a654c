//! `[[netboot.interface]]` and `[profile.<name>]`: which networks are served, each in its way.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use netboot::dhcp::server::ServerConfig;
use netboot::ipxe::{DiskMethod, KernelArgs};
use netboot_link::frames::VlanId;
use netboot_link::raw::Network;
use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::check::{Checker, line_of};
use super::dhcp::{Ipv6, ServerTable};

/// Networks in all: each raw one is a namespace and two tasks, each one a set of sockets.
const NETWORKS_MAX: usize = 64;

/// `[[netboot.interface]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InterfaceTable {
    /// The interface.
    pub name: Spanned<String>,
    /// The tagged VLANs to serve on it; the untagged network when absent.
    #[serde(default)]
    pub vlans: Vec<Spanned<u16>>,
    /// `auto`, `kernel` or `raw`.
    pub stack: Option<Spanned<String>>,
    /// This appliance's address there, as machines reach it: `192.0.2.10/24`.
    pub address: Option<Spanned<String>>,
    /// Its IPv6 address there, for machines that boot by HTTP over IPv6.
    pub address6: Option<Spanned<String>>,
    /// A profile's name.
    pub profile: Option<Spanned<String>>,
    /// `proxy`, `merge`, `server` or `off`.
    pub dhcp: Option<Spanned<String>>,
    /// `[netboot.interface.server]`: what a DHCP server gives.
    pub server: Option<Spanned<ServerTable>>,
}

/// `[profile.<name>]`: what machines of a network boot otherwise than the others. What is absent is as `[boot]` and
/// `[agent]` have it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ProfileTable {
    /// How iPXE is told to boot from disk.
    pub boot_from_disk_method: Option<Spanned<String>>,
    /// Kernel arguments for Talos, after those of `[boot]`.
    pub extra_kernel_args: Vec<Spanned<String>>,
    /// Kernel arguments for the agent, after those of `[agent]`.
    pub agent_extra_kernel_args: Vec<Spanned<String>>,
}

/// A network to serve on an interface, or the same on several VLANs of it.
#[derive(Debug, Clone)]
pub(crate) struct Interface {
    /// The interface.
    pub name: String,
    /// Its VLANs; the untagged network when there is none.
    pub vlans: Vec<VlanId>,
    /// By which stack.
    pub stack: Stack,
    /// Our address there.
    pub address: Option<Ipv4Addr>,
    /// With the length of its network's prefix, when it was given.
    pub network: Option<Network>,
    /// What its machines boot.
    pub profile: Profile,
    /// How DHCP is answered.
    pub dhcp: DhcpMode,
    /// What a DHCP server gives.
    pub server: Option<Box<ServerConfig>>,
    /// What is served over IPv6.
    pub ipv6: Ipv6,
}

/// Which stack serves a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stack {
    /// The one that suits; the log says why.
    Auto,
    /// The host's kernel: the interface has the address.
    Kernel,
    /// Our own on bare frames: the interface needs no address, and tagged VLANs no interfaces.
    Raw,
}

/// How DHCP is answered on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DhcpMode {
    /// Boot files only.
    Proxy,
    /// The site's server is asked for the machine, and one whole answer given.
    Merge,
    /// Addresses and boot files.
    Server,
    /// Not at all.
    Off,
}

/// See [`ProfileTable`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Profile {
    /// How machines are sent to their disks.
    pub disk_method: Option<DiskMethod>,
    /// Arguments for Talos.
    pub talos_args: KernelArgs,
    /// Arguments for the agent.
    pub agent_args: KernelArgs,
}

impl Checker<'_> {
    /// The tables, checked; empty when there are none.
    pub(super) fn interfaces(
        &self,
        tables: &[InterfaceTable],
        profiles: &BTreeMap<String, ProfileTable>,
    ) -> Result<Vec<Interface>, ConfigError> {
        let profiles = profiles
            .iter()
            .map(|(name, table)| Ok((name.as_str(), self.profile(name, table)?)))
            .collect::<Result<BTreeMap<_, _>, ConfigError>>()?;
        let mut interfaces: Vec<Interface> = Vec::new();
        for table in tables {
            let interface = self.interface(table, &profiles)?;
            for other in interfaces.iter().filter(|other| other.name == interface.name) {
                let untagged = interface.vlans.is_empty() && other.vlans.is_empty();
                if untagged || interface.vlans.iter().any(|vlan| other.vlans.contains(vlan)) {
                    return Err(self.at(&table.name, "name", "this network has a table already".into()));
                }
            }
            interfaces.push(interface);
            let networks: usize = interfaces.iter().map(|interface| interface.vlans.len().max(1)).sum();
            if networks > NETWORKS_MAX {
                let message = format!("more than {NETWORKS_MAX} networks are served by several appliances");
                return Err(self.at(&table.name, "name", message));
            }
        }
        Ok(interfaces)
    }

    fn interface(
        &self,
        table: &InterfaceTable,
        profiles: &BTreeMap<&str, Profile>,
    ) -> Result<Interface, ConfigError> {
        let vlans = table
            .vlans
            .iter()
            .map(|vlan| {
                let wrong = || self.at(vlan, "vlans", "a VLAN's number is 1 to 4094".into());
                VlanId::new(*vlan.get_ref()).ok_or_else(wrong)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let stack = self.word(&table.stack, "stack", Stack::Auto, |word| match word {
            "auto" => Ok(Stack::Auto),
            "kernel" => Ok(Stack::Kernel),
            "raw" => Ok(Stack::Raw),
            _ => Err("use auto, kernel or raw".into()),
        })?;
        let dhcp = self.word(&table.dhcp, "dhcp", DhcpMode::Proxy, |word| match word {
            "proxy" => Ok(DhcpMode::Proxy),
            "merge" => Ok(DhcpMode::Merge),
            "server" => Ok(DhcpMode::Server),
            "off" => Ok(DhcpMode::Off),
            _ => Err("use proxy, merge, server or off".into()),
        })?;
        let (address, network) = self.word(&table.address, "address", (None, None), read_address)?;
        let profile = self.word(&table.profile, "profile", Profile::default(), |name| {
            profiles.get(name).cloned().ok_or_else(|| format!("there is no [profile.{name}]"))
        })?;
        let tagged = !vlans.is_empty();
        if tagged && stack == Stack::Kernel {
            let message = "the kernel serves a VLAN by an interface of its own: name that one".into();
            return Err(self.at(&table.name, "stack", message));
        }
        if (tagged || stack == Stack::Raw) && network.is_none() {
            let message = "the raw stack needs an address of its own with its prefix: \
                           address = \"192.0.2.10/24\"";
            return Err(self.at(&table.name, "address", message.into()));
        }
        let server = self.dhcp_server(table, dhcp, network)?;
        let ipv6 = self.ipv6(table, tagged || stack == Stack::Raw)?;
        Ok(Interface {
            name: table.name.get_ref().clone(),
            vlans,
            stack,
            address,
            network,
            profile,
            dhcp,
            server,
            ipv6,
        })
    }

    fn profile(&self, name: &str, table: &ProfileTable) -> Result<Profile, ConfigError> {
        let disk_method = table.boot_from_disk_method.as_ref().map(|method| {
            let wrong =
                || self.at(method, "boot_from_disk_method", "use ipxe-exit, http-404 or ipxe-sanboot".into());
            method.get_ref().parse().map_err(|_| wrong())
        });
        Ok(Profile {
            disk_method: disk_method.transpose()?,
            talos_args: self
                .kernel_args(&table.extra_kernel_args, &format!("profile.{name}.extra_kernel_args"))?,
            agent_args: self.kernel_args(
                &table.agent_extra_kernel_args,
                &format!("profile.{name}.agent_extra_kernel_args"),
            )?,
        })
    }

    fn word<T>(
        &self,
        value: &Option<Spanned<String>>,
        key: &str,
        default: T,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let Some(value) = value else { return Ok(default) };
        let text = value.get_ref();
        read(text).map_err(|hint| self.at(value, key, format!("`{text}` will not do: {hint}")))
    }

    pub(super) fn at<T>(&self, place: &Spanned<T>, key: &str, message: String) -> ConfigError {
        let line = line_of(self.text, &place.span());
        ConfigError::Invalid { place: format!("{}:{line}: netboot.interface.{key}", self.name), message }
    }
}

/// `192.0.2.10`, or `192.0.2.10/24`.
fn read_address(text: &str) -> Result<(Option<Ipv4Addr>, Option<Network>), String> {
    let hint = || "write an address with its prefix, such as 192.0.2.10/24".to_owned();
    match text.split_once('/') {
        None => text.parse().map(|address| (Some(address), None)).map_err(|_| hint()),
        Some((address, prefix)) => {
            let (address, prefix) =
                (address.parse().map_err(|_| hint())?, prefix.parse().map_err(|_| hint())?);
            let network = Network::new(address, prefix).ok_or_else(hint)?;
            Ok((Some(address), Some(network)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Overrides};
    use super::*;

    fn parse(text: &str) -> Result<Vec<Interface>, String> {
        let config = Config::parse(text, "test.toml", &Overrides::default());
        config.map(|config| config.netboot.interfaces).map_err(|error| error.to_string())
    }

    #[test]
    fn networks_are_read_with_their_vlans_stacks_and_profiles() {
        let interfaces = parse(
            "[[netboot.interface]]\nname = \"eth0\"\n\
             [[netboot.interface]]\nname = \"eth1\"\nvlans = [10, 20]\naddress = \"10.1.0.1/24\"\n\
             dhcp = \"merge\"\nprofile = \"lab\"\n\
             [[netboot.interface]]\nname = \"eth1\"\nvlans = [30]\nstack = \"raw\"\naddress = \"10.3.0.1/16\"\n\
             dhcp = \"server\"\n[netboot.interface.server]\nranges = [\"10.3.1.0 - 10.3.2.0\"]\n\
             [profile.lab]\nextra_kernel_args = [\"a=b\"]\nboot_from_disk_method = \"http-404\"\n",
        )
        .unwrap();
        let [first, second, third] = &interfaces[..] else { panic!("{interfaces:?}") };
        assert_eq!((first.stack, first.dhcp, first.address), (Stack::Auto, DhcpMode::Proxy, None));
        assert_eq!(second.vlans, [VlanId::new(10).unwrap(), VlanId::new(20).unwrap()]);
        assert_eq!((second.dhcp, second.profile.disk_method), (DhcpMode::Merge, Some(DiskMethod::Http404)));
        assert_eq!(second.profile.talos_args.to_string(), "a=b");
        assert_eq!(third.network, Network::new([10, 3, 0, 1].into(), 16));
        assert!(third.server.is_some());
    }

    #[test]
    fn what_cannot_be_served_is_refused_at_its_line() {
        for (table, words) in [
            ("vlans = [10]", "needs an address of its own"),
            ("stack = \"raw\"", "needs an address of its own"),
            ("stack = \"raw\"\naddress = \"10.1.0.1\"", "needs an address of its own"),
            ("vlans = [0]\naddress = \"10.1.0.1/24\"", "1 to 4094"),
            ("vlans = [1]\nstack = \"kernel\"\naddress = \"10.1.0.1/24\"", "an interface of its own"),
            ("address = \"10.1.0.0/24\"", "with its prefix"),
            ("stack = \"own\"", "use auto, kernel or raw"),
            ("dhcp = \"on\"", "use proxy, merge, server or off"),
            ("profile = \"lab\"", "no [profile.lab]"),
            ("[netboot.interface.server]\n", "dhcp is not"),
            ("[[netboot.interface]]\nname = \"eth0\"", "has a table already"),
        ] {
            let error = parse(&format!("[[netboot.interface]]\nname = \"eth0\"\n{table}\n")).unwrap_err();
            assert!(error.starts_with("test.toml:") && error.contains(words), "{table}: {error}");
        }
    }
}
