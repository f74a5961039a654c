//! GRUB, which finds the slot to boot: made by Debian's `grub-mkimage` with its configuration inside, so that
//! nothing on the stick can change it, and so that one signature is enough.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::SECTOR;
use super::env::FILES;
use super::slot::SLOT_WORD;
use crate::rootfs::Rootfs;

/// The numbers of the partitions as [`super::image`] makes them.
const ENV: u32 = 4;
const SLOT_A: u32 = 5;
const SLOT_B: u32 = 6;

/// Modules for BIOS and UEFI; `grub-mkimage` adds what they need.
const BOTH: &[&str] = &[
    "configfile",
    "part_gpt",
    "newc",
    "loadenv",
    "regexp",
    "memdisk",
    "tar",
    "normal",
    "test",
    "echo",
    "sleep",
    "reboot",
];
const BIOS: &[&str] = &["biosdisk", "linux", "serial", "terminal"];
const EFI: &[&str] = &["chain"];
/// What checks the kernel image's signature, see [`super::signature`].
const CHECK: &[&str] = &["pgp", "gcry_rsa", "gcry_sha1", "gcry_sha256"];

/// Runs before GRUB can do more than set variables: where it was started from, and where its configuration is.
/// With a key inside it would want a signature for every file, its own configuration too.
const EARLY: &str = "set from=$root\nset prefix=(memdisk)/boot/grub\nset check_signatures=no\n";

/// Where Debian's packages put GRUB's parts.
pub const DIRECTORY: &str = "/usr/lib/grub";

/// Bytes of code in sector 0.
pub const BOOT_CODE: usize = 440;
/// Places in boot.img: the sector that it loads, and a jump for BIOSes that do not tell the drive, which
/// grub-bios-setup removes on disks.
const KERNEL_SECTOR: usize = 0x5c;
const DRIVE_CHECK: usize = 0x66;
/// The place in core.img's first sector where it says what follows: sector, count, segment in memory.
const BLOCK_LIST: usize = 0x1f4;
/// Where the rest of it is loaded to, as a real mode segment.
const SEGMENT: u16 = 0x820;

/// The configuration, see [`super::env`] for what it does.
fn config(signed: bool) -> String {
    let [first, second] = FILES;
    // Locked down, GRUB hands over only what it has checked itself; then the firmware checks it, too.
    let check = if signed { "enforce" } else { "no" };
    format!(
        r#"set timeout=0
if [ "$grub_platform" = pc ]; then
  serial --unit=0 --speed=115200
  terminal_output console serial
fi
regexp --set=1:disk '^([^,]+)' "$from"
set good=
set next=
set left=
set env="($disk,gpt{ENV})/{first}"
load_env --file "$env" good next left
if [ -z "$good" ]; then
  # A damaged first copy cannot count, so nothing is tried.
  load_env --file "($disk,gpt{ENV})/{second}" good
  set next=
fi
if [ -z "$good" ]; then set good=a; fi
set slot=$good
if [ -n "$next" ]; then
  set now=
  if [ "$left" = 3 ]; then set now=2; fi
  if [ "$left" = 2 ]; then set now=1; fi
  if [ "$left" = 1 ]; then set now=0; fi
  if [ -n "$now" ]; then
    set left=$now
    # Without the count a broken slot would be tried for ever.
    if save_env --file "$env" left; then set slot=$next; fi
  fi
fi
function start {{
  set part={SLOT_A}
  if [ "$1" = b ]; then set part={SLOT_B}; fi
  echo "bootlace: slot $1"
  if source "($disk,gpt$part)/slot.cfg"; then
    # The kernel's command line is given anew, with the slot in it.
    if [ "$grub_platform" = efi ]; then
      # What it starts is told that it comes from there.
      set root="$disk,gpt$part"
      set check_signatures={check}
      if chainloader "($disk,gpt$part)/uki.efi" $cmdline {SLOT_WORD}=$1; then boot; fi
      set check_signatures=no
    else
      if linux "($disk,gpt$part)$linux" $cmdline {SLOT_WORD}=$1; then
        if initrd "($disk,gpt$part)$initrd"; then boot; fi
      fi
    fi
  fi
  echo "bootlace: slot $1 does not start"
}}
start $slot
if [ "$slot" != "$good" ]; then start $good; fi
if [ "$good" = a ]; then start b; else start a; fi
echo "bootlace: nothing on this stick starts; trying again"
sleep 10
reboot
"#
    )
}

/// GRUB for both firmwares.
#[derive(Debug)]
pub struct Grub {
    /// The code of sector 0.
    pub boot_code: [u8; BOOT_CODE],
    /// What the BIOS boot partition holds.
    pub core: Vec<u8>,
    /// The EFI program.
    pub efi: Vec<u8>,
}

/// Makes GRUB for a stick whose BIOS boot partition begins at a sector. With a key, the EFI program starts only what
/// has that key's signature.
pub fn build(directory: &Path, bios_start: u64, key: Option<&[u8]>) -> Result<Grub> {
    let boot = directory.join("i386-pc/boot.img");
    let boot = std::fs::read(&boot)
        .with_context(|| format!("cannot read {}: apt-get install grub-pc-bin", boot.display()))?;
    let core = mkimage(directory, "i386-pc", BIOS, None)?;
    let efi = mkimage(directory, "x86_64-efi", EFI, key)?;
    let (boot_code, core) = embed(&boot, core, bios_start)?;
    Ok(Grub { boot_code, core, efi })
}

/// Connects sector 0 and core.img, as grub-bios-setup does on a device.
fn embed(boot: &[u8], mut core: Vec<u8>, start: u64) -> Result<([u8; BOOT_CODE], Vec<u8>)> {
    let mut code: [u8; BOOT_CODE] =
        boot.get(..BOOT_CODE).and_then(|code| code.try_into().ok()).context("boot.img is cut off")?;
    code[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&start.to_le_bytes());
    code[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    let sector = usize::try_from(SECTOR)?;
    ensure!(core.len() > sector, "core.img is cut off");
    core.resize(core.len().next_multiple_of(sector), 0);
    let rest = u16::try_from(core.len() / sector - 1).context("core.img is too large")?;
    core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&(start + 1).to_le_bytes());
    core[BLOCK_LIST + 8..BLOCK_LIST + 10].copy_from_slice(&rest.to_le_bytes());
    core[BLOCK_LIST + 10..BLOCK_LIST + 12].copy_from_slice(&SEGMENT.to_le_bytes());
    Ok((code, core))
}

fn mkimage(directory: &Path, format: &str, modules: &[&str], key: Option<&[u8]>) -> Result<Vec<u8>> {
    let work = tempfile::tempdir().context("no temporary directory")?;
    let path = |name: &str| work.path().join(name);
    let mut memdisk = Rootfs::new();
    memdisk.file("boot/grub/grub.cfg", 0o644, config(key.is_some()))?;
    std::fs::write(path("memdisk.tar"), memdisk.to_tar()?)?;
    std::fs::write(path("early.cfg"), EARLY)?;
    let mut command = Command::new("grub-mkimage");
    command.arg("--directory").arg(directory.join(format)).args(["--format", format]);
    command.arg("--config").arg(path("early.cfg")).arg("--memdisk").arg(path("memdisk.tar"));
    // Behind the memdisk, which otherwise becomes the place that GRUB was started from.
    command.args(["--prefix", "/boot/grub"]);
    if format == "x86_64-efi" {
        // There is no shim: the firmware itself checks GRUB's signature, and what GRUB hands to it.
        command.arg("--disable-shim-lock");
    }
    if let Some(key) = key {
        std::fs::write(path("key"), key)?;
        command.arg("--pubkey").arg(path("key"));
    }
    let check = if key.is_some() { CHECK } else { &[] };
    command.arg("--output").arg(path("image")).args(BOTH).args(modules).args(check);
    let output = command.output().context("cannot run grub-mkimage: apt-get install grub-common")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "grub-mkimage makes no {format}: {}; apt-get install grub-pc-bin grub-efi-amd64-bin",
            said.trim()
        );
    }
    std::fs::read(path("image")).context("grub-mkimage wrote nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_images_are_the_same_every_time() {
        if !Path::new(DIRECTORY).join("i386-pc").exists() {
            return eprintln!("skipped: no grub-pc-bin");
        }
        let make = || build(Path::new(DIRECTORY), 2048, None).unwrap();
        let (one, other) = (make(), make());
        assert!(one.core == other.core && one.efi == other.efi && one.boot_code == other.boot_code);
        assert_eq!(one.core[BLOCK_LIST..BLOCK_LIST + 8], 2049_u64.to_le_bytes());
        assert!(one.core.len() < 512 << 10, "{} bytes must fit below 640 KiB", one.core.len());
    }

    #[test]
    fn missing_grub_says_what_to_install() {
        let error = build(Path::new("/nowhere"), 2048, None).unwrap_err();
        assert!(format!("{error:#}").contains("apt-get install grub-pc-bin"), "{error:#}");
        assert!(embed(&[0; 512], vec![0; 100], 1).is_err());
    }

    #[test]
    fn every_shell_word_of_the_configuration_is_a_module_that_is_packed() {
        let text = config(true);
        assert!(text.contains("check_signatures=enforce") && !config(false).contains("enforce"));
        for (word, module) in [("save_env", "loadenv"), ("chainloader", "chain"), ("source", "configfile")] {
            assert!(text.contains(word));
            assert!(BOTH.iter().chain(BIOS).chain(EFI).any(|packed| *packed == module), "{module}");
        }
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
