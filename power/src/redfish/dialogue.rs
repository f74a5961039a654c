//! What is asked in which order, until an order is carried out. No I/O: a [`Wire`] carries the requests.
//!
//! ```text
//! service root ── login ── systems ── the machine's system ──┬── its power state
//!   (only what is not [`Known`] from the last time)          ├── reset ── task ── how it is now
//!                                                            └── boot source ── what is kept of it
//! ```
//!
//! Whatever a controller answers, a dialogue ends within [`REQUESTS_MAX`] requests.

use std::time::Duration;

use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::system::{
    Progress, Root, System, detail, json, kinds_of_action_info, members, progress, wants_etag, wants_future,
};
use super::wire::{Answer, Auth, Login, Request, Target, Wire};
use crate::PxeMode;

mod access;

/// Requests of one dialogue. The longest useful one has some twenty, with several systems to look at.
pub const REQUESTS_MAX: usize = 48;
/// Systems that are looked at for the machine's UUID: chassis of blades have up to 16.
const SYSTEMS_MAX: usize = 24;
/// How often a task is looked at, and after which pause. One that lasts longer is left to itself: the power
/// state is polled anyway.
const TASK_LOOKS: usize = 5;
const TASK_PAUSE: Duration = Duration::from_secs(1);
/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Say whether the machine has power.
    Look,
    /// Switch it on.
    On,
    /// Switch it off at once.
    Off,
    /// Reset it.
    Restart,
    /// Boot from the network, once.
    BootNetwork(PxeMode),
    /// Boot as configured.
    BootAsConfigured,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// The power state, if that was the question.
    pub powered_on: Option<bool>,
    /// The controller said yes to a boot source, and shows another one.
    pub doubt: Option<String>,
}

/// What is worth knowing in the next dialogue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// How requests are signed.
    pub auth: Option<Auth>,
    /// The machine's system.
    pub system: Option<String>,
    /// There are others beside it.
    pub several: bool,
    /// Vendor, product and version, for people.
    pub name: String,
}

/// Why a dialogue failed.
#[derive(Debug, PartialEq)]
pub enum DialogueError<E> {
    /// The wire broke.
    Wire {
        /// The request that has no answer.
        request: String,
        /// Why.
        error: E,
    },
    /// The controller answered, and the answer is no.
    Refused {
        /// The request.
        request: String,
        /// The status.
        status: u16,
        /// The controller's words.
        detail: String,
    },
    /// It does not take the user or the password.
    Unauthorized {
        /// The controller's words.
        detail: String,
    },
    /// The answer is not what Redfish has there.
    Protocol {
        /// The request.
        request: String,
        /// What is wrong.
        reason: String,
    },
}

/// A refusal that another way may get around.
struct Refusal {
    request: String,
    status: u16,
    detail: String,
    /// The controller keeps the settings of the next start elsewhere.
    wants_future: bool,
}

impl<E> From<Refusal> for DialogueError<E> {
    fn from(refusal: Refusal) -> Self {
        let Refusal { request, status, detail, .. } = refusal;
        Self::Refused { request, status, detail }
    }
}

/// Carries out one order.
pub async fn carry_out<W: Wire>(
    wire: &mut W,
    login: &Login,
    target: &Target,
    known: &mut Known,
    order: Order,
) -> Result<Done, DialogueError<W::Error>> {
    let mut dialogue = Dialogue { wire, login, target, known, root: None, asked: 0, passing: false };
    let done = match order {
        Order::Look => dialogue.look().await,
        Order::On | Order::Off | Order::Restart => dialogue.reset(order).await,
        Order::BootNetwork(_) | Order::BootAsConfigured => dialogue.set_boot(order).await,
    };
    if dialogue.passing {
        known.auth = None;
    }
    done
}

/// Ends a session, so that the controller has its room again.
pub fn farewell(known: &Known) -> Option<Request> {
    let auth = known.auth.clone()?;
    let Auth::Session { location: Some(location), .. } = &auth else { return None };
    Some(Request { auth: auth.clone(), ..Request::new(Method::DELETE, location) })
}

struct Dialogue<'a, W> {
    wire: &'a mut W,
    login: &'a Login,
    target: &'a Target,
    known: &'a mut Known,
    root: Option<Root>,
    asked: usize,
    /// No session could be had for now: the next dialogue tries again.
    passing: bool,
}

type Result2<T, W> = Result<T, DialogueError<<W as Wire>::Error>>;

impl<W: Wire> Dialogue<'_, W> {
    async fn look(&mut self) -> Result2<Done, W> {
        let system = self.system().await?;
        match system.powered_on() {
            Some(on) => Ok(Done { powered_on: Some(on), doubt: None }),
            None => {
                Err(protocol(&Request::get(system.path), "no power state: the controller may be starting"))
            }
        }
    }

    async fn reset(&mut self, order: Order) -> Result2<Done, W> {
        let system = self.system().await?;
        let on = system.powered_on();
        // A machine that is off is not reset: it is switched on.
        let order = if order == Order::Restart && on == Some(false) { Order::On } else { order };
        let wanted: &[&str] = match order {
            Order::Off => &["ForceOff"],
            Order::Restart => &["ForceRestart", "PowerCycle"],
            _ => &["On", "ForceOn"],
        };
        let request = Request::new(Method::POST, system.reset_target(self.target));
        let offered = self.reset_kinds(&system).await?;
        let offers =
            |kind: &str| offered.as_ref().is_none_or(|offered| offered.iter().any(|one| one == kind));
        let mut kinds: Vec<&str> = wanted.iter().filter(|kind| offers(kind)).copied().collect();
        // The button switches a running machine off, so it is for want of anything better.
        if kinds.is_empty() && order == Order::On && on == Some(false) && offers("PushPowerButton") {
            kinds.push("PushPowerButton");
        }
        let mut refusal = None;
        for kind in kinds {
            let request = request.clone().with(json!({ "ResetType": kind }));
            let answer = self.ask(request.clone()).await?;
            match self.accepted(&request, answer).await? {
                Ok(()) => return Ok(Done::default()),
                Err(refused) => refusal.get_or_insert(refused),
            };
        }
        // What is on cannot be switched on, say some, and the other way round.
        if refusal.is_some() && order != Order::Restart {
            let now = self.system().await?.powered_on();
            if now == Some(order == Order::On) {
                return Ok(Done::default());
            }
        }
        match refusal {
            Some(refusal) => Err(refusal.into()),
            None => {
                let offered = offered.unwrap_or_default().join(", ");
                let reason = format!("an offer of {offered}, without {}", wanted.join(" or "));
                Err(protocol(&request, &crate::http::one_line(reason.as_bytes())))
            }
        }
    }

    /// The kinds of reset that the controller says it has; `None`: it does not say.
    async fn reset_kinds(&mut self, system: &System) -> Result2<Option<Vec<String>>, W> {
        if let Some(kinds) = system.reset_kinds() {
            return Ok(Some(kinds));
        }
        let Some(info) = system.action_info(self.target) else { return Ok(None) };
        let answer = self.ask(Request::get(info)).await?;
        Ok(json(&answer).filter(|_| answer.status().is_success()).as_ref().and_then(kinds_of_action_info))
    }

    async fn set_boot(&mut self, order: Order) -> Result2<Done, W> {
        let bodies = match order {
            Order::BootNetwork(mode) => {
                let plain = json!({ "BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Pxe" });
                let mut whole = plain.clone();
                whole["BootSourceOverrideMode"] = match mode {
                    PxeMode::Bios => "Legacy".into(),
                    PxeMode::Uefi => "UEFI".into(),
                };
                // Some controllers do not have the mode, or not to write.
                if self.target.set_mode { vec![whole, plain] } else { vec![plain] }
            }
            // Some refuse the source `None`, some want it.
            _ => vec![
                json!({ "BootSourceOverrideEnabled": "Disabled" }),
                json!({ "BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None" }),
            ],
        };
        let mut refusal = None;
        for body in bodies {
            let system = self.system().await?;
            let apart = system.settings(self.target);
            match self.patch(&system, &body).await? {
                Ok(()) => {
                    let look = matches!(order, Order::BootNetwork(_));
                    let doubt = if look { self.system().await?.other_boot() } else { None };
                    let again = apart.filter(|_| doubt.is_some());
                    if let Some(apart) = again
                        && self.patch_apart(apart, &body).await?.is_ok()
                    {
                        return Ok(Done::default());
                    }
                    return Ok(Done { powered_on: None, doubt });
                }
                Err(refused) => {
                    let apart = apart.or_else(|| refused.wants_future.then(|| system.ami_settings()));
                    if let Some(apart) = apart
                        && self.patch_apart(apart, &body).await?.is_ok()
                    {
                        return Ok(Done::default());
                    }
                    refusal.get_or_insert(refused)
                }
            };
        }
        Err(refusal.expect("there is a body to refuse").into())
    }

    /// The boot settings where the controller keeps those of the next start apart.
    async fn patch_apart(&mut self, path: String, boot: &Value) -> Result2<Result<(), Refusal>, W> {
        let request = Request::get(path);
        let answer = self.ask(request.clone()).await?;
        if !answer.status().is_success() {
            return self.accepted(&request, answer).await;
        }
        let settings =
            System::of(&request.path, &answer).ok_or_else(|| protocol(&request, "no JSON object"))?;
        self.patch(&settings, boot).await
    }

    /// Writes the boot settings, with a version where one is demanded.
    async fn patch(&mut self, system: &System, boot: &Value) -> Result2<Result<(), Refusal>, W> {
        let mut etags = system.etags().into_iter();
        let mut request = Request::new(Method::PATCH, &system.path).with(json!({ "Boot": boot }));
        loop {
            let answer = self.ask(request.clone()).await?;
            let etag = if wants_etag(&answer) { etags.next() } else { None };
            match etag {
                Some(etag) => request.if_match = Some(etag),
                None => return self.accepted(&request, answer).await,
            }
        }
    }

    /// Waits a moment for what was accepted for later.
    async fn accepted(&mut self, request: &Request, answer: Answer) -> Result2<Result<(), Refusal>, W> {
        if !answer.status().is_success() {
            let detail = self.login.redacted(detail(&answer));
            let (status, wants_future) = (answer.status().as_u16(), wants_future(&answer));
            return Ok(Err(Refusal { request: request.to_string(), status, detail, wants_future }));
        }
        if answer.status() != StatusCode::ACCEPTED {
            return Ok(Ok(()));
        }
        let task = json(&answer).and_then(|task| super::system::link(&task, self.target));
        let Some(monitor) = location(&answer, self.target).or(task) else { return Ok(Ok(())) };
        for _ in 0..TASK_LOOKS {
            self.wire.pause(TASK_PAUSE).await;
            let answer = self.ask(Request::get(&monitor)).await?;
            match progress(&answer) {
                Progress::Running => {}
                Progress::Done => break,
                Progress::Failed(detail) => {
                    let detail = self.login.redacted(detail);
                    return Ok(Err(Refusal {
                        request: request.to_string(),
                        status: 202,
                        detail,
                        wants_future: false,
                    }));
                }
            }
        }
        Ok(Ok(()))
    }

    /// The machine's system.
    async fn system(&mut self) -> Result2<System, W> {
        if let Some(path) = self.known.system.clone() {
            let request = Request::get(&path);
            let answer = self.ask(request.clone()).await?;
            if answer.status() != StatusCode::NOT_FOUND {
                let system = self.system_of(&request, &answer)?;
                // In a chassis another blade may be in its place by now.
                if !self.known.several || self.target.machine.is_some_and(|machine| system.is(machine)) {
                    return Ok(system);
                }
            }
            // The controller names it otherwise than the last time.
            self.known.system = None;
        }
        let systems = self.root().await?.systems.clone();
        let request = Request::get(systems);
        let answer = self.ask(request.clone()).await?;
        let collection = self.value_of(&request, &answer)?;
        let paths = members(&collection, self.target, SYSTEMS_MAX)
            .ok_or_else(|| protocol(&request, "no members: no collection of systems"))?;
        let alone = paths.len() == 1;
        let count = paths.len();
        for path in paths {
            let request = Request::get(&path);
            let answer = self.ask(request.clone()).await?;
            let system = match self.system_of(&request, &answer) {
                Ok(system) => system,
                // One of several may be a card that is not there now.
                Err(_) if !alone => continue,
                Err(error) => return Err(error),
            };
            if alone || self.target.machine.is_some_and(|machine| system.is(machine)) {
                self.known.system = Some(path);
                self.known.several = !alone;
                return Ok(system);
            }
        }
        Err(protocol(&request, &format!("{count} systems, and none with the machine's UUID")))
    }

    fn system_of(&self, request: &Request, answer: &Answer) -> Result2<System, W> {
        self.value_of(request, answer)?;
        System::of(&request.path, answer).ok_or_else(|| protocol(request, "no JSON object"))
    }

    /// The answer's body, if the answer is yes.
    fn value_of(&self, request: &Request, answer: &Answer) -> Result2<Value, W> {
        if !answer.status().is_success() {
            let (status, detail) = (answer.status().as_u16(), self.login.redacted(detail(answer)));
            return Err(DialogueError::Refused { request: request.to_string(), status, detail });
        }
        json(answer).ok_or_else(|| protocol(request, "no JSON"))
    }
}

fn protocol<E>(request: &Request, reason: &str) -> DialogueError<E> {
    DialogueError::Protocol { request: request.to_string(), reason: reason.to_owned() }
}

fn location(answer: &Answer, target: &Target) -> Option<String> {
    target.path_of(answer.headers().get(header::LOCATION)?.to_str().ok()?)
}
