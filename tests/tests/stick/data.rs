//! The data partition: it becomes as large as the stick, and outlives what is flashed.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use bootlace_image::stick::SECTOR;
use bootlace_image::stick::disk::Disk;
use bootlace_image::stick::gpt::Partition;
use bootlace_image::stick::image::DATA_NAME;
use testbed::{Bed, Firmware, LIMIT, MachineSpec};

use crate::{box_of, built, program, serves, stick, wait};

fn data(stick: &Path) -> Result<(Partition, u64)> {
    let mut disk = Disk::open(stick, false)?;
    let table = disk.table()?;
    Ok((table.find(DATA_NAME)?.clone(), disk.sectors()))
}

/// How many bytes the file system has, and that it has no faults.
fn file_system(bed: &Bed, stick: &Path) -> Result<u64> {
    let (partition, _) = data(stick)?;
    let copy = bed.dir().join("data");
    let mut file = fs::File::open(stick)?;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(partition.offset()))?;
    std::io::copy(&mut file.take(partition.length()), &mut fs::File::create(&copy)?)?;
    // The plug was pulled: what is in the journal is done first.
    let checked = Command::new("/usr/sbin/e2fsck").arg("-fp").arg(&copy).output()?;
    ensure!(checked.status.code() < Some(2), "{}", String::from_utf8_lossy(&checked.stdout));
    let output = Command::new("/usr/sbin/dumpe2fs").arg("-h").arg(&copy).output()?;
    let text = String::from_utf8(output.stdout)?;
    let number = |name: &str| -> Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.context("dumpe2fs says nothing")?.trim().parse()?)
    };
    Ok(number("Block count:")? * number("Block size:")?)
}

#[test]
fn data_takes_the_whole_stick_and_outlives_a_flash() -> Result<()> {
    let bed = Bed::start()?;
    let stick = stick(&bed, "bootlace.img", "stick.img")?;
    let before = data(&built("bootlace.img")?)?.0;
    let edge = box_of(&bed, "box", Firmware::Bios, &stick)?;
    serves(&edge)?;
    let machine = bed.machine(MachineSpec::new("served", Firmware::Bios).memory_mib(512))?;
    machine.power_on()?;
    machine.console().wait(LIMIT, "tunnel: open")?;
    wait(&edge, "Machines: 1: 1 pending")?;
    machine.power_off()?;
    edge.power_off()?;

    let (after, sectors) = data(&stick)?;
    println!("data: {} MiB, then {} MiB", before.length() >> 20, after.length() >> 20);
    ensure!(after.start == before.start && after.length() > before.length(), "it grew where it was");
    ensure!(sectors - after.end() < 2 * (1 << 20) / SECTOR, "it ends where the stick does");
    ensure!(file_system(&bed, &stick)? == after.length(), "its file system fills it");

    let image = built("bootlace.img")?;
    let flashed = Command::new(program("bootlace-image")?)
        .arg("flash")
        .arg(&image)
        .arg(&stick)
        .arg("--yes")
        .output()?;
    ensure!(flashed.status.success(), "{}", String::from_utf8_lossy(&flashed.stderr));
    print!("{}", String::from_utf8_lossy(&flashed.stdout));
    edge.power_on()?;
    wait(&edge, "slot b is good")?;
    wait(&edge, "Machines: 1: 1 pending")?;
    ensure!(data(&stick)?.0 == after, "and is as large as it was");
    Ok(())
}
