//! `bootlace journal`.

use std::path::Path;

use jiff::Timestamp;
use netboot::Mac;
use uuid::Uuid;

use super::CliError;
use super::operator;
use super::output::{Format, write_out};
use crate::recorder::Entry;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Only this machine: MAC address, or the beginning of its UUID
    machine: Option<String>,
    /// Go on as things happen
    #[arg(short, long)]
    follow: bool,
    /// Start at this sequence number
    #[arg(long, default_value_t = 0, value_name = "SEQ")]
    since: u64,
    /// table, yaml or json (one object a line)
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn run(socket: &Path, args: &Args) -> Result<(), CliError> {
    let uri = format!("/journal?since={}&follow={}", args.since, args.follow);
    let response = operator::get(socket, &uri).await?;
    operator::each_line(response, |line| print(line, args)).await
}

fn print(line: &[u8], args: &Args) -> Result<(), CliError> {
    let entry: Entry = serde_json::from_slice(line)
        .map_err(|error| CliError::Failed(format!("unreadable entry: {error}")))?;
    if !args.machine.as_deref().is_none_or(|machine| is_of(machine, &entry)) {
        return Ok(());
    }
    match args.output {
        Format::Table => write_out(&format!("{}\n", line_of(&entry))),
        Format::Json => write_out(&format!("{}\n", String::from_utf8_lossy(line))),
        Format::Yaml => {
            let text =
                serde_yaml_ng::to_string(&entry).map_err(|error| CliError::Failed(error.to_string()))?;
            write_out(&format!("---\n{text}"))
        }
    }
}

fn is_of(machine: &str, entry: &Entry) -> bool {
    match machine.parse::<Mac>() {
        Ok(mac) => entry.event.mac == Some(mac),
        Err(_) => {
            entry.event.uuid.is_some_and(|uuid| uuid.to_string().starts_with(&machine.to_ascii_lowercase()))
        }
    }
}

pub(super) fn line_of(entry: &Entry) -> String {
    let time = i64::try_from(entry.event.at_ms)
        .ok()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        .map_or_else(String::new, |time| format!("{time:.3}"));
    let who = match (entry.event.mac, entry.event.uuid) {
        (Some(mac), _) => mac.to_string(),
        (None, Some(uuid)) => short(uuid),
        (None, None) => "-".into(),
    };
    format!("{time}  {who:<17}  {}", entry.event.step)
}

fn short(uuid: Uuid) -> String {
    uuid.to_string().chars().take(13).collect()
}
