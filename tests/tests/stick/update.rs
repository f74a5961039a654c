//! Another version of a stick, and what becomes of one that does not come up; with and without Secure Boot.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bootlace_image::rootfs::Rootfs;
use bootlace_image::stick::disk::Disk;
use bootlace_image::stick::env::{Choice, Slot};
use bootlace_image::stick::update::{ENV, install, read_slot};
use bootlace_image::stick::{signature, slot};
use bootlace_image::uki;
use testbed::{Bed, Firmware, Kernel, LIMIT, Machine, MachineSpec, ROUTER_ADDRESS, Role};

use crate::{MEMORY_MIB, SERVING, box_of, built, configure, serves, stick, wait};

/// Debian's keys for tests, which its OVMF trusts in this store of variables.
const SECURE_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd";
/// The certificate of these keys.
const CERTIFICATE: &str = "/usr/share/ovmf/PkKek-1-snakeoil.pem";

fn choice(stick: &Path) -> Result<Choice> {
    let mut disk = Disk::open(stick, false)?;
    let env = disk.table()?.find(ENV)?.offset();
    Choice::read(disk.file(), env)
}

fn secure_box_of(bed: &Bed, name: &str, stick: &Path) -> Result<Machine> {
    let spec = MachineSpec::new(name, Firmware::UefiPxe).memory_mib(MEMORY_MIB).stick(stick);
    bed.machine(spec.secure_boot(Path::new(SECURE_VARIABLES)))
}

#[test]
fn firmware_that_checks_signatures_boots_the_signed_stick_and_refuses_the_other() -> Result<()> {
    let bed = Bed::start()?;
    let boot = |name: &str, image: &str| -> Result<Machine> {
        secure_box_of(&bed, name, &stick(&bed, image, &format!("{name}.img"))?)
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

/// A version whose kernel ends in a panic: it has no PID 1. With a key it is signed as it should be.
fn broken_version(key: Option<&Path>) -> Result<Vec<u8>> {
    let (stub, kernel) = (fs::read(uki::STUB)?, fs::read(Kernel::newest_metal()?.image)?);
    let contents = slot::Contents {
        stub: &stub,
        kernel: &kernel,
        cmdline: slot::CMDLINE,
        served: &Rootfs::new(),
        version: "broken",
    };
    let sign = |image: Vec<u8>| match key {
        None => Ok(image.into()),
        Some(key) => {
            let image = uki::sign(&image, key, Path::new(CERTIFICATE), 0)?;
            Ok(slot::Signed { signature: Some(signature::sign(key, &image)?), image })
        }
    };
    slot::build(&contents, |_| Ok(vec![0; 512]), sign)
}

/// Writes a version that is on its last try.
fn last_try(stick: &Path, version: &[u8]) -> Result<()> {
    let mut disk = Disk::open(stick, true)?;
    install(&mut disk, version, |_| ())?;
    let env = disk.table()?.find(ENV)?.offset();
    let last = Choice { good: Slot::A, next: Some((Slot::B, 1)) };
    last.write(disk.file(), env, |file| file.sync_data())
}

/// A broken version is left for the one that was good, and a whole one stays.
fn falls_back(stick: &Path, edge: &Machine, key: Option<&Path>) -> Result<()> {
    last_try(stick, &broken_version(key)?)?;
    edge.power_on()?;
    wait(edge, "Kernel panic")?;
    wait(edge, "slot b did not come up; slot a goes on")?;
    wait(edge, SERVING)?;
    ensure!(choice(stick)? == Choice::NEW, "the failed version is forgotten");
    edge.power_off()?;

    install(&mut Disk::open(stick, true)?, &read_slot(stick)?, |_| ())?;
    edge.power_on()?;
    wait(edge, "slot b is good")?;
    ensure!(choice(stick)? == Choice { good: Slot::B, next: None }, "it boots from now on");
    edge.power_off()
}

#[test]
fn a_new_version_that_does_not_come_up_is_left_by_itself() -> Result<()> {
    let bed = Bed::start()?;
    let stick = stick(&bed, "bootlace.img", "stick.img")?;
    falls_back(&stick, &box_of(&bed, "box", Firmware::UefiPxe, &stick)?, None)
}

#[test]
fn under_secure_boot_too_and_what_another_key_or_none_has_signed_is_not_started() -> Result<()> {
    let bed = Bed::start()?;
    let stick = stick(&bed, "secure.img", "stick.img")?;
    let edge = secure_box_of(&bed, "box", &stick)?;
    falls_back(&stick, &edge, Some(&built("secure.key")?))?;

    // From here on slot b is good, and a is the one that is tried.
    install(&mut Disk::open(&stick, true)?, &fs::read(built("bootlace.slot")?)?, |_| ())?;
    edge.power_on()?;
    wait(&edge, "slot a does not start")?;
    wait(&edge, "slot a did not come up; slot b goes on")?;
    wait(&edge, SERVING)?;
    ensure!(choice(&stick)? == Choice { good: Slot::B, next: None }, "the unsigned version is forgotten");
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
    configure(&stick, &config)?;

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
