use super::*;
use crate::api::evidence::Tally;
use crate::metrics_source::exposition::Format;
use crate::metrics_source::recognise::read_pod;

fn at(second: i64) -> Time {
    Time::from_timestamp(1_000_000 + second, 0).unwrap()
}

fn page(time: Time, ok: u64, failed: u64) -> Recognised {
    let text = format!(
        "http_requests_total{{code=\"200\"}} {ok}\nhttp_requests_total{{code=\"500\"}} {failed}\n\
         http_request_duration_seconds_bucket{{le=\"0.5\"}} {ok}\nhttp_request_duration_seconds_bucket{{le=\"+Inf\"}} {all}\n\
         http_request_duration_seconds_sum {ok}\nhttp_request_duration_seconds_count {all}\n",
        all = ok + failed
    );
    read_pod(text.as_bytes(), Format::Text, &<_>::default(), time).unwrap()
}

fn pod(version: Version, name: &str, run: &str, read: Result<Recognised, Unread>) -> Reading {
    Reading { version, name: format!("pod {name}"), target: TargetId::container(name, 80, run), started: None, expected: true, read }
}

/// A world that is read every five seconds: one pod of each version unless said otherwise.
struct World {
    measuring: Measuring,
    second: i64,
    step: Option<Time>,
    has_traffic: bool,
    limit_ms: u32,
}

impl World {
    fn new(recorded: Option<&Evidence>, step: i64) -> Self {
        Self { measuring: Measuring::new(recorded, None, at(0)), second: 0, step: Some(at(step)), has_traffic: true, limit_ms: 500 }
    }

    fn round(&mut self, readings: Vec<Reading>) -> Measured {
        let round = Round {
            now: at(self.second),
            step: self.step,
            has_traffic: self.has_traffic,
            settle: Duration::from_secs(10),
            limits: Limits::new(0.01, f64::from(self.limit_ms)),
            limit_ms: self.limit_ms,
            interval: Duration::from_secs(5),
            readings,
        };
        self.second += 5;
        self.measuring.round(round)
    }

    /// What both versions' counters say.
    fn counters(&mut self, new: (u64, u64), old: (u64, u64)) -> Measured {
        let now = at(self.second);
        self.round(vec![pod(Version::New, "n", "0", Ok(page(now, new.0, new.1))), pod(Version::Old, "o", "0", Ok(page(now, old.0, old.1)))])
    }
}

fn running(measured: &Measured) -> (u64, u64, u64) {
    let step = measured.evidence.running();
    (step.new.requests, step.new.errors, step.old.requests)
}

#[test]
fn a_step_counts_from_settle_and_a_baseline_on() {
    let mut world = World::new(None, 0);
    assert!(!world.counters((100, 50), (1000, 0)).is_counting);
    assert!(!world.counters((200, 60), (1100, 0)).is_counting, "5 s: not settled");
    let begins = world.counters((300, 70), (1200, 0));
    assert_eq!((begins.is_counting, running(&begins)), (false, (0, 0, 0)), "a baseline is no figure");
    let counted = world.counters((330, 73), (1250, 0));
    assert_eq!((counted.is_counting, running(&counted)), (true, (33, 3, 50)));
    assert_eq!((counted.evidence.since, counted.step), (Some(at(0)), Some(at(0))));
    assert!(counted.means.0.is_some());
}

#[test]
fn a_new_step_counts_anew_and_keeps_what_was() {
    let mut world = World::new(None, 0);
    for n in 0..4 {
        world.counters((100 * n, n), (0, 0));
    }
    world.step = Some(at(20));
    assert!(!world.counters((1000, 500), (0, 0)).is_counting, "what happens while the weights change belongs to no step");
    world.counters((1000, 500), (0, 0));
    assert!(!world.counters((1000, 500), (0, 0)).is_counting);
    let counted = world.counters((1010, 501), (7, 0));
    assert_eq!((counted.is_counting, running(&counted)), (true, (11, 1, 7)));
    assert_eq!(counted.evidence.whole(Kind::Errors).0.of, 101 + 11);
    assert_eq!(counted.evidence.since, Some(at(20)));
}

#[test]
fn a_restart_goes_on_from_what_was_recorded() {
    let mut world = World::new(None, -20);
    world.counters((0, 0), (0, 0));
    let recorded = world.counters((100, 2), (50, 0)).evidence;
    // The same step, in another process: a window of its own.
    let mut next = World::new(Some(&recorded), -20);
    assert!(!next.counters((5000, 90), (5000, 0)).is_counting, "what was recorded is not judged without anything fresh");
    let counted = next.counters((5010, 91), (5020, 0));
    assert_eq!(running(&counted), (102 + 11, 3, 70));
    assert_eq!((counted.is_counting, counted.evidence.steps.len()), (true, 2));
    // Another step meanwhile.
    let mut other = World::new(Some(&recorded), -15);
    other.counters((5000, 90), (5000, 0));
    let counted = other.counters((5010, 91), (5020, 0));
    assert_eq!(running(&counted), (11, 1, 20));
    assert_eq!(counted.evidence.whole(Kind::Errors).0.bad, 3);
}

#[test]
fn pods_that_go_keep_what_they_gave_and_restarts_count_from_zero() {
    let mut world = World::new(None, -20);
    world.counters((100, 0), (0, 0));
    world.counters((150, 0), (0, 0));
    let now = at(world.second);
    let replaced = Reading { started: Some(now), ..pod(Version::New, "n2", "0", Ok(page(now, 5, 5))) };
    assert_eq!(running(&world.round(vec![replaced])).0, 60);
    // The container was started again, and its counters passed the last ones before the next round.
    let now = at(world.second);
    let restarted = Reading { started: Some(now), ..pod(Version::New, "n2", "1", Ok(page(now, 20, 0))) };
    assert_eq!(running(&world.round(vec![restarted])).0, 80);
}

#[test]
fn a_long_step_gets_new_windows_and_a_long_pause_a_new_step() {
    let mut world = World::new(None, -20);
    world.counters((0, 0), (0, 0));
    for n in 1..4 {
        world.counters((300 * n, 0), (0, 0));
    }
    let counted = world.counters((1200, 0), (0, 0));
    assert_eq!((counted.evidence.steps.len(), running(&counted).0), (4, 1200));
    world.second += 31 * 60;
    // It ends there even if the first round after it is none.
    world.round(vec![pod(Version::New, "n", "0", Err(Unread::Failed("timed out".into())))]);
    world.counters((9000, 0), (0, 0));
    let counted = world.counters((9001, 0), (0, 0));
    assert_eq!(running(&counted).0, 1);
}

#[test]
fn a_long_pause_may_have_a_restart_in_it() {
    let mut world = World::new(None, -20);
    world.counters((0, 0), (0, 0));
    let recorded = world.counters((300, 0), (0, 0)).evidence;
    for (minutes, requests) in [(29, 301), (31, 1)] {
        let mut next = World::new(Some(&recorded), -20);
        next.second = minutes * 60;
        next.measuring = Measuring::new(Some(&recorded), Some(at(0)), at(next.second));
        next.counters((5000, 0), (0, 0));
        assert_eq!(running(&next.counters((5001, 0), (0, 0))).0, requests, "{minutes} minutes");
    }
}

#[test]
fn a_clock_that_is_put_back_makes_everything_a_baseline() {
    let mut world = World::new(None, -9000);
    world.counters((0, 0), (0, 0));
    assert_eq!(running(&world.counters((10, 0), (0, 0))).0, 10);
    world.second -= 3600;
    let back = world.counters((500, 400), (0, 0));
    assert_eq!((back.is_counting, running(&back).0), (false, 10));
    let counted = world.counters((505, 401), (0, 0));
    assert_eq!((counted.is_counting, running(&counted)), (true, (16, 1, 0)));
}

#[test]
fn churn_does_not_pile_up_and_counts_once() {
    let mut world = World::new(None, -20);
    world.counters((0, 0), (0, 0));
    // A pod a minute for two hours in one step, each read three times.
    for minute in 0..120 {
        for round in 1..=3 {
            let now = at(world.second);
            let born =
                Reading { started: Some(at(60 * minute)), ..pod(Version::New, &format!("n{minute}"), "0", Ok(page(now, 4 * round, 0))) };
            world.round(vec![born]);
        }
        world.second = 60 * (minute + 1);
    }
    let measured = world.counters((0, 0), (0, 0));
    assert_eq!(running(&measured).0, 120 * 12);
    assert!(format!("{:?}", world.measuring.window).matches("/80").count() < 40);
}

#[test]
fn at_zero_nothing_is_counted_but_it_is_known_whether_it_could_be() {
    let mut world = World::new(None, -20);
    world.has_traffic = false;
    world.counters((0, 0), (0, 0));
    let measured = world.counters((100, 100), (0, 0));
    assert!(measured.evidence.steps.is_empty() && !measured.is_counting);
    assert_eq!(measured.newest, Some(at(5)));
}

#[test]
fn one_pod_that_cannot_be_read_makes_the_figures_old() {
    let mut world = World::new(None, -20);
    let both = |world: &World, second: Result<Recognised, Unread>| {
        vec![pod(Version::New, "a", "0", Ok(page(at(world.second), 1, 0))), pod(Version::New, "b", "0", second)]
    };
    let refused = || Err(Unread::Failed("connection refused".into()));
    let readings = both(&world, refused());
    assert_eq!(world.round(readings).newest, Some(at(0)), "a pod that was never read has a moment to begin");
    let readings = both(&world, refused());
    let measured = world.round(readings);
    assert_eq!(measured.newest, Some(at(0)), "what one pod leaves open makes all old");
    assert_eq!(measured.problem, Some(Unread::Failed("pod b: connection refused".into())));
    assert!(measured.is_counting);
    let good = Ok(page(at(10), 1, 0));
    let readings = both(&world, good);
    assert_eq!(world.round(readings).newest, Some(at(10)));
    let nan = read_pod(b"http_requests_total{code=\"200\"} NaN\n", Format::Text, &<_>::default(), at(15)).unwrap();
    let readings = both(&world, Ok(nan));
    let measured = world.round(readings);
    assert_eq!(measured.newest, Some(at(10)), "what cannot be counted was not read");
    assert!(matches!(&measured.problem, Some(Unread::Failed(why)) if why.contains("not a number")), "{:?}", measured.problem);
}

#[test]
fn nothing_read_is_nothing_known() {
    let mut world = World::new(None, -20);
    let unread = Unread::NoTarget("no port".into());
    for _ in 0..3 {
        let measured = world.round(vec![pod(Version::New, "a", "0", Err(unread.clone()))]);
        assert_eq!((measured.newest, measured.is_counting), (None, false));
        assert_eq!(measured.problem, Some(Unread::NoTarget("pod a: no port".into())));
    }
    let read = read_pod(b"up 1\n", Format::Text, &<_>::default(), at(15)).unwrap();
    let measured = world.round(vec![pod(Version::New, "a", "0", Ok(read))]);
    assert!(measured.is_without_counter && measured.newest == Some(at(15)));
}

#[test]
fn the_old_version_that_cannot_be_read_is_told_and_holds_nothing_up() {
    let mut world = World::new(None, -20);
    world.counters((0, 0), (0, 0));
    let now = at(world.second);
    let measured = world.round(vec![
        pod(Version::New, "n", "0", Ok(page(now, 10, 0))),
        pod(Version::Old, "o", "0", Err(Unread::Failed("timed out".into()))),
    ]);
    assert_eq!((measured.newest, measured.old_problem.as_deref()), (Some(now), Some("pod o: timed out")));
    // The next good reading makes up for it.
    assert_eq!(running(&world.counters((10, 0), (70, 0))).2, 70);
}

#[test]
fn another_limit_is_another_step() {
    let mut world = World::new(None, -20);
    world.counters((0, 0), (0, 0));
    let measured = world.counters((390, 10), (0, 0));
    assert_eq!((measured.evidence.running().new.slow_low, measured.evidence.limit_ms), (10, Some(500)));
    world.limit_ms = 1000;
    let edited = world.counters((390, 10), (0, 0));
    assert!(!edited.is_counting);
    let (slow, _) = edited.evidence.whole(Kind::Slow);
    assert_eq!((slow.of, edited.evidence.limit_ms), (0, Some(1000)));
    // Requests that were not timed by this limit do not make the step's minimum.
    let counted = world.counters((400, 11), (0, 0));
    let new = counted.evidence.running().new;
    assert_eq!((counted.is_counting, new.requests, new.timed), (true, 11, 11));
    assert_eq!(counted.evidence.whole(Kind::Errors).0, Tally { of: 411, bad: 11 }, "errors are errors by any limit");
}

#[test]
fn another_limit_is_told_over_a_restart() {
    let mut world = World::new(None, -20);
    world.counters((0, 0), (0, 0));
    let recorded = world.counters((390, 10), (0, 0)).evidence;
    // As it is recorded; as it was before limits were; and what was edited just before the restart.
    let unsaid = Evidence { limit_ms: None, ..recorded.clone() };
    world.limit_ms = 1000;
    let edited = world.counters((390, 10), (0, 0)).evidence;
    for (recorded, limit_ms, slow) in
        [(&recorded, 500, 410), (&recorded, 1000, 10), (&unsaid, 1000, 10), (&edited, 1000, 10), (&edited, 500, 10)]
    {
        let mut next = World::new(Some(recorded), -20);
        next.limit_ms = limit_ms;
        next.counters((7000, 0), (0, 0));
        let counted = next.counters((7010, 0), (0, 0));
        let running = counted.evidence.running().new;
        assert_eq!(
            (counted.evidence.whole(Kind::Slow).0.of, running.timed, running.requests),
            (slow, slow, slow),
            "{recorded:?} {limit_ms}"
        );
    }
}

#[test]
fn a_round_whose_histogram_is_torn_is_no_figure_yet() {
    let mut world = World::new(None, -20);
    world.counters((0, 0), (0, 0));
    let torn = page(at(world.second), 400, 0);
    let torn = Recognised { problems: vec![Problem::Torn { family: "d" }], ..torn };
    let torn = Recognised { snapshot: crate::metrics_source::snapshot::Snapshot { durations: <_>::default(), ..torn.snapshot }, ..torn };
    let measured = world.round(vec![pod(Version::New, "n", "0", Ok(torn))]);
    assert_eq!((measured.is_counting, running(&measured).0, measured.evidence.running().new.timed), (false, 400, 0));
    let measured = world.counters((401, 0), (0, 0));
    assert_eq!((measured.is_counting, measured.evidence.running().new.timed), (true, 401));
}

#[test]
fn the_same_figures_once_more_are_no_figures() {
    let mut world = World::new(None, -20);
    let mut told = |scraped: i64, requests: u64| {
        let one = |version| Reading { target: TargetId::prometheus(), ..pod(version, "", "", Ok(page(at(scraped), requests, 0))) };
        world.round(vec![one(Version::New), one(Version::Old)]).is_counting
    };
    assert!(!told(-3, 10));
    assert!(!told(-3, 10));
    assert!(told(7, 10), "nobody called, and that is known");
}

#[test]
fn that_the_new_version_was_seen_is_known_over_a_restart() {
    let mut world = World::new(None, -20);
    world.round(vec![pod(Version::New, "n", "0", Ok(read_pod(b"up 1\n", Format::Text, &<_>::default(), at(0)).unwrap()))]);
    assert!(!world.measuring.is_seen());
    world.counters((0, 0), (0, 0));
    assert!(world.measuring.is_seen(), "series of nothing are series");
    let recorded = world.counters((3, 0), (0, 0)).evidence;
    assert!(Measuring::new(Some(&recorded), None, at(9)).is_seen());
    assert!(!Measuring::new(Some(&Evidence::default()), None, at(9)).is_seen());
}
