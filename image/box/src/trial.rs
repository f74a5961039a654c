//! Whether the version that runs is a new one on trial, and what its trial's end is.
//!
//! ```text
//! good, nothing else   nothing to do
//! next is what runs    it serves for a while -> it is good; it does not -> start over, GRUB counts down
//! good, next failed    next is forgotten, and said so
//! ```

use std::time::Duration;

use bootlace_agent::say;
use bootlace_image::stick::env::{Choice, Slot};
use tokio::sync::watch;

use crate::medium::Stick;

/// A new version has to serve within this time.
const COMES_UP: Duration = Duration::from_secs(180);
/// And for this long.
const STAYS_UP: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trial {
    /// None is under way.
    None,
    /// This version is on trial.
    On(Slot),
    /// The other one was, and did not come up.
    Failed(Choice),
}

impl Trial {
    /// What the environment says about the slot that runs.
    pub(crate) fn of(choice: Choice, running: Slot) -> Self {
        match choice.next {
            Some((next, _)) if next == running => Self::On(running),
            Some(_) => Self::Failed(Choice { good: choice.good, next: None }),
            // GRUB took the other one because the good one cannot be read.
            None if choice.good != running => Self::On(running),
            None => Self::None,
        }
    }

    /// Whether this version may be given up.
    pub(crate) fn is_on(self) -> bool {
        matches!(self, Self::On(_))
    }
}

/// Carries the trial out. Returns only when the version has failed.
pub(crate) async fn run(stick: Option<&Stick>, trial: Trial, mut serving: watch::Receiver<bool>) {
    match (stick, trial) {
        (Some(stick), Trial::On(slot)) => {
            say!("slot {slot} is new, and on trial");
            if !comes_up(&mut serving).await {
                return;
            }
            write(stick, Choice { good: slot, next: None });
            say!("slot {slot} is good");
        }
        (Some(stick), Trial::Failed(choice)) => {
            say!("slot {} did not come up; slot {} goes on", choice.good.other(), choice.good);
            write(stick, choice);
        }
        _ => {}
    }
    std::future::pending().await
}

/// Whether it serves in time and then for a while.
async fn comes_up(serving: &mut watch::Receiver<bool>) -> bool {
    let up = async {
        loop {
            if serving.wait_for(|up| *up).await.is_err() {
                return false;
            }
            let ended = tokio::time::timeout(STAYS_UP, serving.wait_for(|up| !*up)).await.is_ok();
            if !ended {
                return true;
            }
        }
    };
    tokio::time::timeout(COMES_UP, up).await.unwrap_or(false)
}

fn write(stick: &Stick, choice: Choice) {
    let written =
        stick.open().and_then(|(mut disk, env)| choice.write(disk.file(), env, |file| file.sync_data()));
    if let Err(error) = written {
        say!("which slot boots cannot be written: {error:#}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_tells_what_this_start_is() {
        let choice = |good, next| Choice { good, next };
        let tries = Some((Slot::B, 2));
        assert_eq!(Trial::of(choice(Slot::A, None), Slot::A), Trial::None);
        assert_eq!(Trial::of(choice(Slot::A, tries), Slot::B), Trial::On(Slot::B));
        assert_eq!(Trial::of(choice(Slot::A, tries), Slot::A), Trial::Failed(choice(Slot::A, None)));
        assert_eq!(Trial::of(choice(Slot::A, None), Slot::B), Trial::On(Slot::B));
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_that_serves_for_a_while_is_good() {
        let (sender, mut serving) = watch::channel(false);
        let up = tokio::spawn(async move { comes_up(&mut serving).await });
        tokio::time::sleep(Duration::from_secs(100)).await;
        sender.send_replace(true);
        assert!(up.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_falls_over_again_and_again_or_never_serves_is_not() {
        let (sender, mut serving) = watch::channel(false);
        assert!(!comes_up(&mut serving).await);
        let up = tokio::spawn(async move { comes_up(&mut serving).await });
        for _ in 0..40 {
            sender.send_replace(true);
            tokio::time::sleep(Duration::from_secs(5)).await;
            sender.send_replace(false);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(!up.await.unwrap());
    }
}
