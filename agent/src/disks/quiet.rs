//! Disks appear when they like: USB sticks a second after their driver, SAS disks as they spin up. A wipe that begins
//! as soon as the drivers are there would miss those, and say that it is done.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::{Duration, Instant};

/// No disk has come or gone for this long: longer than the second that usb-storage waits before it looks.
const QUIET: Duration = Duration::from_secs(3);
/// Whatever still comes and goes after this is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the disks are counted.
const PACE: Duration = Duration::from_millis(100);

/// What was seen, and since when it has been so.
#[derive(Debug)]
struct Quiet {
    seen: BTreeSet<OsString>,
    since: Instant,
}

impl Quiet {
    /// Whether it is quiet.
    fn look(&mut self, now: Instant, disks: BTreeSet<OsString>) -> bool {
        if disks != self.seen {
            (self.seen, self.since) = (disks, now);
        }
        now.saturating_duration_since(self.since) >= QUIET
    }
}

/// Waits until the disks are all there, as far as one can know. `settled` is when the drivers were.
pub(crate) fn wait(settled: Instant) {
    let end = Instant::now() + PATIENCE;
    let mut quiet = Quiet { seen: names(), since: settled };
    while !quiet.look(Instant::now(), names()) && Instant::now() < end {
        std::thread::sleep(PACE);
    }
}

fn names() -> BTreeSet<OsString> {
    let entries = std::fs::read_dir(super::SYS_BLOCK).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks(names: &[&str]) -> BTreeSet<OsString> {
        names.iter().map(OsString::from).collect()
    }

    #[test]
    fn a_late_disk_is_waited_for_and_an_old_machine_is_not() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut quiet = Quiet { seen: disks(&["sda"]), since: start };
        assert!(!quiet.look(at(0), disks(&["sda"])));
        assert!(!quiet.look(at(2_900), disks(&["sda", "sdb"])), "one came");
        assert!(!quiet.look(at(5_800), disks(&["sda", "sdb"])));
        assert!(quiet.look(at(5_900), disks(&["sda", "sdb"])));

        let mut settled_long_ago = Quiet { seen: disks(&["sda"]), since: start };
        assert!(settled_long_ago.look(at(3_000), disks(&["sda"])), "nobody waits");
    }
}
