//! The life of one pod as a state machine: pure, its clock is an argument.
//!
//! `step` is asked again whenever the pod changed or the time came that the step before named. It answers what the
//! application should be doing, what the pod's status is, and when to ask next, always for the whole state and never as a
//! difference: a step that was missed costs nothing.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::behaviour::Behaviour;
use super::pod::{Found, Wish};

/// How long a failed pull or an ended container shows as such before the kubelet says what it does about it.
const NOTICE: Duration = Duration::from_secs(1);
/// The longest back-off between two starts of a crashing container.
const LONGEST_BACK_OFF: Duration = Duration::from_mins(5);
/// A container that ran this long is no longer taken for a crashing one.
const SETTLED: Duration = Duration::from_mins(10);
/// How long the container of a pod that is meant to end runs.
const TASK: Duration = Duration::from_secs(1);

type Time = DateTime<Utc>;

/// Where the first container is; the others run while this one is somewhere between its first start and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Accepted by the node; never seen outside `step`.
    Accepted,
    /// The container cannot be made, with the reason why.
    Unmakeable(String),
    /// The image could not be pulled.
    PullFailed {
        /// When.
        at: Time,
    },
    /// The image will be tried again some time.
    PullBackOff,
    /// The application runs.
    Running {
        /// When it was started.
        since: Time,
    },
    /// The application closes one connection after the other and then exits.
    Draining {
        /// When it was started.
        since: Time,
    },
    /// The container has exited and will be started again.
    Exited(Exit),
    /// The container has exited too often and will be started again later.
    BackOff {
        /// The last end.
        exit: Exit,
        /// How long the node waits from the last end to the next start.
        delay: Duration,
    },
    /// Ended for good.
    Ended(Exit),
}

/// An end of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code.
    pub code: u8,
    /// When it had been started.
    pub started: Time,
    /// When it ended.
    pub finished: Time,
}

/// All of a pod's status that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where the first container is.
    pub state: State,
    /// The end before this start, if there was one.
    pub last_exit: Option<Exit>,
    /// How often the container was started again.
    pub restarts: u32,
    /// Whether it was ever started.
    pub started: bool,
    /// Whether the first container, and so the pod, is ready.
    pub ready: bool,
    /// Since when it is or is not.
    pub ready_since: Time,
    /// When the node accepted the pod.
    pub accepted: Time,
}

/// What the application should be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: no listener, no connection.
    Closed,
    /// Serving.
    Serving {
        /// Which start of the container, from 1: another number is another process.
        run: u32,
        /// When this one was started.
        since: Time,
    },
    /// Coming to an end, then [`Life::ended`].
    Draining,
}

/// The answer of [`Life::step`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What the application should be doing.
    pub wanted: Wanted,
    /// What to publish.
    pub status: Status,
    /// When to ask again if nothing else happens.
    pub wake: Option<Time>,
    /// The pod is being deleted and nothing of it runs any more: remove it.
    pub remove: bool,
}

/// The life of one pod.
#[derive(Clone, Debug)]
pub struct Life {
    state: State,
    accepted: Time,
    runs: u32,
    /// Ends with an error, one soon after the other.
    crashes: u32,
    last_exit: Option<Exit>,
    ready: (bool, Time),
    sigterm: Option<Time>,
    back_off: Duration,
}

impl Life {
    /// Starts a life, or takes one up where the pod's status says it was. `back_off` is the wait before the second
    /// restart of a crashing container; the first is at once, every later wait is twice the one before.
    pub fn new(found: &Found, back_off: Duration, now: Time) -> Self {
        let state = match found.running {
            Some(since) => State::Running { since },
            None => State::Accepted,
        };
        Self {
            runs: if found.running.is_some() { found.restarts.saturating_add(1) } else { found.restarts },
            state,
            accepted: found.accepted.unwrap_or(now),
            crashes: 0,
            last_exit: None,
            ready: found.ready.unwrap_or((false, now)),
            sigterm: None,
            back_off,
        }
    }

    /// Tells that the application has ended by itself: asked to drain, or a process whenever it likes.
    pub fn ended(&mut self, wish: &Wish, code: u8, now: Time) {
        let exit = |started| Exit { code, started, finished: now };
        match self.state {
            State::Running { since } if wish.restarts(code) => self.enter(State::Exited(exit(since))),
            State::Running { since } | State::Draining { since } => self.enter(State::Ended(exit(since))),
            _ => {}
        }
    }

    /// Where the pod is now.
    pub fn step(&mut self, wish: &Wish, behaviour: &Result<Behaviour, String>, now: Time) -> Step {
        if wish.grace.is_some() && self.sigterm.is_none() {
            self.sigterm = Some(now);
        }
        let mut wake = None;
        while let Some((at, state)) = self.next(wish, behaviour, now) {
            if at > now {
                wake = Some(at);
                break;
            }
            self.enter(state);
        }
        let (ready, turns) = self.readiness(behaviour, now);
        if ready != self.ready.0 {
            self.ready = (ready, now);
        }
        let wanted = match self.state {
            State::Running { since } => Wanted::Serving { run: self.runs, since },
            State::Draining { .. } => Wanted::Draining,
            _ => Wanted::Closed,
        };
        Step {
            wanted,
            status: Status {
                state: self.state.clone(),
                last_exit: self.last_exit,
                restarts: self.runs.saturating_sub(1),
                started: self.runs > 0,
                ready,
                ready_since: self.ready.1,
                accepted: self.accepted,
            },
            wake: wake.into_iter().chain(turns).min(),
            remove: wish.grace.is_some() && matches!(self.state, State::Ended(_)),
        }
    }

    /// The next change of state that time alone brings, and when.
    fn next(&self, wish: &Wish, behaviour: &Result<Behaviour, String>, now: Time) -> Option<(Time, State)> {
        if matches!(self.state, State::Ended(_)) {
            return None;
        }
        if let (Some(sigterm), Some(grace)) = (self.sigterm, wish.grace) {
            return Some(self.dying(sigterm, grace, behaviour, now));
        }
        let behaviour = match behaviour {
            Ok(behaviour) => behaviour,
            Err(why) if self.state == State::Unmakeable(why.clone()) => return None,
            Err(why) => return Some((now, State::Unmakeable(why.clone()))),
        };
        match &self.state {
            State::Accepted | State::Unmakeable(_) if behaviour.image_pull_error && self.runs == 0 => {
                Some((now, State::PullFailed { at: now }))
            }
            State::PullFailed { at } if behaviour.image_pull_error => Some((after(*at, NOTICE), State::PullBackOff)),
            State::PullBackOff if behaviour.image_pull_error => None,
            State::Accepted | State::Unmakeable(_) | State::PullFailed { .. } | State::PullBackOff => {
                Some((now, State::Running { since: now }))
            }
            State::Running { since } => {
                let (life, code) = match behaviour.crash_after {
                    Some(life) => (life, 1),
                    None if wish.completes && !wish.real => (TASK, 0),
                    None => return None,
                };
                let at = after(*since, life);
                // An annotation set late may ask for an end in the past: it ends now.
                let exit = Exit { code, started: *since, finished: at.max(now) };
                Some((at, if wish.restarts(code) { State::Exited(exit) } else { State::Ended(exit) }))
            }
            State::Exited(exit) => {
                let delay = self.back_off_after(self.crashes);
                let noticed = after(exit.finished, NOTICE);
                if delay <= NOTICE {
                    return Some((noticed, State::Running { since: noticed.max(now) }));
                }
                Some((noticed, State::BackOff { exit: *exit, delay }))
            }
            State::BackOff { exit, delay } => {
                let start = after(exit.finished, *delay);
                Some((start, State::Running { since: start.max(now) }))
            }
            State::Draining { .. } | State::Ended(_) => None,
        }
    }

    /// The next change of state of a pod that is being deleted.
    fn dying(&self, sigterm: Time, grace: Duration, behaviour: &Result<Behaviour, String>, now: Time) -> (Time, State) {
        let ended = |code, started, finished| State::Ended(Exit { code, started, finished });
        let killed = after(sigterm, grace);
        match (&self.state, behaviour) {
            // 143: ended by SIGTERM. 137: by SIGKILL.
            (State::Running { since }, Ok(behaviour)) if behaviour.drop_on_shutdown => (now, ended(143, *since, now)),
            (State::Running { since }, Ok(behaviour)) => {
                let done = after(sigterm, behaviour.shutdown.saturating_sub(behaviour.last_call())).min(killed);
                match behaviour.crash_after.map(|life| after(*since, life)) {
                    Some(crash) if crash < done => (crash, ended(1, *since, crash.max(now))),
                    _ => (done, State::Draining { since: *since }),
                }
            }
            (State::Draining { since }, _) => (killed, ended(137, *since, killed.max(now))),
            (State::Running { since }, Err(_)) => (now, ended(143, *since, now)),
            (State::Exited(exit) | State::BackOff { exit, .. }, _) => (now, State::Ended(*exit)),
            _ => (now, ended(0, now, now)),
        }
    }

    fn enter(&mut self, state: State) {
        match &state {
            State::Running { .. } => self.runs = self.runs.saturating_add(1),
            State::Exited(exit) => {
                let ran = (exit.finished - exit.started).to_std().unwrap_or_default();
                self.crashes = if ran >= SETTLED { 1 } else { self.crashes.saturating_add(1) };
                self.last_exit = Some(*exit);
            }
            _ => {}
        }
        self.state = state;
    }

    /// The wait before the restart that follows this many crashes in a row.
    fn back_off_after(&self, crashes: u32) -> Duration {
        let Some(doublings) = crashes.checked_sub(2) else { return Duration::ZERO };
        self.back_off.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST_BACK_OFF)
    }

    /// Whether the application is ready, and when that turns.
    fn readiness(&self, behaviour: &Result<Behaviour, String>, now: Time) -> (bool, Option<Time>) {
        let (State::Running { since } | State::Draining { since }, Ok(behaviour)) = (&self.state, behaviour) else {
            return (false, None);
        };
        let Some(delay) = behaviour.readiness_delay else { return (false, None) };
        let first = after(*since, delay);
        let Ok(ready_for) = (now - first).to_std() else { return (false, Some(first)) };
        let Some(period) = behaviour.flap else { return (true, None) };
        let turns = ready_for.as_nanos() / period.as_nanos().max(1);
        let next = u32::try_from(turns + 1).ok().map(|turn| after(first, period.saturating_mul(turn)));
        (turns % 2 == 0, next)
    }
}

fn after(time: Time, duration: Duration) -> Time {
    TimeDelta::from_std(duration).ok().and_then(|delta| time.checked_add_signed(delta)).unwrap_or(Time::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::super::Options;
    use super::*;

    fn at(millis: i64) -> Time {
        DateTime::from_timestamp_millis(1_893_456_000_000 + millis).unwrap()
    }

    fn behaviour(pairs: &[(&str, &str)]) -> Result<Behaviour, String> {
        let annotations = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Behaviour::parse(&annotations, "web:1", &Options::default())
    }

    fn life() -> Life {
        Life::new(&Found::default(), Duration::from_secs(10), at(0))
    }

    fn wish() -> Wish {
        Wish { restarts_after_error: true, ..Wish::default() }
    }

    /// All steps from `from` on, each asked for at the time the step before named, up to the time `to`.
    fn steps(life: &mut Life, wish: &Wish, pairs: &[(&str, &str)], from: i64, to: i64) -> Vec<(i64, Step)> {
        let behaviour = behaviour(pairs);
        let (mut now, mut steps) = (at(from), Vec::new());
        loop {
            let step = life.step(wish, &behaviour, now);
            let wake = step.wake;
            assert!(wake.is_none_or(|wake| wake > now), "{step:?}");
            steps.push(((now - at(0)).num_milliseconds(), step));
            match wake {
                Some(wake) if wake <= at(to) => now = wake,
                _ => return steps,
            }
        }
    }

    #[test]
    fn a_pod_serves_first_and_is_ready_later() {
        let steps = steps(&mut life(), &wish(), &[("readiness-delay", "2s")], 0, 60_000);
        let seen: Vec<_> = steps.iter().map(|(time, step)| (*time, step.wanted, step.status.ready)).collect();
        let serving = Wanted::Serving { run: 1, since: at(0) };
        assert_eq!(seen, [(0, serving, false), (2000, serving, true)]);
        assert_eq!(steps.last().map(|(_, step)| step.status.ready_since), Some(at(2000)));
    }

    #[test]
    fn a_crash_loop_waits_longer_every_time() {
        let steps = steps(&mut life(), &wish(), &[("crash-after", "2s"), ("readiness-delay", "0")], 0, 60_000);
        let seen: Vec<_> = steps
            .iter()
            .map(|(time, step)| {
                let name = match step.status.state {
                    State::Running { .. } => "running",
                    State::Exited(_) => "exited",
                    State::BackOff { .. } => "back-off",
                    _ => "else",
                };
                assert_eq!(step.status.ready, name == "running");
                assert_eq!(step.wanted == Wanted::Closed, name != "running");
                (*time, name, step.status.restarts)
            })
            .collect();
        let wanted = [
            (0, "running", 0),
            (2000, "exited", 0),
            (3000, "running", 1),
            (5000, "exited", 1),
            (6000, "back-off", 1),
            (15_000, "running", 2),
            (17_000, "exited", 2),
            (18_000, "back-off", 2),
            (37_000, "running", 3),
            (39_000, "exited", 3),
            (40_000, "back-off", 3),
        ];
        assert_eq!(seen, wanted);
    }

    #[test]
    fn back_off_doubles_up_to_five_minutes() {
        let life = life();
        let seconds: Vec<_> = (0..10).map(|n| life.back_off_after(n).as_secs()).collect();
        assert_eq!(seconds, [0, 0, 10, 20, 40, 80, 160, 300, 300, 300]);
        assert_eq!(life.back_off_after(u32::MAX), LONGEST_BACK_OFF);
    }

    #[test]
    fn readiness_flaps_and_never_comes() {
        let flaps = steps(&mut life(), &wish(), &[("flap", "5s")], 0, 12_000);
        let seen: Vec<_> = flaps.iter().map(|(time, step)| (*time, step.status.ready)).collect();
        assert_eq!(seen, [(0, false), (1000, true), (6000, false), (11_000, true)]);
        let never = steps(&mut life(), &wish(), &[("readiness-delay", "never")], 0, 60_000);
        assert_eq!(never.len(), 1);
        assert!(never.iter().all(|(_, step)| !step.status.ready));
    }

    #[test]
    fn a_pull_fails_until_the_annotation_goes() {
        let mut life = life();
        let failing = steps(&mut life, &wish(), &[("image-pull-error", "true")], 0, 60_000);
        let states: Vec<_> = failing.into_iter().map(|(_, step)| step.status.state).collect();
        assert_eq!(states, [State::PullFailed { at: at(0) }, State::PullBackOff]);
        let step = life.step(&wish(), &behaviour(&[]), at(70_000));
        assert_eq!(step.status.state, State::Running { since: at(70_000) });
        // The image is there now.
        let step = life.step(&wish(), &behaviour(&[("image-pull-error", "true")]), at(71_000));
        assert_eq!(step.status.state, State::Running { since: at(70_000) });
    }

    #[test]
    fn a_bad_annotation_stops_the_container_until_it_is_mended() {
        let mut life = life();
        life.step(&wish(), &behaviour(&[]), at(0));
        let step = life.step(&wish(), &behaviour(&[("flap", "x")]), at(5000));
        assert!(matches!(step.status.state, State::Unmakeable(_)) && !step.status.ready);
        assert_eq!(step.wanted, Wanted::Closed);
        let step = life.step(&wish(), &behaviour(&[]), at(6000));
        assert_eq!((step.wanted, step.status.restarts), (Wanted::Serving { run: 2, since: at(6000) }, 1));
    }

    #[test]
    fn a_deleted_pod_serves_drains_and_goes() {
        let mut life = life();
        steps(&mut life, &wish(), &[], 0, 2000);
        let dying = Wish { grace: Some(Duration::from_secs(30)), ..wish() };
        let seen = steps(&mut life, &dying, &[], 10_000, 13_500);
        let seen: Vec<_> = seen.into_iter().map(|(time, step)| (time, step.wanted, step.status.ready, step.remove)).collect();
        let serving = Wanted::Serving { run: 1, since: at(0) };
        assert_eq!(seen, [(10_000, serving, true, false), (12_500, Wanted::Draining, true, false)]);
        life.ended(&dying, 0, at(13_100));
        let step = life.step(&dying, &behaviour(&[]), at(13_100));
        assert!(step.remove && !step.status.ready);
        assert_eq!(step.status.state, State::Ended(Exit { code: 0, started: at(0), finished: at(13_100) }));
    }

    #[test]
    fn the_grace_period_caps_serving_and_draining() {
        let mut life = life();
        steps(&mut life, &wish(), &[], 0, 2000);
        let dying = Wish { grace: Some(Duration::from_secs(2)), ..wish() };
        let seen = steps(&mut life, &dying, &[("shutdown", "1m")], 10_000, 60_000);
        assert_eq!(seen.iter().map(|(time, step)| (*time, step.remove)).collect::<Vec<_>>(), [(10_000, false), (12_000, true)]);
        assert!(matches!(seen.last().unwrap().1.status.state, State::Ended(Exit { code: 137, .. })));
    }

    #[test]
    fn a_bad_application_leaves_at_once() {
        let mut life = life();
        steps(&mut life, &wish(), &[], 0, 2000);
        let dying = Wish { grace: Some(Duration::from_secs(30)), ..wish() };
        let step = life.step(&dying, &behaviour(&[("drop-on-shutdown", "true")]), at(10_000));
        assert!(step.remove && step.wanted == Wanted::Closed);
    }

    #[test]
    fn a_pod_that_never_ran_goes_at_once() {
        let dying = Wish { grace: Some(Duration::from_secs(30)), ..wish() };
        assert!(life().step(&dying, &behaviour(&[]), at(0)).remove);
        let mut waiting = life();
        steps(&mut waiting, &wish(), &[("image-pull-error", "true")], 0, 5000);
        assert!(waiting.step(&dying, &behaviour(&[("image-pull-error", "true")]), at(6000)).remove);
    }

    #[test]
    fn edits_of_a_live_pod_count_from_its_start() {
        let mut life = life();
        steps(&mut life, &wish(), &[], 0, 100_000);
        let step = life.step(&wish(), &behaviour(&[("crash-after", "2s")]), at(100_000));
        assert!(matches!(step.status.state, State::Exited(exit) if exit.finished == at(100_000)));
        let mut life = self::life();
        steps(&mut life, &wish(), &[], 0, 100_000);
        let step = life.step(&wish(), &behaviour(&[("readiness-delay", "never")]), at(100_000));
        assert_eq!((step.status.ready, step.status.ready_since), (false, at(100_000)));
    }

    #[test]
    fn a_job_ends_by_itself() {
        let job = Wish { completes: true, ..Wish::default() };
        let seen = steps(&mut life(), &job, &[], 0, 60_000);
        assert!(matches!(seen.last().unwrap().1.status.state, State::Ended(Exit { code: 0, .. })));
        let seen = steps(&mut life(), &job, &[("crash-after", "3s")], 0, 60_000);
        assert!(matches!(seen.last().unwrap().1.status.state, State::Ended(Exit { code: 1, .. })));
        assert!(seen.iter().all(|(_, step)| !step.remove));
    }

    #[test]
    fn a_process_ends_when_it_likes_and_is_started_again_as_its_pod_wants() {
        let real = |restarts_after_error, completes| Wish { real: true, restarts_after_error, completes, ..Wish::default() };
        let (always, on_failure, never) = (real(true, false), real(true, true), real(false, true));
        for (wish, code, again) in
            [(&always, 0, true), (&always, 1, true), (&on_failure, 0, false), (&on_failure, 1, true), (&never, 1, false)]
        {
            let mut life = life();
            let seen = steps(&mut life, wish, &[], 0, 60_000);
            assert!(seen.iter().all(|(_, step)| matches!(step.wanted, Wanted::Serving { .. })), "only the process knows when it ends");
            life.ended(wish, code, at(60_000));
            let seen = steps(&mut life, wish, &[], 60_000, 62_000);
            let last = &seen.last().unwrap().1;
            assert_eq!((last.status.restarts, last.wanted == Wanted::Closed), (u32::from(again), !again), "{wish:?} {code}");
            assert_eq!(matches!(last.status.state, State::Ended(exit) if exit.code == code), !again);
        }
    }

    #[test]
    fn a_restarted_server_takes_pods_up_as_they_are() {
        let found = Found { running: Some(at(-9000)), restarts: 2, ready: Some((true, at(-8000))), ..Found::default() };
        let mut life = Life::new(&found, Duration::from_secs(10), at(0));
        let step = life.step(&wish(), &behaviour(&[]), at(0));
        assert_eq!((step.status.restarts, step.status.ready, step.status.ready_since), (2, true, at(-8000)));
        assert_eq!(step.wanted, Wanted::Serving { run: 3, since: at(-9000) });
    }
}
