//! What the stand-in remembers on its disk, as Talos does in its META partition.
//!
//! ```text
//! offset of the partition: MAGIC (8 bytes), length (u32, little endian), that many bytes of JSON
//! ```

use std::io::{self, Read, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

/// Where the partition begins on the disk. It comes first, so that its place does not depend on the size of
/// what is booted.
pub const OFFSET: u64 = 1024 * 1024;
/// How long the partition is.
pub const LENGTH: u64 = 1024 * 1024;

const MAGIC: &[u8; 8] = b"STANDIN1";
/// A kernel command line has at most 4 KiB, a token some hundred bytes.
const JSON_LIMIT: u32 = 64 * 1024;

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// The kernel command line of the boot that installed.
    pub cmdline: String,
    /// The token that says that this is still the same machine.
    pub unique_token: String,
}

impl State {
    /// Puts the record on a disk.
    pub fn write(&self, disk: &mut (impl Write + Seek)) -> Result<()> {
        let json = serde_json::to_vec(self)?;
        let length = u32::try_from(json.len()).ok().filter(|length| *length <= JSON_LIMIT);
        let length = length.with_context(|| format!("a state of {} bytes is too long", json.len()))?;
        disk.seek(SeekFrom::Start(OFFSET))?;
        disk.write_all(&[MAGIC.as_slice(), &length.to_le_bytes(), &json].concat())?;
        Ok(())
    }

    /// Takes the record from a disk; `None` if there is none.
    pub fn read(disk: &mut (impl Read + Seek)) -> Result<Option<Self>> {
        let mut header = [0; 12];
        disk.seek(SeekFrom::Start(OFFSET))?;
        match disk.read_exact(&mut header) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let Some(length) = header.strip_prefix(MAGIC) else { return Ok(None) };
        let length = u32::from_le_bytes(length.try_into().expect("12 bytes less 8"));
        ensure!(length <= JSON_LIMIT, "the state on the disk claims to have {length} bytes");
        let mut json = vec![0; length as usize];
        disk.read_exact(&mut json).context("the state on the disk is cut off")?;
        serde_json::from_slice(&json).context("the state on the disk is damaged").map(Some)
    }
}

#[cfg(test)]
mod tests;
