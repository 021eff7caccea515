//! The one place that asks what time it is.

use chrono::{DateTime, Utc};

use crate::api::Time;

/// Now, in whole milliseconds, as statuses keep it.
#[allow(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> Time {
    let now = Utc::now();
    DateTime::from_timestamp_millis(now.timestamp_millis()).unwrap_or(now)
}
