//! How a request comes to its answer: as whom it is asked, redirects, and controllers that are busy.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;

use super::{Dialogue, DialogueError, REQUESTS_MAX, Result2, farewell, location, protocol};
use crate::redfish::system::{Root, detail, wants_basic};
use crate::redfish::wire::{Answer, Auth, Request, Wire};

/// Redirects of one request: a slash at the end, another version of the path.
const REDIRECTS_MAX: usize = 3;
/// How often a busy controller is asked again, and after which pause.
const BUSY_MAX: usize = 2;
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// Longest token that is kept. The real ones have up to a thousand bytes (JWT).
const TOKEN_LIMIT: usize = 8 * 1024;

const ROOT: &str = "/redfish/v1/";

impl<W: Wire> Dialogue<'_, W> {
    pub(super) async fn root(&mut self) -> Result2<&Root, W> {
        if self.root.is_none() {
            let request = Request::get(ROOT);
            let answer = self.exchange(request.clone()).await?;
            let root = match answer.status() {
                // Against the standard, but what is behind it is where it always is.
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Root::default(),
                _ => Root::of(&self.value_of(&request, &answer)?, self.target)
                    .ok_or_else(|| protocol(&request, "no systems: no Redfish, or none for machines"))?,
            };
            self.known.name.clone_from(&root.name);
            self.root = Some(root);
        }
        Ok(self.root.as_ref().expect("it was just put there"))
    }

    /// Asks as our user. A session that ended since the last dialogue is opened anew.
    pub(super) async fn ask(&mut self, mut request: Request) -> Result2<Answer, W> {
        let mut old = self.known.auth.is_some();
        loop {
            request.auth = match self.known.auth.clone() {
                Some(auth) => auth,
                None => self.log_in().await?,
            };
            let answer = self.exchange(request.clone()).await?;
            match (answer.status(), &request.auth) {
                (StatusCode::UNAUTHORIZED, _) | (StatusCode::FORBIDDEN, Auth::Session { .. }) if old => {
                    old = false;
                    // It may be well, and the refusal meant: then it must not take room for ever.
                    if let Some(request) = farewell(self.known).filter(|_| answer.status() == 403) {
                        self.exchange(request).await?;
                    }
                    self.known.auth = None;
                }
                (StatusCode::UNAUTHORIZED, _) => {
                    self.known.auth = None;
                    return Err(self.unauthorized(&answer));
                }
                _ => return Ok(answer),
            }
        }
    }

    /// A session: a controller writes each login into its log, and user and password would be one with every
    /// request. Where there are none, user and password it is.
    async fn log_in(&mut self) -> Result2<Auth, W> {
        let sessions = self.root().await?.sessions.clone();
        let body = json!({ "UserName": self.login.user, "Password": self.login.password });
        let answer = self.exchange(Request::new(Method::POST, sessions).with(body)).await?;
        // Without sessions, some want user and password even to say so. A wrong password is not tried twice otherwise.
        if answer.status() == StatusCode::UNAUTHORIZED && !wants_basic(&answer) {
            return Err(self.unauthorized(&answer));
        }
        let token = answer.headers().get("x-auth-token").and_then(|token| token.to_str().ok());
        let token = token.filter(|token| !token.is_empty() && token.len() <= TOKEN_LIMIT);
        let auth = match token.filter(|_| answer.status().is_success()) {
            Some(token) => {
                Auth::Session { token: token.to_owned(), location: location(&answer, self.target) }
            }
            None => {
                self.passing = answer.status().is_server_error() || answer.status().as_u16() == 429;
                Auth::basic(self.login)
            }
        };
        self.known.auth = Some(auth.clone());
        Ok(auth)
    }

    fn unauthorized(&self, answer: &Answer) -> DialogueError<W::Error> {
        DialogueError::Unauthorized { detail: self.login.redacted(detail(answer)) }
    }

    /// One request and its answer, redirects on this controller followed, a busy controller asked again.
    async fn exchange(&mut self, mut request: Request) -> Result2<Answer, W> {
        let (mut redirects, mut busy) = (0, 0);
        loop {
            self.asked += 1;
            if self.asked > REQUESTS_MAX {
                return Err(protocol(&request, "ever more to ask"));
            }
            let answer = match self.wire.ask(&request).await {
                Ok(answer) => answer,
                Err(error) => return Err(DialogueError::Wire { request: request.to_string(), error }),
            };
            match answer.status().as_u16() {
                429 | 503 if busy < BUSY_MAX => {
                    busy += 1;
                    self.wire.pause(BUSY_PAUSE).await;
                }
                status @ (301 | 302 | 307 | 308) => {
                    // Only these two say that the method stays.
                    let may = request.method == Method::GET || matches!(status, 307 | 308);
                    let to = location(&answer, self.target).filter(|_| may && redirects < REDIRECTS_MAX);
                    let Some(to) = to else {
                        return Err(protocol(&request, "a redirect to elsewhere, or one too many"));
                    };
                    redirects += 1;
                    request.path = to;
                }
                _ => return Ok(answer),
            }
        }
    }
}
