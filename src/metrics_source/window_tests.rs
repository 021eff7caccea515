use chrono::TimeDelta;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const LIMIT: u32 = 500;

fn at(seconds: i64) -> Time {
    Time::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

fn target(n: usize) -> TargetId {
    TargetId::container(&format!("pod-{n}"), 80, "")
}

fn reading(series: &str, counts: Counts, value: u64, at: Time) -> Reading {
    Reading { series: series.into(), counts, value, at }
}

/// Requests and failed ones, as two series; zero means that the series is not there.
fn counters(seconds: i64, ok: u64, failed: u64) -> Snapshot {
    let at = at(seconds);
    let all = [("ok", Counts::Request, ok), ("failed", Counts::FailedRequest, failed)];
    let series = all.into_iter().filter(|(_, _, v)| *v > 0).map(|(s, c, v)| reading(s, c, v, at)).collect();
    Snapshot { at, requests: Part { source: Some("http_requests_total"), series: Some(series) }, durations: Part::default() }
}

fn histogram(seconds: i64, edges_ms: &[u32], below: &[u64]) -> Snapshot {
    let edges = edges_ms.iter().map(|ms| Edge::of_ms(*ms)).chain([Edge::INFINITE]).collect();
    let one = Histogram { series: "h".into(), edges, below: below.into(), sum_us: Some(below.last().unwrap() * 10_000), at: at(seconds) };
    let durations = Part { source: Some("http_request_duration_seconds"), series: Some(vec![one]) };
    Snapshot { at: at(seconds), requests: Part::default(), durations }
}

fn counted(window: &Window) -> (u64, u64) {
    let totals = window.totals("v", LIMIT);
    (totals.requests, totals.errors)
}

fn timed(window: &Window) -> (u64, u64, u64) {
    let totals = window.totals("v", LIMIT);
    (totals.timed, totals.slow_low, totals.slow_high)
}

fn add(window: &mut Window, snapshot: Snapshot) -> Vec<Problem> {
    window.add("v", &target(0), None, snapshot)
}

#[test]
fn the_first_look_at_an_old_process_is_only_a_baseline() {
    for started in [None, Some(at(-1))] {
        let mut window = Window::new(at(0));
        assert_eq!(window.add("v", &target(0), started, counters(1, 100, 5)), []);
        assert_eq!(counted(&window), (0, 0));
        window.add("v", &target(0), started, counters(2, 110, 6));
        assert_eq!(counted(&window), (11, 1));
    }
}

#[test]
fn a_process_born_within_the_window_counts_from_zero() {
    let mut window = Window::new(at(0));
    window.add("v", &target(0), Some(at(0)), counters(9, 100, 5));
    assert_eq!(counted(&window), (105, 5));
    // Born in an earlier window, seen for the first time: its history is not this window's.
    window.begin(at(10));
    window.add("v", &target(1), Some(at(5)), counters(11, 70, 7));
    assert_eq!(counted(&window), (0, 0));
}

#[test]
fn a_series_that_appears_counts_from_zero() {
    let mut window = Window::new(at(0));
    add(&mut window, counters(1, 100, 0));
    add(&mut window, counters(2, 100, 3));
    assert_eq!(counted(&window), (3, 3));
    // So does the first one of a process that was read when it had none.
    let mut window = Window::new(at(0));
    add(&mut window, Snapshot { at: at(1), requests: Part::default(), durations: Part::default() });
    add(&mut window, counters(2, 8, 0));
    assert_eq!(counted(&window), (8, 0));
}

#[test]
fn a_reset_counts_from_zero() {
    let mut window = Window::new(at(0));
    add(&mut window, counters(1, 100, 50));
    add(&mut window, counters(2, 7, 0));
    assert_eq!(counted(&window), (7, 0));
    // The series that went away with the restart comes back.
    add(&mut window, counters(3, 7, 2));
    assert_eq!(counted(&window), (9, 2));
}

#[test]
fn what_vanished_keeps_what_it_contributed() {
    let mut window = Window::new(at(0));
    add(&mut window, counters(1, 100, 0));
    window.add("v", &target(1), None, counters(1, 50, 0));
    add(&mut window, counters(2, 130, 0));
    window.add("v", &target(1), None, counters(9, 51, 0));
    assert_eq!(counted(&window), (31, 0));
    // And a container that came back under another run is a new one.
    let again = TargetId::container("pod-0", 80, "1");
    window.add("v", &again, Some(at(5)), counters(9, 131, 0));
    assert_eq!(counted(&window), (162, 0));
}

/// A summary: what it is the mean of is known, and nothing of any limit.
#[test]
fn without_edges_there_is_a_mean_and_no_histogram() {
    let mut window = Window::new(at(0));
    add(&mut window, histogram(1, &[], &[10]));
    add(&mut window, histogram(2, &[], &[40]));
    let totals = window.totals("v", LIMIT);
    assert_eq!((timed(&window), totals.edges, totals.mean_ms()), ((0, 0, 0), Edges::default(), Some(10.0)));
}

#[test]
fn versions_and_containers_are_kept_apart() {
    let mut window = Window::new(at(0));
    let (a, b) = (TargetId::container("pod", 80, ""), TargetId::container("pod", 81, ""));
    for (seconds, ok) in [(1, 10), (2, 20)] {
        window.add("old", &a, None, counters(seconds, ok, 0));
        window.add("old", &b, None, counters(seconds, ok * 10, 0));
        window.add("new", &a, None, counters(seconds, ok * 1000, 0));
    }
    assert_eq!(window.totals("old", LIMIT).requests, 110);
    assert_eq!(window.totals("new", LIMIT).requests, 10_000);
    assert_eq!(window.totals("other", LIMIT), Totals::default());
}

#[test]
fn a_rejected_half_is_made_up_for_by_the_next_good_one() {
    let mut window = Window::new(at(0));
    add(&mut window, counters(1, 100, 0));
    let mut bad = counters(2, 0, 0);
    bad.requests.series = None;
    add(&mut window, bad.clone());
    assert_eq!(counted(&window), (0, 0));
    add(&mut window, counters(3, 120, 2));
    assert_eq!(counted(&window), (22, 2));
    // Rejected at first sight is not read: what it holds then is a baseline.
    let mut window = Window::new(at(0));
    add(&mut window, bad);
    add(&mut window, counters(3, 120, 2));
    assert_eq!(counted(&window), (0, 0));
}

#[test]
fn older_readings_change_nothing() {
    let mut window = Window::new(at(0));
    add(&mut window, counters(5, 100, 0));
    assert_eq!(add(&mut window, counters(4, 90, 0)), [Problem::OutOfOrder]);
    add(&mut window, counters(5, 100, 0));
    assert_eq!(counted(&window), (0, 0));
    // One of two Prometheus replicas lags behind with one series, which is no reset.
    let mut mixed = counters(6, 99, 2);
    mixed.requests.series.as_mut().unwrap()[0].at = at(4);
    assert_eq!(add(&mut window, mixed), []);
    assert_eq!(counted(&window), (2, 2));
}

#[test]
fn another_family_is_a_new_baseline() {
    let mut window = Window::new(at(0));
    add(&mut window, counters(1, 100, 0));
    let mut other = counters(2, 90, 0);
    other.requests.source = Some("istio_requests_total");
    assert_eq!(add(&mut window, other.clone()), [Problem::SourceChanged { before: "http_requests_total", now: "istio_requests_total" }]);
    other.at = at(3);
    other.requests.series.as_mut().unwrap()[0] = reading("ok", Counts::Request, 95, at(3));
    assert_eq!(add(&mut window, other), []);
    assert_eq!(counted(&window), (5, 0));
}

#[test]
fn slow_requests_have_a_lower_and_an_upper_bound() {
    let mut window = Window::new(at(0));
    add(&mut window, histogram(1, &[100, 300, 1200], &[0, 0, 0, 0]));
    add(&mut window, histogram(2, &[100, 300, 1200], &[50, 90, 97, 100]));
    assert_eq!(timed(&window), (100, 3, 10));
    let totals = window.totals("v", LIMIT);
    assert_eq!(totals.edges, Edges { below_ms: Some(300.0), above_ms: Some(1200.0) });
    assert_eq!(totals.mean_ms(), Some(10.0));
    // On an edge there is no doubt.
    let exact = window.totals("v", 300);
    assert_eq!((exact.slow_low, exact.slow_high), (10, 10));
    assert_eq!(exact.edges, Edges { below_ms: Some(300.0), above_ms: Some(300.0) });
    // Beyond all edges nothing is sure.
    let beyond = window.totals("v", 5000);
    assert_eq!((beyond.slow_low, beyond.slow_high, beyond.edges.above_ms), (0, 3, None));
    let under = window.totals("v", 50);
    assert_eq!((under.slow_low, under.slow_high, under.edges.below_ms), (50, 100, None));
}

#[test]
fn pods_with_other_edges_are_added_up_safely() {
    let mut window = Window::new(at(0));
    let born = Some(at(0));
    window.add("v", &target(0), born, histogram(1, &[500], &[90, 100]));
    window.add("v", &target(1), born, histogram(1, &[300, 1200], &[80, 95, 100]));
    assert_eq!(timed(&window), (200, 15, 30));
    assert_eq!(window.totals("v", LIMIT).edges, Edges { below_ms: Some(300.0), above_ms: Some(1200.0) });
    // One without any edge leaves all of its requests in doubt.
    window.add("v", &target(2), born, histogram(1, &[], &[7]));
    assert_eq!(timed(&window), (207, 15, 37));
    assert_eq!(window.totals("v", LIMIT).edges, Edges::default());
}

#[test]
fn a_missing_bucket_rejects_the_histogram_of_that_scrape() {
    let mut window = Window::new(at(0));
    add(&mut window, histogram(1, &[100, 300, 500], &[1, 2, 3, 4]));
    assert_eq!(
        add(&mut window, histogram(2, &[100, 500], &[11, 13, 14])),
        [Problem::EdgesChanged { family: "http_request_duration_seconds" }]
    );
    assert_eq!(timed(&window), (0, 0, 0));
    assert_eq!(add(&mut window, histogram(3, &[100, 300, 500], &[21, 22, 23, 25])), []);
    assert_eq!(timed(&window), (21, 1, 1));
}

#[test]
fn buckets_that_stay_changed_are_the_new_baseline() {
    let mut window = Window::new(at(0));
    add(&mut window, histogram(1, &[100], &[1, 2]));
    for seconds in [2, 3] {
        assert_eq!(add(&mut window, histogram(seconds, &[500], &[60, 70])).len(), 1);
        assert_eq!(timed(&window), (0, 0, 0));
    }
    assert_eq!(add(&mut window, histogram(4, &[500], &[61, 72])), []);
    assert_eq!(timed(&window), (2, 1, 1));
}

#[test]
fn a_histogram_read_while_it_changed_is_rejected() {
    let mut window = Window::new(at(0));
    add(&mut window, histogram(1, &[100], &[10, 20]));
    assert_eq!(add(&mut window, histogram(2, &[100], &[16, 21])), [Problem::Torn { family: "http_request_duration_seconds" }]);
    assert_eq!(add(&mut window, histogram(3, &[100], &[16, 26])), []);
    assert_eq!(timed(&window).0, 6);
}

#[test]
fn one_falling_bucket_resets_all_of_a_histogram() {
    let mut window = Window::new(at(0));
    add(&mut window, histogram(1, &[500], &[90, 100]));
    add(&mut window, histogram(2, &[500], &[20, 120]));
    assert_eq!(timed(&window), (120, 100, 100));
    assert_eq!(window.totals("v", LIMIT).mean_ms(), Some(10.0));
}

#[test]
fn a_page_of_a_run_that_is_told_of_late_counts_once() {
    let run = |run: &str| TargetId::container("pod-0", 80, run);
    let mut window = Window::new(at(0));
    window.add("v", &run("0"), Some(at(-9)), counters(1, 100, 0));
    // Started again at 4, read at 6; the status tells of it only then.
    window.add("v", &run("0"), Some(at(-9)), counters(6, 7, 2));
    assert_eq!(counted(&window), (9, 2));
    window.add("v", &run("1"), Some(at(4)), counters(11, 8, 2));
    assert_eq!(counted(&window), (10, 2));
    // The next one is told of in time, and has outgrown the last.
    window.add("v", &run("2"), Some(at(12)), counters(16, 20, 5));
    assert_eq!(counted(&window), (35, 7));
    // Nobody knows when it started: what grew is sure.
    window.add("v", &run("3"), None, counters(21, 26, 5));
    assert_eq!(counted(&window), (41, 7));
}

#[test]
fn targets_nobody_reads_any_more_are_forgotten() {
    let mut window = Window::new(at(0));
    window.add("v", &target(0), Some(at(0)), counters(1, 10, 0));
    window.add("v", &target(1), Some(at(0)), counters(9, 5, 0));
    for n in 2..1000 {
        window.add("v", &target(n), None, counters(3, 1, 0));
    }
    window.forget(at(5));
    assert_eq!(window.versions["v"].targets.len(), 1, "however long the window is");
    assert_eq!(counted(&window), (15, 0));
    // Back again, it is a stranger, whose history may have been counted.
    window.add("v", &target(0), Some(at(0)), counters(10, 90, 0));
    assert_eq!(counted(&window), (15, 0));
    window.add("v", &target(0), Some(at(0)), counters(11, 91, 0));
    assert_eq!(counted(&window), (16, 0));
    // Who was born after that was never forgotten.
    window.add("v", &target(1000), Some(at(4)), counters(12, 3, 0));
    assert_eq!(counted(&window), (19, 0));
}

/// What a process of the model does between two scrapes.
#[derive(Clone, Debug)]
enum Deed {
    Serve {
        slot: usize,
        failed: bool,
        duration_ms: u32,
    },
    Restart,
    /// The pod's status comes to hand: until then it tells of the run that was.
    Tell,
    Scrape,
    /// A scrape whose counters cannot be used.
    BadScrape,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        8 => (0usize..3, any::<bool>(), 0u32..2000).prop_map(|(slot, failed, duration_ms)| Deed::Serve { slot, failed, duration_ms }),
        1 => Just(Deed::Restart),
        1 => Just(Deed::Tell),
        3 => Just(Deed::Scrape),
        1 => Just(Deed::BadScrape),
    ]
}

/// A process with counters that appear with their first request, and a histogram.
#[derive(Clone, Debug, Default)]
struct Process {
    counters: BTreeMap<(usize, bool), u64>,
    durations: Vec<u32>,
    edges: Vec<u32>,
    now: i64,
    run: u32,
    /// In whole seconds, as a status tells it: the second may have begun before it started.
    started: Option<i64>,
}

/// A page, and the run that its pod's status told of before it was fetched.
#[derive(Clone, Debug)]
struct Scrape {
    page: Snapshot,
    run: u32,
    started: Option<Time>,
}

impl Scrape {
    fn add(self, window: &mut Window) {
        let target = TargetId::container("pod", 80, &self.run.to_string());
        window.add("v", &target, self.started, self.page);
    }
}

impl Process {
    fn snapshot(&self) -> Snapshot {
        let at = at(self.now);
        let series = self
            .counters
            .iter()
            .map(|((slot, failed), n)| {
                let counts = if *failed { Counts::FailedRequest } else { Counts::Request };
                reading(&format!("{slot}{failed}"), counts, *n, at)
            })
            .collect();
        let below: Box<[u64]> = self
            .edges
            .iter()
            .map(|edge| self.durations.iter().filter(|d| *d <= edge).count() as u64)
            .chain([self.durations.len() as u64])
            .collect();
        let edges = self.edges.iter().map(|e| Edge::of_ms(*e)).chain([Edge::INFINITE]).collect();
        let sum = self.durations.iter().map(|d| u64::from(*d) * 1000).sum();
        let one = Histogram { series: "h".into(), edges, below, sum_us: Some(sum), at };
        Snapshot {
            at,
            requests: Part { source: Some("r"), series: Some(series) },
            durations: Part { source: Some("d"), series: Some(vec![one]) },
        }
    }
}

/// What really happened since a process was first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Truth {
    requests: u64,
    errors: u64,
    slow: u64,
}

/// Lets a process live; gives its scrapes and what is true of all that a scrape could still see at the end.
fn live(deeds: &[Deed], edges: &[u32]) -> (Vec<Snapshot>, Truth) {
    let (scrapes, truth) = live_since(None, deeds, edges);
    (scrapes.into_iter().map(|s| s.page).collect(), truth)
}

/// The same of a process whose first start is known.
fn live_since(started: Option<i64>, deeds: &[Deed], edges: &[u32]) -> (Vec<Scrape>, Truth) {
    let mut process = Process { edges: edges.to_vec(), started, ..Process::default() };
    let mut told = (process.run, process.started);
    let scrape = |process: &Process, (run, started): (u32, Option<i64>)| Scrape { page: process.snapshot(), run, started: started.map(at) };
    let mut scrapes = vec![scrape(&process, told)];
    let mut truth = Truth::default();
    for deed in deeds {
        process.now += 1;
        match deed {
            Deed::Serve { slot, failed, duration_ms } => {
                *process.counters.entry((*slot, *failed)).or_default() += 1;
                process.durations.push(*duration_ms);
                truth.requests += 1;
                truth.errors += u64::from(*failed);
                truth.slow += u64::from(*duration_ms > LIMIT);
            }
            Deed::Restart => {
                let (now, run, started) = (process.now, process.run + 1, Some(process.now - 1));
                process = Process { edges: process.edges, now, run, started, ..Process::default() };
            }
            Deed::Tell => told = (process.run, process.started),
            Deed::Scrape => scrapes.push(scrape(&process, told)),
            Deed::BadScrape => {
                let mut bad = scrape(&process, told);
                bad.page.requests.series = None;
                bad.page.durations.series = None;
                scrapes.push(bad);
            }
        }
    }
    process.now += 1;
    scrapes.push(scrape(&process, told));
    (scrapes, truth)
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    proptest::collection::vec(deed(), 0..60)
}

fn edges() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::btree_set(prop_oneof![Just(LIMIT), 1u32..2000], 0..5).prop_map(|e| e.into_iter().collect())
}

fn sane(totals: &Totals) {
    assert!(totals.errors <= totals.requests, "{totals:?}");
    assert!(totals.slow_low <= totals.slow_high && totals.slow_high <= totals.timed, "{totals:?}");
    // Without any edge there is only a mean.
    assert!(totals.duration_sum_ms >= 0.0 && (totals.timed == 0 || totals.summed <= totals.timed), "{totals:?}");
}

fn stable(deeds: &[Deed]) -> Vec<Deed> {
    deeds.iter().filter(|d| !matches!(d, Deed::Restart)).cloned().collect()
}

proptest! {
    /// Without restarts nothing is lost and nothing is counted twice, whatever was scraped when, and the bounds hold the truth.
    #[test]
    fn what_is_counted_is_true(worlds in proptest::collection::vec((deeds(), edges()), 1..4)) {
        let mut window = Window::new(at(0));
        let mut truth = Truth::default();
        for (n, (deeds, edges)) in worlds.iter().enumerate() {
            let (scrapes, true_of_it) = live(&stable(deeds), edges);
            for scrape in scrapes {
                window.add("v", &target(n), None, scrape);
            }
            truth.requests += true_of_it.requests;
            truth.errors += true_of_it.errors;
            truth.slow += true_of_it.slow;
        }
        let totals = window.totals("v", LIMIT);
        sane(&totals);
        prop_assert_eq!((totals.requests, totals.errors, totals.summed), (truth.requests, truth.errors, truth.requests));
        if worlds.iter().all(|(_, edges)| edges.is_empty()) {
            prop_assert_eq!((totals.timed, totals.slow_low, totals.slow_high), (0, 0, 0));
        } else {
            prop_assert_eq!(totals.timed, truth.requests);
            prop_assert!(totals.slow_low <= truth.slow && truth.slow <= totals.slow_high, "{:?} of {:?}", totals, truth);
        }
    }

    /// Restarts lose what was never scraped; they never invent anything, however late they are told of, wherever windows
    /// begin and whatever is forgotten.
    #[test]
    fn restarts_never_count_too_much(
        deeds in deeds(), edges in edges(), started in proptest::option::of(-1i64..=0),
        between in proptest::collection::vec((proptest::bool::weighted(0.2), proptest::option::weighted(0.3, 0i64..20)), 70),
    ) {
        let (scrapes, truth) = live_since(started, &deeds, &edges);
        let mut window = Window::new(at(0));
        let (mut requests, mut errors, mut timed, mut slow) = (0, 0, 0, 0);
        for (scrape, (begins, forgets)) in scrapes.into_iter().zip(between) {
            let now = scrape.page.at;
            if let Some(age) = forgets {
                window.forget(now - TimeDelta::seconds(age));
            }
            scrape.add(&mut window);
            let totals = window.totals("v", LIMIT);
            sane(&totals);
            if begins {
                (requests, errors) = (requests + totals.requests, errors + totals.errors);
                (timed, slow) = (timed + totals.timed, slow + totals.slow_low);
                window.begin(now);
            }
        }
        let totals = window.totals("v", LIMIT);
        prop_assert!(requests + totals.requests <= truth.requests && errors + totals.errors <= truth.errors);
        prop_assert!(timed + totals.timed <= truth.requests && slow + totals.slow_low <= truth.slow);
    }

    /// Told of in time, a restart loses nothing that was scraped since.
    #[test]
    fn a_restart_that_is_known_counts_from_zero(deeds in deeds(), edges in edges()) {
        let deeds: Vec<_> = deeds.iter().flat_map(|deed| match deed {
            // Nothing is served between the last scrape of a run and its end; whole seconds apart.
            Deed::Restart => vec![Deed::Scrape, Deed::Tell, Deed::Restart, Deed::Tell],
            deed => vec![deed.clone()],
        }).filter(|deed| !matches!(deed, Deed::BadScrape)).collect();
        let (scrapes, truth) = live_since(Some(0), &deeds, &edges);
        let mut window = Window::new(at(0));
        for scrape in scrapes {
            scrape.add(&mut window);
        }
        let totals = window.totals("v", LIMIT);
        prop_assert_eq!((totals.requests, totals.errors, totals.summed), (truth.requests, truth.errors, truth.requests));
        prop_assert_eq!(totals.timed, if edges.is_empty() { 0 } else { truth.requests });
    }

    /// Who is scraped before whom does not matter.
    #[test]
    fn the_order_among_targets_does_not_matter(
        worlds in proptest::collection::vec((deeds(), edges()), 1..4),
        picks in proptest::collection::vec(any::<Index>(), 200),
    ) {
        let mut queues: Vec<_> = worlds.iter().enumerate().map(|(n, (d, e))| (n, live(d, e).0)).collect();
        let mut in_turn = Window::new(at(0));
        for (n, scrapes) in &queues {
            for scrape in scrapes {
                in_turn.add("v", &target(*n), None, scrape.clone());
            }
        }
        let mut mixed = Window::new(at(0));
        let mut picks = picks.iter().cycle();
        while !queues.is_empty() {
            let which = picks.next().unwrap().index(queues.len());
            let (n, scrapes) = &mut queues[which];
            let scrape = scrapes.remove(0);
            mixed.add("v", &target(*n), None, scrape);
            queues.retain(|(_, scrapes)| !scrapes.is_empty());
        }
        prop_assert_eq!(in_turn.totals("v", LIMIT), mixed.totals("v", LIMIT));
    }

    /// Scraping twice as often sees the same, and the same scrape twice adds nothing.
    #[test]
    fn more_scrapes_of_a_living_process_change_nothing(deeds in deeds(), edges in edges()) {
        let deeds = stable(&deeds);
        let often: Vec<_> = deeds.iter().flat_map(|d| [d.clone(), Deed::Scrape, Deed::Scrape]).collect();
        let count = |deeds: &[Deed]| {
            let mut window = Window::new(at(0));
            for scrape in live(deeds, &edges).0 {
                window.add("v", &target(0), None, scrape.clone());
                window.add("v", &target(0), None, scrape);
            }
            window.totals("v", LIMIT)
        };
        prop_assert_eq!(count(&deeds), count(&often));
    }

    /// Many small windows add up to one big one, restarts and all.
    #[test]
    fn windows_add_up(deeds in deeds(), edges in edges(), cuts in proptest::collection::vec(any::<bool>(), 70)) {
        let (scrapes, _) = live(&deeds, &edges);
        let mut big = Window::new(at(0));
        let mut small = Window::new(at(0));
        let mut sum = Totals::default();
        let take = |small: &Window, sum: &mut Totals| {
            let part = small.totals("v", LIMIT);
            sum.requests += part.requests;
            sum.errors += part.errors;
            sum.timed += part.timed;
            sum.slow_low += part.slow_low;
            sum.slow_high += part.slow_high;
            sum.summed += part.summed;
        };
        for (scrape, cut) in scrapes.into_iter().zip(cuts.iter().cycle()) {
            big.add("v", &target(0), None, scrape.clone());
            small.add("v", &target(0), None, scrape);
            if *cut {
                take(&small, &mut sum);
                small.begin(at(0) + TimeDelta::seconds(1));
            }
        }
        take(&small, &mut sum);
        let all = big.totals("v", LIMIT);
        prop_assert_eq!(
            (sum.requests, sum.errors, sum.timed, sum.slow_low, sum.slow_high, sum.summed),
            (all.requests, all.errors, all.timed, all.slow_low, all.slow_high, all.summed)
        );
    }

    /// Whatever numbers come, totals are sane and never go down within a window.
    #[test]
    fn nonsense_stays_within_bounds(
        scrapes in proptest::collection::vec(
            (0i64..30, proptest::collection::vec(any::<u64>(), 0..4), proptest::collection::vec(0u64..50, 1..4)),
            0..20,
        ),
    ) {
        let mut window = Window::new(at(0));
        let mut last = Totals::default();
        for (seconds, values, below) in scrapes {
            let mut below = below;
            below.sort_unstable();
            let edges: Vec<_> = (1..below.len()).map(|n| u32::try_from(n * 300).unwrap()).collect();
            let mut snapshot = histogram(seconds, &edges, &below);
            let series = values.iter().enumerate().map(|(n, v)| {
                reading(&n.to_string(), if n % 2 == 0 { Counts::Request } else { Counts::FailureOnly }, *v, at(seconds))
            });
            snapshot.requests = Part { source: Some("r"), series: Some(series.collect()) };
            window.add("v", &target(0), None, snapshot);
            let totals = window.totals("v", LIMIT);
            sane(&totals);
            prop_assert!(totals.requests >= last.requests && totals.timed >= last.timed && totals.slow_low >= last.slow_low);
            last = totals;
        }
    }
}
