//! Tables for people, YAML and JSON for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

use super::CliError;

/// `-o`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// YAML
    Yaml,
    /// JSON
    Json,
}

/// Prints `value` as YAML or JSON, or the table that `table` makes.
pub(super) fn print<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce() -> comfy_table::Table,
) -> Result<(), CliError> {
    let text = match format {
        Format::Table => format!("{}\n", table().trim_fmt()),
        Format::Yaml => {
            serde_yaml_ng::to_string(value).map_err(|error| CliError::Failed(error.to_string()))?
        }
        Format::Json => {
            format!(
                "{}\n",
                serde_json::to_string_pretty(value).map_err(|error| CliError::Failed(error.to_string()))?
            )
        }
    };
    write_out(&text)
}

/// Writes to standard output; a closed pipe ends the command quietly.
pub(super) fn write_out(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| CliError::Other(error.into()))
}

/// A table in the manner of omnictl: no lines, upper-case heads.
pub(super) fn table(heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(heads.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
}
