//! Durations in JSON: seconds, at most a year, so that no sum of times overflows.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};

const LONGEST: Duration = Duration::from_hours(24 * 366);

pub(super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}

pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Duration, D::Error> {
    let duration = Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(D::Error::custom)?;
    if duration > LONGEST { Err(D::Error::custom("longer than a year")) } else { Ok(duration) }
}
