//! Who logs in, and why a BMC says no.

use std::fmt;

/// The longest names and passwords of IPMI 2.0.
pub const USER_MAX: usize = 16;
/// See [`USER_MAX`].
pub const PASSWORD_MAX: usize = 20;

/// Who logs in.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub(super) user: Vec<u8>,
    pub(super) password: Vec<u8>,
}

impl fmt::Debug for Login {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Login").field("user", &String::from_utf8_lossy(&self.user)).finish_non_exhaustive()
    }
}

impl Login {
    /// A name of up to 16 bytes and a password of up to 20, without zero bytes: longer ones do not exist.
    pub fn new(user: &str, password: &str) -> Result<Self, LoginError> {
        let fits = |text: &str, most: usize| text.len() <= most && !text.bytes().any(|byte| byte == 0);
        if !fits(user, USER_MAX) {
            return Err(LoginError::BadName);
        }
        if !fits(password, PASSWORD_MAX) {
            return Err(LoginError::BadPassword);
        }
        Ok(Self { user: user.into(), password: password.into() })
    }
}

/// Why a BMC does not let us in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// Longer than IPMI has them.
    #[error("the user's name is longer than {USER_MAX} bytes")]
    BadName,
    /// Longer than IPMI has them.
    #[error("the password is longer than {PASSWORD_MAX} bytes")]
    BadPassword,
    /// It does not know the name, or the user may not use this channel.
    #[error("it has no such user, or the user is disabled on its network channel")]
    UnknownUser,
    /// It has another password for the user.
    #[error("the password is wrong")]
    WrongPassword,
    /// Neither suite.
    #[error("it has neither cipher suite 17 nor 3 enabled: allow one of them in its settings")]
    NoSuite,
    /// The user may not switch machines.
    #[error("the user has neither administrator's nor operator's rights on its network channel")]
    Privilege,
    /// Too many sessions.
    #[error("it has no room for another session: close some, or restart the BMC")]
    NoRoom,
    /// A second key is demanded.
    #[error("it demands a BMC key (Kg), which is not supported: clear it")]
    BmcKey,
    /// Too old.
    #[error("it speaks only IPMI 1.5: its network interface is not safe to use")]
    TooOld,
    /// Another status (table 13-15).
    #[error("it refuses the session with status {0:#04x}")]
    Other(u8),
}

impl LoginError {
    pub(super) fn of(status: u8) -> Self {
        match status {
            0x01 | 0x0b => Self::NoRoom,
            0x04 | 0x05 | 0x10 | 0x11 => Self::NoSuite,
            0x09 | 0x0a => Self::Privilege,
            0x0d => Self::UnknownUser,
            0x0f => Self::WrongPassword,
            other => Self::Other(other),
        }
    }
}
