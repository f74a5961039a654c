//! `demo`: three machines with three firmwares, from power-on to an installed system.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use testbed::{
    Appliance, ApplianceSpec, Bed, DiskSpec, Entry, Firmware, Journal, LIMIT, Machine, MachineSpec, Role,
    TALOS_VERSION,
};

const DISK_MIB: u64 = 512;
/// How often the printer looks whether the demo is over while the journal is silent.
const TICK: Duration = Duration::from_millis(200);

/// Boots three machines through the appliance, accepts two, rejects one, and installs one.
#[derive(Debug, Parser)]
struct Args {
    /// Leave everything running at the end, until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// The appliance's binary; by default the one beside this program.
    #[arg(long)]
    bootlace: Option<PathBuf>,
    /// The boot assets.
    #[arg(long, default_value = "build/assets")]
    assets: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let bed = Bed::start()?;
    let told = tell(&bed, &args);
    if told.is_err() {
        eprintln!("{}", bed.report());
    }
    told
}

fn tell(bed: &Bed, args: &Args) -> Result<()> {
    let begin = Instant::now();
    let appliance = bed.appliance(ApplianceSpec::new(bootlace(args)?, assets(args)?))?;
    let journal = Arc::new(appliance.journal()?);

    let machine =
        |name, firmware| bed.machine(MachineSpec::new(name, firmware).disk(DiskSpec::used(DISK_MIB)));
    let bios = machine("bios", Firmware::Bios)?;
    let pxe = machine("uefi-pxe", Firmware::UefiPxe)?;
    let http = machine("uefi-http", Firmware::UefiHttp)?;
    let all = [&bios, &pxe, &http];

    say("three machines are powered on: BIOS, UEFI by PXE, UEFI by HTTP");
    let printer = Printer::start(&journal, all);
    all.iter().try_for_each(|machine| machine.power_on())?;
    for machine in all {
        journal.wait_step(LIMIT, machine, "pending")?;
    }
    show_machines(&appliance)?;

    say("two are accepted: their disks are wiped, then they are powered off; one is rejected");
    let before = http.disks()[0].snapshot()?;
    let used = [bios.disks()[0].snapshot()?, pxe.disks()[0].snapshot()?];
    appliance.cli_ok(&["machines", "reject", &id(&http)])?;
    appliance.cli_ok(&["machines", "accept", &id(&bios), &id(&pxe)])?;
    for machine in [&bios, &pxe] {
        journal.wait_step(LIMIT, machine, "ready")?;
        machine.wait_power(LIMIT, false)?;
    }
    ensure!(used[0].first_change()? == Some(0), "the disk of bios is not wiped");
    ensure!(used[1].first_change()? == Some(0), "the disk of uefi-pxe is not wiped");

    say("one is allocated: it powers on by itself, boots, installs and boots again, from its disk");
    appliance.cli_ok(&[
        "machines",
        "allocate",
        &id(&bios),
        "--cluster",
        "demo",
        "--talos-version",
        TALOS_VERSION,
    ])?;
    bios.wait_power_cycle(LIMIT, 2)?;
    // Meanwhile somebody presses reset on the rejected one.
    http.reboot()?;
    journal.wait_step(LIMIT, &bios, "installed")?;
    bios.console().wait(LIMIT, "standin: running from disk")?;
    journal.wait(LIMIT, "rejected machine sent to its disk", |entry| {
        entry.is_of(&http) && entry.step == "script_served" && entry.detail("mode") == "talos-disk"
    })?;
    let untouched = before.first_change()?;
    ensure!(
        untouched.is_none(),
        "the rejected machine's disk changed at byte {}",
        untouched.unwrap_or_default()
    );

    printer.stop();
    show_machines(&appliance)?;
    summary(&journal, all, begin.elapsed());
    if args.keep {
        keep(bed, &appliance);
    }
    Ok(())
}

fn say(what: &str) {
    println!("\n== {what}");
}

fn id(machine: &Machine) -> String {
    machine.uuid().to_string()
}

fn show_machines(appliance: &Appliance) -> Result<()> {
    println!("\n{}", appliance.cli_ok(&["machines", "list"])?.trim_end());
    Ok(())
}

fn bootlace(args: &Args) -> Result<PathBuf> {
    let beside = || Ok::<_, anyhow::Error>(std::env::current_exe()?.with_file_name("bootlace"));
    let path = args.bootlace.clone().map_or_else(beside, Ok)?;
    path.canonicalize().with_context(|| format!("no appliance at {} (`make build` makes it)", path.display()))
}

fn assets(args: &Args) -> Result<PathBuf> {
    let none = || format!("no boot assets at {} (`make images` makes them)", args.assets.display());
    args.assets.canonicalize().with_context(none)
}

/// Prints the journal as it comes, a line a step.
struct Printer {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Printer {
    fn start(journal: &Arc<Journal>, machines: [&Machine; 3]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (journal, stop) = (Arc::clone(journal), Arc::clone(&over));
        let machines = machines.map(Clone::clone);
        let since_ms = unix_ms();
        let print = move || {
            let mut next = 0;
            loop {
                match journal.wait_from(next, TICK, "next entry", |_| true) {
                    Ok((position, entry)) => {
                        next = position + 1;
                        println!(
                            "{:7.2} s  {:<10} {entry}",
                            seconds(&entry, since_ms),
                            name(&entry, &machines)
                        );
                    }
                    Err(_) if stop.load(Ordering::Relaxed) => break,
                    Err(_) => {}
                }
            }
        };
        Self { over, thread: thread::spawn(print) }
    }

    fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        // It ends by itself at the next tick; a panic in there has printed its message.
        let _ = self.thread.join();
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or_default()
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds of a demo fit a float")]
fn seconds(entry: &Entry, since_ms: u64) -> f64 {
    entry.at_ms.saturating_sub(since_ms) as f64 / 1000.0
}

fn name<'a>(entry: &Entry, machines: &'a [Machine]) -> &'a str {
    machines.iter().find(|machine| entry.is_of(machine)).map_or("-", Machine::name)
}

/// When each machine came to which point first, in seconds after the first sign of life in the journal.
fn summary(journal: &Journal, machines: [&Machine; 3], took: Duration) {
    const POINTS: [&str; 7] =
        ["dhcp_discover", "script_served", "joined", "pending", "wipe_finished", "ready", "installed"];
    let entries = journal.entries();
    let mut firsts: BTreeMap<(&str, &str), f64> = BTreeMap::new();
    let machines_first = entries.first().map_or(0, |entry| entry.at_ms);
    for entry in &entries {
        for machine in machines.iter().filter(|machine| entry.is_of(machine)) {
            if let Some(point) = POINTS.iter().find(|point| **point == entry.step) {
                firsts.entry((machine.name(), *point)).or_insert_with(|| seconds(entry, machines_first));
            }
        }
    }
    println!("\n{:<11}{}", "", POINTS.map(|point| format!("{:>15}", point.replace('_', " "))).concat());
    for machine in machines {
        let cell = |point| {
            firsts.get(&(machine.name(), point)).map_or_else(|| "-".into(), |at| format!("{at:.1} s"))
        };
        println!("{:<11}{}", machine.name(), POINTS.map(|point| format!("{:>15}", cell(point))).concat());
    }
    println!("\nuefi-http was rejected; its disk is byte for byte what it was.");
    println!("The whole demo took {:.1} s.", took.as_secs_f64());
}

fn keep(bed: &Bed, appliance: &Appliance) {
    let config = appliance.config_path().display().to_string();
    println!("\nEverything keeps running until Ctrl-C. From another terminal:");
    let shown = appliance.command(&["machines", "list"]);
    println!("  {} machines list -c {config}", shown.get_program().display());
    println!("  {} journal -f -c {config}", shown.get_program().display());
    for machine in bed.machines() {
        println!("  tail -f {}   # console of {}", machine.console().path().display(), machine.name());
        println!(
            "  ip netns exec {} curl -X POST http://{}/reboot",
            bed.net().namespace(Role::Appliance),
            machine.power_address()
        );
    }
    println!("  ip netns exec {} bash   # where the appliance lives", bed.net().namespace(Role::Appliance));
    loop {
        thread::park();
    }
}
