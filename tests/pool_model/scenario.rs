//! What is wanted, what people do and what goes wrong.

use serde_json::{Value, json};

use super::cloud::Ways;
use super::rng::Rng;

/// What somebody, or the weather, does.
#[derive(Clone, Debug)]
pub enum Act {
    /// A merge patch of the spec.
    Spec(Value),
    /// What VMs are made from changes.
    Drift,
    /// New VMs work, or do not.
    Broken(bool),
    /// Evicts the address of the oldest VM; with false an address that nobody has.
    Evict(bool),
    Delete,
    /// A VM dies or is switched off by the cloud; the number picks it.
    Vanish(u64),
    Stop(u64),
    /// Its proxy hangs from now on.
    Hang(u64),
    /// A VM is there twice.
    Duplicate(u64),
    /// Every probe fails, or works again; the operator's own request fails as well, or there is none.
    Outage(bool, Option<bool>),
    NoCapacity(bool),
    Throttled(bool),
    Quota(usize),
    /// The Secret is that of another account, or the right one again.
    Switched(bool),
    /// All VMs are gone at once.
    AllVanish,
}

/// How often what fails, in percent.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    pub list: u64,
    pub unheard: u64,
    pub unsent: u64,
    pub delete: u64,
    pub crash: u64,
    pub conflict: u64,
    pub probe: u64,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub spec: Value,
    pub ways: Ways,
    pub faults: Faults,
    /// Seconds from the start, and what then.
    pub script: Vec<(u64, Act)>,
    /// Nothing goes wrong after that many seconds.
    pub calm: u64,
    /// The goal is reached within that many seconds after.
    pub patience: u64,
}

impl Scenario {
    /// Five proxies that live an hour, at least three of them, two at a time.
    pub fn new(name: &'static str) -> Self {
        let spec = json!({
            "minScaling": 5, "ageLimit": "1h", "kubernetes": {"image": "x"}, "proxy": {"authSecretRef": {"name": "p"}},
            "rolling": {"minAvailable": 3, "batchSize": 2}, "health": {"startupTimeout": "3m"},
        });
        Self { name, spec, ways: Ways::default(), faults: Faults::default(), script: Vec::new(), calm: 4500, patience: 3600 }
    }

    pub fn with(mut self, change: &Value) -> Self {
        json_patch::merge(&mut self.spec, change);
        self
    }

    pub fn then(mut self, at: u64, act: Act) -> Self {
        self.script.push((at, act));
        self
    }
}

/// A cloud whose accounts only the Secret tells apart.
pub fn elsewhere() -> Value {
    json!({"kubernetes": null, "digitalocean": {"region": "lon1"}, "credentialsSecretRef": {"name": "token"}})
}

/// A world from a seed.
pub fn random(seed: u64) -> Scenario {
    let mut rng = Rng::new(seed ^ 0x0900_15EED);
    let min = 1 + rng.below(6);
    let surge = rng.pick(&[0, 0, 1, 2]);
    let batch = 1 + rng.below(3);
    let settle = 5 + rng.below(20);
    let lag = rng.below(settle + 1);
    let idempotent = rng.percent(30);
    let ways = Ways {
        lag,
        settle: u32::try_from(settle).unwrap(),
        boot: 5 + rng.below(30),
        going: rng.below(30),
        address: rng.below(20),
        ready: 5 + rng.below(30),
        idempotent,
        unique: !idempotent && rng.percent(30),
        late: rng.below(settle - lag + 1),
        reuses: rng.percent(30),
        ..Ways::default()
    };
    // Long enough for the slowest renewal of the whole pool, twice.
    let age = (min * 8).max(10);
    let enabled = rng.percent(85);
    let mut world = Scenario { ways, ..Scenario::new("random") }.with(&json!({
        "minScaling": min, "maxScaling": min + surge, "ageLimit": format!("{age}m"), "ageJitterPercent": rng.pick(&[0, 0, 20]),
        "rolling": {"enabled": enabled, "minAvailable": rng.below(min + 2), "batchSize": batch},
    }));
    world.calm = age * 60 + 600 + rng.below(900);
    let often = rng.pick(&[0, 3, 10, 25]);
    let mut some = |likely: u64| if rng.percent(likely) { often } else { 0 };
    world.faults = Faults {
        list: some(50),
        unheard: some(50),
        unsent: some(40),
        delete: some(40),
        crash: some(60) / 2,
        conflict: some(30),
        probe: some(30) / 2,
    };
    let mut oldest = age;
    for _ in 0..rng.below(6) {
        let at = rng.below(world.calm);
        let last = world.calm - 1;
        // What begins ends, and after it has begun, also where both are at the last moment.
        let lasts = |seconds: u64| last.min(at + seconds);
        let (act, end) = match rng.below(15) {
            0 => {
                let wants = rng.below(7);
                // The larger pool must be renewable within its age limit as well.
                oldest = oldest.max(wants * 8);
                let spec = json!({"minScaling": wants, "maxScaling": wants + rng.below(3), "ageLimit": format!("{oldest}m")});
                (Act::Spec(spec), None)
            }
            1 | 2 => (Act::Drift, None),
            3 => (Act::Broken(true), Some((lasts(900), Act::Broken(false)))),
            4 => (Act::Evict(rng.percent(80)), None),
            5 => (Act::Delete, None),
            6 => (Act::Vanish(rng.next()), None),
            7 => (Act::Stop(rng.next()), None),
            8 => (Act::Hang(rng.next()), None),
            9 => (Act::Duplicate(rng.next()), None),
            10 => (Act::Outage(true, rng.pick(&[Some(false), Some(true), None])), Some((lasts(400), Act::Outage(false, Some(true))))),
            11 => (Act::NoCapacity(true), Some((lasts(400), Act::NoCapacity(false)))),
            12 => (Act::Throttled(true), Some((lasts(200), Act::Throttled(false)))),
            13 => (Act::Quota(usize::try_from(rng.below(8)).unwrap()), Some((lasts(600), Act::Quota(1000)))),
            _ => (Act::Spec(json!({"paused": true})), Some((lasts(300), Act::Spec(json!({"paused": false}))))),
        };
        world.script.push((at, act));
        world.script.extend(end);
    }
    world.patience = oldest * 60 * 2 + 3600;
    if seed % 2 == 1 {
        world = world.with(&elsewhere());
    }
    world.script.sort_by_key(|(at, _)| *at);
    world
}
