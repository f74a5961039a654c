//! The requests that are needed, as bytes (IPMI 2.0 revision 1.1: chapters 22 "IPMI Messaging Support
//! Commands" and 23 "IPMI LAN Commands").

use std::net::Ipv4Addr;

/// Network function: application.
pub const APP: u8 = 0x06;
/// Network function: transport.
pub const TRANSPORT: u8 = 0x0c;

/// Completion code: done.
pub const OK: u8 = 0x00;
/// Node busy.
pub const BUSY: u8 = 0xc0;
/// The BMC's own time-out.
pub const TIMED_OUT: u8 = 0xc3;
/// The BMC does not know the command.
pub const UNKNOWN_COMMAND: u8 = 0xc1;
/// Set User Password: the password that was tested is another one.
pub const PASSWORD_DIFFERS: u8 = 0x80;
/// Set User Password: the password that was tested has another length.
pub const PASSWORD_LENGTH_DIFFERS: u8 = 0x81;

/// Bytes of a user's name.
pub const NAME: usize = 16;
/// Bytes of a password of the old form, which every BMC takes.
pub const SHORT_PASSWORD: usize = 16;
/// Bytes of a password of the IPMI 2.0 form.
pub const LONG_PASSWORD: usize = 20;
/// Channel medium: 802.3 LAN.
const MEDIUM_LAN: u8 = 0x04;
/// LAN configuration parameters.
const PARAMETER_ADDRESS: u8 = 3;
const PARAMETER_PORT: u8 = 8;

/// Privilege level: administrator.
pub const ADMINISTRATOR: u8 = 4;
/// Channel access mode: always available.
pub const ALWAYS_AVAILABLE: u8 = 2;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Get Channel Info.
    ChannelInfo {
        /// Which channel.
        channel: u8,
    },
    /// Get LAN Configuration Parameters: IP address.
    LanAddress {
        /// Which channel.
        channel: u8,
    },
    /// Get LAN Configuration Parameters: primary RMCP port.
    LanPort {
        /// Which channel.
        channel: u8,
    },
    /// Get Channel Access.
    ChannelAccess {
        /// Which channel.
        channel: u8,
        /// The stored one, or the one in force.
        stored: bool,
    },
    /// Set Channel Access: always available, up to administrators, the other settings as given.
    OpenChannel {
        /// Which channel.
        channel: u8,
        /// Bits 3 to 5 of what Get Channel Access told.
        keep: u8,
        /// The stored one, or the one in force.
        stored: bool,
    },
    /// Get User Access.
    UserAccess {
        /// Which channel.
        channel: u8,
        /// Which slot.
        user: u8,
    },
    /// Set User Access: administrator, IPMI messaging and link authentication allowed.
    MakeAdministrator {
        /// Which channel.
        channel: u8,
        /// Which slot.
        user: u8,
    },
    /// Get User Name.
    UserName {
        /// Which slot.
        user: u8,
    },
    /// Set User Name.
    SetUserName {
        /// Which slot.
        user: u8,
        /// At most [`NAME`] bytes; the rest is cut.
        name: String,
    },
    /// Set User Password, enable or disable.
    EnableUser {
        /// Which slot.
        user: u8,
        /// On or off.
        on: bool,
    },
    /// Set User Password, set or test.
    Password {
        /// Which slot.
        user: u8,
        /// Compares instead of setting.
        test: bool,
        /// Uses the form of 20 bytes.
        long: bool,
        /// The password.
        password: String,
    },
}

impl Request {
    /// The specification's name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ChannelInfo { .. } => "Get Channel Info",
            Self::LanAddress { .. } => "Get LAN Configuration (address)",
            Self::LanPort { .. } => "Get LAN Configuration (port)",
            Self::ChannelAccess { .. } => "Get Channel Access",
            Self::OpenChannel { .. } => "Set Channel Access",
            Self::UserAccess { .. } => "Get User Access",
            Self::MakeAdministrator { .. } => "Set User Access",
            Self::UserName { .. } => "Get User Name",
            Self::SetUserName { .. } => "Set User Name",
            Self::EnableUser { .. } => "Set User Password (enable)",
            Self::Password { test: true, .. } => "Set User Password (test)",
            Self::Password { .. } => "Set User Password",
        }
    }

    /// Network function, command and data.
    pub fn emit(&self) -> (u8, u8, Vec<u8>) {
        // Which of the two copies: 01 stored, 10 in force.
        let copy = |stored: bool| if stored { 0x40 } else { 0x80 };
        match self {
            Self::ChannelInfo { channel } => (APP, 0x42, vec![*channel]),
            Self::LanAddress { channel } => (TRANSPORT, 0x02, vec![*channel, PARAMETER_ADDRESS, 0, 0]),
            Self::LanPort { channel } => (TRANSPORT, 0x02, vec![*channel, PARAMETER_PORT, 0, 0]),
            Self::ChannelAccess { channel, stored } => (APP, 0x41, vec![*channel, copy(*stored)]),
            Self::OpenChannel { channel, keep, stored } => {
                let access = copy(*stored) | (keep & 0x38) | ALWAYS_AVAILABLE;
                (APP, 0x40, vec![*channel, access, copy(*stored) | ADMINISTRATOR])
            }
            Self::UserAccess { channel, user } => (APP, 0x44, vec![*channel, *user]),
            Self::MakeAdministrator { channel, user } => {
                // Bit 7: the bits below count; 5: link authentication; 4: messaging. 6, call-back only, off.
                (APP, 0x43, vec![0xb0 | channel, *user, ADMINISTRATOR, 0])
            }
            Self::UserName { user } => (APP, 0x46, vec![*user]),
            Self::SetUserName { user, name } => (APP, 0x45, [vec![*user], padded(name, NAME)].concat()),
            Self::EnableUser { user, on } => (APP, 0x47, vec![*user, u8::from(*on)]),
            Self::Password { user, test, long, password } => {
                let length = if *long { LONG_PASSWORD } else { SHORT_PASSWORD };
                let head = vec![user | u8::from(*long) << 7, if *test { 3 } else { 2 }];
                (APP, 0x47, [head, padded(password, length)].concat())
            }
        }
    }
}

fn padded(text: &str, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = text.bytes().take(length).collect();
    bytes.resize(length, 0);
    bytes
}

/// The data of an answer, after its completion code.
pub trait Answer: Sized {
    /// None when it is too short.
    fn parse(data: &[u8]) -> Option<Self>;
}

impl Answer for () {
    fn parse(_data: &[u8]) -> Option<Self> {
        Some(())
    }
}

/// Answer to Get Channel Info.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelInfo {
    /// Channel medium type.
    pub medium: u8,
}

impl ChannelInfo {
    /// Whether it is an Ethernet channel.
    pub fn is_lan(self) -> bool {
        self.medium == MEDIUM_LAN
    }
}

impl Answer for ChannelInfo {
    fn parse(data: &[u8]) -> Option<Self> {
        Some(Self { medium: data.get(1)? & 0x7f })
    }
}

/// Answer to Get LAN Configuration Parameters: IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub Ipv4Addr);

impl Answer for Address {
    fn parse(data: &[u8]) -> Option<Self> {
        // The first byte is the parameter's revision.
        let bytes: [u8; 4] = data.get(1..5)?.try_into().ok()?;
        Some(Self(bytes.into()))
    }
}

/// Answer to Get LAN Configuration Parameters: port, low byte first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(pub u16);

impl Answer for Port {
    fn parse(data: &[u8]) -> Option<Self> {
        Some(Self(u16::from_le_bytes([*data.get(1)?, *data.get(2)?])))
    }
}

/// Answer to Get Channel Access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelAccess {
    /// Alerting and authentication settings with the access mode.
    pub access: u8,
    /// Privilege limit.
    pub limit: u8,
}

impl ChannelAccess {
    /// Whether administrators may use it at any time. A shared one is always open too.
    pub fn is_open(self) -> bool {
        matches!(self.access & 0x07, ALWAYS_AVAILABLE | 3) && self.limit & 0x0f >= ADMINISTRATOR
    }
}

impl Answer for ChannelAccess {
    fn parse(data: &[u8]) -> Option<Self> {
        Some(Self { access: *data.first()?, limit: *data.get(1)? })
    }
}

/// Answer to Get User Access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserAccess {
    /// Slots that there are.
    pub slots: u8,
    /// Whether this user is enabled, if the BMC tells it.
    pub enabled: Option<bool>,
    /// Messaging allowed, and how much.
    access: u8,
}

impl UserAccess {
    /// Whether the user may do everything over this channel.
    pub fn is_administrator(self) -> bool {
        self.access & 0x10 != 0 && self.access & 0x0f == ADMINISTRATOR
    }
}

impl Answer for UserAccess {
    fn parse(data: &[u8]) -> Option<Self> {
        let enabled = match data.get(1)? >> 6 {
            1 => Some(true),
            2 => Some(false),
            _ => None,
        };
        Some(Self { slots: data.first()? & 0x3f, enabled, access: *data.get(3)? })
    }
}

/// Answer to Get User Name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName(pub String);

impl Answer for UserName {
    fn parse(data: &[u8]) -> Option<Self> {
        let name = data.get(..data.len().min(NAME))?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        Some(Self(String::from_utf8_lossy(&name[..end]).into_owned()))
    }
}

/// A completion code in words.
pub fn completion(code: u8) -> &'static str {
    match code {
        OK => "done",
        PASSWORD_DIFFERS => "the password is another one",
        PASSWORD_LENGTH_DIFFERS => "the password has another length",
        BUSY => "it is busy",
        UNKNOWN_COMMAND => "it does not know the command",
        0xc2 => "the command does not fit the logical unit",
        TIMED_OUT => "it timed out itself",
        0xc4 => "it has no space left",
        0xc7 | 0xc8 => "the request has the wrong length",
        0xc9 => "a parameter is out of range",
        0xcb => "it does not have that",
        0xcc => "a field is not valid",
        0xcd => "the command is not allowed here",
        0xd4 => "the privilege does not suffice",
        0xd5 => "not in its present state",
        0xd6 => "the function is switched off",
        0xff => "unspecified error",
        _ => "an error of its own",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_the_bytes_of_the_specification() {
        let name = |text: &str, length: usize| padded(text, length);
        let set = Request::Password { user: 3, test: false, long: false, password: "secret".into() };
        let test = Request::Password { user: 3, test: true, long: true, password: "secret".into() };
        for (request, function, command, data) in [
            (Request::ChannelInfo { channel: 1 }, 0x06, 0x42, vec![1]),
            (Request::LanAddress { channel: 8 }, 0x0c, 0x02, vec![8, 3, 0, 0]),
            (Request::LanPort { channel: 1 }, 0x0c, 0x02, vec![1, 8, 0, 0]),
            (Request::ChannelAccess { channel: 1, stored: false }, 0x06, 0x41, vec![1, 0x80]),
            (Request::OpenChannel { channel: 1, keep: 0xfd, stored: true }, 0x06, 0x40, vec![1, 0x7a, 0x44]),
            (Request::UserAccess { channel: 1, user: 2 }, 0x06, 0x44, vec![1, 2]),
            (Request::MakeAdministrator { channel: 1, user: 2 }, 0x06, 0x43, vec![0xb1, 2, 4, 0]),
            (Request::UserName { user: 2 }, 0x06, 0x46, vec![2]),
            (
                Request::SetUserName { user: 2, name: "talos-agent".into() },
                0x06,
                0x45,
                [vec![2], name("talos-agent", 16)].concat(),
            ),
            (Request::EnableUser { user: 2, on: true }, 0x06, 0x47, vec![2, 1]),
            (Request::EnableUser { user: 2, on: false }, 0x06, 0x47, vec![2, 0]),
            (set, 0x06, 0x47, [vec![3, 2], name("secret", 16)].concat()),
            (test, 0x06, 0x47, [vec![0x83, 3], name("secret", 20)].concat()),
        ] {
            assert_eq!(request.emit(), (function, command, data), "{}", request.name());
        }
    }

    #[test]
    fn answers_are_read_and_short_ones_are_none() {
        assert!(ChannelInfo::parse(&[1, 0x84, 1, 0, 0, 0, 0, 0, 0]).unwrap().is_lan());
        assert!(!ChannelInfo::parse(&[0, 1]).unwrap().is_lan());
        assert_eq!(Address::parse(&[0x11, 10, 0, 0, 9]), Some(Address(Ipv4Addr::new(10, 0, 0, 9))));
        assert_eq!(Port::parse(&[0x11, 0x6f, 0x02]), Some(Port(623)));
        assert!(ChannelAccess::parse(&[0x3a, 4]).unwrap().is_open());
        assert!(!ChannelAccess::parse(&[0x38, 4]).unwrap().is_open());
        assert!(!ChannelAccess::parse(&[0x3a, 3]).unwrap().is_open());
        let user = UserAccess::parse(&[0x4a, 0x42, 1, 0x34]).unwrap();
        assert_eq!((user.slots, user.enabled, user.is_administrator()), (10, Some(true), true));
        assert_eq!(UserAccess::parse(&[10, 0x82, 1, 0x24]).unwrap().enabled, Some(false));
        assert!(!UserAccess::parse(&[10, 2, 1, 0x24]).unwrap().is_administrator());
        assert_eq!(UserName::parse(b"talos-agent\0\0\0\0\0").unwrap().0, "talos-agent");
        assert_eq!(UserName::parse(&[0xff; 16]).unwrap().0, "\u{fffd}".repeat(16));
        assert_eq!(UserName::parse(&[]).unwrap().0, "");
        assert_eq!(ChannelInfo::parse(&[1]), None);
        assert_eq!(Address::parse(&[0x11, 10, 0, 0]), None);
        assert_eq!(Port::parse(&[0x11, 1]), None);
        assert_eq!(ChannelAccess::parse(&[1]), None);
        assert_eq!(UserAccess::parse(&[1, 2, 3]), None);
    }
}
