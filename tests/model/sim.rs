//! One run: a cluster, an operator, faults, a script of what people do, and the checks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aether_operator::api::{State, Time, conditions, duration};
use aether_operator::cluster::facts::{Key, Kind};
use serde_json::Value;

use super::bugs::Bug;
use super::controllers::Cluster;
use super::invariants::{Checker, Violation, ensure};
use super::operator::Operator;
use super::requests::{FAULTS, Fault, InFlight, Late};
use super::rng::Rng;
use super::scenario::{Goal, Scenario};
use super::truth;
use super::world::{World, int, is_ready, items, millis, text};

/// Which writes go wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// By the number of the write.
    pub at: BTreeMap<usize, Fault>,
    /// Chance per thousand that a write goes wrong.
    pub rate: u64,
    /// The index hears late.
    pub late: bool,
    /// Pods are killed now and then.
    pub kills: bool,
    /// How old, in milliseconds, what a new process is told first may be.
    pub stale: u64,
    /// Seconds after which nothing goes wrong any more.
    pub until: u64,
}

impl Faults {
    /// One write goes wrong.
    pub fn one(write: usize, fault: Fault) -> Self {
        Self { at: BTreeMap::from([(write, fault)]), ..Self::default() }
    }
}

/// What a run was like.
pub struct Report {
    /// Mutating requests until the goal was reached and a little after.
    pub writes: usize,
    pub world: World,
}

/// A run that broke an invariant.
pub struct Failure {
    pub violation: Violation,
    pub story: String,
}

pub struct Sim {
    pub cluster: Cluster,
    pub operator: Operator,
    /// One for each workload with updates; the first is the one that scenarios speak of.
    pub checkers: Vec<Checker>,
    pub faults: Faults,
    pub bug: Option<Bug>,
    pub in_flight: Vec<InFlight>,
    /// What processes that stood still have created, and look after.
    pub late: Vec<Late>,
    /// The update that is worked on, by key and UID.
    pub at_work: (Key, String),
    pub scenario: Scenario,
    /// How far people are with it.
    pub script: usize,
    pub since: Time,
    pub meddles_at: Time,
    /// When somebody undid what an update stands on.
    pub meddled: Vec<Time>,
    /// Where that was, which invariants it breaks, and no operator has heard of it yet.
    pub unheard: Option<(Kind, &'static [&'static str])>,
    /// Records of it that went wrong.
    pub lost: usize,
    rng: Rng,
    late_until: Option<Time>,
    fault_rng: Rng,
    faults_end: Time,
}

const TICK: u64 = 500;
pub const UPDATE: &str = "web";

pub fn run(scenario: &Scenario, faults: &Faults, bug: Option<Bug>, seed: u64) -> Result<Report, Failure> {
    let mut sim = Sim::new(scenario, faults, bug, seed);
    match sim.play() {
        Ok(writes) => Ok(Report { writes, world: sim.cluster.world }),
        Err(violation) => {
            let Violation(name, what) = &violation;
            let lines = std::env::var("AETHER_MODEL_STORY").ok().and_then(|l| l.parse().ok()).unwrap_or(70);
            let (timing, late) = (&sim.cluster.timing, &sim.operator.delay);
            let about =
                format!("scenario {}, seed {seed}, faults {faults:?}, bug {bug:?}, timing {timing:?}, late {late:?}", scenario.name);
            let story = format!("{name} broken: {what}\n{about}\n{}", sim.cluster.world.story(lines));
            Err(Failure { violation, story })
        }
    }
}

impl Sim {
    fn new(scenario: &Scenario, faults: &Faults, bug: Option<Bug>, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut cluster = Cluster::new(scenario.timing.clone());
        cluster.broken.clone_from(&scenario.broken);
        cluster.plane.dials_pods = scenario.dials_pods;
        cluster.gateway = scenario.gateway;
        scenario.build(&mut cluster.world);
        let lazy = std::mem::take(&mut cluster.timing.lazy);
        for _ in 0..40 + cluster.timing.plane / TICK {
            cluster.step(&mut rng);
            cluster.world.now += millis(TICK);
        }
        cluster.timing.lazy = lazy;
        cluster.world.start = cluster.world.now;
        cluster.world.trace.clear();
        cluster.world.refused.clone_from(&scenario.refused);
        let since = cluster.world.now;
        Self {
            checkers: checkers(scenario, &cluster),
            in_flight: Vec::new(),
            late: Vec::new(),
            at_work: (Key::new("", ""), String::new()),
            operator: Operator::default(),
            faults: faults.clone(),
            bug,
            scenario: scenario.clone(),
            script: 0,
            since,
            meddles_at: since,
            meddled: Vec::new(),
            unheard: None,
            lost: 0,
            late_until: None,
            fault_rng: Rng::new(rng.next()),
            faults_end: since + Duration::from_secs(faults.until),
            rng,
            cluster,
        }
    }

    /// Whether something goes wrong at the next write.
    pub fn strike(&mut self) -> Option<Fault> {
        let by_number = self.faults.at.get(&self.operator.writes).copied();
        let by_chance = self.cluster.world.now < self.faults_end && self.fault_rng.below(1000) < self.faults.rate;
        by_number.or_else(|| by_chance.then(|| self.fault_rng.pick(&FAULTS)))
    }

    pub fn crash(&mut self) {
        let pause = 500 + self.rng.below(8) * 1000;
        self.operator.down_until = Some(self.cluster.world.now + millis(pause));
    }

    /// When a process that stands still runs again.
    pub fn thaws_at(&mut self) -> Time {
        self.cluster.world.now + millis(2000 + self.fault_rng.below(40) * 1000)
    }

    fn play(&mut self) -> Result<usize, Violation> {
        for update in self.scenario.updates.clone() {
            self.cluster.world.create(Kind::RollingUpdate, update, "user").unwrap();
        }
        self.operator.start(&self.cluster.world, 0);
        let late = self.faults.late || self.scenario.pods_late > 0 || self.faults.stale > 0;
        let slack = Duration::from_secs(if late { 9 } else { 2 });
        self.checkers.iter_mut().for_each(|c| c.slack = slack);
        let deadline = self.cluster.world.now + self.scenario.deadline + Duration::from_secs(self.faults.until);
        while !self.is_there() {
            let stuck = self.cluster.world.now >= deadline;
            ensure(!stuck, "progress", || {
                format!("{:?} was not reached in time; state {}", self.scenario.goal, self.checkers[0].state(&self.cluster.world.objects))
            })?;
            self.tick(TICK)?;
        }
        // A little while for what happens by itself after the end, such as garbage collection and counts in the status.
        while self.cluster.world.now < self.faults_end {
            self.tick(TICK)?;
        }
        for _ in 0..60 {
            self.tick(TICK)?;
        }
        // A smaller size is followed a minute after the end.
        for _ in 0..160 {
            self.tick(TICK)?;
        }
        let writes = self.operator.writes;
        for _ in 0..60 {
            self.tick(5000)?;
        }
        let extra = self.operator.writes - writes;
        ensure(extra == 0, "rest", || format!("{extra} writes in five minutes of rest"))?;
        ensure(self.is_there(), "rest", || format!("{:?} did not last", self.scenario.goal))?;
        let (objects, scenario) = (&self.cluster.world.objects, &self.scenario);
        let update = truth::find(objects, Kind::RollingUpdate, UPDATE).map(AsRef::as_ref);
        if matches!(scenario.goal, Goal::Held(..)) || self.needs_what_was_deleted(update) {
            return Ok(writes);
        }
        for checker in &self.checkers {
            checker.unless_excused(checker.at_rest(objects, scenario.keeps_pin, scenario.keeps_pause), self.cluster.world.now)?;
        }
        let reason = reason_of(truth::find(objects, Kind::RollingUpdate, UPDATE).map(AsRef::as_ref));
        ensure(scenario.says.is_none_or(|wanted| wanted == reason), "end", || format!("it says {reason}"))?;
        let live = &self.checkers[0].live;
        let is_that = |v: &String| v == live || live.starts_with(&format!("web-{}", v.replace('.', "-")));
        ensure(scenario.live_at_end.as_ref().is_none_or(is_that), "end", || format!("{live} is live"))?;
        Ok(writes)
    }

    fn is_there(&self) -> bool {
        let objects = &self.cluster.world.objects;
        let update = truth::find(objects, Kind::RollingUpdate, UPDATE).map(AsRef::as_ref);
        let state = update.map(|_| self.checkers[0].state(objects));
        let version = update.map(|u| text(u, "/status/newVersion").to_owned()).unwrap_or_default();
        let others = truth::all(objects, Kind::RollingUpdate)
            .all(|(n, u)| n == UPDATE || serde_json::from_value::<State>(u["status"]["state"].clone()).is_ok_and(State::is_terminal));
        let attempts = |u: &Value| int(u, "/spec/attempt").max(1) == int(u, "/status/attempt");
        let current = update.is_none_or(|u| {
            text(u, "/spec/version") == version && attempts(u) && int(u, "/metadata/generation") == int(u, "/status/observedGeneration")
        });
        let all_played = self.script >= self.scenario.script.len();
        let fits = match self.scenario.goal {
            Goal::State(wanted) => state == Some(wanted),
            Goal::Held(wanted, reason) => return all_played && state == Some(wanted) && reason_of(update) == reason,
            Goal::Gone => state.is_none(),
            Goal::Over => state.is_none_or(State::is_terminal) || self.needs_what_was_deleted(update),
        };
        all_played && others && current && fits
    }

    /// People have deleted the only version that ran: it is said what they must do before anything can start.
    fn needs_what_was_deleted(&self, update: Option<&Value>) -> bool {
        let objects = &self.cluster.world.objects;
        let checker = &self.checkers[0];
        let empty = truth::find(objects, Kind::Deployment, &checker.workload).is_some_and(|w| int(w, "/spec/replicas") == 0);
        let pending = checker.state(objects) == State::Pending && reason_of(update) == "WorkloadNotStable";
        // Or they have deleted the version that they want to go back to, which they cannot make.
        let is_told = checker.state(objects) == State::RollingBack || reason_of(update) == "OldVersionGone";
        let back = is_told && truth::find(objects, Kind::Deployment, &checker.live).is_none();
        // Or the one that had taken over: they are told to order the rollback.
        let new = update.is_some_and(|u| checker.deleted.contains(&checker.brought_out(u)));
        let ahead = checker.state(objects) == State::Completing && reason_of(update) == "NewVersionGone" && new;
        (((pending && empty) || back) && checker.deleted.contains(&checker.live)) || ahead
    }

    fn tick(&mut self, ms: u64) -> Result<(), Violation> {
        self.cluster.world.now += millis(ms);
        self.people();
        self.mischief();
        self.meddle()?;
        self.wait_for_news();
        self.thaw()?;
        let now = self.cluster.world.now;
        if self.operator.down_until.is_some() {
            self.checkers.iter_mut().for_each(|c| c.alone = Some(now));
        }
        if self.cluster.step(&mut self.rng) {
            self.checkers.iter_mut().try_for_each(|c| c.look(&self.cluster.world, &self.cluster.plane))?;
        } else {
            self.checkers.iter_mut().for_each(|c| c.still(now));
        }
        if let Some(until) = self.operator.down_until {
            if now < until {
                return Ok(());
            }
            self.cluster.world.note("** a new operator starts");
            let age = self.fault_rng.below(self.faults.stale);
            self.operator.start(&self.cluster.world, age);
        }
        self.operator.hear(&self.cluster.world);
        self.operator.measure(now);
        while let Some(key) = self.operator.due(now) {
            self.work(&key)?;
            if self.operator.down_until.is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Delays change, pods die.
    fn mischief(&mut self) {
        let now = self.cluster.world.now;
        if now >= self.faults_end {
            self.operator.delay = [(Kind::Pod, self.scenario.pods_late)].into();
            return;
        }
        if self.faults.late && self.late_until.is_none_or(|t| now >= t) {
            self.operator.folds = self.rng.percent(50);
            self.operator.delay = Kind::ALL.iter().map(|k| (*k, self.rng.pick(&[0, 0, 0, 500, 1500, 4000, 7000]))).collect();
            self.late_until = Some(now + millis(1000 + self.rng.below(10_000)));
        }
        if self.faults.kills && self.rng.percent(4) {
            let world = &self.cluster.world;
            let set = |p: &Value| items(p, "/metadata/ownerReferences").next().map(|o| text(o, "/uid").to_owned());
            // Only where two more stand by: what dies too often is nobody's bug here.
            let whole = |p: &Value| world.of(Kind::Pod).filter(|(_, o)| set(o) == set(p) && is_ready(o)).count() >= 3;
            let pods: Vec<Key> = world.of(Kind::Pod).filter(|(_, p)| is_ready(p) && whole(p)).map(|(k, _)| k.clone()).collect();
            if !pods.is_empty() {
                let key = self.rng.pick(&pods);
                self.cluster.world.delete(Kind::Pod, &key, None, "chaos").ok();
            }
        }
    }
}

/// One for each workload that has an update.
fn checkers(scenario: &Scenario, cluster: &Cluster) -> Vec<Checker> {
    let app = |u: &Value| text(u, "/spec/artifactBase").rsplit(':').next().unwrap_or_default().to_owned();
    let apps: BTreeSet<String> = scenario.updates.iter().map(app).collect();
    let mut seen = BTreeSet::new();
    let firsts = scenario.updates.iter().filter(|u| seen.insert(app(u)));
    let checker = |u: &Value| {
        let time = |path: &str| duration::parse(text(u, path)).unwrap();
        let times = [time("/spec/traffic/settle"), time("/spec/traffic/drain"), millis(cluster.timing.proxy)];
        let mut checker = Checker::new(&cluster.world, text(u, "/metadata/name"), &app(u), &apps, times);
        checker.errs_from = scenario.errs_from;
        checker
    };
    firsts.map(checker).collect()
}

/// Why it is as it is, in the words of its status.
pub fn reason_of(update: Option<&Value>) -> &str {
    let ready = update.and_then(|u| items(u, "/status/conditions").find(|c| text(c, "/type") == conditions::READY));
    ready.map_or("", |c| text(c, "/reason"))
}
