//! Windows: spans of time, given as cron in a time zone, in which recycling may begin.

use std::str::FromStr;
use std::time::Duration;

use chrono_tz::Tz;
use croner::Cron;

use crate::api::proxy_pool::WindowSpec;
use crate::api::{Time, duration};

/// The longest a window may be open.
const LONGEST: Duration = Duration::from_hours(168);

/// A span of time that comes again.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    opens: Cron,
    lasts: Duration,
    zone: Tz,
}

impl Window {
    /// Parses one; the error says what is wrong and what to write.
    pub fn parse(spec: &WindowSpec) -> Result<Self, String> {
        let opens = Cron::from_str(spec.schedule.trim())
            .map_err(|e| format!("schedule {:?} is no cron ({e}); write for example 0 2 * * *", spec.schedule))?;
        let lasts = duration::parse(&spec.duration).map_err(|e| e.to_string())?;
        if lasts.is_zero() || lasts > LONGEST {
            return Err(format!("duration {} is not between 1ms and 168h", spec.duration));
        }
        let name = spec.time_zone.as_deref().unwrap_or("UTC");
        let zone = Tz::from_str(name).map_err(|_| format!("timeZone {name:?} is not known; write for example Europe/Berlin"))?;
        Ok(Self { opens, lasts, zone })
    }

    /// Whether it is open at that time. One whose schedule never comes is never open.
    pub fn is_open(&self, now: Time) -> bool {
        let opened = self.opens.find_previous_occurrence(&now.with_timezone(&self.zone), true);
        opened.is_ok_and(|opened| (now - opened.to_utc()).to_std().is_ok_and(|since| since < self.lasts))
    }

    /// When it opens next, after that time.
    pub fn next(&self, now: Time) -> Option<Time> {
        self.opens.find_next_occurrence(&now.with_timezone(&self.zone), false).ok().map(|t| t.to_utc())
    }
}

/// Whether recycling may begin now: in one of the windows, or at any time where there are none.
pub fn are_open(windows: &[Window], now: Time) -> bool {
    windows.is_empty() || windows.iter().any(|w| w.is_open(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn window(schedule: &str, lasts: &str, zone: Option<&str>) -> Result<Window, String> {
        Window::parse(&WindowSpec { schedule: schedule.into(), duration: lasts.into(), time_zone: zone.map(Into::into) })
    }

    #[rstest]
    #[case("2026-01-15T00:59:59Z", false)]
    #[case("2026-01-15T01:00:00Z", true)]
    #[case("2026-01-15T04:59:59Z", true)]
    #[case("2026-01-15T05:00:00Z", false)]
    // Summer time: two o'clock in Berlin is an hour earlier in UTC.
    #[case("2026-07-15T00:00:00Z", true)]
    #[case("2026-07-15T04:00:00Z", false)]
    fn four_hours_by_night_in_berlin(#[case] at: &str, #[case] open: bool) {
        let window = window("0 2 * * *", "4h", Some("Europe/Berlin")).unwrap();
        assert_eq!(window.is_open(at.parse().unwrap()), open);
    }

    #[rstest]
    #[case("2026-01-16T23:30:00Z", true)]
    #[case("2026-01-17T00:30:00Z", true)]
    #[case("2026-01-17T01:30:00Z", false)]
    fn over_midnight(#[case] at: &str, #[case] open: bool) {
        let window = window("0 23 * * FRI", "2h", None).unwrap();
        assert_eq!(window.is_open(at.parse().unwrap()), open);
        assert_eq!(are_open(&[window], at.parse().unwrap()), open);
    }

    #[test]
    fn without_windows_it_is_always_open() {
        assert!(are_open(&[], Time::UNIX_EPOCH));
    }

    #[rstest]
    #[case("99 * * * *", "1h", None, "cron")]
    #[case("0 2 * * *", "0s", None, "duration")]
    #[case("0 2 * * *", "169h", None, "duration")]
    #[case("0 2 * * *", "1h", Some("Berlin"), "timeZone")]
    fn refuses(#[case] schedule: &str, #[case] lasts: &str, #[case] zone: Option<&str>, #[case] word: &str) {
        let error = window(schedule, lasts, zone).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}
