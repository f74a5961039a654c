//! What hangs is started again: the appliance by the box, the box by a watchdog.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use testbed::{Bed, Firmware, Kernel, LIMIT, Machine, MachineSpec};

use crate::monitor::{self, Monitor};
use crate::{MEMORY_MIB, SERVING, box_of, built, configure, program, serves, wait};

/// A stick with a program in the appliance's place that hangs.
fn stuck(bed: &Bed) -> Result<PathBuf> {
    let path = bed.dir().join("stuck.img");
    let kernel = Kernel::newest_metal()?;
    let mut command = Command::new(program("bootlace-image")?);
    command.arg("usb").arg("--kernel").arg(kernel.image).arg("--modules").arg(kernel.modules);
    command.arg("--box").arg(program("bootlace-box")?).args(["--bootlace", env!("CARGO_BIN_EXE_stuck")]);
    command.arg("--assets").arg(built("metal")?).arg("-o").arg(&path);
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::OpenOptions::new().write(true).open(&path)?.set_len(256 << 20)?;
    Ok(path)
}

fn again(machine: &Machine, text: &str, times: usize) -> Result<()> {
    testbed::wait_until(LIMIT, text, || {
        let lines = machine.console().lines();
        (lines.iter().filter(|line| line.text.contains(text)).count() >= times).then_some(())
    })?;
    Ok(())
}

#[test]
fn an_appliance_that_hangs_is_started_again() -> Result<()> {
    let bed = Bed::start()?;
    let stick = stuck(&bed)?;
    let edge = box_of(&bed, "box", Firmware::Bios, &stick)?;
    serves(&edge)?;
    wait(&edge, "appliance: no answer for 60 s")?;
    wait(&edge, "appliance: ended with signal: 9")?;
    wait(&edge, "stuck: this time it goes on answering")?;
    again(&edge, SERVING, 2)
}

#[test]
fn a_box_that_hangs_is_reset_by_the_watchdog() -> Result<()> {
    let bed = Bed::start()?;
    let stick = stuck(&bed)?;
    configure(&stick, "id = \"box\"\n")?;
    let spec = MachineSpec::new("watched", Firmware::Bios).memory_mib(MEMORY_MIB).stick(&stick);
    let edge =
        bed.machine(spec.qemu("-device i6300esb -action watchdog=reset").qemu(&monitor::words(&bed)))?;
    edge.power_on()?;
    let mut monitor = Monitor::connect(&bed)?;
    wait(&edge, "watchdog: i6300ESB")?;
    let line = wait(&edge, "stuck: stopping the box")?;
    let event = monitor.wait("WATCHDOG")?;
    let begun = edge.powered_on_at().expect("it is on");
    println!(
        "the box stood still at {:.1} s, reset at {:.1} s",
        line.at.as_secs_f32(),
        begun.elapsed().as_secs_f32()
    );
    ensure!(event["data"]["action"] == "reset", "{event}");
    again(&edge, "bootlace-box: version", 2)
}
