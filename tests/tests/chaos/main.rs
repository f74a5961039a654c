//! Whole lives of 200 machines while everything between them and Omni breaks.
//!
//! Hub, link, tunnels and power APIs are the real ones, over real sockets; the machines are fakes that behave as
//! badly as real ones. Nothing needs root or QEMU. `CHAOS_SEED` chooses what breaks when; a failure prints it.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bmc;
mod machine;
mod operator;
mod site;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use testbed::seed::Seed;
use tokio::task::JoinSet;
use tokio::time::Instant;

use machine::Machine;
use operator::{LIMIT, Plan};
use site::Site;

const MACHINES: u32 = 200;
/// Enough to show what happens when nothing does.
const FEW_MACHINES: u32 = 50;
/// Notes that two people write on every third machine.
const NOTES: usize = 6;
/// How long a fault lasts that shows at once.
const SPELL: Duration = Duration::from_secs(1);
/// How long nothing arrives: longer than a call to Omni may take (20 s) and than two heartbeats, so that calls are
/// given up whose effect arrives afterwards, all at once.
const STALL: Duration = Duration::from_secs(22);
/// How long Omni's clock is wrong: several tries of everything that is refused, with their longer and longer pauses.
const SKEW: Duration = Duration::from_secs(6);
/// A fault begins at some moment in this time after people began to work.
const HEAD_START_MS: usize = 500;
/// The link and Omni find one another again in this time after a fault, with the longest pause of the link's
/// watches.
const RECOVERY: Duration = Duration::from_secs(20);
/// The machines are faster than one test at a time.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// Machines are decided on in as many groups as there are faults, so that each fault hits some at each step.
const FAULTS: [Fault; 10] = [
    Fault::Late,
    Fault::Lossy,
    Fault::Stalled,
    Fault::Cut,
    Fault::Resets,
    Fault::OmniDies,
    Fault::LinkDies,
    Fault::TunnelsBreak,
    Fault::PowerFails,
    Fault::ClockJumps,
];

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// 300 ms later.
    Late,
    /// Connections to Omni break after some kilobytes.
    Lossy,
    /// Nothing arrives, nothing breaks.
    Stalled,
    /// Omni is away.
    Cut,
    /// All connections to Omni break, again and again.
    Resets,
    /// Omni is killed, twice.
    OmniDies,
    /// The link is killed, twice.
    LinkDies,
    /// Agents lose their tunnels, some just after a wipe.
    TunnelsBreak,
    /// BMCs refuse, or do it and say that they did not.
    PowerFails,
    /// Omni's clock is ten minutes ahead for a while: it believes no signature.
    ClockJumps,
}

impl Fault {
    fn lasts(self) -> Duration {
        match self {
            Self::Stalled => STALL,
            Self::ClockJumps => SKEW,
            Self::Late
            | Self::Lossy
            | Self::Cut
            | Self::Resets
            | Self::OmniDies
            | Self::LinkDies
            | Self::TunnelsBreak
            | Self::PowerFails => SPELL,
        }
    }
}

impl Site {
    /// Lets a fault happen for a while.
    async fn suffer(&self, fault: Fault, seed: &mut Seed) {
        let end = Instant::now() + fault.lasts();
        match fault {
            Fault::Late => self.proxy.delay(Duration::from_millis(300)),
            Fault::Lossy => self.proxy.lose_connections_after(20_000),
            Fault::Stalled => self.proxy.stall(),
            Fault::Cut => self.proxy.cut(),
            Fault::Resets => {
                for _ in 0..10 {
                    self.proxy.reset();
                    tokio::time::sleep(SPELL / 10).await;
                }
            }
            Fault::OmniDies => {
                self.restart_omni().await;
                tokio::time::sleep(SPELL / 2).await;
                self.restart_omni().await;
            }
            Fault::LinkDies => {
                self.restart_link().await;
                tokio::time::sleep(SPELL / 2).await;
                self.restart_link().await;
            }
            Fault::TunnelsBreak => {
                for machine in &self.machines {
                    if seed.once_in(3) {
                        machine.break_tunnel();
                    } else if seed.once_in(3) {
                        machine.lose_answers.store(1, Ordering::SeqCst);
                    }
                }
            }
            Fault::PowerFails => {
                for machine in &self.machines {
                    machine.fail_bmc(u32::try_from(seed.below(3)).unwrap());
                }
            }
            Fault::ClockJumps => *self.skew.lock().unwrap() = Duration::from_secs(600),
        }
        tokio::time::sleep_until(end).await;
        self.proxy.heal();
        *self.skew.lock().unwrap() = Duration::ZERO;
    }
}

/// Two hundred machines, and the people who work with them.
struct Round {
    site: Arc<Site>,
    plans: Vec<(Arc<Machine>, Plan)>,
    work: JoinSet<()>,
    begin: Instant,
}

impl Round {
    async fn start(machines: u32, seed: Seed) -> Self {
        let begin = Instant::now();
        let site = Site::start(machines, seed).await;
        site.prepare().await;
        let plan = |(n, machine): (usize, &Arc<Machine>)| (Arc::clone(machine), Plan::of(n));
        let plans = site.machines.iter().enumerate().map(plan).collect();
        let round = Self { site, plans, work: JoinSet::new(), begin };
        round.say("started");
        let joined = round.site.until_all(|known| known.len() == round.plans.len());
        tokio::time::timeout(LIMIT, joined).await.expect("all machines join");
        round.say("all machines joined");
        round
    }

    fn say(&self, what: &str) {
        let known = self.site.mirror.ids().len();
        let (done, unheard) = self.wipes();
        let seconds = self.begin.elapsed().as_secs_f32();
        println!("{seconds:>5.1} s {what:<28} {known} machines, {done} wipes ({unheard} unheard of)");
    }

    fn wipes(&self) -> (u32, u32) {
        self.site.machines.iter().fold((0, 0), |(done, unheard), machine| {
            let load = |count: &AtomicU32| count.load(Ordering::SeqCst);
            (done + load(&machine.wipes_done), unheard + load(&machine.wipes_unheard))
        })
    }

    /// People begin to work with these machines, two of them writing the same things.
    fn work_on(&mut self, machines: Range<usize>) {
        for (machine, plan) in &self.plans[machines] {
            let (site, machine, plan) = (Arc::clone(&self.site), Arc::clone(machine), *plan);
            self.work.spawn(async move {
                let notes = machine.notes / 2;
                tokio::join!(
                    site.carry_out(&machine, plan),
                    site.meddle(&machine, 0, notes),
                    site.meddle(&machine, 1, notes),
                );
            });
        }
    }

    /// Waits until all is done, and looks whether it is done right.
    async fn end(mut self) {
        let all = tokio::time::timeout(LIMIT, async {
            while let Some(done) = self.work.join_next().await {
                done.unwrap();
            }
        });
        let in_time = all.await.is_ok();
        self.say("ended");
        println!("        {:?}", *self.site.proxy.counters().borrow());
        let wrong = self.site.wrong(&self.plans).await;
        assert!(wrong.is_empty(), "{} wrong: {:#?}", wrong.len(), wrong.iter().take(8).collect::<Vec<_>>());
        assert!(in_time, "{} machines did not get there in {LIMIT:?}", self.work.len());
    }
}

/// The faults in an order of chance.
fn shuffled(seed: &mut Seed) -> Vec<Fault> {
    let mut faults = FAULTS.to_vec();
    for last in (1..faults.len()).rev() {
        faults.swap(last, seed.below(last + 1));
    }
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_are_wiped_exactly_once_when_nothing_breaks() {
    let _alone = ALONE.lock().await;
    let mut round = Round::start(FEW_MACHINES, Seed::new(1)).await;
    round.work_on(0..round.plans.len());
    let (site, machines) = (Arc::clone(&round.site), round.site.machines.clone());
    round.end().await;
    let load = |count: &AtomicU32| count.load(Ordering::SeqCst);
    let twice: Vec<_> =
        machines.iter().filter(|machine| load(&machine.wipes_done) != load(&machine.wipes_asked)).collect();
    assert!(twice.is_empty(), "{} machines were wiped more often than asked for", twice.len());
    assert_eq!(site.proxy.counters().borrow().reset, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_machines_end_as_wanted_whatever_breaks() {
    let _alone = ALONE.lock().await;
    let mut seed = Seed::of_environment("CHAOS_SEED", 4);
    let mut round = Round::start(MACHINES, seed.fork()).await;
    let faults = shuffled(&mut seed);
    let group = round.plans.len().div_ceil(faults.len());
    for (n, fault) in faults.iter().enumerate() {
        round.work_on(n * group..((n + 1) * group).min(round.plans.len()));
        let head_start = u64::try_from(seed.below(HEAD_START_MS)).unwrap();
        tokio::time::sleep(Duration::from_millis(head_start)).await;
        round.say(&format!("{fault:?}"));
        round.site.suffer(*fault, &mut seed).await;
        let over = Instant::now();
        round.site.in_sync(RECOVERY).await;
        round.say(&format!("in sync after {:.1} s", over.elapsed().as_secs_f32()));
    }
    round.end().await;
}
