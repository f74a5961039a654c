//! QEMU's second monitor: what a test asks that no machine of a bed is asked otherwise.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use testbed::{Bed, LIMIT};

/// Where the screen's card has its text, and how much: characters and colours in turn.
const TEXT: u32 = 0xb_8000;
const TEXT_LENGTH: u32 = 0x8000;
const COLUMNS: usize = 80;
const ROWS: usize = 25;

pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
    dump: PathBuf,
}

/// QEMU's words for it.
pub(crate) fn words(bed: &Bed) -> String {
    format!("-qmp unix:{},server=on,wait=off", socket(bed).display())
}

fn socket(bed: &Bed) -> PathBuf {
    bed.dir().join("monitor.sock")
}

impl Monitor {
    /// Of the machine that is on, and that was built with [`words`].
    pub(crate) fn connect(bed: &Bed) -> Result<Self> {
        let stream = UnixStream::connect(socket(bed)).context("no monitor")?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut monitor = Self { stream: BufReader::new(stream), dump: bed.dir().join("screen") };
        monitor.execute("qmp_capabilities", &json!({}))?;
        Ok(monitor)
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("QEMU says nothing")?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Carries a command out.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Result<()> {
        writeln!(self.stream.get_mut(), "{}", json!({ "execute": command, "arguments": arguments }))?;
        loop {
            let message = self.message()?;
            if let Some(error) = message.get("error") {
                bail!("{command}: {error}");
            }
            if message.get("return").is_some() {
                return Ok(());
            }
        }
    }

    /// Waits for something that QEMU tells.
    pub(crate) fn wait(&mut self, event: &str) -> Result<Value> {
        loop {
            let message = self.message()?;
            if message["event"] == event {
                return Ok(message);
            }
        }
    }

    /// What is written on the screen, from the row that begins with `first`: read from the memory of the card, which
    /// shows text as long as nothing draws.
    pub(crate) fn screen(&mut self, first: &str) -> Result<Option<Vec<String>>> {
        let arguments = json!({ "val": TEXT, "size": TEXT_LENGTH, "filename": self.dump });
        self.execute("pmemsave", &arguments)?;
        let rows = rows(&std::fs::read(Path::new(&self.dump))?);
        // The kernel scrolls by showing another part of the memory; the newest is behind.
        let begin = rows.iter().rposition(|row| row.starts_with(first));
        Ok(begin.map(|begin| rows[begin..].iter().take(ROWS).cloned().collect()))
    }
}

fn rows(memory: &[u8]) -> Vec<String> {
    let row = |cells: &[u8]| {
        let text = cells.iter().step_by(2).map(|byte| if *byte == 0 { ' ' } else { char::from(*byte) });
        text.collect::<String>().trim_end().to_owned()
    };
    memory.chunks_exact(2 * COLUMNS).map(row).collect()
}
