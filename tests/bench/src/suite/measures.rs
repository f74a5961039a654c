//! What is measured, against whom.

use std::ffi::OsStr;

use anyhow::Result;

use super::bed::{BODY, CLIENT, Files, INITRAMFS, INTERFACE, KERNEL, LARGE, LOADER, SERVER, SMALL};
use super::servers::{Name, Running, boot_path, machines, words};
use crate::report::Report;

/// Groups that can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Offers
    Dhcp,
    /// Transfers on a clean wire
    Tftp,
    /// Transfers on a bad wire
    Loss,
    /// Files and scripts
    Http,
    /// A thousand boots at once
    Storm,
    /// Start and rest
    Idle,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Idle, Self::Dhcp, Self::Tftp, Self::Loss, Self::Http, Self::Storm];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Dhcp => "dhcp",
            Self::Tftp => "tftp",
            Self::Loss => "loss",
            Self::Http => "http",
            Self::Storm => "storm",
            Self::Idle => "idle",
        }
    }
}

/// The storm's name, for its plot.
pub(super) const STORM: &str = "Storm: 1,000 machines, 1 MB loader and 20 MB image each";

/// One row group of the page.
#[derive(Debug)]
pub(super) struct Measure {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// How often, at most.
    pub(super) rounds: usize,
    pub(super) servers: Vec<Name>,
    load: Load,
}

#[derive(Clone, Copy, Debug)]
enum Load {
    Dhcp { port: u16, rate: Option<u32> },
    Tftp { file: &'static str, window: u16, clients: u32, repeat: u32 },
    Lossy { window: u16 },
    File { clients: u32 },
    Script { close: bool },
    Storm,
    Idle,
}

const TFTP_PEERS: [Name; 4] = [Name::Ours, Name::Dnsmasq, Name::TftpdHpa, Name::RsTftpd];

impl Measure {
    /// All of them, in the page's order.
    pub(super) fn all() -> Vec<Self> {
        use Name::{Dnsmasq, Echo, Nginx, Ours, RsTftpd, Sendfile};
        let one = |name, kind, rounds, servers: &[Name], load| Self {
            name,
            kind,
            rounds,
            servers: servers.to_vec(),
            load,
        };
        let tftp = |file, window, clients, repeat| Load::Tftp { file, window, clients, repeat };
        vec![
            one("Start to first offer, and memory at rest", Kind::Idle, 1, &[Ours, Dnsmasq], Load::Idle),
            one(
                "DHCP, port 67, as fast as it goes",
                Kind::Dhcp,
                7,
                &[Ours, Dnsmasq, Echo],
                Load::Dhcp { port: 67, rate: None },
            ),
            one(
                "DHCP, port 4011, as fast as it goes",
                Kind::Dhcp,
                7,
                &[Ours, Dnsmasq],
                Load::Dhcp { port: 4011, rate: None },
            ),
            one(
                "DHCP, port 67, 2,000 a second",
                Kind::Dhcp,
                7,
                &[Ours, Dnsmasq, Echo],
                Load::Dhcp { port: 67, rate: Some(2000) },
            ),
            one(
                "TFTP block by block, 100 clients, 256 KiB, blocks of 1468",
                Kind::Tftp,
                5,
                &TFTP_PEERS,
                tftp(SMALL, 0, 100, 2),
            ),
            one(
                "TFTP block by block, 1 client, 1 MiB, blocks of 1468",
                Kind::Tftp,
                3,
                &TFTP_PEERS,
                tftp(LOADER, 0, 1, 8),
            ),
            one(
                "TFTP windows of 4, 20 clients, 1 MiB",
                Kind::Tftp,
                5,
                &[Ours, RsTftpd],
                tftp(LOADER, 4, 20, 4),
            ),
            one(
                "TFTP windows of 16, 8 clients, 16 MiB",
                Kind::Tftp,
                5,
                &[Ours, RsTftpd],
                tftp(LARGE, 16, 8, 2),
            ),
            one(
                "TFTP, 1,000 clients at once, 256 KiB each",
                Kind::Tftp,
                2,
                &TFTP_PEERS,
                tftp(SMALL, 0, 1000, 1),
            ),
            one(
                "TFTP block by block, 1 % loss each way, 1 ms, 20 clients, 256 KiB",
                Kind::Loss,
                3,
                &TFTP_PEERS,
                Load::Lossy { window: 0 },
            ),
            one(
                "TFTP windows of 4, 1 % loss each way, 1 ms, 20 clients, 256 KiB",
                Kind::Loss,
                3,
                &[Ours, RsTftpd],
                Load::Lossy { window: 4 },
            ),
            one(
                "TFTP windows of 16, 1 % loss each way, 1 ms, 20 clients, 256 KiB",
                Kind::Loss,
                3,
                &[Ours, RsTftpd],
                Load::Lossy { window: 16 },
            ),
            one(
                "HTTP, 97 MB to 8 clients",
                Kind::Http,
                5,
                &[Ours, Nginx, Sendfile],
                Load::File { clients: 8 },
            ),
            one(
                "HTTP, 97 MB to 64 clients",
                Kind::Http,
                3,
                &[Ours, Nginx, Sendfile],
                Load::File { clients: 64 },
            ),
            one(
                "Boot script (nginx: a fixed text), 64 connections kept",
                Kind::Http,
                5,
                &[Ours, Nginx],
                Load::Script { close: false },
            ),
            one(
                "Boot script (nginx: a fixed text), a connection each",
                Kind::Http,
                3,
                &[Ours, Nginx],
                Load::Script { close: true },
            ),
            one(STORM, Kind::Storm, 2, &[Ours, Nginx], Load::Storm),
        ]
    }

    /// One round against one server.
    pub(super) fn run(&self, server: &Running, files: &Files, round: usize) -> Result<Report> {
        let run = round + 1;
        let arguments = match self.load {
            Load::Dhcp { port, rate } => {
                let rate = rate.map_or(String::new(), |rate| format!("--rate {rate}"));
                words(&format!(
                    "dhcp --server {SERVER} --address {CLIENT} --interface {INTERFACE} --port {port} --run {run} {rate}"
                ))
            }
            Load::Tftp { file, window, clients, repeat } => words(&format!(
                "tftp --server {SERVER}:69 --file {file} --windowsize {window} --clients {clients} --repeat {repeat} --client-timeout-ms 3000 --limit 20 {}",
                machines()
            )),
            Load::Lossy { window } => words(&format!(
                "tftp --server {SERVER}:69 --file {SMALL} --windowsize {window} --clients 20 --loss 1 --delay-us 1000 --client-timeout-ms 1000 --limit 30 --seed {run} {}",
                machines()
            )),
            Load::File { clients } => words(&format!(
                "http --server {SERVER}:{} --path /assets/{BODY} --clients {clients}",
                http_port(server.name)
            )),
            Load::Script { close } => {
                let path = if server.name.is_ours() { boot_path("{n}") } else { "/script".into() };
                let close = if close { "--close" } else { "" };
                words(&format!("script --server {SERVER}:{} --path {path} {close}", http_port(server.name)))
            }
            Load::Storm => {
                let plain = format!("--plain 80,/{LOADER},/assets/{KERNEL},/assets/{INITRAMFS}");
                let plain = if server.name.is_ours() { "" } else { &plain };
                words(&format!(
                    "storm --server {SERVER} --interface {INTERFACE} {} --clients 1000 --limit 150 --run {run} {plain}",
                    machines()
                ))
            }
            Load::Idle => return server.idle(files),
        };
        server.load(&arguments)
    }
}

fn http_port(name: Name) -> u16 {
    if name.is_ours() { 50042 } else { 80 }
}

/// A command as a line of words, for a load that starts it.
pub(super) fn line(program: &OsStr, arguments: impl Iterator<Item = impl AsRef<OsStr>>) -> Vec<String> {
    let word = |text: &OsStr| text.to_string_lossy().into_owned();
    std::iter::once(word(program)).chain(arguments.map(|argument| word(argument.as_ref()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_has_us_and_a_name_of_its_own() {
        let all = Measure::all();
        for measure in &all {
            assert!(measure.servers.contains(&Name::Ours) && measure.rounds > 0, "{}", measure.name);
            assert_eq!(all.iter().filter(|other| other.name == measure.name).count(), 1);
        }
        assert!(Kind::ALL.iter().all(|kind| all.iter().any(|measure| measure.kind == *kind)));
    }
}
