//! `bootlace status` and `bootlace console`: what this box is and does, for whoever stands before it.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use super::CliError;
use super::output::{self, Format, write_out};
use super::{journal, operator};
use crate::recorder::Entry;
use crate::status::Status;

/// How often the screen is looked at anew.
const REFRESH: Duration = Duration::from_secs(1);
/// Journal lines on the screen: the smallest console has 24 lines.
const LINES: usize = 12;
/// Columns of the smallest console; longer lines are cut.
const COLUMNS: usize = 80;
/// Cursor to the top, and everything below it away.
const CLEAR: &str = "\x1b[H\x1b[J";

#[derive(clap::Args)]
pub(super) struct StatusArgs {
    /// table, yaml or json
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(clap::Args)]
pub(super) struct ConsoleArgs {
    /// Lines one after the other instead of a screen: for serial consoles and logs
    #[arg(long)]
    plain: bool,
    /// Without the boot journal: where the appliance's log is shown too, which has it
    #[arg(long)]
    no_journal: bool,
}

/// Prints the status once.
pub(super) async fn status(socket: &Path, args: &StatusArgs) -> Result<(), CliError> {
    let status: Status = operator::get_json(socket, "/status").await?;
    let rows = facts(&status).into_iter().map(|(name, value)| vec![name.to_owned(), value]);
    output::print(args.output, &status, || output::table(&["", ""], rows))
}

/// Shows the status until it is ended. An appliance that does not answer is waited for: the console is there
/// before it.
pub(super) async fn console(socket: &Path, args: &ConsoleArgs) -> Result<(), CliError> {
    let plain = args.plain || !std::io::stdout().is_terminal();
    let mut screen = Screen::default();
    loop {
        let looked = look(socket, &mut screen, !args.no_journal).await;
        let shown = Shown::new(Host::now(), looked.as_ref());
        let text = if plain { screen.plain(&shown) } else { screen.whole(&shown) };
        write_out(&text)?;
        tokio::time::sleep(REFRESH).await;
    }
}

async fn look(socket: &Path, screen: &mut Screen, journal: bool) -> Result<Status, CliError> {
    let status: Status = operator::get_json(socket, "/status").await?;
    if !journal {
        return Ok(status);
    }
    let response = operator::get(socket, &format!("/journal?since={}", screen.seen)).await?;
    let take = |line: &[u8]| {
        // What a newer appliance says is shown by its own console.
        serde_json::from_slice(line).map(|entry: Entry| screen.take(&entry)).ok();
        Ok(())
    };
    operator::each_line(response, take).await?;
    Ok(status)
}

/// The machine that this is.
#[derive(Debug, Default)]
struct Host {
    name: String,
    /// `eth0 192.0.2.10`
    addresses: Vec<String>,
}

impl Host {
    fn now() -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let mut addresses = Vec::new();
        for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
            let Some(address) = interface.address else { continue };
            let ip: IpAddr = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => v4.ip().into(),
                (None, Some(v6)) => v6.ip().into(),
                (None, None) => continue,
            };
            let local = ip.is_loopback() || matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
            if !local {
                addresses.push(format!("{} {ip}", interface.interface_name));
            }
        }
        Self { name: name.trim().to_owned(), addresses }
    }
}

/// What there is to show at this moment.
struct Shown {
    title: String,
    facts: Vec<(&'static str, String)>,
}

impl Shown {
    fn new(host: Host, looked: Result<&Status, &CliError>) -> Self {
        let title = match looked {
            Ok(status) => format!("bootlace {} - {} - {}", status.version, host.name, status.id),
            Err(_) => format!("bootlace {} - {}", env!("CARGO_PKG_VERSION"), host.name),
        };
        let none = "none yet: is a cable plugged in, and does a DHCP server answer?".to_owned();
        let addresses = if host.addresses.is_empty() { none } else { host.addresses.join(", ") };
        let mut shown = vec![("Addresses", addresses)];
        match looked {
            Ok(status) => shown.extend(facts(status)),
            Err(error) => shown.push(("Appliance", format!("starting: {}", cause(error)))),
        }
        Self { title, facts: shown }
    }
}

/// In few words: who reads it cannot do anything about sockets.
fn cause(error: &CliError) -> String {
    match error {
        CliError::Unavailable { .. } => "it does not answer yet".to_owned(),
        other => other.to_string(),
    }
}

/// What is on the screen.
#[derive(Default)]
struct Screen {
    /// The last journal entry.
    seen: u64,
    lines: VecDeque<String>,
    /// Lines that a plain console does not have yet.
    fresh: Vec<String>,
    shown: String,
}

impl Screen {
    fn take(&mut self, entry: &Entry) {
        self.seen = self.seen.max(entry.seq);
        let line = journal::line_of(entry);
        self.lines.push_back(brief(&line));
        self.fresh.push(line);
        if self.lines.len() > LINES {
            self.lines.pop_front();
        }
        if self.fresh.len() > LINES {
            self.fresh.remove(0);
        }
    }

    /// The whole screen, if anything on it changed.
    fn whole(&mut self, shown: &Shown) -> String {
        let mut text = format!("{}\n", cut(&shown.title));
        for (name, value) in &shown.facts {
            text.push_str(&cut(&format!("  {name:<10}  {value}")));
        }
        text.push('\n');
        for line in &self.lines {
            text.push_str(&cut(line));
        }
        self.fresh.clear();
        self.changed(text).map_or_else(String::new, |text| format!("{CLEAR}{text}"))
    }

    /// Title and facts when they changed, and new journal lines.
    fn plain(&mut self, shown: &Shown) -> String {
        let facts: String = shown.facts.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let lines: String = self.fresh.drain(..).map(|line| line + "\n").collect();
        self.changed(format!("{}\n{facts}", shown.title)).unwrap_or_default() + &lines
    }

    fn changed(&mut self, text: String) -> Option<String> {
        if self.shown == text {
            return None;
        }
        self.shown.clone_from(&text);
        Some(text)
    }
}

/// One fact a line.
fn facts(status: &Status) -> Vec<(&'static str, String)> {
    let omni = status.omni.endpoint.as_deref().unwrap_or("embedded hub");
    let link = match (status.omni.in_sync, status.omni.trouble.as_str()) {
        (true, "") => format!("{omni}, in sync"),
        (true, trouble) => format!("{omni}, in sync; {trouble}"),
        (false, "") => format!("{omni}, not in sync"),
        (false, trouble) => format!("{omni}: {trouble}"),
    };
    let machines = &status.machines;
    let all = machines.pending + machines.accepted + machines.rejected;
    let started = i64::try_from(status.started_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let next = match &status.omni.endpoint {
        Some(endpoint) if machines.pending > 0 => format!("machines wait to be accepted in {endpoint}"),
        Some(endpoint) => format!("machines are shown in {endpoint}"),
        None if machines.pending > 0 => {
            "bootlace machines list, then bootlace machines accept <id>".to_owned()
        }
        None => "bootlace machines list, bootlace journal -f".to_owned(),
    };
    let images = status.images.as_ref().map(|images| {
        let mut text = format!("{} in the cache, {} MB", images.count, images.bytes / 1_000_000);
        for (count, what) in [(images.coming as u64, "being fetched"), (images.failures, "fetches failed")] {
            if count > 0 {
                text.push_str(&format!(", {count} {what}"));
            }
        }
        ("Images", text)
    });
    let mut facts = vec![
        ("Serves on", format!("http://{}:{}/", status.address, status.port)),
        ("Omni", link),
        (
            "Machines",
            format!(
                "{all}: {} pending, {} accepted ({} in clusters), {} rejected",
                machines.pending, machines.accepted, machines.allocated, machines.rejected
            ),
        ),
    ];
    facts.extend(images);
    facts.push(("Running", started.map_or_else(String::new, |time| format!("since {time:.0}"))));
    facts.push(("Next", next));
    facts
}

/// A journal line without its date and its milliseconds, for which a screen has no room.
fn brief(line: &str) -> String {
    match (line.get(11..19), line.get(24..)) {
        (Some(time), Some(rest)) => format!("{time}{rest}"),
        _ => line.to_owned(),
    }
}

/// One line of the screen.
fn cut(line: &str) -> String {
    line.chars().take(COLUMNS).chain(['\n']).collect()
}

#[cfg(test)]
mod tests;
