//! One room per state: what is done in it, and what is waited for.

use std::time::Duration;

pub mod completing;
pub mod deploying;
mod endpoints;
mod interference;
pub mod pending;
pub mod resting;
pub mod rolling_back;
pub mod shifting;
mod sizing;

/// What is waited for, in a CamelCase word and a sentence.
pub struct Wait(pub &'static str, pub String);

/// A gateway that says nothing for this long after a write is worth a word.
pub const SLOW_GATEWAY: Duration = Duration::from_secs(2);
/// A gateway that says nothing for this long is taken for one that never will.
pub const MUTE_GATEWAY: Duration = Duration::from_mins(1);
