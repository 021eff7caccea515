//! What one target said at one instant, checked, in the shape that [`super::window`] subtracts.

use std::sync::Arc;

use crate::api::Time;

/// Counters of one target at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// When the newest of it was true.
    pub at: Time,
    /// Request counters.
    pub requests: Part<Reading>,
    /// Duration histograms.
    pub durations: Part<Histogram>,
}

impl Snapshot {
    /// No series is there, and none was rejected.
    pub fn is_empty(&self) -> bool {
        fn is_nothing<T>(part: &Part<T>) -> bool {
            part.series.as_ref().is_some_and(Vec::is_empty)
        }
        is_nothing(&self.requests) && is_nothing(&self.durations)
    }
}

/// One half of a snapshot. A half that was rejected leaves the last good one as the baseline, so
/// the next good one makes up for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<T> {
    /// The family it was read from; `None` where none is there (yet).
    pub source: Option<&'static str>,
    /// What was read; `None` where it was rejected, which is not the same as nothing being there.
    pub series: Option<Vec<T>>,
}

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self { source: None, series: Some(Vec::new()) }
    }
}

/// One request counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Name and sorted labels, unique in the snapshot.
    pub series: Box<str>,
    /// What a request in it counts as.
    pub counts: Counts,
    /// Requests since the process started.
    pub value: u64,
    /// When this was true.
    pub at: Time,
}

/// What a request in a counter counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// A request that was answered.
    Request,
    /// A request that failed: 5xx, or no answer at all.
    FailedRequest,
    /// A failure of a request that another counter holds as well.
    FailureOnly,
}

/// One histogram of durations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Name and sorted labels without `le`, unique in the snapshot.
    pub series: Box<str>,
    /// Upper edges, rising, the last one infinite.
    pub edges: Arc<[Edge]>,
    /// Requests not slower than each edge, never falling.
    pub below: Box<[u64]>,
    /// All durations together in microseconds; shown, never judged, so a senseless one is `None`.
    pub sum_us: Option<u64>,
    /// When this was true.
    pub at: Time,
}

/// A bucket's upper edge in whole nanoseconds, so that 0.3 s and 300 ms are the same edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Edge(u64);

impl Edge {
    /// No edge: everything is below it.
    pub const INFINITE: Self = Self(u64::MAX);

    /// From whole milliseconds.
    pub fn of_ms(ms: u32) -> Self {
        Self(u64::from(ms) * 1_000_000)
    }

    /// From a `le` label; `None` for what is no duration.
    pub fn read(le: &str, unit: Unit) -> Option<Self> {
        let value = super::exposition::number_of(le)?;
        if value.is_infinite() && value > 0.0 {
            return Some(Self::INFINITE);
        }
        whole(value * unit.seconds() * 1e9).map(Self)
    }

    /// In milliseconds, for people.
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    pub fn ms(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

/// What a histogram measures in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
}

impl Unit {
    fn seconds(self) -> f64 {
        match self {
            Self::Seconds => 1.0,
            Self::Milliseconds => 1e-3,
        }
    }
}

/// Whole microseconds of a sum of durations: half a million years fit, so busy proxies do.
pub fn sum_us(value: f64, unit: Unit) -> Option<u64> {
    whole(value * unit.seconds() * 1e6)
}

/// `None` for NaN, negative and absurd values.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded right before")]
fn whole(value: f64) -> Option<u64> {
    (0.0..1.8e19).contains(&value).then(|| value.round() as u64)
}

/// A counter's value as requests; the error says what is wrong with it.
///
/// A fraction means that somebody asked for a rate: those extrapolate and miss first samples.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded right before")]
pub fn requests(value: f64) -> Result<u64, &'static str> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.is_nan() {
        Err("not a number")
    } else if value < 0.0 {
        Err("negative")
    } else if value > EXACT {
        Err("too large to count with")
    } else if value.fract() != 0.0 {
        Err("a fraction, so no raw counter (leave rate() and increase() out)")
    } else {
        Ok(value as u64)
    }
}

/// Why something was not counted. Short texts for a status message; no label values, no bodies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A counter whose value cannot be one.
    #[error("{family} has a value that is {what}")]
    BadValue {
        /// The family.
        family: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// A code label that is no HTTP status.
    #[error("{family} has a {label} that is no HTTP status")]
    UnreadableCode {
        /// The family.
        family: &'static str,
        /// The label.
        label: &'static str,
    },
    /// A counter that does not tell failures.
    #[error("{family} has a series without a label code, status or status_code")]
    NoCode {
        /// The family.
        family: &'static str,
    },
    /// A query for errors that finds none of those that another query shows.
    #[error(
        "query errors finds none of the requests that their code label calls failed (5xx); correct it, leave it out, or leave those out of query requests as well"
    )]
    ErrorsUnseen,
    /// More than one pod may have.
    #[error("{family} has more than {most} series; give its labels fewer values, as routes instead of paths")]
    TooManySeries {
        /// The family.
        family: &'static str,
        /// The bound.
        most: usize,
    },
    /// Two samples with the same name and labels.
    #[error("{family} has one series twice")]
    Duplicate {
        /// The family.
        family: &'static str,
    },
    /// A histogram that contradicts itself.
    #[error("histogram {family} has {what}")]
    BadHistogram {
        /// The family.
        family: &'static str,
        /// What is wrong.
        what: &'static str,
    },
    /// A histogram with other buckets than in the last scrape.
    #[error("histogram {family} has other buckets than before")]
    EdgesChanged {
        /// The family.
        family: &'static str,
    },
    /// A histogram read while it was being written: its buckets moved further than its total.
    #[error("histogram {family} was read while it changed")]
    Torn {
        /// The family.
        family: &'static str,
    },
    /// Requests are suddenly read from another family; subtracting across two would count twice.
    #[error("requests are read from {now} now, from {before} before")]
    SourceChanged {
        /// The family that was read before.
        before: &'static str,
        /// The family that is read now.
        now: &'static str,
    },
    /// Older than what is known.
    #[error("the reading is older than the last one")]
    OutOfOrder,
    /// A family declared as something that cannot be subtracted.
    #[error("{family} is declared as a gauge, not as a counter")]
    NotACounter {
        /// The family.
        family: &'static str,
    },
}
