//! Which disks a wipe means.

use std::fmt;

use crate::disks::{Disk, Kind};
use agent_wire::keep::{Keep, Rule};

/// What becomes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It becomes blank.
    Wipe,
    /// It stays as it is.
    Leave,
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing speaks against it.
    Asked,
    /// It has no disk's name.
    NotADisk,
    /// CD or DVD.
    Optical,
    /// RAID, device mapper.
    Stacked,
    /// Multipath of NVMe.
    Path,
    /// An empty card reader.
    NoMedium,
    /// The kernel refuses writes.
    ReadOnly,
    /// This machine booted from it.
    BootMedium,
    /// Something is mounted from it.
    Mounted,
    /// The operator's word.
    Kept(Rule),
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => out.write_str("asked for"),
            Self::NotADisk => out.write_str("not a disk"),
            Self::Optical => out.write_str("optical drive"),
            Self::Stacked => out.write_str("made of other disks, which are wiped themselves"),
            Self::Path => out.write_str("one path of several to the same disk"),
            Self::NoMedium => out.write_str("no medium"),
            Self::ReadOnly => out.write_str("read-only"),
            Self::BootMedium => out.write_str("the machine booted from it"),
            Self::Mounted => out.write_str("mounted"),
            Self::Kept(rule) => write!(out, "on the keep list: {rule}"),
        }
    }
}

/// Decides for each disk. Every disk is in the answer, in the order given.
pub fn plan(disks: Vec<Disk>, keep: &Keep) -> Vec<(Disk, Action, Reason)> {
    disks
        .into_iter()
        .map(|disk| match objection(&disk, keep) {
            Some(reason) => (disk, Action::Leave, reason),
            None => (disk, Action::Wipe, Reason::Asked),
        })
        .collect()
}

fn objection(disk: &Disk, keep: &Keep) -> Option<Reason> {
    let by_kind = match disk.kind {
        Kind::Disk => None,
        Kind::NoDisk => Some(Reason::NotADisk),
        Kind::Optical => Some(Reason::Optical),
        Kind::Stacked => Some(Reason::Stacked),
        Kind::Path => Some(Reason::Path),
    };
    by_kind
        .or_else(|| (disk.size == 0).then_some(Reason::NoMedium))
        .or_else(|| disk.read_only.then_some(Reason::ReadOnly))
        .or_else(|| disk.boot_medium.then_some(Reason::BootMedium))
        .or_else(|| disk.mounted.then_some(Reason::Mounted))
        .or_else(|| keep.matching(disk.names()).cloned().map(Reason::Kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        Disk { name: "sda".into(), size: 4 << 40, serial: "S1".into(), ..Disk::default() }
    }

    #[test]
    fn every_disk_that_must_stay_stays_and_says_why() {
        let kept = |text: &str| Keep::parse(text).unwrap();
        let none = || kept("");
        for (change, keep, want) in [
            (Disk { ..disk() }, none(), None),
            (Disk { kind: Kind::NoDisk, ..disk() }, none(), Some("not a disk")),
            (Disk { kind: Kind::Optical, ..disk() }, none(), Some("optical drive")),
            (Disk { kind: Kind::Stacked, ..disk() }, none(), Some("made of other")),
            (Disk { kind: Kind::Path, ..disk() }, none(), Some("one path")),
            (Disk { size: 0, ..disk() }, none(), Some("no medium")),
            (Disk { read_only: true, ..disk() }, none(), Some("read-only")),
            (Disk { boot_medium: true, ..disk() }, none(), Some("booted from it")),
            (Disk { mounted: true, ..disk() }, none(), Some("mounted")),
            (disk(), kept("serial:s1"), Some("keep list: serial:s1")),
            (disk(), kept("size:>=2T"), Some("keep list: size:>=2000000000000")),
            (disk(), kept("serial:S2,wwn:1,size:<2T"), None),
        ] {
            let (left, action, reason) = plan(vec![change.clone()], &keep).remove(0);
            assert_eq!(left, change);
            match want {
                None => assert_eq!((action, reason), (Action::Wipe, Reason::Asked)),
                Some(want) => {
                    assert_eq!(action, Action::Leave);
                    assert!(reason.to_string().contains(want), "{reason} is not {want}");
                }
            }
        }
    }

    #[test]
    fn the_plan_names_all_disks_in_their_order() {
        let disks: Vec<Disk> =
            ["a", "b", "c"].into_iter().map(|name| Disk { name: name.into(), ..disk() }).collect();
        let names: Vec<_> = plan(disks, &Keep::default()).into_iter().map(|(disk, ..)| disk.name).collect();
        assert_eq!(names, ["a", "b", "c"]);
    }
}
