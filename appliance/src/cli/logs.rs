//! `bootlace logs`: kernel logs of machines, as the embedded hub keeps them.

use std::path::Path;

use cosi::client::channel_unix;
use futures_util::StreamExt;
use serde_json::{Map, Value};

use super::CliError;
use super::output::{Format, write_out};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Machine: the beginning of its UUID, or the address of one that has not joined
    machine: String,
    /// Go on as lines come
    #[arg(short, long)]
    follow: bool,
    /// Only so many of the last lines
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<i32>,
    /// table, yaml or json (one object a line, as the machine sent it)
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn run(socket: &Path, args: &Args) -> Result<(), CliError> {
    super::reach(socket).await?;
    let channel = channel_unix(socket).await.map_err(|error| CliError::Failed(error.to_string()))?;
    let mut lines = std::pin::pin!(
        hub::machine_logs(channel, &args.machine, args.follow, args.tail.unwrap_or(-1))
            .await
            .map_err(failed)?
    );
    while let Some(line) = lines.next().await {
        write_out(&shown(&line.map_err(failed)?, args.output)?)?;
    }
    Ok(())
}

fn failed(status: tonic::Status) -> CliError {
    CliError::Failed(match status.code() {
        tonic::Code::Unimplemented => {
            "kernel logs are kept by the embedded hub, and this appliance is linked to an Omni elsewhere: ask that \
             with `omnictl machine-logs`"
                .to_owned()
        }
        _ => status.message().to_owned(),
    })
}

fn shown(line: &[u8], output: Format) -> Result<String, CliError> {
    let unreadable = |error: &dyn std::fmt::Display| CliError::Failed(format!("unreadable line: {error}"));
    Ok(match output {
        Format::Json => format!("{}\n", String::from_utf8_lossy(line)),
        Format::Yaml => {
            let fields: Value = serde_json::from_slice(line).map_err(|error| unreadable(&error))?;
            format!("---\n{}", serde_yaml_ng::to_string(&fields).map_err(|error| unreadable(&error))?)
        }
        Format::Table => {
            let fields: Map<String, Value> =
                serde_json::from_slice(line).map_err(|error| unreadable(&error))?;
            format!("{}\n", row(&fields))
        }
    })
}

/// Time, facility, level, message. A machine is a stranger: what would move the cursor is not printed.
fn row(fields: &Map<String, Value>) -> String {
    let text = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => {
            text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
        }
        Some(other) => other.to_string(),
        None => String::new(),
    };
    let source = [text("facility"), text("talos-level")].into_iter().filter(|part| !part.is_empty());
    let source = source.collect::<Vec<_>>().join(".");
    let row = format!("{:<30} {source:<12} {}", text("talos-time"), text("msg").trim_end());
    row.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_talos_is_a_row() {
        let line = br#"{"clock":12,"facility":"kern","msg":"nvme0n1: p1\n","seq":7,"talos-level":"info","talos-time":"2026-11-22T17:00:00.5Z"}"#;
        let row = shown(line, Format::Table).unwrap();
        assert_eq!(row, "2026-11-22T17:00:00.5Z         kern.info    nvme0n1: p1\n");
        assert_eq!(shown(line, Format::Json).unwrap().as_bytes(), [&line[..], b"\n"].concat());
        assert!(shown(line, Format::Yaml).unwrap().contains("facility: kern\n"));
    }

    #[test]
    fn what_would_move_the_cursor_is_not_printed() {
        let row = shown(br#"{"msg":"\u001b[2Jgone\r\u009b5m","talos-level":7}"#, Format::Table).unwrap();
        assert!(row.trim_end_matches('\n').chars().all(|letter| !letter.is_control()), "{row:?}");
    }

    #[test]
    fn a_line_that_is_none_is_told_of() {
        assert!(shown(b"<6>text", Format::Table).is_err());
    }
}
