//! `bed`: brings up a virtual network by hand and keeps it until Ctrl-C, to look around in.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use serde_json::json;
use testbed::{Bed, DiskSpec, Firmware, MachineSpec, Role};

/// Brings up a bare virtual PXE network (no appliance) and keeps it until it is stopped.
#[derive(Debug, Parser)]
struct Args {
    /// A machine to build and power on; may be given several times.
    #[arg(long = "machine", value_name = "FIRMWARE")]
    machines: Vec<Kind>,
    /// Takes everything down after that many seconds.
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Bios,
    UefiPxe,
    UefiHttp,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let bed = Bed::start()?;
    for (number, kind) in args.machines.iter().enumerate() {
        let firmware = match kind {
            Kind::Bios => Firmware::Bios,
            Kind::UefiPxe => Firmware::UefiPxe,
            Kind::UefiHttp => Firmware::UefiHttp,
        };
        let spec = MachineSpec::new(&format!("m{}", number + 1), firmware).disk(DiskSpec::blank(64));
        bed.machine(spec)?.power_on()?;
    }
    let machines: Vec<_> =
        bed.machines().iter().map(|machine| (machine.name().to_owned(), machine.mac().to_owned())).collect();
    let namespaces = [Role::Switch, Role::Router, Role::Appliance].map(|role| bed.net().namespace(role));
    let about = json!({
        "id": bed.id(),
        "dir": bed.dir(),
        "namespaces": namespaces,
        "machines": machines,
    });
    println!("{about}");
    std::io::stdout().flush()?;
    // Signals end the program from their own thread, after taking the bed down.
    match args.seconds {
        Some(seconds) => std::thread::sleep(Duration::from_secs(seconds)),
        None => loop {
            std::thread::park();
        },
    }
    Ok(())
}
