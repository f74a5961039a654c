//! `bootlace-image flash`

use std::fs::{self, OpenOptions};
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bootlace_image::flash::device::{Device, Host};
use bootlace_image::flash::write::{self, Phase, Plan};
use bootlace_image::stick::disk::Disk;
use bootlace_image::stick::update;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use nix::libc::O_EXCL;

/// Without a terminal a line is printed for each so many percent.
const PERCENT_STEP: u64 = 10;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct FlashArgs {
    /// The image, as `bootlace-image usb` writes it
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// The stick: a whole disk as /dev/sdx, or a file; without it the disks that are there are listed
    #[arg(value_name = "DEVICE")]
    device: Option<PathBuf>,
    /// Write everything anew, also where a stick of bootlace could keep configuration and data
    #[arg(long)]
    erase: bool,
    /// Write although it is mounted, in use, or not removable; never to the disk that this system runs from
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// How disks are listed
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

pub(crate) fn run(args: &FlashArgs) -> Result<()> {
    let mut image = Disk::open(&args.image, false)?;
    image.table().with_context(|| format!("{} is no image of a stick", args.image.display()))?;
    let host = Host::here()?;
    let Some(path) = &args.device else {
        list(&host.devices()?, args.output)?;
        bail!("name the device to write to, as in: bootlace-image flash {} /dev/sdx", args.image.display());
    };
    let what = target(&host, path, args.force)?;
    let mut stick = Disk::open(path, true)?;
    let plan = match write::plan(&mut image, &mut stick)? {
        Plan::Keep if !args.erase => Plan::Keep,
        Plan::Keep | Plan::Erase => Plan::Erase,
    };
    println!("{} -> {what}", args.image.display());
    println!(
        "{}",
        match plan {
            Plan::Erase => "Everything on it will be lost.",
            Plan::Keep =>
                "It has bootlace: the new version goes beside the old one; configuration and data stay (--erase writes all anew).",
        }
    );
    if !args.yes {
        confirm(path)?;
    }
    match plan {
        Plan::Erase => {
            let mut bars = Bars::default();
            write::erase(&mut image, &mut stick, |phase, done, all| bars.show(phase, done, all))?;
            bars.finish();
            println!("{}: written and verified; it can be pulled out", path.display());
        }
        Plan::Keep => keep(args, &mut image, &mut stick, path)?,
    }
    Ok(())
}

fn keep(args: &FlashArgs, image: &mut Disk, stick: &mut Disk, path: &Path) -> Result<()> {
    let slot = update::read_slot(&args.image)?;
    let mut bars = Bars::default();
    let all = slot.len() as u64;
    let updated = update::install(stick, &slot, |done| bars.show(Phase::Write, done, all))
        .with_context(|| format!("{} is not updated, and boots as before", path.display()))?;
    bars.finish();
    println!(
        "{}: {} is in slot {} and verified; it can be pulled out",
        path.display(),
        updated.version,
        updated.slot
    );
    if !write::same_loader(image, stick)? {
        println!("note: its loader is of another version and was left alone; --erase writes it, too");
    }
    Ok(())
}

/// What is written to, in words; refuses what should not be.
fn target(host: &Host, path: &Path, force: bool) -> Result<String> {
    let metadata = fs::metadata(path).with_context(|| format!("no such device: {}", path.display()))?;
    if metadata.is_file() {
        return Ok(format!("{} (a file, {})", path.display(), size(metadata.len())));
    }
    ensure!(metadata.file_type().is_block_device(), "{} is neither a disk nor a file", path.display());
    let Some(device) = host.find(path)? else {
        bail!("{} is no whole disk; the disks are listed by `bootlace-image flash IMAGE`", path.display());
    };
    if let Some(reason) = device.impossible() {
        bail!("{} is not written: {reason}", path.display());
    }
    let doubts = device.doubts();
    if !doubts.is_empty() && !force {
        bail!("{} is not written: {}; --force writes it nevertheless", path.display(), doubts.join(", "));
    }
    if !force {
        // The kernel's word: nobody else has it open for themselves.
        OpenOptions::new().read(true).custom_flags(O_EXCL).open(path).with_context(|| {
            format!("{} is in use by another program; --force writes it nevertheless", path.display())
        })?;
    }
    Ok(describe(&device))
}

fn describe(device: &Device) -> String {
    let model = if device.model.is_empty() { "no model" } else { &device.model };
    format!("{} ({model}, {})", device.path().display(), size(device.bytes))
}

fn list(devices: &[Device], format: Format) -> Result<()> {
    if let Format::Json = format {
        let device = |device: &Device| {
            serde_json::json!({
                "path": device.path(), "model": device.model, "bytes": device.bytes,
                "removable": device.removable, "impossible": device.impossible(), "doubts": device.doubts(),
            })
        };
        println!("{}", serde_json::to_string_pretty(&devices.iter().map(device).collect::<Vec<_>>())?);
        return Ok(());
    }
    if devices.is_empty() {
        println!("There is no disk here; plug the stick in.");
    }
    for device in devices {
        let doubts = device.impossible().into_iter().chain(device.doubts()).collect::<Vec<_>>();
        let verdict = if doubts.is_empty() { "can be written".to_owned() } else { doubts.join(", ") };
        let path = device.path();
        println!("{:<16} {:>12}  {:<32} {verdict}", path.display(), size(device.bytes), device.model);
    }
    Ok(())
}

fn confirm(path: &Path) -> Result<()> {
    ensure!(std::io::stdin().is_terminal(), "nobody to ask whether that is right: --yes says that it is");
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    print!("Type {name} to go on: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    ensure!(answer.trim() == name, "nothing was written");
    Ok(())
}

/// Bytes as drives are sold: powers of ten.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// A bar a phase on a terminal, else a line every tenth.
#[derive(Default)]
struct Bars {
    bar: Option<(Phase, ProgressBar)>,
    told: Option<(Phase, u64)>,
}

impl Bars {
    fn show(&mut self, phase: Phase, done: u64, all: u64) {
        if std::io::stderr().is_terminal() {
            if self.bar.as_ref().is_none_or(|(shown, _)| *shown != phase) {
                self.finish();
                self.bar = Some((phase, bar(phase, all)));
            }
            if let Some((_, bar)) = &self.bar {
                bar.set_position(done);
            }
            return;
        }
        let percent = (done * 100).checked_div(all).unwrap_or(100) / PERCENT_STEP * PERCENT_STEP;
        if self.told != Some((phase, percent)) {
            self.told = Some((phase, percent));
            eprintln!("{} {percent} %", verb(phase));
        }
    }

    fn finish(&mut self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish();
            // What follows is on a line of its own also where the terminal does not tell its width.
            eprintln!();
        }
    }
}

fn verb(phase: Phase) -> &'static str {
    match phase {
        Phase::Write => "writing",
        Phase::Verify => "verifying",
    }
}

fn bar(phase: Phase, all: u64) -> ProgressBar {
    let style = "{msg:9} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
    let bar = ProgressBar::new(all).with_message(verb(phase));
    match ProgressStyle::with_template(style) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
