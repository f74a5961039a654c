//! Which modules a device wants: shell patterns over its modalias.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The image's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aliases {
    /// By bus, the part of a pattern before the first colon up to its first wildcard: patterns and modules.
    /// Most devices are on a bus with few patterns.
    patterns: BTreeMap<String, Vec<(String, String)>>,
    /// What to load for a module, in order.
    loads: BTreeMap<String, Vec<PathBuf>>,
    /// What to load whatever devices there are.
    always: Vec<PathBuf>,
}

impl Aliases {
    /// Reads both tables; none when one is not there or has nothing in it.
    pub fn read(aliases: &Path, loads: &Path) -> Option<Self> {
        let read = |path| std::fs::read_to_string(path).ok();
        let tables = Self::parse(&read(aliases)?, &read(loads)?);
        (!tables.patterns.is_empty() && !tables.loads.is_empty()).then_some(tables)
    }

    /// Lines `alias PATTERN MODULE`, and lines `MODULE PATH PATH…`, where `MODULE!` means always.
    pub fn parse(aliases: &str, loads: &str) -> Self {
        let mut tables = Self::default();
        for line in aliases.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) = (words.next(), words.next(), words.next()) {
                let pattern = normal(pattern);
                tables.patterns.entry(bus(&pattern)).or_default().push((pattern, module.to_owned()));
            }
        }
        for line in loads.lines() {
            let mut words = line.split_ascii_whitespace();
            let Some(module) = words.next() else { continue };
            let paths: Vec<PathBuf> = words.map(PathBuf::from).collect();
            if module.ends_with('!') {
                tables.always.extend(paths.iter().cloned());
            }
            tables.loads.insert(module.trim_end_matches('!').to_owned(), paths);
        }
        tables
    }

    /// What to load whatever devices there are.
    pub fn always(&self) -> Vec<PathBuf> {
        self.always.clone()
    }

    /// For each module that a device wants, what to load for it, in order.
    pub fn wanted_by(&self, modalias: &str) -> Vec<Vec<PathBuf>> {
        let modalias = normal(modalias);
        // A pattern's bus may end with a star, as in `acpi*:IPI0001:*`.
        let candidates = [bus(&modalias), bus_of_any(&modalias)];
        candidates
            .iter()
            .filter_map(|bus| self.patterns.get(bus))
            .flatten()
            .filter(|(pattern, _)| matches(pattern.as_bytes(), modalias.as_bytes()))
            .filter_map(|(_, module)| self.loads.get(module))
            .cloned()
            .collect()
    }
}

/// The kernel and its tools treat both as the same letter.
fn normal(text: &str) -> String {
    text.replace('-', "_")
}

fn bus(text: &str) -> String {
    text.split_once(':').map_or("", |(bus, _)| bus).to_owned()
}

fn bus_of_any(modalias: &str) -> String {
    format!("{}*", bus(modalias))
}

/// Shell patterns: `*`, `?` and `[…]` with ranges. Takes time in proportion to both lengths multiplied.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on when what follows the last star does not fit: one letter further.
    let mut retry = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            retry = Some((p + 1, t));
            p += 1;
            continue;
        }
        match one(&pattern[p..], text[t]) {
            Some(length) => {
                p += length;
                t += 1;
            }
            None => {
                let Some((after_star, from)) = retry else { return false };
                (p, t) = (after_star, from + 1);
                retry = Some((after_star, from + 1));
            }
        }
    }
    pattern[p..].iter().all(|letter| *letter == b'*')
}

/// The length of the pattern's first part if the letter fits it.
fn one(pattern: &[u8], letter: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            let end = pattern.iter().position(|letter| *letter == b']')?;
            let set = &pattern[1..end];
            // Dashes were made underscores; in a set they are ranges.
            let range = set.windows(3).any(|part| part[1] == b'_' && (part[0]..=part[2]).contains(&letter));
            (range || set.contains(&letter)).then_some(end + 1)
        }
        first => (*first == letter).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, text, fits) in [
            ("", "", true),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abbcd", false),
            ("a*b*c", "aXbYbZc", true),
            ("?b", "ab", true),
            ("?b", "b", false),
            ("[0-3]x", "2x", true),
            ("[0-3]x", "4x", false),
            ("[ab]*", "b12", true),
            ("[ab", "a", false),
            (
                "pci:v00008086d0000100Esv*sd*bc*sc*i*",
                "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00",
                true,
            ),
            ("pci:v*d*sv*sd*bc01sc08i02*", "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02", true),
            ("pci:v*d*sv*sd*bc01sc08i02*", "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc06i01", false),
        ] {
            assert_eq!(
                matches(normal(pattern).as_bytes(), normal(text).as_bytes()),
                fits,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn a_device_gets_its_modules_in_the_order_of_loading() {
        let tables = Aliases::parse(
            "alias pci:v00001AF4d* virtio_pci\nalias virtio:d00000001v* virtio_net\n\
             alias acpi*:IPI0001:* ipmi_si\nalias platform:dmi-ipmi-si ipmi_si\nalias pci:v2* gone\nodd line\n",
            "virtio_pci /a/virtio.ko /a/virtio_pci.ko\nvirtio_net /a/virtio_net.ko\n\
             ipmi_si /a/ipmi_si.ko /a/ipmi_devintf.ko\nefivarfs! /a/efivarfs.ko\n\n",
        );
        let wanted = |modalias: &str| -> Vec<String> {
            tables.wanted_by(modalias).iter().flatten().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(wanted("pci:v00001AF4d00001000sv"), ["/a/virtio.ko", "/a/virtio_pci.ko"]);
        assert_eq!(wanted("virtio:d00000001v00001AF4"), ["/a/virtio_net.ko"]);
        assert_eq!(wanted("acpi:IPI0001:"), ["/a/ipmi_si.ko", "/a/ipmi_devintf.ko"]);
        assert_eq!(wanted("platform:dmi-ipmi-si"), wanted("platform:dmi_ipmi_si"));
        assert!(wanted("usb:v1").is_empty() && wanted("").is_empty() && wanted("pci:v2").is_empty());
        assert_eq!(tables.always(), [Path::new("/a/efivarfs.ko")]);
        assert_eq!(Aliases::read(Path::new("/none"), Path::new("/none")), None);
    }

    #[test]
    fn a_pattern_of_stars_ends_soon() {
        let pattern = "*a".repeat(60);
        assert!(!matches(pattern.as_bytes(), "a".repeat(59).as_bytes()));
        assert!(!matches(format!("{pattern}b").as_bytes(), "a".repeat(2000).as_bytes()));
    }
}
