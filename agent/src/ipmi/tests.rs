use std::collections::{BTreeMap, VecDeque};

use super::*;

/// A BMC with ten slots that can misbehave on order.
#[derive(Clone)]
struct Fake {
    users: BTreeMap<u8, User>,
    slots: u8,
    /// (stored, in force) as access and limit.
    access: [(u8, u8); 2],
    addresses: BTreeMap<u8, Ipv4Addr>,
    port: Option<u16>,
    /// Answers instead of its own: the first that fits a request's name and, if given, its slot.
    faults: VecDeque<(&'static str, Option<u8>, Fault)>,
    log: Vec<&'static str>,
    pauses: usize,
    /// Says yes to these and does nothing.
    forgets: &'static [&'static str],
    /// Passwords need a special letter.
    strict: bool,
    /// Takes passwords of 20 bytes only.
    long_only: bool,
    tells_enabled: bool,
    tells_channels: bool,
    /// What an empty slot's name is.
    empty: &'static [u8],
}

#[derive(Clone, Copy)]
enum Fault {
    Code(u8),
    Silence,
    Short,
    /// This code for ever.
    Always(u8),
}

#[derive(Clone, Debug, Default, PartialEq)]
struct User {
    name: String,
    password: Vec<u8>,
    access: u8,
    enabled: bool,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            users: BTreeMap::from([(2, User { name: "ADMIN".into(), ..User::default() })]),
            slots: 10,
            access: [(0x3a, 4); 2],
            addresses: BTreeMap::from([(1, Ipv4Addr::new(10, 0, 0, 9))]),
            port: Some(623),
            faults: VecDeque::new(),
            log: Vec::new(),
            pauses: 0,
            forgets: &[],
            strict: false,
            long_only: false,
            tells_enabled: true,
            tells_channels: true,
            empty: &[0; 16],
        }
    }
}

impl Fake {
    fn with_fault(mut self, request: &'static str, slot: Option<u8>, fault: Fault) -> Self {
        self.faults.push_back((request, slot, fault));
        self
    }

    fn fault(&mut self, request: &Request) -> Option<Fault> {
        let slot = match request {
            Request::SetUserName { user, .. }
            | Request::UserName { user }
            | Request::EnableUser { user, .. }
            | Request::Password { user, .. }
            | Request::UserAccess { user, .. }
            | Request::MakeAdministrator { user, .. } => Some(*user),
            _ => None,
        };
        let at = self.faults.iter().position(|(name, only, _)| {
            *name == request.name() && only.is_none_or(|only| Some(only) == slot)
        })?;
        match self.faults[at].2 {
            Fault::Always(code) => Some(Fault::Code(code)),
            fault => {
                self.faults.remove(at);
                Some(fault)
            }
        }
    }

    fn password(&mut self, user: u8, test: bool, long: bool, password: &str) -> Vec<u8> {
        if self.long_only && !long {
            return vec![0xc7];
        }
        if test {
            let same = self.users.get(&user).is_some_and(|user| user.password == password.as_bytes());
            return vec![if same { 0 } else { message::PASSWORD_DIFFERS }];
        }
        if self.strict && password.chars().all(|letter| letter.is_ascii_alphanumeric()) {
            return vec![0xcc];
        }
        if !self.forgets.contains(&"Set User Password") {
            self.users.entry(user).or_default().password = password.into();
        }
        vec![0]
    }

    fn answer(&mut self, request: &Request) -> Vec<u8> {
        if self.forgets.contains(&request.name()) && !matches!(request, Request::Password { .. }) {
            return vec![0];
        }
        match request {
            Request::ChannelInfo { .. } if !self.tells_channels => vec![0xc1],
            Request::ChannelInfo { channel } if self.addresses.contains_key(channel) => {
                vec![0, *channel, 4, 1, 0x80, 0, 0, 0, 0, 0]
            }
            Request::ChannelInfo { channel } => vec![0, *channel, 1, 1, 0, 0, 0, 0, 0, 0],
            Request::LanAddress { channel } => match self.addresses.get(channel) {
                Some(address) => [&[0, 0x11], &address.octets()[..]].concat(),
                None => vec![0xcc],
            },
            Request::LanPort { .. } => match self.port {
                Some(port) => [&[0, 0x11], &port.to_le_bytes()[..]].concat(),
                None => vec![0x80],
            },
            Request::ChannelAccess { stored, .. } => {
                let (access, limit) = self.access[usize::from(!stored)];
                vec![0, access, limit]
            }
            Request::OpenChannel { stored, .. } => {
                let (_, _, data) = request.emit();
                self.access[usize::from(!stored)] = (data[1] & 0x3f, data[2] & 0x0f);
                vec![0]
            }
            Request::UserAccess { user, .. } => {
                let user = self.users.get(user).cloned().unwrap_or_default();
                let enabled = match (self.tells_enabled, user.enabled) {
                    (false, _) => 0,
                    (_, true) => 0x40,
                    (_, false) => 0x80,
                };
                vec![0, self.slots, enabled | 1, 0, user.access]
            }
            Request::MakeAdministrator { user, .. } => {
                self.users.entry(*user).or_default().access = 0x34;
                vec![0]
            }
            Request::UserName { user } => match self.users.get(user) {
                Some(user) if !user.name.is_empty() => {
                    let mut name = user.name.clone().into_bytes();
                    name.resize(16, 0);
                    [vec![0], name].concat()
                }
                _ if self.empty.is_empty() => vec![0xcc],
                _ => [&[0], self.empty].concat(),
            },
            Request::SetUserName { user, name } => {
                self.users.entry(*user).or_default().name = name.clone();
                vec![0]
            }
            Request::EnableUser { user, on } => {
                self.users.entry(*user).or_default().enabled = *on;
                vec![0]
            }
            Request::Password { user, test, long, password } => self.password(*user, *test, *long, password),
        }
    }
}

impl Bmc for Fake {
    fn exchange(&mut self, request: &Request) -> Result<Vec<u8>, LinkError> {
        self.log.push(request.name());
        match self.fault(request) {
            Some(Fault::Code(code) | Fault::Always(code)) => Ok(vec![code]),
            Some(Fault::Silence) => Err(LinkError::Timeout),
            Some(Fault::Short) => Ok(vec![]),
            None => Ok(self.answer(request)),
        }
    }

    fn pause(&mut self) {
        self.pauses += 1;
    }
}

const NAME: &str = "talos-agent";
const PASSWORD: &str = "Abcdefgh12345678";

fn made(bmc: &mut Fake) -> Made {
    let made = ensure_user(bmc, NAME, PASSWORD).unwrap();
    let user = &bmc.users[&made.slot];
    let want = User { name: NAME.into(), password: PASSWORD.into(), access: 0x34, enabled: true };
    assert_eq!(*user, want);
    assert_eq!(bmc.users.values().filter(|user| user.name == NAME).count(), 1);
    made
}

#[test]
fn a_user_is_made_in_the_first_empty_slot() {
    for empty in [&[0; 16][..], b"(Empty User)\0\0\0\0", b"                ", &[0xff; 16], &[]] {
        let mut bmc = Fake { empty, ..Fake::default() };
        let made = made(&mut bmc);
        assert_eq!((made.slot, made.channel, made.existed), (3, 1, false));
        assert!(made.unverified.is_empty());
    }
}

#[test]
fn a_user_that_exists_is_taken_over() {
    let mut bmc = Fake::default();
    bmc.users.insert(7, User { name: NAME.into(), password: b"old".to_vec(), ..User::default() });
    assert_eq!(made(&mut bmc).slot, 7);
    assert!(!bmc.log.contains(&"Set User Name"));
    assert!(made(&mut bmc).existed);
}

#[test]
fn a_slot_that_misbehaves_is_emptied_and_the_next_is_taken() {
    for (request, fault) in [
        ("Set User Name", Fault::Code(0xcc)),
        ("Set User Password", Fault::Code(0xcc)),
        ("Set User Password (test)", Fault::Code(0x80)),
        ("Set User Access", Fault::Code(0xd5)),
        ("Set User Password (enable)", Fault::Code(0xff)),
    ] {
        let mut bmc = Fake { long_only: request == "Set User Password", ..Fake::default() };
        bmc = bmc.with_fault(request, Some(3), fault);
        if request == "Set User Password" {
            // Both forms are refused in this slot.
            bmc = bmc.with_fault(request, Some(3), fault);
        }
        assert_eq!(made(&mut bmc).slot, 4, "{request}");
        assert!(bmc.users.get(&3).is_none_or(|user| user.name.is_empty() && !user.enabled), "{request}");
    }
}

#[test]
fn a_busy_bmc_is_asked_again() {
    let mut bmc = Fake::default().with_fault("Get User Access", None, Fault::Code(message::BUSY)).with_fault(
        "Set User Password",
        None,
        Fault::Code(message::TIMED_OUT),
    );
    assert_eq!(made(&mut bmc).slot, 3);
    assert_eq!(bmc.pauses, 2);
    let mut bmc = Fake::default().with_fault("Get User Access", None, Fault::Always(message::BUSY));
    let error = ensure_user(&mut bmc, NAME, PASSWORD).unwrap_err();
    assert_eq!(error.to_string(), "Get User Access: BMC refused: it is busy (0xc0)");
    assert_eq!(bmc.pauses, BUSY_RETRIES);
}

#[test]
fn a_password_that_the_policy_refuses_is_told_as_such() {
    let mut bmc = Fake { strict: true, ..Fake::default() };
    let error = ensure_user(&mut bmc, NAME, PASSWORD).unwrap_err();
    assert!(matches!(error, SetupError::Password(_)), "{error}");
    assert!(bmc.users.values().all(|user| user.name != NAME), "nothing is left behind");
    assert_eq!(ensure_user(&mut bmc, NAME, "Abcdefgh1234567-").unwrap().slot, 3);
}

#[test]
fn a_bmc_that_wants_twenty_bytes_gets_them() {
    let mut bmc = Fake { long_only: true, ..Fake::default() };
    assert_eq!(made(&mut bmc).slot, 3);
    let mut bmc = Fake::default();
    ensure_user(&mut bmc, NAME, "Abcdefgh123456789012").unwrap();
    assert_eq!(bmc.users[&3].password.len(), 20);
}

#[test]
fn what_the_bmc_accepts_and_forgets_is_an_error() {
    for (request, what) in [
        ("Set User Name", "the user's name"),
        ("Set User Password", "the password"),
        ("Set User Access", "the user's privileges"),
        ("Set User Password (enable)", "that the user is enabled"),
        ("Set Channel Access", "the LAN channel's access"),
    ] {
        let forgets: &'static [&'static str] = Box::leak(Box::new([request]));
        let mut bmc = Fake { forgets, access: [(0x38, 2); 2], ..Fake::default() };
        let error = ensure_user(&mut bmc, NAME, PASSWORD).unwrap_err();
        assert_eq!(error.to_string(), format!("BMC accepted {what} but did not keep it"));
    }
}

#[test]
fn the_lan_channel_is_opened_for_administrators_and_keeps_its_other_settings() {
    let mut bmc = Fake { access: [(0x38, 4), (0x12, 3)], ..Fake::default() };
    made(&mut bmc);
    assert_eq!(bmc.access, [(0x3a, 4), (0x12, 4)]);
    let mut bmc = Fake { access: [(0x38, 4); 2], ..Fake::default() }.with_fault(
        "Set Channel Access",
        None,
        Fault::Always(0xd4),
    );
    let error = ensure_user(&mut bmc, NAME, PASSWORD).unwrap_err();
    assert!(error.to_string().contains("privilege does not suffice"), "{error}");
}

#[test]
fn what_a_bmc_does_not_tell_is_named() {
    let mut bmc = Fake { tells_enabled: false, ..Fake::default() }
        .with_fault("Set User Password (test)", None, Fault::Always(0xc1))
        .with_fault("Get Channel Access", None, Fault::Always(0xc1));
    let made = made(&mut bmc);
    assert_eq!(made.unverified[..2], ["the password", "that the user is enabled"]);
    assert!(made.unverified[2..].iter().all(|what| *what == "the LAN channel's access"));
}

#[test]
fn a_full_bmc_and_bad_arguments_are_errors() {
    let mut bmc = Fake { slots: 2, ..Fake::default() };
    let error = ensure_user(&mut bmc, NAME, PASSWORD).unwrap_err();
    assert_eq!(error.to_string(), "BMC has no free slot for another user (2 slots)");
    let long = "x".repeat(21);
    for (name, password) in
        [("", "x"), ("a name", "x"), ("seventeen-letters", "x"), ("n", ""), ("n", &long), ("n", "\u{e9}")]
    {
        let error = ensure_user(&mut bmc, name, password).unwrap_err();
        assert!(matches!(error, SetupError::Argument(_)), "{name:?} {password:?}");
    }
}

#[test]
fn a_bmc_that_falls_silent_at_any_request_ends_the_work() {
    let mut whole = Fake { access: [(0x38, 2); 2], ..Fake::default() };
    made(&mut whole);
    for at in 0..whole.log.len() {
        for fault in [Fault::Silence, Fault::Short, Fault::Code(0xff)] {
            let mut bmc =
                SilentAfter { inner: Fake { access: [(0x38, 2); 2], ..Fake::default() }, at, fault };
            // Whatever comes of it: it ends, and a success is a real one.
            if let Ok(made) = ensure_user(&mut bmc, NAME, PASSWORD) {
                assert_eq!(bmc.inner.users[&made.slot].name, NAME);
                assert!(bmc.inner.users[&made.slot].enabled);
            }
        }
    }
}

struct SilentAfter {
    inner: Fake,
    at: usize,
    fault: Fault,
}

impl Bmc for SilentAfter {
    fn exchange(&mut self, request: &Request) -> Result<Vec<u8>, LinkError> {
        if self.inner.log.len() == self.at {
            self.inner.faults.push_front((request.name(), None, self.fault));
        }
        self.inner.exchange(request)
    }

    fn pause(&mut self) {}
}

#[test]
fn the_bmc_tells_where_it_is() {
    let mut bmc = Fake::default();
    let told = ask(&mut bmc, NAME).unwrap();
    assert_eq!(told, Told { address: Ipv4Addr::new(10, 0, 0, 9), port: 623, user_exists: false });
    assert!(ask(&mut bmc, "ADMIN").unwrap().user_exists);
    made(&mut bmc);
    assert!(ask(&mut bmc, NAME).unwrap().user_exists);
    for port in [None, Some(0)] {
        assert_eq!(ask(&mut Fake { port, ..Fake::default() }, "").unwrap().port, 623);
    }
    assert_eq!(ask(&mut Fake { port: Some(9999), ..Fake::default() }, "").unwrap().port, 9999);
}

#[test]
fn the_lan_channel_with_an_address_is_preferred() {
    let two = BTreeMap::from([(1, Ipv4Addr::UNSPECIFIED), (8, Ipv4Addr::new(10, 0, 0, 8))]);
    let mut bmc = Fake { addresses: two, ..Fake::default() };
    assert_eq!(lan_channel(&mut bmc).unwrap(), (8, Ipv4Addr::new(10, 0, 0, 8)));
    let none = BTreeMap::from([(3, Ipv4Addr::UNSPECIFIED)]);
    assert_eq!(lan_channel(&mut Fake { addresses: none, ..Fake::default() }).unwrap().0, 3);
    let mut silent = Fake { tells_channels: false, ..Fake::default() };
    assert_eq!(lan_channel(&mut silent).unwrap(), (1, Ipv4Addr::new(10, 0, 0, 9)));
    let gone = Fake { addresses: BTreeMap::new(), ..Fake::default() };
    assert!(lan_channel(&mut gone.clone()).is_err());
}
