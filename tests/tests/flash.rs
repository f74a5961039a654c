//! A person with a laptop flashes a stick, and the power may go at any time.
//!
//! They need root and what `make image` builds: build/bootlace.img, and the release build of bootlace-image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bootlace_image::cpio::Archive;
use bootlace_image::modules::Tree;
use bootlace_image::stick::disk::Disk;
use bootlace_image::stick::env::Choice;
use bootlace_image::stick::fat;
use bootlace_image::stick::grub::BOOT_CODE;
use bootlace_image::stick::image::DATA_NAME;
use bootlace_image::stick::update::ENV;
use testbed::{Bed, Firmware, Kernel, LIMIT, Laptop, Line, Machine, MachineSpec, built};

/// What a laptop needs for a disk, a stick, and what is on them.
const DRIVERS: [&str; 9] = [
    "virtio_pci",
    "virtio_blk",
    "xhci_pci",
    "usb_storage",
    "sd_mod",
    "ext4",
    "vfat",
    "nls_cp437",
    "nls_ascii",
];
/// Static, of package busybox-static.
const BUSYBOX: &str = "/bin/busybox";
/// Its first program: devices, drivers, and a shell that repeats nothing.
const RC: &str = "\
b=/bin/busybox
$b mount -t devtmpfs none /dev; $b mount -t proc none /proc; $b mount -t sysfs none /sys
$b mkdir -p /usr/bin /usr/sbin /sbin /boot /mnt; $b --install -s
while read module; do insmod $module; done < /etc/modules
while ! [ -b /dev/sda ]; do sleep 0.1; done
stty -echo < /dev/ttyS0
echo 'laptop: ready'
PS1= exec setsid cttyhack sh
";
/// A flash writes 120 MiB to USB without KVM.
const FLASH_LIMIT: Duration = Duration::from_secs(300);
const STICK_BYTES: u64 = 256 << 20;
/// The box's: kernel, initramfs and what it serves are in memory.
const BOX_MEMORY_MIB: u32 = 768;
const SERVING: &str = "bootlace-box: serving";
/// What is before the first partition.
const HEAD: usize = 1 << 20;

fn image() -> Result<PathBuf> {
    built("BOOTLACE_STICK", "build/bootlace.img")
}

/// What a laptop starts: busybox, its drivers, and the program that flashes.
fn initramfs(bed: &Bed, kernel: &Kernel) -> Result<PathBuf> {
    let program = built("BOOTLACE_IMAGE", &format!("target/{}/release/bootlace-image", env!("TARGET")))?;
    let busybox = fs::read(BUSYBOX).context("no busybox: apt-get install busybox-static")?;
    let mut archive = Archive::new();
    archive.character_device("/dev/console", 0o600, 5, 1)?;
    for directory in ["/proc", "/sys", "/tmp"] {
        archive.directory(directory)?;
    }
    let tree = Tree::open(&kernel.modules)?;
    let mut order = String::new();
    for path in tree.plan(&DRIVERS.map(str::to_owned))?.order {
        archive.file(&format!("/lib/{path}"), 0o644, tree.read(&path)?)?;
        order.push_str(&format!("/lib/{path}\n"));
    }
    archive.file("/etc/modules", 0o644, order.into_bytes())?;
    archive.file("/etc/rc", 0o644, RC.into())?;
    archive.file(BUSYBOX, 0o755, busybox)?;
    archive.file("/bin/bootlace-image", 0o755, fs::read(program)?)?;
    let path = bed.dir().join("laptop.cpio");
    fs::write(&path, archive.emit())?;
    Ok(path)
}

/// A stick as it comes from a shop: a FAT volume with something on it.
fn new_stick(bed: &Bed) -> Result<PathBuf> {
    let path = bed.dir().join("stick.img");
    fs::write(&path, fat::build(64 << 20, "PHOTOS", 1, &[("PHOTO.JPG", b"a photo")])?)?;
    fs::OpenOptions::new().write(true).open(&path)?.set_len(STICK_BYTES)?;
    Ok(path)
}

/// The disk that a laptop runs from.
fn system_disk(bed: &Bed) -> Result<PathBuf> {
    let path = bed.dir().join("system.img");
    fs::File::create(&path)?.set_len(16 << 20)?;
    let made = Command::new("/usr/sbin/mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&path).status()?;
    ensure!(made.success(), "mke2fs failed");
    Ok(path)
}

struct Desk {
    kernel: Kernel,
    initramfs: PathBuf,
    disks: [PathBuf; 2],
    stick: PathBuf,
}

impl Desk {
    fn new(bed: &Bed) -> Result<Self> {
        let kernel = Kernel::newest_metal()?;
        let initramfs = initramfs(bed, &kernel)?;
        Ok(Self { kernel, initramfs, disks: [image()?, system_disk(bed)?], stick: new_stick(bed)? })
    }

    /// The image is `/dev/vda`, the laptop's own disk `/dev/vdb`, the stick `/dev/sda`.
    fn laptop(&self, bed: &Bed) -> Result<Laptop> {
        let disks = [self.disks[0].as_path(), &self.disks[1]];
        Laptop::start(bed, &self.kernel, &self.initramfs, &disks, &self.stick, LIMIT)
    }
}

fn box_of(bed: &Bed, name: &str, firmware: Firmware, stick: &Path) -> Result<Machine> {
    bed.machine(MachineSpec::new(name, firmware).memory_mib(BOX_MEMORY_MIB).stick(stick))
}

/// Waits for a line of the power-on that is now.
fn wait(machine: &Machine, text: &str) -> Result<Line> {
    let cycle = machine.power_cycles();
    Ok(machine.console().wait_for(LIMIT, text, |line| line.cycle == cycle && line.text.contains(text))?)
}

/// The stick has the image, byte for byte, and a table as long as itself.
fn same(stick: &Path) -> Result<()> {
    let table = Disk::open(&image()?, false)?.table()?;
    ensure!(Disk::open(stick, false)?.table()? == table, "the partitions are others");
    let (image, stick) = (fs::read(image()?)?, fs::read(stick)?);
    let end = usize::try_from(table.find(DATA_NAME)?.offset() + table.find(DATA_NAME)?.length())?;
    ensure!(stick[..BOOT_CODE] == image[..BOOT_CODE], "the code of the first sector is another");
    let different = (HEAD..end).find(|at| stick[*at] != image[*at]);
    ensure!(different.is_none(), "byte {different:?} is another");
    println!("stick      {} bytes are the image's", end - HEAD);
    Ok(())
}

fn choice(stick: &Path) -> Result<Choice> {
    let mut disk = Disk::open(stick, false)?;
    let env = disk.table()?.find(ENV)?.offset();
    Choice::read(disk.file(), env)
}

#[test]
fn a_laptop_flashes_a_stick_that_boots() -> Result<()> {
    let bed = Bed::start()?;
    let desk = Desk::new(&bed)?;
    let mut laptop = desk.laptop(&bed)?;

    let (listed, status) = laptop.run(LIMIT, "bootlace-image flash /dev/vda")?;
    ensure!(status == 1 && listed.contains("name the device to write to"), "{listed}");
    let line = |device: &str| listed.lines().find(|line| line.starts_with(device)).context("it is listed");
    let stick = line("/dev/sda")?;
    ensure!(
        stick.contains("268.4 MB") && stick.contains("QEMU HARDDISK") && stick.contains("can be written"),
        "{stick}"
    );
    ensure!(line("/dev/vdb")?.contains("it is not removable"), "{listed}");
    print!("{listed}");

    let mut refuses = |command: &str, reason: &str| -> Result<()> {
        let (said, status) = laptop.run(LIMIT, command)?;
        ensure!(status == 1 && said.contains(reason), "{command}: {status}: {said}");
        println!("refused    {}", said.lines().last().unwrap_or_default());
        Ok(())
    };
    refuses("bootlace-image flash /dev/vda /dev/vdb --yes", "it is not removable; --force")?;
    refuses(
        "mount /dev/vdb /boot && bootlace-image flash /dev/vda /dev/vdb --yes --force",
        "runs from it (/boot)",
    )?;
    refuses(
        "mount /dev/sda /mnt && bootlace-image flash /dev/vda /dev/sda --yes",
        "mounted at /mnt; --force",
    )?;
    refuses("umount /mnt && bootlace-image flash /dev/vda /dev/sda < /dev/null", "nobody to ask")?;
    refuses("bootlace-image flash /dev/sda /dev/sda --yes", "is no image of a stick")?;

    // A person is asked, and says something else.
    let asked = "bootlace-image flash /dev/vda /dev/sda; s=$?; echo; echo status=$s.";
    laptop.type_line(asked)?;
    laptop.wait(LIMIT, "Type sda to go on: ")?;
    laptop.type_line("yes")?;
    let (said, status) = laptop.ended(LIMIT)?;
    ensure!(status == 1 && said.contains("nothing was written"), "{said}");
    ensure!(
        laptop.run_ok(LIMIT, "mount /dev/sda /mnt && cat /mnt/PHOTO.JPG; umount /mnt")?.contains("a photo")
    );

    laptop.type_line(asked)?;
    let said = laptop.wait(LIMIT, "Type sda to go on: ")?;
    ensure!(said.contains("Everything on it will be lost."), "{said}");
    laptop.type_line("sda")?;
    let (said, status) = laptop.ended(FLASH_LIMIT)?;
    ensure!(status == 0 && said.contains("written and verified"), "{said}");
    laptop.power_off();
    same(&desk.stick)?;

    for (name, firmware) in [("bios", Firmware::Bios), ("uefi", Firmware::UefiPxe)] {
        let edge = box_of(&bed, name, firmware, &desk.stick)?;
        edge.power_on()?;
        let line = wait(&edge, SERVING)?;
        println!("{name:<10} power-on to serving: {:.1} s", line.at.as_secs_f32());
        edge.power_off()?;
    }
    Ok(())
}

#[test]
fn pulling_the_plug_while_a_stick_is_flashed_leaves_none_or_one_that_boots() -> Result<()> {
    let bed = Bed::start()?;
    let desk = Desk::new(&bed)?;
    // Into a pipe it says its progress in lines.
    let flash = "bootlace-image flash /dev/vda /dev/sda --yes 2>&1 | cat";
    for point in ["writing 10 %", "writing 70 %", "verifying 30 %"] {
        let mut laptop = desk.laptop(&bed)?;
        laptop.type_line(flash)?;
        laptop.wait(FLASH_LIMIT, point)?;
        laptop.power_off();
        println!("laptop     killed at {point:?}");
        let mut disk = Disk::open(&desk.stick, false)?;
        ensure!(disk.table().is_err(), "{point}: firmware finds partitions");
        ensure!(fs::read(&desk.stick)?[..512] == [0; 512], "{point}: a BIOS finds something to start");
    }
    // No firmware starts it: the machine goes on to its network.
    let edge = box_of(&bed, "half", Firmware::Bios, &desk.stick)?;
    edge.power_on()?;
    wait(&edge, "iPXE")?;
    edge.power_off()?;
    ensure!(!edge.console().lines().iter().any(|line| line.text.contains("bootlace: slot")), "it started");

    let mut laptop = desk.laptop(&bed)?;
    let said = laptop.run_ok(FLASH_LIMIT, flash)?;
    ensure!(
        said.contains("Everything on it will be lost") && said.contains("written and verified"),
        "{said}"
    );
    // The second flash keeps what boots, whenever it ends.
    laptop.type_line(flash)?;
    laptop.wait(LIMIT, "configuration and data stay")?;
    laptop.wait(FLASH_LIMIT, "writing 50 %")?;
    laptop.power_off();
    ensure!(choice(&desk.stick)? == Choice::NEW, "what is half there is not tried");
    let edge = box_of(&bed, "kept", Firmware::Bios, &desk.stick)?;
    edge.power_on()?;
    wait(&edge, SERVING)?;
    println!("kept       serves after a second flash was killed");
    Ok(())
}

#[test]
fn pulling_the_plug_while_the_box_writes_its_state_leaves_a_stick_that_serves() -> Result<()> {
    let bed = Bed::start()?;
    let stick = bed.dir().join("stick.img");
    fs::copy(image()?, &stick)?;
    fs::OpenOptions::new().write(true).open(&stick)?.set_len(STICK_BYTES)?;
    let edge = box_of(&bed, "box", Firmware::Bios, &stick)?;
    // The partition grows, the hub makes its store, a machine is written down, and again.
    for point in ["data: ", SERVING] {
        edge.power_on()?;
        wait(&edge, point)?;
        edge.power_off()?;
        println!("box        killed at {point:?}");
    }
    edge.power_on()?;
    wait(&edge, SERVING)?;
    let machine = bed.machine(MachineSpec::new("served", Firmware::Bios).memory_mib(512))?;
    machine.power_on()?;
    machine.console().wait(LIMIT, "tunnel: open")?;
    edge.power_off()?;
    edge.power_on()?;
    let line = wait(&edge, SERVING)?;
    println!("box        power-on to serving: {:.1} s", line.at.as_secs_f32());
    Ok(())
}
