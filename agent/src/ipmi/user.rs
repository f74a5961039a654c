//! Makes a user on the BMC, and believes only what it can read back.
//!
//! ```text
//! find a slot: ours, else the empty ones in turn
//!   name (unless it is ours) -> read back
//!   password, 16 bytes, else 20 -> test
//!   administrator on the LAN channel -> read back
//!   enable -> read back
//!   what fails: empty the slot again, try the next
//! LAN channel: always available, up to administrators -> read back
//! ```

use super::message::{self, ChannelAccess, Request, UserAccess, UserName};
use super::{Bmc, CallError, call, lan_channel};

/// The first slot is the anonymous user's, and on many BMCs it cannot be changed.
const FIRST_SLOT: u8 = 2;
/// Slots that a number can name.
const MAX_SLOTS: u8 = 63;
/// Empty slots that are tried: a BMC that refuses this many refuses all.
const MAX_TRIES: usize = 4;
/// What some BMCs tell as the name of a slot without a user.
const EMPTY_NAMES: [&str; 2] = ["(Empty User)", "(Empty)"];

/// The user is there and can log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Its slot.
    pub slot: u8,
    /// The LAN channel that it may use.
    pub channel: u8,
    /// It was there before.
    pub existed: bool,
    /// What could not be read back because the BMC does not tell it.
    pub unverified: Vec<&'static str>,
}

/// The user could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The caller asks for what no BMC can hold.
    #[error("{0}")]
    Argument(&'static str),
    /// The BMC's policy refuses the password: another one may do.
    #[error("BMC refuses this password: {0}")]
    Password(#[source] CallError),
    /// Every slot has a user.
    #[error("BMC has no free slot for another user ({0} slots)")]
    NoSlot(u8),
    /// A request failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The BMC said yes and did not do it.
    #[error("BMC accepted {0} but did not keep it")]
    Forgot(&'static str),
}

/// The slots as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// The one that has the user.
    pub ours: Option<u8>,
    /// Those that have nobody.
    pub empty: Vec<u8>,
    /// How many there are.
    pub count: u8,
}

/// Looks at all slots.
pub fn find(bmc: &mut (impl Bmc + ?Sized), channel: u8, name: &str) -> Result<Slots, CallError> {
    let access: UserAccess = call(bmc, &Request::UserAccess { channel, user: 1 })?;
    let mut slots = Slots { count: access.slots, ..Slots::default() };
    for user in FIRST_SLOT..=access.slots.min(MAX_SLOTS) {
        match call::<UserName>(bmc, &Request::UserName { user }) {
            Ok(UserName(found)) if found == name => {
                slots.ours = Some(user);
                break;
            }
            Ok(UserName(found)) => {
                let found = found.trim();
                // A name of bytes 0xff is a slot that was never written.
                if EMPTY_NAMES.contains(&found) || found.chars().all(|letter| letter == '\u{fffd}') {
                    slots.empty.push(user);
                }
            }
            // Many BMCs answer so when nobody is there.
            Err(CallError::Refused { .. } | CallError::Nonsense { .. }) => slots.empty.push(user),
            Err(error @ CallError::Link { .. }) => return Err(error),
        }
    }
    Ok(slots)
}

/// Makes the user, or takes it over with a new password.
pub fn ensure_user(bmc: &mut (impl Bmc + ?Sized), name: &str, password: &str) -> Result<Made, SetupError> {
    if name.is_empty() || name.len() > message::NAME || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SetupError::Argument("a BMC user's name has 1 to 16 ASCII letters"));
    }
    if password.is_empty() || password.len() > message::LONG_PASSWORD || !password.is_ascii() {
        return Err(SetupError::Argument("a BMC password has 1 to 20 ASCII letters"));
    }
    let (channel, _) = lan_channel(bmc)?;
    let slots = find(bmc, channel, name)?;
    let mut made = Made { slot: 0, channel, existed: slots.ours.is_some(), unverified: Vec::new() };
    let mut failed = None;
    let candidates = slots.ours.into_iter().chain(slots.empty.iter().copied().take(MAX_TRIES));
    for slot in candidates {
        made.slot = slot;
        made.unverified.clear();
        let taken = slots.ours == Some(slot);
        match fill_slot(bmc, &mut made, taken, name, password) {
            Ok(()) => {
                open_channel(bmc, &mut made)?;
                return Ok(made);
            }
            Err(error @ SetupError::Call(CallError::Link { .. })) => return Err(error),
            Err(error) => {
                if taken {
                    // A second user of the same name would leave the BMC to choose.
                    return Err(error);
                }
                empty_slot(bmc, slot);
                // The first slot's failure says most; but that another password may do is worth more.
                match (&failed, &error) {
                    (None, _)
                    | (Some(SetupError::Forgot(_) | SetupError::Call(_)), SetupError::Password(_)) => {
                        failed = Some(error);
                    }
                    _ => {}
                }
            }
        }
    }
    Err(failed.unwrap_or(SetupError::NoSlot(slots.count)))
}

/// Leaves nothing behind in a slot that did not work. It may fail too; then the slot is as useless as before.
fn empty_slot(bmc: &mut (impl Bmc + ?Sized), user: u8) {
    let _ = call::<()>(bmc, &Request::EnableUser { user, on: false });
    let _ = call::<()>(bmc, &Request::SetUserName { user, name: String::new() });
}

fn fill_slot(
    bmc: &mut (impl Bmc + ?Sized),
    made: &mut Made,
    taken: bool,
    name: &str,
    password: &str,
) -> Result<(), SetupError> {
    let (user, channel) = (made.slot, made.channel);
    if !taken {
        call::<()>(bmc, &Request::SetUserName { user, name: name.to_owned() })?;
        let UserName(kept) = call(bmc, &Request::UserName { user })?;
        if kept != name {
            return Err(SetupError::Forgot("the user's name"));
        }
    }
    set_password(bmc, made, password)?;
    call::<()>(bmc, &Request::MakeAdministrator { channel, user })?;
    call::<()>(bmc, &Request::EnableUser { user, on: true })?;
    let access: UserAccess = call(bmc, &Request::UserAccess { channel, user })?;
    if !access.is_administrator() {
        return Err(SetupError::Forgot("the user's privileges"));
    }
    match access.enabled {
        Some(true) => Ok(()),
        Some(false) => Err(SetupError::Forgot("that the user is enabled")),
        None => {
            made.unverified.push("that the user is enabled");
            Ok(())
        }
    }
}

fn set_password(bmc: &mut (impl Bmc + ?Sized), made: &mut Made, password: &str) -> Result<(), SetupError> {
    let user = made.slot;
    let request =
        |test: bool, long: bool| Request::Password { user, test, long, password: password.to_owned() };
    let mut forms = vec![false, true];
    // 16 bytes cannot hold it.
    forms.retain(|long| *long || password.len() <= message::SHORT_PASSWORD);
    let mut refused = None;
    for long in forms {
        match call::<()>(bmc, &request(false, long)) {
            Ok(()) => {}
            Err(error @ CallError::Refused { .. }) => {
                refused = refused.or(Some(error));
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        match call::<()>(bmc, &request(true, long)) {
            Ok(()) => return Ok(()),
            Err(CallError::Refused {
                code: message::PASSWORD_DIFFERS | message::PASSWORD_LENGTH_DIFFERS,
                ..
            }) => return Err(SetupError::Forgot("the password")),
            // It may only be set, not compared.
            Err(CallError::Refused { .. }) => {
                made.unverified.push("the password");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(refused.map_or(SetupError::Forgot("the password"), SetupError::Password))
}

/// Both copies: the stored one for the BMC's next start, the other for now.
fn open_channel(bmc: &mut (impl Bmc + ?Sized), made: &mut Made) -> Result<(), SetupError> {
    let channel = made.channel;
    for stored in [true, false] {
        let ask = Request::ChannelAccess { channel, stored };
        let now: ChannelAccess = match call(bmc, &ask) {
            Ok(access) => access,
            Err(CallError::Refused { .. }) => {
                made.unverified.push("the LAN channel's access");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if now.is_open() {
            continue;
        }
        let set = call::<()>(bmc, &Request::OpenChannel { channel, keep: now.access, stored });
        let then: ChannelAccess = call(bmc, &ask)?;
        if !then.is_open() {
            return Err(set.err().map_or(SetupError::Forgot("the LAN channel's access"), SetupError::Call));
        }
    }
    Ok(())
}
