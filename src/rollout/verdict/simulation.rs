//! What the judge does to whole updates, measured: made-up services, thousands of updates, the same seed every time.
//!
//! An update has 5 steps with growing shares of the traffic. It is looked at again and again: a healthy verdict after the
//! interval leads to the next step, a breach halts it, and a step without an answer at its deadline is held. Next to the
//! judge stand the checks that it replaces.

use std::fmt::Write as _;

use super::evidence::{Counts, Evidence, Kind};
use super::judge::{Edges, Limits, Situation, judge};
use super::likelihood::real;
use crate::api::rolling_update::Verdict;

/// Shares of the new version.
const SHARES: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 1.0];
/// Looks until the interval of a step has passed.
const INTERVAL: u32 = 5;
/// Looks until a step without an answer is held.
const DEADLINE: u32 = 40;
/// The guide's default limits.
const MAX_ERROR_RATE: f64 = 0.01;
const MAX_LATENCY_MS: f64 = 500.0;
/// Edges that stand far apart around the limit.
const COARSE: [f64; 4] = [100.0, 300.0, 1200.0, 5000.0];
const FINE: [f64; 5] = [100.0, 300.0, 500.0, 1200.0, 5000.0];

/// SplitMix64: small, good enough, and the same everywhere.
pub struct Random(u64);

impl Random {
    /// The same seed, the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number above 0 and at most 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (real(z >> 11) + 1.0) / 9_007_199_254_740_992.0
    }

    /// How many of `all` trials fail; jumps from one failure to the next.
    fn failures(&mut self, all: u64, rate: f64) -> u64 {
        if rate <= 0.0 {
            return 0;
        }
        if rate >= 1.0 {
            return all;
        }
        let (mut at, mut failed) = (0.0, 0);
        loop {
            at += 1.0 + (self.unit().ln() / (-rate).ln_1p()).floor();
            if at > real(all) {
                return failed;
            }
            failed += 1;
        }
    }
}

/// A service as it truly is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Service {
    /// Share of requests that fail.
    pub error_rate: f64,
    /// Its 99th percentile; `None`: no histogram. Durations are log-logistic around a median of 100 ms.
    pub p99_ms: Option<f64>,
}

impl Service {
    /// True share of requests slower than that.
    fn slower(p99_ms: f64, than_ms: f64) -> f64 {
        let shape = 99.0_f64.ln() / (p99_ms / 100.0).ln();
        1.0 / (1.0 + (than_ms / 100.0).powf(shape))
    }
}

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// This crate.
    Judge,
    /// This crate, and a new window begins whenever the running one has enough requests.
    JudgeByWindows,
    /// Halts as soon as one look's error rate is over the limit.
    NaiveRate,
    /// Halts as soon as one look's interpolated p99 is over the limit.
    InterpolatedQuantile,
}

/// A made-up update.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is.
    pub name: &'static str,
    /// The new version.
    pub new: Service,
    /// The old version.
    pub old: Service,
    /// Requests to both versions between two looks.
    pub per_look: f64,
    /// Edges of the histogram's buckets, ascending.
    pub edges_ms: &'static [f64],
    /// Who decides.
    pub policy: Policy,
}

/// What became of the updates of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The scenario.
    pub scenario: &'static str,
    /// Updates.
    pub runs: u32,
    /// Per cent that went through.
    pub promoted: f64,
    /// Per cent that were halted by a breach.
    pub halted: f64,
    /// Per cent that had no answer at a deadline.
    pub held: f64,
    /// Requests to the new version until the halt, on average.
    pub mean_requests_to_halt: Option<f64>,
}

/// When a fault that starts after a long good time is found.
#[derive(Clone, Debug, PartialEq)]
pub struct Late {
    /// How the looks are shared out among steps and windows.
    pub structure: Structure,
    /// Updates.
    pub runs: u32,
    /// Per cent found within 5 looks.
    pub within_5: f64,
    /// Looks until it is found, on average.
    pub mean_looks: f64,
    /// Per cent halted before there was a fault.
    pub too_early: f64,
}

/// How looks are shared out among steps and windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure {
    /// All in one step and one window.
    OneStep,
    /// One step, a new window whenever the running one has `minRequests`.
    Windows,
    /// Steps of 10 looks; the fault comes with a new step.
    Steps,
    /// Every look is its own window.
    EveryLook,
}

enum End {
    Promoted,
    Halted(u64),
    Held,
}

/// All scenarios.
pub fn scenarios() -> Vec<Scenario> {
    let half = Service { error_rate: MAX_ERROR_RATE / 2.0, p99_ms: None };
    let base = Scenario { name: "", new: half, old: half, per_look: 1000.0, edges_ms: &FINE, policy: Policy::Judge };
    let fails = |name, times: f64| Scenario { name, new: Service { error_rate: times * MAX_ERROR_RATE, p99_ms: None }, ..base.clone() };
    let slow = |name, p99, edges_ms, policy| {
        let service = Service { error_rate: 0.001, p99_ms: Some(p99) };
        Scenario { name, new: service, old: Service { p99_ms: Some(350.0), ..service }, edges_ms, policy, ..base.clone() }
    };
    vec![
        fails("half the limit", 0.5),
        Scenario { per_look: 300.0, ..fails("half the limit, 300 a look", 0.5) },
        Scenario { policy: Policy::JudgeByWindows, ..fails("half the limit, by windows", 0.5) },
        fails("exactly the limit", 1.0),
        Scenario { policy: Policy::JudgeByWindows, ..fails("exactly the limit, by windows", 1.0) },
        Scenario { old: Service { error_rate: MAX_ERROR_RATE, p99_ms: None }, ..fails("exactly the limit, so is the old one", 1.0) },
        fails("twice the limit", 2.0),
        Scenario { policy: Policy::JudgeByWindows, ..fails("twice the limit, by windows", 2.0) },
        fails("five times the limit", 5.0),
        Scenario { old: Service { error_rate: 0.05, p99_ms: None }, ..fails("five times the limit, so is the old one", 5.0) },
        Scenario { policy: Policy::NaiveRate, ..fails("naive rate, half the limit", 0.5) },
        Scenario { policy: Policy::NaiveRate, per_look: 300.0, ..fails("naive rate, half the limit, 300 a look", 0.5) },
        Scenario { policy: Policy::NaiveRate, per_look: 5000.0, ..fails("naive rate, half the limit, 5000 a look", 0.5) },
        slow("p99 350 ms, coarse edges", 350.0, &COARSE, Policy::Judge),
        slow("p99 350 ms, edge at the limit", 350.0, &FINE, Policy::Judge),
        slow("interpolated p99, 350 ms, coarse edges", 350.0, &COARSE, Policy::InterpolatedQuantile),
        slow("p99 1000 ms, edge at the limit", 1000.0, &FINE, Policy::Judge),
        slow("p99 2000 ms, coarse edges", 2000.0, &COARSE, Policy::Judge),
    ]
}

/// Every scenario so many times.
pub fn table(runs: u32) -> Vec<Row> {
    scenarios().iter().map(|s| row(s, runs)).collect()
}

/// One scenario so many times.
pub fn row(scenario: &Scenario, runs: u32) -> Row {
    let mut random = Random::new(0x0a37_4e42);
    let (mut promoted, mut halted, mut held, mut requests) = (0, 0, 0, 0);
    for _ in 0..runs {
        match update(scenario, &mut random) {
            End::Promoted => promoted += 1,
            End::Held => held += 1,
            End::Halted(after) => {
                halted += 1;
                requests += after;
            }
        }
    }
    let mean_requests_to_halt = (halted > 0).then(|| real(requests) / f64::from(halted));
    let percent = |n| percent(n, runs);
    Row { scenario: scenario.name, runs, promoted: percent(promoted), halted: percent(halted), held: percent(held), mean_requests_to_halt }
}

/// The late fault for every structure.
pub fn late_table(runs: u32) -> Vec<Late> {
    [Structure::OneStep, Structure::Windows, Structure::Steps, Structure::EveryLook].map(|s| late_fault(s, runs)).into()
}

/// A service with 0.1 % errors turns to 5 % after 40 clean looks of 100 requests.
pub fn late_fault(structure: Structure, runs: u32) -> Late {
    const CLEAN: u32 = 40;
    let limits = Limits::new(MAX_ERROR_RATE, MAX_LATENCY_MS);
    let (errors, slow) = (limits.allowed(Kind::Errors), limits.allowed(Kind::Slow));
    let mut random = Random::new(0x1a7e_fa17);
    let (mut quick, mut looks, mut early) = (0, 0, 0);
    for _ in 0..runs {
        let mut evidence = Evidence::default();
        for look in 0..1000 {
            match structure {
                Structure::Windows if evidence.wants_window(limits.min_requests) => evidence.begin_window(errors, slow),
                Structure::Steps if look <= CLEAN && look % 10 == 0 => evidence.begin_step(errors, slow),
                Structure::EveryLook => evidence.begin_window(errors, slow),
                _ => {}
            }
            let rate = if look < CLEAN { 0.001 } else { 0.05 };
            evidence.add(Counts { requests: 100, errors: random.failures(100, rate), ..Counts::default() }, Counts::default());
            if judge(&evidence, &limits, &situation(true, &[])).breach.is_none() {
                continue;
            }
            let after = (look + 1).saturating_sub(CLEAN);
            early += u32::from(after == 0);
            quick += u32::from(after > 0 && after <= 5);
            looks += after;
            break;
        }
    }
    let mean_looks = f64::from(looks) / f64::from(runs.max(1));
    Late { structure, runs, within_5: percent(quick, runs), mean_looks, too_early: percent(early, runs) }
}

/// An outage that both versions share, in the middle of a long step.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared {
    /// Share of the new version.
    pub share: f64,
    /// Requests to both versions between two looks.
    pub per_look: f64,
    /// Updates.
    pub runs: u32,
    /// Per cent in which the new version was convicted.
    pub halted: f64,
}

/// The shared outage at every share and with little and much traffic.
pub fn shared_table(runs: u32) -> Vec<Shared> {
    let cases = [0.25, 0.5, 0.75, 0.9].into_iter().flat_map(|share| [20.0, 100.0, 1000.0].map(|per_look| (share, per_look)));
    cases.map(|(share, per_look)| shared_outage(share, per_look, runs)).collect()
}

/// Both versions go from 0.1 % errors to 5 % after 20 clean looks, for 60 looks, and back for 20.
pub fn shared_outage(share: f64, per_look: f64, runs: u32) -> Shared {
    let limits = Limits::new(MAX_ERROR_RATE, MAX_LATENCY_MS);
    let (errors, slow) = (limits.allowed(Kind::Errors), limits.allowed(Kind::Slow));
    let mut random = Random::new(0x5a4e_d001);
    let mut halted = 0;
    for _ in 0..runs {
        let mut evidence = Evidence::default();
        for look in 0..100 {
            if evidence.wants_window(limits.min_requests) {
                evidence.begin_window(errors, slow);
            }
            let service = Service { error_rate: if (20..80).contains(&look) { 0.05 } else { 0.001 }, p99_ms: None };
            let (new, _) = watch(service, per_look * share, &[], &mut random);
            let (old, _) = watch(service, per_look * (1.0 - share), &[], &mut random);
            evidence.add(new, old);
            if judge(&evidence, &limits, &situation(true, &[])).breach.is_some() {
                halted += 1;
                break;
            }
        }
    }
    Shared { share, per_look, runs, halted: percent(halted, runs) }
}

/// So many errors among so many requests of a first step are a breach.
pub fn proofs() -> Vec<(u64, u64)> {
    let limits = Limits::new(MAX_ERROR_RATE, MAX_LATENCY_MS);
    let is_breach = |requests, errors| {
        let mut evidence = Evidence::default();
        evidence.add(Counts { requests, errors, ..Counts::default() }, Counts::default());
        judge(&evidence, &limits, &situation(true, &[])).breach.is_some()
    };
    let fewest = |requests| (0..=requests).find(|errors| is_breach(requests, *errors)).map(|errors| (requests, errors));
    [20, 50, 100, 300, 1000].into_iter().filter_map(fewest).collect()
}

/// What an interpolated quantile reads of a service, as Prometheus does it, in milliseconds.
pub fn interpolated_reading(p99_ms: f64, edges_ms: &[f64]) -> f64 {
    interpolated(1.0, &edges_ms.iter().map(|edge| Service::slower(p99_ms, *edge)).collect::<Vec<_>>(), edges_ms)
}

/// The tables as text.
pub fn print(rows: &[Row], late: &[Late], shared: &[Shared]) -> String {
    let mut text = String::from("| scenario | runs | promoted % | halted % | held % | requests to halt |\n|---|--:|--:|--:|--:|--:|\n");
    for r in rows {
        let requests = r.mean_requests_to_halt.map_or("-".into(), |m| format!("{m:.0}"));
        let _ = writeln!(text, "| {} | {} | {:.1} | {:.1} | {:.1} | {requests} |", r.scenario, r.runs, r.promoted, r.halted, r.held);
    }
    text += "\n| fault after 40 clean looks | runs | found within 5 looks % | mean looks | halted too early % |\n|---|--:|--:|--:|--:|\n";
    for l in late {
        let _ = writeln!(text, "| {:?} | {} | {:.1} | {:.1} | {:.1} |", l.structure, l.runs, l.within_5, l.mean_looks, l.too_early);
    }
    text += "\n| both versions go bad at share | requests a look | runs | halted % |\n|--:|--:|--:|--:|\n";
    for s in shared {
        let _ = writeln!(text, "| {} | {} | {} | {:.1} |", s.share, s.per_look, s.runs, s.halted);
    }
    text += "\n| requests | errors that prove more than 1 % |\n|--:|--:|\n";
    for (requests, errors) in proofs() {
        let _ = writeln!(text, "| {requests} | {errors} |");
    }
    let reading = interpolated_reading(350.0, &COARSE);
    let _ = writeln!(text, "\nA p99 of 350 ms, read as an interpolated quantile of the coarse edges: {reading:.0} ms.");
    text
}

fn update(scenario: &Scenario, random: &mut Random) -> End {
    let limits = Limits::new(MAX_ERROR_RATE, MAX_LATENCY_MS);
    let (errors, slow) = (limits.allowed(Kind::Errors), limits.allowed(Kind::Slow));
    let mut evidence = Evidence::default();
    let mut requests = 0;
    for share in SHARES {
        evidence.begin_step(errors, slow);
        let mut may_go_on = false;
        for look in 1..=DEADLINE {
            if scenario.policy == Policy::JudgeByWindows && evidence.wants_window(limits.min_requests) {
                evidence.begin_window(errors, slow);
            }
            let (new, reading) = watch(scenario.new, scenario.per_look * share, scenario.edges_ms, random);
            let (old, _) = watch(scenario.old, scenario.per_look * (1.0 - share), scenario.edges_ms, random);
            evidence.add(new, old);
            requests += new.requests;
            let is_bad = match scenario.policy {
                Policy::NaiveRate => new.surely(Kind::Errors).rate() > limits.max_error_rate,
                Policy::InterpolatedQuantile => reading > limits.max_latency_ms,
                Policy::Judge | Policy::JudgeByWindows => {
                    let said = judge(&evidence, &limits, &situation(look >= INTERVAL, scenario.edges_ms));
                    may_go_on = said.verdict == Verdict::Healthy;
                    said.breach.is_some()
                }
            };
            if is_bad {
                return End::Halted(requests);
            }
            if may_go_on || (matches!(scenario.policy, Policy::NaiveRate | Policy::InterpolatedQuantile) && look >= INTERVAL) {
                may_go_on = true;
                break;
            }
        }
        if !may_go_on {
            return End::Held;
        }
    }
    End::Promoted
}

/// One version between two looks, and what an interpolated p99 reads of it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number of requests")]
fn watch(service: Service, requests: f64, edges_ms: &[f64], random: &mut Random) -> (Counts, f64) {
    let requests = requests.round() as u64;
    let counts = Counts { requests, errors: random.failures(requests, service.error_rate), ..Counts::default() };
    let Some(p99_ms) = service.p99_ms else { return (counts, 0.0) };
    let (mut above, mut share) = (requests, 1.0);
    let (mut slow_low, mut slow_high) = (None, requests);
    let mut slower = Vec::new();
    for edge in edges_ms {
        let rest = Service::slower(p99_ms, *edge);
        above = random.failures(above, rest / share);
        share = rest;
        slower.push(real(above));
        if *edge >= MAX_LATENCY_MS {
            slow_low = slow_low.or(Some(above));
        }
        if *edge <= MAX_LATENCY_MS {
            slow_high = above;
        }
    }
    let reading = interpolated(real(requests), &slower, edges_ms);
    (Counts { timed: requests, slow_low: slow_low.unwrap_or(0), slow_high, ..counts }, reading)
}

/// The 99th percentile from what is slower than each edge, as if durations were even inside a bucket.
fn interpolated(all: f64, slower: &[f64], edges_ms: &[f64]) -> f64 {
    let wanted = all * 0.01;
    let (mut from, mut rest) = (0.0, all);
    for (edge, slower) in edges_ms.iter().zip(slower) {
        if *slower <= wanted {
            return from + (edge - from) * (rest - wanted) / (rest - slower).max(f64::MIN_POSITIVE);
        }
        (from, rest) = (*edge, *slower);
    }
    from
}

fn situation(interval_passed: bool, edges_ms: &[f64]) -> Situation {
    let below_ms = edges_ms.iter().copied().rfind(|e| *e <= MAX_LATENCY_MS);
    let above_ms = edges_ms.iter().copied().find(|e| *e >= MAX_LATENCY_MS);
    Situation { interval_passed, newest_sample_age_ms: Some(0), scrape_interval_ms: 15_000, edges: Edges { below_ms, above_ms } }
}

fn percent(part: u32, of: u32) -> f64 {
    100.0 * f64::from(part) / f64::from(of.max(1))
}

#[cfg(test)]
#[path = "simulation_tests.rs"]
mod tests;
