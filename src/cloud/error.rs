//! What can go wrong with a cloud, in classes that lead to different actions.

use std::time::Duration;

/// An answer of a cloud that is no success.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {message}")]
pub struct Error {
    /// Decides what follows.
    pub class: Class,
    /// The cloud's own words, without secrets, at most 300 characters.
    pub message: String,
}

/// What follows from an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Class {
    /// There is no such thing.
    #[error("not found")]
    NotFound,
    /// Too many requests; the duration is the cloud's own.
    #[error("throttled")]
    Throttled(Option<Duration>),
    /// The account may not have more.
    #[error("quota exceeded")]
    Quota,
    /// The place has no more of that kind.
    #[error("no capacity")]
    Capacity,
    /// Credentials are missing, wrong or not allowed to do that.
    #[error("credentials refused")]
    Auth,
    /// The cloud will never take that request.
    #[error("invalid")]
    Invalid,
    /// Nothing was done; worth another try.
    #[error("temporarily failed")]
    Transient,
    /// The request may have been carried out or not (reply lost, timeout, 5xx after sending).
    #[error("outcome unknown")]
    Unknown,
}

impl Class {
    /// One word, for metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Throttled(_) => "throttled",
            Self::Quota => "quota",
            Self::Capacity => "capacity",
            Self::Auth => "auth",
            Self::Invalid => "invalid",
            Self::Transient => "transient",
            Self::Unknown => "unknown",
        }
    }
}
