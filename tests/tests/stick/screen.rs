//! What a person sees who stands before the box.

use anyhow::{Result, ensure};
use serde_json::json;
use testbed::{Bed, Firmware, LIMIT, MachineSpec, wait_until};

use crate::monitor::{self, Monitor};
use crate::{MEMORY_MIB, configure, serves, stick, wait};

#[test]
fn the_screen_says_who_where_and_what_and_nothing_else_writes_on_it() -> Result<()> {
    let bed = Bed::start()?;
    let stick = stick(&bed, "bootlace.img", "stick.img")?;
    configure(&stick, "[box]\nname = \"edge-1\"\n")?;
    let spec = MachineSpec::new("box", Firmware::Bios).memory_mib(MEMORY_MIB).stick(&stick);
    let edge = bed.machine(spec.qemu("-device VGA").qemu(&monitor::words(&bed)))?;
    serves(&edge)?;
    // The serial line has the same in lines.
    for line in ["Addresses: eth0 10.88.0.", "Omni: embedded hub, in sync", "Machines: 0: 0 pending"] {
        wait(&edge, line)?;
    }
    let mut monitor = Monitor::connect(&bed)?;
    let shows = |monitor: &mut Monitor, text: &str| {
        wait_until(LIMIT, text, || match monitor.screen("bootlace ") {
            Ok(rows) => rows.filter(|rows| rows.iter().any(|row| row.contains(text))).map(Ok),
            Err(error) => Some(Err(error)),
        })?
    };
    let rows = shows(&mut monitor, "embedded hub, in sync")?;
    println!("{}", rows.join("\n"));
    let version = env!("CARGO_PKG_VERSION");
    ensure!(rows[0] == format!("bootlace {version} - edge-1 - bare-metal"), "{rows:?}");
    for (row, begin) in rows[2..].iter().zip([
        "  Addresses   eth0 10.88.0.",
        "  Serves on   http://10.88.0.",
        "  Omni        embedded hub, in sync",
        "  Machines    0: 0 pending, 0 accepted",
        "  Images      0 in the cache, 0 MB",
        "  Running     since 20",
        "  Next        bootlace machines list",
    ]) {
        ensure!(row.starts_with(begin), "{row:?} instead of {begin:?}");
    }

    // The kernel says something urgent, which is on the serial line and not on the screen.
    monitor.execute("inject-nmi", &json!({}))?;
    wait(&edge, "NMI")?;
    // A machine is seen; whatever was written before that is there by then.
    let machine = bed.machine(MachineSpec::new("seen", Firmware::Bios))?;
    machine.power_on()?;
    let rows = shows(&mut monitor, machine.mac())?;
    println!("{}", rows.join("\n"));
    let strange = rows.iter().find(|row| {
        // A line of the journal begins with the time of day.
        let journal = row.get(2..3) == Some(":") && row.get(5..6) == Some(":");
        !(journal || row.is_empty() || row.starts_with("bootlace ") || row.starts_with("  "))
    });
    ensure!(strange.is_none(), "{strange:?} on the screen:\n{}", rows.join("\n"));
    // The serial line tells of each step once: in the log.
    let lines = edge.console().lines();
    let twice =
        lines.iter().find(|line| line.text.contains(machine.mac()) && !line.text.contains("bootlace-box: "));
    ensure!(twice.is_none(), "{twice:?} beside the log");
    Ok(())
}
