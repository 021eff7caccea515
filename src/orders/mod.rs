//! What people ask for, whichever door they come through: the REST API, `aether proxy` and the CLI.
//!
//! Asking never acts. It writes a wish (a spec, `spec.control`, an annotation, the rolling ConfigMap) and says what is wanted now;
//! only the leader acts. [`updates`] and [`pools`] decide what to write, pure; [`view`] is what is answered; [`desk`] reads and
//! writes as whoever its client is.

pub mod desk;
pub mod pools;
pub mod updates;
pub mod view;

#[cfg(test)]
mod tests;

pub use desk::Desk;
pub use updates::{Hold, Order, Start};

/// What kind of no it is: REST makes a status code of it, the CLI an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// What was asked makes no sense.
    Invalid,
    /// Whoever asks is not known.
    Unauthenticated,
    /// Whoever asks may not.
    Forbidden,
    /// What it is about is not there.
    NotFound,
    /// It makes sense, but not now.
    Conflict,
    /// The API server does not answer; asking again may help.
    Unavailable,
}

/// Why something asked for is not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of no.
    pub class: Class,
    /// A sentence for whoever asked: what is wrong, and the way out.
    pub message: String,
}

impl Refusal {
    /// What was asked makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { class: Class::Invalid, message: message.into() }
    }

    /// What it is about is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self { class: Class::NotFound, message: message.into() }
    }

    /// Not now.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self { class: Class::Conflict, message: message.into() }
    }
}
