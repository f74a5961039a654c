//! `[netboot.interface.server]`: what a DHCP server gives, from the file's words to netboot's values.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use netboot::Subnet;
use netboot::dhcp::server::{Holder, Reservation, ServerConfig};
use netboot_link::raw::Network;
use serde::Deserialize;
use toml::Spanned;

use super::ConfigError;
use super::check::Checker;
use super::interfaces::{DhcpMode, InterfaceTable};

/// Long enough that machines do not renew all the time, short enough that addresses come back the same day.
const LEASE_TIME: Duration = Duration::from_secs(12 * 3_600);

/// `[netboot.interface.server]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ServerTable {
    /// Addresses for whoever asks: `"192.0.2.100 - 192.0.2.199"`.
    pub ranges: Vec<Spanned<String>>,
    /// `[[netboot.interface.server.reservation]]`
    pub reservation: Vec<ReservationTable>,
    /// Ways out of the network.
    pub routers: Vec<Spanned<String>>,
    /// Name servers.
    pub dns: Vec<Spanned<String>>,
    /// Time servers.
    pub ntp: Vec<Spanned<String>>,
    /// The domain of the machines.
    pub domain: Option<String>,
    /// Domains to look names up in.
    pub search: Vec<String>,
    /// How long an address is given for.
    pub lease_time: Option<Spanned<String>>,
    /// When a client asks to go on (T1).
    pub renew_after: Option<Spanned<String>>,
    /// When it asks any server (T2).
    pub rebind_after: Option<Spanned<String>>,
    /// Advertises this host as a router that is none, for hosts that wait for one.
    pub router_advertisement: bool,
    /// The /64 in the advertisement, of which hosts make their addresses.
    pub prefix6: Option<Spanned<String>>,
}

/// What is served over IPv6.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ipv6 {
    /// This appliance's address: HTTP is served there, and machines that boot by HTTP are told of it.
    pub address: Option<Ipv6Addr>,
    /// Router advertisements are sent.
    pub advertise: bool,
    /// The /64 in them.
    pub prefix: Option<Ipv6Addr>,
}

/// `[[netboot.interface.server.reservation]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReservationTable {
    /// The machine's interface.
    pub mac: Option<Spanned<String>>,
    /// Or the machine's SMBIOS UUID.
    pub uuid: Option<Spanned<String>>,
    /// Its address.
    pub address: Spanned<String>,
}

impl Checker<'_> {
    /// What the server of an interface gives; there is a table exactly when the mode is `server`.
    pub(super) fn dhcp_server(
        &self,
        interface: &InterfaceTable,
        mode: DhcpMode,
        network: Option<Network>,
    ) -> Result<Option<Box<ServerConfig>>, ConfigError> {
        let table = match (&interface.server, mode) {
            (None, DhcpMode::Server) => {
                let message = "dhcp = \"server\" needs a table [netboot.interface.server] with ranges or \
                               reservations";
                return Err(self.at(&interface.name, "server", message.into()));
            }
            (None, _) => return Ok(None),
            (Some(table), DhcpMode::Server) => table,
            (Some(table), _) => {
                let message = "there is a table `server`, but dhcp is not \"server\"";
                return Err(self.at(table, "dhcp", message.into()));
            }
        };
        let network = network.ok_or_else(|| {
            let message = "dhcp = \"server\" needs this appliance's address with its prefix: \
                           address = \"192.0.2.10/24\"";
            self.at(&interface.name, "address", message.into())
        })?;
        let subnet = Subnet::new(network.address(), network.prefix());
        let server = table.get_ref();
        let config = ServerConfig {
            subnet: subnet.ok_or_else(|| self.at(table, "address", "no network".into()))?,
            ranges: self.list(&server.ranges, "ranges", "192.0.2.100 - 192.0.2.199", range)?,
            reservations: server
                .reservation
                .iter()
                .map(|reservation| self.reservation(reservation))
                .collect::<Result<_, _>>()?,
            routers: self.list(&server.routers, "routers", "192.0.2.1", address)?,
            dns: self.list(&server.dns, "dns", "192.0.2.1", address)?,
            ntp: self.list(&server.ntp, "ntp", "192.0.2.1", address)?,
            domain: server.domain.clone(),
            search: server.search.clone(),
            lease_time: self.time(server.lease_time.as_ref(), "lease_time")?.unwrap_or(LEASE_TIME),
            renew_after: self.time(server.renew_after.as_ref(), "renew_after")?,
            rebind_after: self.time(server.rebind_after.as_ref(), "rebind_after")?,
        };
        let checked = config.check(network.address());
        checked.map_err(|error| self.at(table, "server", error.to_string()))?;
        Ok(Some(Box::new(config)))
    }

    /// What is served over IPv6; needs the kernel's stack, `tagged` or not.
    pub(super) fn ipv6(&self, interface: &InterfaceTable, tagged: bool) -> Result<Ipv6, ConfigError> {
        let address = interface.address6.as_ref();
        let address = address.map(|text| self.one(text, "address6", "2001:db8::10", address6)).transpose()?;
        let server = interface.server.as_ref().map(Spanned::get_ref);
        let prefix = server.and_then(|server| server.prefix6.as_ref());
        let settings = Ipv6 {
            address,
            advertise: server.is_some_and(|server| server.router_advertisement),
            prefix: prefix
                .map(|text| self.one(text, "server.prefix6", "2001:db8:0:1::/64", prefix6))
                .transpose()?,
        };
        if settings.prefix.is_some() && !settings.advertise {
            let message = "prefix6 needs router_advertisement = true";
            return Err(self.at(&interface.name, "server.prefix6", message.into()));
        }
        if tagged && settings != Ipv6::default() {
            let message = "the raw stack has no IPv6: name the VLAN's own interface";
            return Err(self.at(&interface.name, "address6", message.into()));
        }
        Ok(settings)
    }

    fn reservation(&self, table: &ReservationTable) -> Result<Reservation, ConfigError> {
        let holder = match (&table.mac, &table.uuid) {
            (Some(mac), None) => {
                Holder::Mac(self.one(mac, "server.reservation.mac", "52:54:00:12:34:56", parse)?)
            }
            (None, Some(uuid)) => {
                let like = "8c9d6b1e-0d4b-4b0e-9d6f-0123456789ab";
                Holder::Uuid(self.one(uuid, "server.reservation.uuid", like, parse)?)
            }
            _ => {
                let message = "a reservation has either a mac or a uuid";
                return Err(self.at(&table.address, "server.reservation", message.into()));
            }
        };
        let address = self.one(&table.address, "server.reservation.address", "192.0.2.20", parse)?;
        Ok(Reservation { holder, address })
    }

    fn list<T>(
        &self,
        values: &[Spanned<String>],
        key: &str,
        like: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, ConfigError> {
        values.iter().map(|value| self.one(value, &format!("server.{key}"), like, &read)).collect()
    }

    fn one<T>(
        &self,
        value: &Spanned<String>,
        key: &str,
        like: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let text = value.get_ref();
        read(text).ok_or_else(|| self.at(value, key, format!("`{text}` will not do: write it as \"{like}\"")))
    }

    fn time(&self, value: Option<&Spanned<String>>, key: &str) -> Result<Option<Duration>, ConfigError> {
        value.map(|value| self.one(value, &format!("server.{key}"), "12h", duration)).transpose()
    }
}

fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn address(text: &str) -> Option<Ipv4Addr> {
    parse(text)
}

/// Not link-local: a URL cannot say of which link.
fn address6(text: &str) -> Option<Ipv6Addr> {
    let fine = |address: &Ipv6Addr| {
        !address.is_unspecified()
            && !address.is_loopback()
            && !address.is_multicast()
            && !address.is_unicast_link_local()
    };
    parse(text).filter(fine)
}

fn prefix6(text: &str) -> Option<Ipv6Addr> {
    let prefix = address6(text.strip_suffix("/64")?)?;
    (prefix.to_bits() << 64 == 0).then_some(prefix)
}

fn duration(text: &str) -> Option<Duration> {
    text.parse::<jiff::SignedDuration>().ok().and_then(|duration| Duration::try_from(duration).ok())
}

fn range(text: &str) -> Option<RangeInclusive<Ipv4Addr>> {
    let (first, last) = text.split_once('-')?;
    Some(address(first.trim())?..=address(last.trim())?)
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Overrides};
    use super::*;

    fn parse_server(table: &str) -> Result<ServerConfig, String> {
        let text = format!(
            "[[netboot.interface]]\nname = \"eth0\"\naddress = \"192.0.2.10/24\"\ndhcp = \"server\"\n{table}\n"
        );
        let config = Config::parse(&text, "test.toml", &Overrides::default());
        let interface = config.map(|mut config| config.netboot.interfaces.swap_remove(0));
        interface.map(|interface| *interface.server.unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_server_is_read_with_everything_that_it_gives() {
        let server = parse_server(
            "[netboot.interface.server]\nranges = [\"192.0.2.100 - 192.0.2.109\", \"192.0.2.120-192.0.2.120\"]\n\
             routers = [\"192.0.2.1\"]\ndns = [\"192.0.2.2\", \"198.51.100.1\"]\nntp = [\"192.0.2.3\"]\n\
             domain = \"pxe.example\"\nsearch = [\"a.example\"]\nlease_time = \"1h\"\nrenew_after = \"10m\"\n\
             [[netboot.interface.server.reservation]]\nmac = \"52:54:00:12:34:56\"\naddress = \"192.0.2.20\"\n\
             [[netboot.interface.server.reservation]]\nuuid = \"8c9d6b1e-0d4b-4b0e-9d6f-0123456789ab\"\n\
             address = \"192.0.2.101\"\n",
        )
        .unwrap();
        assert_eq!(server.subnet.to_string(), "192.0.2.0/24");
        assert_eq!((server.ranges.len(), server.reservations.len(), server.dns.len()), (2, 2, 2));
        assert_eq!(server.lease_time, Duration::from_secs(3_600));
        assert_eq!(server.renew_after(), Duration::from_secs(600));
        let least = parse_server("server = { ranges = [\"192.0.2.100 - 192.0.2.101\"] }").unwrap();
        assert_eq!(least.lease_time, LEASE_TIME);
    }

    #[test]
    fn what_a_server_cannot_give_is_refused_at_its_line() {
        for (table, words) in [
            ("", "netboot.interface.server: dhcp = \"server\" needs a table"),
            ("server = {}", "netboot.interface.server: neither a range nor a reservation"),
            ("server = { ranges = [\"192.0.2.100\"] }", "test.toml:5: netboot.interface.server.ranges"),
            ("server = { ranges = [\"192.0.3.1 - 192.0.3.9\"] }", "no host address of 192.0.2.0/24"),
            ("server = { ranges = [\"192.0.2.9 - 192.0.2.8\"] }", "is empty"),
            ("server = { lease = \"1h\" }", "unknown field"),
            (
                "[netboot.interface.server]\nranges = [\"192.0.2.100 - 192.0.2.109\"]\nlease_time = \"soon\"",
                "test.toml:7: netboot.interface.server.lease_time",
            ),
            (
                "[[netboot.interface.server.reservation]]\naddress = \"192.0.2.20\"",
                "test.toml:6: netboot.interface.server.reservation: a reservation has either",
            ),
            (
                "[[netboot.interface.server.reservation]]\naddress = \"192.0.2.10\"\nmac = \"52:54:00:12:34:56\"",
                "192.0.2.10 is reserved twice",
            ),
        ] {
            let error = parse_server(table).unwrap_err();
            assert!(error.contains(words), "{table}: {error}");
        }
        for (table, words) in [
            ("address6 = \"fe80::1\"", "test.toml:3: netboot.interface.address6"),
            ("address6 = \"10.0.0.1\"", "write it as \"2001:db8::10\""),
            ("vlans = [7]\naddress = \"10.0.0.1/24\"\naddress6 = \"fd88::1\"", "the raw stack has no IPv6"),
            (
                "dhcp = \"server\"\naddress = \"10.0.0.1/24\"\n[netboot.interface.server]\nprefix6 = \"fd88::/64\"\n\
                 ranges = [\"10.0.0.5 - 10.0.0.9\"]",
                "needs router_advertisement",
            ),
        ] {
            let text = format!("[[netboot.interface]]\nname = \"eth0\"\n{table}\n");
            let error = Config::parse(&text, "test.toml", &Overrides::default()).unwrap_err().to_string();
            assert!(error.contains(words), "{table}: {error}");
        }
        let text = "[[netboot.interface]]\nname = \"eth0\"\ndhcp = \"server\"\nserver = { ranges = [] }\n";
        let error = Config::parse(text, "test.toml", &Overrides::default()).unwrap_err();
        assert!(error.to_string().contains("address with its prefix"), "{error}");
    }
}
