//! What is measured, against whom.

use std::ffi::OsStr;

use anyhow::Result;

use super::bed::{BODY, CLIENT, Files, INITRAMFS, INTERFACE, KERNEL, LARGE, LOADER, SERVER, SMALL};
use super::servers::Name::{self, Dnsmasq, Echo, Nginx, Ours, OursRaw, RsTftpd, Sendfile, TftpdHpa, Windows};
use super::servers::{Running, boot_path, machines, words};
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
    /// The raw stack against the kernel's, on bad wires
    Raw,
    /// A thousand boots at once
    Storm,
    /// Start and rest
    Idle,
}

impl Kind {
    pub(super) const ALL: [Self; 7] =
        [Self::Idle, Self::Dhcp, Self::Tftp, Self::Loss, Self::Http, Self::Raw, Self::Storm];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Dhcp => "dhcp",
            Self::Tftp => "tftp",
            Self::Loss => "loss",
            Self::Http => "http",
            Self::Raw => "raw",
            Self::Storm => "storm",
            Self::Idle => "idle",
        }
    }
}

/// More machines than ask in any measurement: none asks twice.
const DIFFERENT: u32 = 10_000_000;

/// The storm's name, for its plot.
pub(super) const STORM: &str = "Storm: 1,000 machines, 1 MB loader and 20 MB image each";

/// One row group of the page.
#[derive(Debug)]
pub(super) struct Measure {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// How often.
    pub(super) rounds: usize,
    pub(super) servers: Vec<Name>,
    load: Load,
}

#[derive(Clone, Copy, Debug)]
enum Load {
    Dhcp {
        port: u16,
        rate: Option<u32>,
    },
    Tftp {
        file: &'static str,
        window: u16,
        clients: u32,
        repeat: u32,
    },
    Lossy {
        window: u16,
    },
    File {
        clients: u32,
    },
    /// One body, compared byte by byte, over a wire that loses so many of a thousand packets.
    Body {
        lost: u16,
    },
    Script {
        close: bool,
    },
    /// Whole boots, or their files by HTTP alone, which is all that a plain file server can.
    Storm {
        plain: bool,
    },
    Idle,
}

/// Name, group, rounds, servers, load; in the page's order.
type Row = (&'static str, Kind, usize, &'static [Name], Load);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("Start to first offer, and memory at rest", Kind::Idle, 9, &[Ours, Dnsmasq], Load::Idle),
    ("DHCP, port 67, as fast as it goes", Kind::Dhcp, 3, &[Ours, Dnsmasq, Echo], Load::Dhcp { port: 67, rate: None }),
    ("DHCP, port 4011, as fast as it goes", Kind::Dhcp, 3, &[Ours, Dnsmasq], Load::Dhcp { port: 4011, rate: None }),
    ("DHCP, port 67, 2,000 a second", Kind::Dhcp, 7, &[Ours, Dnsmasq, Echo], Load::Dhcp { port: 67, rate: Some(2000) }),
    ("TFTP block by block, 100 clients, 256 KiB, blocks of 1468", Kind::Tftp, 3, TFTP, tftp(SMALL, 0, 100, 2)),
    ("TFTP block by block, 1 client, 1 MiB, blocks of 1468", Kind::Tftp, 2, TFTP, tftp(LOADER, 0, 1, 8)),
    ("TFTP windows of 4, 20 clients, 1 MiB", Kind::Tftp, 3, WINDOWS, tftp(LOADER, 4, 20, 4)),
    ("TFTP windows of 16, 8 clients, 16 MiB", Kind::Tftp, 3, WINDOWS, tftp(LARGE, 16, 8, 2)),
    ("TFTP, 1,000 clients at once, 256 KiB each", Kind::Tftp, 1, TFTP, tftp(SMALL, 0, 1000, 1)),
    ("TFTP block by block, 1 % loss each way, 1 ms, 20 clients, 256 KiB", Kind::Loss, 1, TFTP, Load::Lossy { window: 0 }),
    ("TFTP windows of 4, 1 % loss each way, 1 ms, 20 clients, 256 KiB", Kind::Loss, 2, &[Ours, RsTftpd], Load::Lossy { window: 4 }),
    ("TFTP windows of 16, 1 % loss each way, 1 ms, 20 clients, 256 KiB", Kind::Loss, 2, &[Ours, RsTftpd], Load::Lossy { window: 16 }),
    ("HTTP, 97 MB to 8 clients", Kind::Http, 7, &[Ours, OursRaw, Nginx, Sendfile], Load::File { clients: 8 }),
    ("HTTP, 97 MB to 64 clients", Kind::Http, 5, &[Ours, OursRaw, Nginx, Sendfile], Load::File { clients: 64 }),
    ("Boot script (nginx: a fixed text), 64 connections kept", Kind::Http, 3, &[Ours, Nginx], Load::Script { close: false }),
    ("Boot script (nginx: a fixed text), a connection each", Kind::Http, 3, &[Ours, Nginx], Load::Script { close: true }),
    ("HTTP, one body of 97 MB compared byte by byte, no loss, single packets", Kind::Raw, 3, RAW, Load::Body { lost: 0 }),
    ("HTTP, the same, 0.1 % of packets lost", Kind::Raw, 3, RAW, Load::Body { lost: 1 }),
    ("HTTP, the same, 1 % of packets lost", Kind::Raw, 3, RAW, Load::Body { lost: 10 }),
    (STORM, Kind::Storm, 5, &[Ours, Nginx], Load::Storm { plain: false }),
    ("The storm's bytes by HTTP alone", Kind::Storm, 2, &[Ours, Nginx], Load::Storm { plain: true }),
];

const TFTP: &[Name] = &[Ours, Dnsmasq, TftpdHpa, RsTftpd];
const WINDOWS: &[Name] = &[Ours, RsTftpd, Windows];
const RAW: &[Name] = &[OursRaw, Ours];

const fn tftp(file: &'static str, window: u16, clients: u32, repeat: u32) -> Load {
    Load::Tftp { file, window, clients, repeat }
}

impl Measure {
    /// All of them.
    pub(super) fn all() -> Vec<Self> {
        let measure = |(name, kind, rounds, servers, load): &Row| Self {
            name,
            kind: *kind,
            rounds: *rounds,
            servers: servers.to_vec(),
            load: *load,
        };
        ROWS.iter().map(measure).collect()
    }

    /// One round against one server.
    pub(super) fn run(&self, server: &Running, files: &Files, round: usize) -> Result<Report> {
        let run = round + 1;
        let arguments = match self.load {
            Load::Dhcp { port, rate } => {
                let rate = rate.map_or(String::new(), |rate| format!("--rate {rate}"));
                words(&format!(
                    "dhcp --server {SERVER} --address {CLIENT} --interface {INTERFACE} --port {port} --machines {DIFFERENT} --run {run} {rate}"
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
            Load::Body { lost } => {
                server.bed.lose(http_port(server.name), lost)?;
                let file = files.assets().join(BODY);
                words(&format!(
                    "http --server {SERVER}:{} --path /assets/{BODY} --compare {} --limit 60",
                    http_port(server.name),
                    file.display()
                ))
            }
            Load::Script { close } => {
                let path = if server.name.is_ours() { boot_path("{n}") } else { "/script".into() };
                let close = if close { "--close" } else { "" };
                words(&format!("script --server {SERVER}:{} --path {path} {close}", http_port(server.name)))
            }
            Load::Storm { plain } => {
                let loader = if server.name.is_ours() { format!("tftp/{LOADER}") } else { LOADER.to_owned() };
                let port = http_port(server.name);
                let files = format!("--plain {port},/{loader},/assets/{KERNEL},/assets/{INITRAMFS}");
                let files = if server.name.is_ours() && !plain { "" } else { &files };
                words(&format!(
                    "storm --server {SERVER} --interface {INTERFACE} {} --clients 1000 --limit 150 --run {run} {files}",
                    machines()
                ))
            }
            Load::Idle => return server.idle(),
        };
        match (server.name, self.load) {
            (Name::Windows, Load::Tftp { window, .. }) => server.windows(window),
            _ => server.load(&arguments),
        }
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
            assert!(measure.servers.contains(&Ours) && measure.rounds > 0, "{}", measure.name);
            assert_eq!(all.iter().filter(|other| other.name == measure.name).count(), 1);
        }
        assert!(Kind::ALL.iter().all(|kind| all.iter().any(|measure| measure.kind == *kind)));
    }
}
