//! Rate limits: three shapes, as the clouds have them.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Call, Dialect, Time, seconds};

/// So many requests in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// At most so many,
    pub requests: u32,
    /// in that time, more than 0.
    #[serde(with = "seconds")]
    pub per: Duration,
    /// How they come back.
    pub shape: Shape,
    /// Only calls of this kind are counted.
    #[serde(default)]
    pub call: Option<Call>,
}

/// How spent requests come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Each a whole window after it was spent (DigitalOcean).
    Sliding,
    /// One after the other, evenly (Hetzner, EC2).
    Refilling,
    /// All together, at the same moments for everybody (Compute Engine, Vultr).
    Synchronised,
}

/// What is left, as headers tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    pub limit: u32,
    pub remaining: u32,
    /// When the next one comes back, or for [`Shape::Refilling`] when all are.
    pub reset: Time,
    /// The request was refused, and another one will be until then.
    pub throttled: Option<Time>,
}

impl Dialect {
    /// The real cloud's limits for an account. The first is the one its headers tell.
    pub(super) fn limits(self) -> Vec<Limit> {
        let limit = |requests, seconds, shape| Limit { requests, per: Duration::from_secs(seconds), shape, call: None };
        match self {
            Self::DigitalOcean => vec![limit(5000, 3600, Shape::Sliding), limit(250, 60, Shape::Sliding)],
            Self::Hetzner => vec![limit(3600, 3600, Shape::Refilling)],
            Self::Vultr => vec![limit(30, 1, Shape::Synchronised)],
            Self::Gce => vec![limit(1500, 60, Shape::Synchronised)],
            Self::Ec2 => {
                vec![limit(100, 5, Shape::Refilling), Limit { call: Some(Call::Create), ..limit(1000, 500, Shape::Refilling) }]
            }
        }
    }
}

/// One limit of one account and what was spent of it.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    pub limit: Limit,
    /// When each of the requests that are not back yet comes back, in order.
    back: VecDeque<Time>,
}

impl Meter {
    pub fn new(limit: Limit) -> Self {
        Self { limit, back: VecDeque::new() }
    }

    pub fn counts(&self, call: Call) -> bool {
        self.limit.call.is_none_or(|only| only == call)
    }

    pub fn budget(&mut self, now: Time) -> Budget {
        while self.back.front().is_some_and(|back| *back <= now) {
            self.back.pop_front();
        }
        let spent = u32::try_from(self.back.len()).unwrap_or(u32::MAX);
        let reset = if self.limit.shape == Shape::Refilling { self.back.back() } else { self.back.front() };
        let (limit, reset) = (self.limit.requests, reset.copied().unwrap_or(now));
        Budget { limit, remaining: limit.saturating_sub(spent), reset, throttled: None }
    }

    /// How long until there is one to spend, if there is none.
    pub fn wait(&mut self, now: Time) -> Option<Duration> {
        let none_left = self.budget(now).remaining == 0;
        let next = self.back.front().copied().unwrap_or(now + self.limit.per);
        none_left.then(|| (next - now).to_std().unwrap_or_default())
    }

    pub fn spend(&mut self, now: Time) {
        let per = self.limit.per;
        let back = match self.limit.shape {
            Shape::Sliding => now + per,
            Shape::Refilling => self.back.back().copied().unwrap_or(now).max(now) + per / self.limit.requests.max(1),
            Shape::Synchronised => {
                let window = i64::try_from(per.as_millis()).unwrap_or(i64::MAX).max(1);
                let into = now.timestamp_millis().rem_euclid(window);
                now + Duration::from_millis(u64::try_from(window - into).unwrap_or_default())
            }
        };
        self.back.push_back(back);
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn at(millis: i64) -> Time {
        DateTime::from_timestamp_millis(millis).unwrap()
    }

    fn meter(requests: u32, shape: Shape) -> Meter {
        Meter::new(Limit { requests, per: Duration::from_secs(10), shape, call: None })
    }

    /// How many of a hundred requests are let through.
    fn passed(meter: &mut Meter, now: Time) -> u32 {
        (0..100).filter(|_| meter.wait(now).is_none().then(|| meter.spend(now)).is_some()).map(|_| 1).sum()
    }

    #[test]
    fn sliding_requests_come_back_one_window_after_they_were_spent() {
        let mut meter = meter(2, Shape::Sliding);
        meter.spend(at(0));
        meter.spend(at(4000));
        assert_eq!(meter.wait(at(5000)), Some(Duration::from_secs(5)));
        assert_eq!(meter.budget(at(9999)), Budget { limit: 2, remaining: 0, reset: at(10_000), throttled: None });
        assert_eq!(passed(&mut meter, at(10_000)), 1);
        assert_eq!(passed(&mut meter, at(20_000)), 2);
    }

    #[test]
    fn refilling_requests_come_back_evenly() {
        let mut meter = meter(5, Shape::Refilling);
        assert_eq!(passed(&mut meter, at(0)), 5);
        assert_eq!(meter.wait(at(500)), Some(Duration::from_millis(1500)));
        assert_eq!(meter.budget(at(2000)), Budget { limit: 5, remaining: 1, reset: at(10_000), throttled: None });
        assert_eq!(passed(&mut meter, at(4000)), 2);
        assert_eq!(passed(&mut meter, at(100_000)), 5);
    }

    #[test]
    fn synchronised_requests_come_back_all_together() {
        let mut meter = meter(3, Shape::Synchronised);
        assert_eq!(passed(&mut meter, at(18_000)), 3);
        assert_eq!(meter.wait(at(19_000)), Some(Duration::from_secs(1)));
        assert_eq!(passed(&mut meter, at(20_000)), 3);
    }

    #[test]
    fn nothing_may_be_spent_of_nothing() {
        assert_eq!(meter(0, Shape::Sliding).wait(at(0)), Some(Duration::from_secs(10)));
    }
}
