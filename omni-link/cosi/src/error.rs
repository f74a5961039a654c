//! What a [`State`](crate::State) may answer instead of doing it, and the gRPC codes of that.

use tonic::{Code, Status};

/// Why a call on a [`State`](crate::State) did not happen. The text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// There is no such resource.
    #[error("{0}")]
    NotFound(String),
    /// Create: there is one already.
    #[error("{0}")]
    AlreadyExists(String),
    /// Update: somebody else was first. Get it again and repeat.
    #[error("{0}")]
    VersionConflict(String),
    /// Update: the stored resource is not in the phase that the caller expects.
    #[error("{0}")]
    PhaseConflict(String),
    /// The resource belongs to another owner.
    #[error("{0}")]
    OwnerConflict(String),
    /// Destroy: somebody still holds a finalizer.
    #[error("{0}")]
    PendingFinalizers(String),
    /// Watch: the bookmark is malformed, or older than the history. Start afresh with a bootstrap.
    #[error("{0}")]
    InvalidBookmark(String),
    /// The request makes no sense, or the server's validation refused it.
    #[error("{0}")]
    InvalidArgument(String),
    /// The server does not let this caller do it; unlike [`StateError::OwnerConflict`] not about the owner.
    #[error("{0}")]
    PermissionDenied(String),
    /// The server does not know the caller.
    #[error("{0}")]
    Unauthenticated(String),
    /// The other side does not have this call or option.
    #[error("{0}")]
    Unimplemented(String),
    /// Out of reach or out of order for now; a write may or may not have happened.
    #[error("{0}")]
    Unavailable(String),
    /// Anything else.
    #[error("{0}")]
    Unknown(String),
}

/// The calls whose codes are read differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Read,
    Create,
    Update,
    Destroy,
    Watch,
}

/// Words by which an owner conflict is told from a server's access rule: both are `PermissionDenied`.
const OWNER_WORDS: &str = "is owned by";
/// Words by which a phase conflict is told from a validation error: both are `InvalidArgument`.
const PHASE_WORDS: [&str; 2] = ["phase", "Phase"];

impl StateError {
    /// There is no such resource.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    /// Somebody else was first: get the resource again and repeat.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::VersionConflict(_) | Self::AlreadyExists(_))
    }

    /// The same call may succeed later without a change on this side.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// What a failed `call` means. The codes are few, so the text decides where two errors share one.
    pub(crate) fn from_status(call: Call, status: &Status) -> Self {
        let text = match status.message() {
            "" => status.code().to_string(),
            text => text.to_owned(),
        };
        match (status.code(), call) {
            (Code::NotFound, _) => Self::NotFound(text),
            (Code::AlreadyExists, _) => Self::AlreadyExists(text),
            (Code::FailedPrecondition, Call::Update) => Self::VersionConflict(text),
            (Code::FailedPrecondition, Call::Destroy) => Self::PendingFinalizers(text),
            (Code::FailedPrecondition, Call::Watch) => Self::InvalidBookmark(text),
            (Code::InvalidArgument, Call::Update) if PHASE_WORDS.iter().any(|word| text.contains(word)) => {
                Self::PhaseConflict(text)
            }
            (Code::InvalidArgument, _) => Self::InvalidArgument(text),
            (Code::PermissionDenied, _) if text.contains(OWNER_WORDS) => Self::OwnerConflict(text),
            (Code::PermissionDenied, _) => Self::PermissionDenied(text),
            (Code::Unauthenticated, _) => Self::Unauthenticated(text),
            (Code::Unimplemented, _) => Self::Unimplemented(text),
            (Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted, _) => {
                Self::Unavailable(text)
            }
            // A broken connection reaches tonic's caller as Unknown with the transport error as its source.
            (Code::Unknown | Code::Internal, _) if std::error::Error::source(status).is_some() => {
                Self::Unavailable(text)
            }
            _ => Self::Unknown(text),
        }
    }

    pub(crate) fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NotFound,
            Self::AlreadyExists(_) => Code::AlreadyExists,
            Self::VersionConflict(_) | Self::PendingFinalizers(_) | Self::InvalidBookmark(_) => {
                Code::FailedPrecondition
            }
            Self::PhaseConflict(_) | Self::InvalidArgument(_) => Code::InvalidArgument,
            Self::OwnerConflict(_) | Self::PermissionDenied(_) => Code::PermissionDenied,
            Self::Unauthenticated(_) => Code::Unauthenticated,
            Self::Unimplemented(_) => Code::Unimplemented,
            Self::Unavailable(_) => Code::Unavailable,
            Self::Unknown(_) => Code::Unknown,
        }
    }
}

impl From<StateError> for Status {
    fn from(error: StateError) -> Self {
        Status::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests;
