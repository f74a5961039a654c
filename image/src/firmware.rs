//! The firmware files that drivers ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::cpio::Archive;

/// Where the kernel looks for firmware.
const INSIDE: &str = "/lib/firmware";
/// How a module names a file in its `.modinfo` section; the text ends with a zero.
const KEY: &[u8] = b"firmware=";
/// Longer names are no file names but code that looks like the key.
const MAX_NAME: usize = 200;

/// What an image has of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// Files in the image, with their sizes.
    pub files: Vec<(String, usize)>,
    /// Driver to how many of the files that it may ask for are not there. A driver names the files of all cards
    /// that it knows, and most cards keep their firmware themselves.
    pub missing: BTreeMap<String, usize>,
}

/// The files that a module names.
pub fn wanted(module: &[u8]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for at in 0..module.len().saturating_sub(KEY.len()) {
        // Each entry follows the zero of the one before.
        if module[at..].starts_with(KEY) && (at == 0 || module[at - 1] == 0) {
            let text = &module[at + KEY.len()..];
            let end = text.iter().take(MAX_NAME).position(|byte| *byte == 0);
            let name = end.and_then(|end| std::str::from_utf8(&text[..end]).ok());
            names.extend(name.filter(|name| is_relative(name)).map(str::to_owned));
        }
    }
    names
}

fn is_relative(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('/') && !name.split('/').any(|part| matches!(part, "" | "." | ".."))
}

/// Puts the files that are there into the archive. `asked`: file to driver.
pub fn add(
    archive: &mut Archive,
    directory: Option<&Path>,
    asked: BTreeMap<String, String>,
) -> Result<Firmware> {
    let mut firmware = Firmware::default();
    let Some(directory) = directory else { return Ok(firmware) };
    for (name, driver) in asked {
        match fs::read(directory.join(&name)) {
            Ok(bytes) => {
                firmware.files.push((name.clone(), bytes.len()));
                archive.file(&format!("{INSIDE}/{name}"), 0o644, bytes)?;
            }
            Err(_) => *firmware.missing.entry(driver).or_default() += 1,
        }
    }
    Ok(firmware)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_in_a_module_are_found() {
        let module =
            b"\x7fELF\0firmware=bnx2/a.fw\0license=GPL\0firmware=b.bin\0xfirmware=no\0firmware=../x\0\
            firmware=/y\0firmware=cut";
        assert_eq!(wanted(module).into_iter().collect::<Vec<_>>(), ["b.bin", "bnx2/a.fw"]);
        assert!(wanted(b"").is_empty());
    }

    #[test]
    fn files_are_packed_and_missing_ones_counted_by_driver() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("bnx2")).unwrap();
        fs::write(directory.path().join("bnx2/a.fw"), b"code").unwrap();
        let asked: BTreeMap<String, String> = [("bnx2/a.fw", "bnx2"), ("bnx2/b.fw", "bnx2"), ("c", "tg3")]
            .map(|(name, driver)| (name.to_owned(), driver.to_owned()))
            .into();
        let mut archive = Archive::new();
        let firmware = add(&mut archive, Some(directory.path()), asked.clone()).unwrap();
        assert_eq!(firmware.files, [("bnx2/a.fw".to_owned(), 4)]);
        assert_eq!(firmware.missing.into_iter().collect::<Vec<_>>(), [("bnx2".into(), 1), ("tg3".into(), 1)]);
        assert_eq!(archive.files().collect::<Vec<_>>(), [("lib/firmware/bnx2/a.fw", 4)]);
        assert_eq!(add(&mut Archive::new(), None, asked).unwrap(), Firmware::default());
    }
}
