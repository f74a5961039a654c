//! A stick in a machine: it boots under both firmwares, serves, updates, and falls back.
//!
//! They need root and what `make image` builds: build/bootlace.img and build/bootlace.slot, build/secure.img.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bootlace_image::stick::disk::Disk;
use bootlace_image::stick::env::{Choice, Slot};
use bootlace_image::stick::fat::{self, Window};
use bootlace_image::stick::image::{CONFIG_FILE, CONFIG_NAME};
use bootlace_image::stick::slot::{Reader, UKI};
use bootlace_image::stick::update::{ENV, SLOT_B, install};
use bootlace_image::uki;
use testbed::{Bed, Firmware, LIMIT, Line, Machine, MachineSpec, ROUTER_ADDRESS, Role};

/// The box's: kernel, initramfs and what it serves are in memory.
const MEMORY_MIB: u32 = 768;
/// From power-on to serving without KVM, on a machine with nothing else to do.
const QUICK: Duration = Duration::from_secs(20);
/// The box, when its appliance answers.
const SERVING: &str = "bootlace-box: serving";
/// Debian's keys for tests, which its OVMF trusts in this store of variables.
const SECURE_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd";

fn built(name: &str) -> Result<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build").join(name);
    path.canonicalize().with_context(|| format!("no build/{name}; run `make image`"))
}

/// A copy of a built stick, larger than its image, as real ones are.
fn stick(bed: &Bed, image: &str, name: &str) -> Result<PathBuf> {
    let path = bed.dir().join(name);
    fs::copy(built(image)?, &path)?;
    fs::OpenOptions::new().write(true).open(&path)?.set_len(256 << 20)?;
    Ok(path)
}

fn box_of(bed: &Bed, name: &str, firmware: Firmware, stick: &Path) -> Result<Machine> {
    bed.machine(MachineSpec::new(name, firmware).memory_mib(MEMORY_MIB).stick(stick))
}

/// Waits for a line of the power-on that is now.
fn wait(machine: &Machine, text: &str) -> Result<Line> {
    let cycle = machine.power_cycles();
    Ok(machine.console().wait_for(LIMIT, text, |line| line.cycle == cycle && line.text.contains(text))?)
}

fn serves(machine: &Machine) -> Result<()> {
    machine.power_on()?;
    let line = wait(machine, SERVING)?;
    let note = if line.at > QUICK { " (slow: is this machine busy?)" } else { "" };
    println!("{:<10} power-on to serving: {:.1} s{note}", machine.name(), line.at.as_secs_f32());
    Ok(())
}

fn choice(stick: &Path) -> Result<Choice> {
    let mut disk = Disk::open(stick, false)?;
    let env = disk.table()?.find(ENV)?.offset();
    Choice::read(disk.file(), env)
}

#[test]
fn a_machine_boots_through_a_stick_that_booted_by_bios() -> Result<()> {
    let bed = Bed::start()?;
    let stick = stick(&bed, "bootlace.img", "stick.img")?;
    let edge = box_of(&bed, "box", Firmware::Bios, &stick)?;
    serves(&edge)?;
    let machine = bed.machine(MachineSpec::new("served", Firmware::Bios).memory_mib(512))?;
    machine.power_on()?;
    let line = machine.console().wait(LIMIT, "tunnel: open")?;
    println!("{:<10} power-on to discovered: {:.1} s", machine.name(), line.at.as_secs_f32());
    // It wrote nothing that keeps it from booting again: the plug is pulled, and what it kept is there.
    edge.power_off()?;
    serves(&edge)
}

#[test]
fn a_stick_boots_by_uefi() -> Result<()> {
    let bed = Bed::start()?;
    let stick = stick(&bed, "bootlace.img", "stick.img")?;
    serves(&box_of(&bed, "box", Firmware::UefiPxe, &stick)?)
}

#[test]
fn firmware_that_checks_signatures_boots_the_signed_stick_and_refuses_the_other() -> Result<()> {
    let bed = Bed::start()?;
    let boot = |name: &str, image: &str| -> Result<Machine> {
        let stick = stick(&bed, image, &format!("{name}.img"))?;
        let spec = MachineSpec::new(name, Firmware::UefiPxe).memory_mib(MEMORY_MIB).stick(&stick);
        bed.machine(spec.secure_boot(Path::new(SECURE_VARIABLES)))
    };
    let signed = boot("signed", "secure.img")?;
    serves(&signed)?;
    signed.power_off()?;
    let unsigned = boot("unsigned", "bootlace.img")?;
    unsigned.power_on()?;
    unsigned.console().wait_for(LIMIT, "a refusal", |line| {
        line.text.contains("Access Denied") || line.text.contains("Security Violation")
    })?;
    Ok(())
}

#[test]
fn a_new_version_that_does_not_come_up_is_left_by_itself() -> Result<()> {
    let bed = Bed::start()?;
    let stick = stick(&bed, "bootlace.img", "stick.img")?;
    let slot = fs::read(built("bootlace.slot")?)?;
    let mut disk = Disk::open(&stick, true)?;
    install(&mut disk, &slot, |_| ())?;
    let table = disk.table()?;
    // The first new version: its kernel ends in a panic, and this is its last try.
    let b = table.find(SLOT_B)?.offset();
    let (image, start) = {
        let mut cursor = std::io::Cursor::new(&slot);
        let mut reader = Reader::open(&mut cursor, 0, slot.len() as u64)?;
        (reader.read(UKI, 0, None)?, reader.place(UKI)?)
    };
    let sections = uki::sections(&image)?;
    let initramfs = sections.iter().find(|section| section.name == ".initrd").context("an initramfs")?;
    disk.write_at(b + start + initramfs.offset as u64, &vec![0; 1 << 20])?;
    let last = Choice { good: Slot::A, next: Some((Slot::B, 1)) };
    last.write(disk.file(), table.find(ENV)?.offset(), |file| file.sync_data())?;
    drop(disk);

    let edge = box_of(&bed, "box", Firmware::UefiPxe, &stick)?;
    edge.power_on()?;
    wait(&edge, "Kernel panic")?;
    wait(&edge, "slot b did not come up; slot a goes on")?;
    wait(&edge, SERVING)?;
    ensure!(choice(&stick)? == Choice::NEW, "the failed version is forgotten");
    edge.power_off()?;

    // The second one is whole: it comes up, and is good.
    install(&mut Disk::open(&stick, true)?, &slot, |_| ())?;
    edge.power_on()?;
    wait(&edge, "slot b is good")?;
    ensure!(choice(&stick)? == Choice { good: Slot::B, next: None }, "it boots from now on");
    Ok(())
}

/// Serves a file over HTTP from the router, for as long as the test runs.
fn serve_file(bed: &Bed, bytes: Vec<u8>) -> Result<u16> {
    let listener = bed.net().inside(Role::Router, || Ok(TcpListener::bind((ROUTER_ADDRESS, 0))?))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let head =
                BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            if head.count() > 0 {
                let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n").and_then(|()| stream.write_all(&bytes));
            }
        }
    });
    Ok(port)
}

#[test]
fn pulling_the_plug_while_the_box_updates_itself_leaves_a_stick_that_boots() -> Result<()> {
    let bed = Bed::start()?;
    let stick = stick(&bed, "bootlace.img", "stick.img")?;
    // Another version by its bytes: what is behind the archive's end is not looked at.
    let mut slot = fs::read(built("bootlace.slot")?)?;
    let version = slot.windows(9).position(|window| window == b"bootlace ").context("a version")?;
    slot[version] = b'B';
    let hash = sha256(&bed, &slot)?;
    let port = serve_file(&bed, slot)?;
    let config = format!(
        "[box]\nupdate_url = \"http://{ROUTER_ADDRESS}:{port}/bootlace.slot\"\nupdate_sha256 = \"{hash}\"\n"
    );
    let mut disk = Disk::open(&stick, true)?;
    let partition = disk.table()?.find(CONFIG_NAME)?.clone();
    fat::write(
        Window::new(disk.file(), partition.offset(), partition.length()),
        CONFIG_FILE,
        config.as_bytes(),
    )?;
    drop(disk);

    let edge = box_of(&bed, "box", Firmware::UefiPxe, &stick)?;
    for point in ["update: fetching", "update: writing"] {
        edge.power_on()?;
        wait(&edge, point)?;
        edge.power_off()?;
        ensure!(choice(&stick)? == Choice::NEW, "{point}: what is half there is not tried");
        println!("{:<10} killed at {point:?}", edge.name());
    }
    edge.power_on()?;
    // The box writes the slot, starts over by itself, and ends the trial of the new version.
    wait(&edge, "is in slot b; starting it")?;
    wait(&edge, "slot b is new, and on trial")?;
    wait(&edge, "slot b is good")?;
    ensure!(choice(&stick)? == Choice { good: Slot::B, next: None }, "the new version boots from now on");
    Ok(())
}

fn sha256(bed: &Bed, bytes: &[u8]) -> Result<String> {
    let file = bed.dir().join("slot");
    fs::write(&file, bytes)?;
    let output = std::process::Command::new("sha256sum").arg(&file).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().context("a hash")?.to_owned())
}
