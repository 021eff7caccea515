//! One run: a cluster, an operator, faults, a script of what people do, and the checks.

use std::collections::BTreeMap;
use std::time::Duration;

use aether_operator::api::{State, Time};
use aether_operator::cluster::facts::{Key, Kind};
use serde_json::{Value, json};

use super::bugs::Bug;
use super::controllers::Cluster;
use super::invariants::{Checker, Violation, ensure};
use super::operator::{FAULTS, Fault, Operator};
use super::rng::Rng;
use super::scenario::{Act, Goal, Scenario, When};
use super::truth;
use super::world::{NS, World, int, is_ready, items, millis, text};

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
    pub checker: Checker,
    pub faults: Faults,
    pub bug: Option<Bug>,
    scenario: Scenario,
    script: usize,
    since: Time,
    rng: Rng,
    late_until: Option<Time>,
    fault_rng: Rng,
    faults_end: Time,
}

const TICK: u64 = 500;
const UPDATE: &str = "web";

pub fn run(scenario: &Scenario, faults: &Faults, bug: Option<Bug>, seed: u64) -> Result<Report, Failure> {
    let mut sim = Sim::new(scenario, faults, bug, seed);
    match sim.play() {
        Ok(writes) => Ok(Report { writes, world: sim.cluster.world }),
        Err(violation) => {
            let Violation(name, what) = &violation;
            let (timing, late) = (&sim.cluster.timing, &sim.operator.delay);
            let about =
                format!("scenario {}, seed {seed}, faults {faults:?}, bug {bug:?}, timing {timing:?}, late {late:?}", scenario.name);
            let story = format!("{name} broken: {what}\n{about}\n{}", sim.cluster.world.story(70));
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
        scenario.build(&mut cluster.world);
        let lazy = std::mem::take(&mut cluster.timing.lazy);
        for _ in 0..40 {
            cluster.step(&mut rng);
            cluster.world.now += millis(TICK);
        }
        cluster.timing.lazy = lazy;
        cluster.world.start = cluster.world.now;
        cluster.world.trace.clear();
        cluster.world.refused.clone_from(&scenario.refused);
        let checker = Checker::new(&cluster.world, UPDATE, "web", "1.0.0", scenario.drain);
        let since = cluster.world.now;
        Self {
            checker,
            operator: Operator::default(),
            faults: faults.clone(),
            bug,
            scenario: scenario.clone(),
            script: 0,
            since,
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

    fn play(&mut self) -> Result<usize, Violation> {
        for update in self.scenario.updates.clone() {
            self.cluster.world.create(Kind::RollingUpdate, update, "user").unwrap();
        }
        self.operator.start(&self.cluster.world);
        self.checker.slack = if self.faults.late || self.scenario.pods_late > 0 { Duration::from_secs(9) } else { Duration::from_secs(2) };
        let deadline = self.cluster.world.now + self.scenario.deadline + Duration::from_secs(self.faults.until);
        while !self.is_there() {
            let stuck = self.cluster.world.now >= deadline;
            ensure(!stuck, "progress", || {
                format!("{:?} was not reached in time; state {}", self.scenario.goal, self.checker.state(&self.cluster.world.objects))
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
        let writes = self.operator.writes;
        for _ in 0..60 {
            self.tick(5000)?;
        }
        let extra = self.operator.writes - writes;
        ensure(extra == 0, "rest", || format!("{extra} writes in five minutes of rest"))?;
        let objects = &self.cluster.world.objects;
        self.checker.at_rest(objects, self.scenario.keeps_pin, self.scenario.keeps_pause)?;
        ensure(self.scenario.live_at_end.as_ref().is_none_or(|v| *v == self.checker.live), "end", || {
            format!("{} is live", self.checker.live)
        })?;
        Ok(writes)
    }

    fn is_there(&self) -> bool {
        let objects = &self.cluster.world.objects;
        let update = truth::find(objects, Kind::RollingUpdate, UPDATE);
        let state = update.map(|_| self.checker.state(objects));
        let version = update.map(|u| text(u, "/status/newVersion").to_owned()).unwrap_or_default();
        let others = truth::all(objects, Kind::RollingUpdate)
            .all(|(_, u)| serde_json::from_value::<State>(u["status"]["state"].clone()).is_ok_and(State::is_terminal));
        let current = update
            .is_none_or(|u| text(u, "/spec/version") == version && int(u, "/metadata/generation") == int(u, "/status/observedGeneration"));
        let fits = match self.scenario.goal {
            Goal::State(wanted) => state == Some(wanted),
            Goal::Gone => state.is_none(),
            Goal::Over => state.is_none_or(State::is_terminal),
        };
        self.script >= self.scenario.script.len() && others && current && fits
    }

    fn tick(&mut self, ms: u64) -> Result<(), Violation> {
        self.cluster.world.now += millis(ms);
        self.people();
        self.mischief();
        let now = self.cluster.world.now;
        if self.cluster.step(&mut self.rng) {
            self.checker.look(&self.cluster.world, &self.cluster.plane)?;
        } else {
            self.checker.still(now);
        }
        if let Some(until) = self.operator.down_until {
            if now < until {
                return Ok(());
            }
            self.cluster.world.note("** a new operator starts");
            self.operator.start(&self.cluster.world);
        }
        self.operator.hear(&self.cluster.world);
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

    /// What people do when its time has come.
    fn people(&mut self) {
        let Some((when, act)) = self.scenario.script.get(self.script).cloned() else { return };
        let world = &self.cluster.world;
        let update = truth::find(&world.objects, Kind::RollingUpdate, UPDATE);
        let says = |path: &str, wanted: &str| update.is_some_and(|u| text(u, path) == wanted);
        let due = match &when {
            When::State(state, after) => says("/status/state", state.as_str()) && self.since + millis(*after) <= world.now,
            When::Routing(ratio, after) => says("/status/routing", ratio) && self.since + millis(*after) <= world.now,
            When::After(ms) => self.since + millis(*ms) <= world.now,
        };
        let reached = match &when {
            When::State(state, _) => says("/status/state", state.as_str()),
            When::Routing(ratio, _) => says("/status/routing", ratio),
            When::After(_) => true,
        };
        if !reached {
            self.since = world.now;
        }
        if !due {
            return;
        }
        self.since = world.now;
        self.script += 1;
        let (world, key) = (&mut self.cluster.world, Key::new(NS, UPDATE));
        match act {
            Act::Spec(changes) => {
                world.edit(Kind::RollingUpdate, &key, "user", |u| merge(&mut u["spec"], &changes));
            }
            Act::Template(changes) => {
                world.edit(Kind::Deployment, &key, "user", |d| merge(&mut d["spec"]["template"], &changes));
            }
            Act::Delete => drop(world.delete(Kind::RollingUpdate, &key, None, "user")),
            Act::Allow => world.refused.clear(),
            Act::Look => {}
        }
    }
}

/// JSON merge patch.
fn merge(into: &mut Value, changes: &Value) {
    let Some(changes) = changes.as_object() else {
        *into = changes.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    let map = into.as_object_mut().unwrap();
    for (key, value) in changes {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
