//! What is said: requests and answers as values, and what the core needs of whoever carries them.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Response};
use serde_json::Value;
use uuid::Uuid;

/// Longest path of a resource. The real ones have up to a hundred bytes.
const PATH_LIMIT: usize = 512;

/// An answer: the status, the headers and the whole body.
pub type Answer = Response<Bytes>;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// GET, POST, PATCH or DELETE.
    pub method: Method,
    /// Path on the controller.
    pub path: String,
    /// As whom.
    pub auth: Auth,
    /// The version that is to be changed, where the controller demands one.
    pub if_match: Option<String>,
    /// JSON.
    pub body: Option<Value>,
}

/// As whom a request is sent.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    /// As nobody: the service root, and logging in.
    Nobody,
    /// With user and password (RFC 7617).
    Basic(String),
    /// With a session's token.
    Session {
        /// The token.
        token: String,
        /// Where the session is, to end it.
        location: Option<String>,
    },
}

/// User and password.
#[derive(Clone)]
pub struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

/// Whom a dialogue is with.
#[derive(Clone, Debug)]
pub struct Target {
    /// Scheme and address, as links may repeat them.
    pub origin: String,
    /// The machine, where the controller has several.
    pub machine: Option<Uuid>,
    /// Whether the firmware personality is named when the boot source is set.
    pub set_mode: bool,
}

/// Carries requests to the controller and answers back.
pub trait Wire: Send {
    /// Why there is no answer.
    type Error: Send;
    /// Asks once.
    fn ask(&mut self, request: &Request) -> impl Future<Output = Result<Answer, Self::Error>> + Send;
    /// Waits.
    fn pause(&mut self, time: Duration) -> impl Future<Output = ()> + Send;
}

impl Request {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), auth: Auth::Nobody, if_match: None, body: None }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn with(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }
}

/// Method and path: no secret is in them.
impl fmt::Display for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.method, self.path)
    }
}

impl Auth {
    pub(super) fn basic(login: &Login) -> Self {
        Self::Basic(STANDARD.encode(format!("{}:{}", login.user, login.password)))
    }

    /// The header that says it; `None` for nobody, and for a token that no header can hold.
    pub fn header(&self) -> Option<(header::HeaderName, HeaderValue)> {
        let (name, value) = match self {
            Self::Nobody => return None,
            Self::Basic(code) => (header::AUTHORIZATION, format!("Basic {code}")),
            Self::Session { token, .. } => (header::HeaderName::from_static("x-auth-token"), token.clone()),
        };
        let mut value = HeaderValue::try_from(value).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Nobody => "Nobody",
            Self::Basic(_) => "Basic(..)",
            Self::Session { .. } => "Session(..)",
        })
    }
}

impl Login {
    /// For `user` with `password`.
    pub fn new(user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), password: password.to_owned() }
    }

    /// The text without the password, should a controller repeat it.
    pub(super) fn redacted(&self, text: String) -> String {
        if self.password.is_empty() || !text.contains(&self.password) {
            return text;
        }
        text.replace(&self.password, "***")
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Target {
    /// The path that a link of the controller means; `None` when it leads to somebody else, or nowhere.
    pub fn path_of(&self, link: &str) -> Option<String> {
        let path = match link.strip_prefix(&self.origin) {
            Some(path) => path,
            // The port is left out where it is the scheme's own.
            None => match self.bare_origin().and_then(|origin| link.strip_prefix(origin)) {
                Some(path) => path,
                None => link,
            },
        };
        let path = path.split('#').next().unwrap_or_default();
        let fits = path.len() <= PATH_LIMIT && path.starts_with('/') && !path.starts_with("//");
        (fits && path.parse::<PathAndQuery>().is_ok()).then(|| path.to_owned())
    }

    fn bare_origin(&self) -> Option<&str> {
        let port = if self.origin.starts_with("https:") { ":443" } else { ":80" };
        self.origin.strip_suffix(port)
    }
}
