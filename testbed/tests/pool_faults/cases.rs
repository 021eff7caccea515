//! The matrix: what can go wrong, for every cloud.

use std::time::Duration;

use serde_json::{Value, json};
use testbed::fake_cloud::{Call, Dialect, Effect, FakeCloud, Fault, Knobs, Refusal};
use testbed::pool_bed::TOKEN;

use crate::wire::{Side, Stop, Write};

type Credential = fn(&FakeCloud) -> String;

/// A cloud that pools live in: a line for each.
pub struct Provider {
    /// As in the spec.
    pub name: &'static str,
    /// What the fake cloud speaks; `None`: the proxies are pods of the cluster.
    pub dialect: Option<Dialect>,
    /// The provider block.
    pub block: &'static str,
    /// The Secret's keys, and what is in them; pods need none.
    pub credentials: &'static [(&'static str, Credential)],
    /// Calls that one create makes besides, by which it can be torn apart.
    pub parts: &'static [Call],
    /// Pages of a list of 100 VMs.
    pub pages: f64,
    /// Lists before each create: where there are two markets, only they tell what came of an earlier attempt.
    pub lists_per_create: u64,
}

fn token(_: &FakeCloud) -> String {
    TOKEN.to_owned()
}

/// All of them.
#[rustfmt::skip]
pub const PROVIDERS: [Provider; 6] = [
    Provider { name: "digitalocean", dialect: Some(Dialect::DigitalOcean), block: r#"{"region": "lon1"}"#, credentials: &[("token", token)], parts: &[], pages: 1.0, lists_per_create: 0 },
    Provider { name: "hetzner", dialect: Some(Dialect::Hetzner), block: r#"{"location": "nbg1"}"#, credentials: &[("token", token)], parts: &[], pages: 2.0, lists_per_create: 0 },
    Provider { name: "vultr", dialect: Some(Dialect::Vultr), block: r#"{"region": "ewr"}"#, credentials: &[("token", token)], parts: &[], pages: 1.0, lists_per_create: 0 },
    Provider {
        name: "aws", dialect: Some(Dialect::Ec2), block: r#"{"region": "eu-central-1", "ami": "ami-0123456789abcdef0", "spot": {"onDemandFallback": true}}"#,
        credentials: &[("accessKeyId", token), ("secretAccessKey", token)], parts: &[], pages: 1.0, lists_per_create: 1,
    },
    Provider {
        name: "gcp", dialect: Some(Dialect::Gce), block: r#"{"project": "test", "zone": "europe-west1-b"}"#,
        credentials: &[("serviceAccountKey", |cloud| cloud.service_account_key("test"))], parts: &[Call::Operation], pages: 1.0, lists_per_create: 0,
    },
    Provider { name: "kubernetes", dialect: None, block: r#"{"image": "proxy:1"}"#, credentials: &[], parts: &[], pages: 1.0, lists_per_create: 0 },
];

/// How a pool is rolled: each with another limit that binds, so that either shows when it is broken. Always 4 proxies, in
/// waves of 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The floor: 2 must stay, 3 might go.
    Floor,
    /// The batch: 2 may go, 1 must stay.
    Batch,
    /// Room for 2 more: all 4 must stay.
    Surge,
}

/// Proxies of every pool.
pub const WANTED: usize = 4;

impl Shape {
    /// Its part of the spec.
    pub fn spec(self) -> Value {
        match self {
            Self::Floor => json!({"rolling": {"minAvailable": 2, "batchSize": 3}}),
            Self::Batch => json!({"rolling": {"minAvailable": 1, "batchSize": 2}}),
            Self::Surge => json!({"maxScaling": 6, "rolling": {"minAvailable": 4, "batchSize": 2}}),
        }
    }

    /// Fewer must never serve.
    pub fn floor(self) -> usize {
        if self == Self::Surge { 4 } else { 2 }
    }

    /// More must never be there.
    pub fn most(self) -> usize {
        if self == Self::Surge { 6 } else { 4 }
    }
}

/// What becomes of the operator.
#[derive(Clone, Copy, Debug)]
pub enum Fate {
    /// Nothing.
    Lives,
    /// It dies where it is stopped, and a successor starts at once.
    Dies,
    /// It stands still where it is stopped, a successor of another name takes over, and then it wakes.
    Sleeps,
}

/// One cell of the matrix.
pub struct Case {
    pub name: String,
    pub provider: &'static Provider,
    pub shape: Shape,
    pub fate: Fate,
    /// What goes wrong in the cloud. A held call is where the operator is stopped.
    pub faults: Vec<Fault>,
    /// Which write to the API server it is stopped at.
    pub stop: Option<Stop>,
    pub knobs: Knobs,
    /// Whether it is stopped at all is not certain: the last ones are there to show that no further ones are.
    pub is_beyond: bool,
    /// A create that was sent before the successor was there is carried out after it has worked: that no one can prevent
    /// in a cloud that neither knows orders again nor has unique names, so there the VM must be found and taken back.
    pub is_late: bool,
    /// Not in the default run: it takes longer than that, or what it stops at changes nothing in the cloud.
    pub is_long: bool,
}

/// VMs boot in this time.
const BOOT: Duration = Duration::from_millis(500);
/// And go in this.
const DELETION: Duration = Duration::from_secs(1);
/// Lists are that old where they lag.
pub const LAG: Duration = Duration::from_secs(2);
/// Creates, and deletes, of a pool's whole life: 4 to fill it, 4 to renew it, 4 to delete it.
const CHANGES: u32 = 8;

/// The whole matrix for one provider.
pub fn all(provider: &'static Provider) -> Vec<Case> {
    let knobs = Knobs { boots_after: BOOT, deleted_after: DELETION, ..Knobs::default() };
    let case = |name: String, fate| Case {
        name: format!("{}::{name}", provider.name),
        provider,
        shape: Shape::Floor,
        fate,
        faults: Vec::new(),
        stop: None,
        knobs: knobs.clone(),
        is_beyond: false,
        is_late: false,
        is_long: false,
    };
    let nth = |effect: &Effect, call, n: u32| Fault::always(effect.clone()).on(call).after(n - 1).times(1);
    let said = |call: Call| format!("{call:?}").to_lowercase();
    let holds = [("before", Effect::HoldRequest), ("after", Effect::HoldReply)];
    let sides = [("before", Side::Before), ("after", Side::After)];
    let mut cases = vec![case("nothing".into(), Fate::Lives)];

    for (side, hold) in &holds {
        let changes = [Call::Create, Call::Delete].into_iter().chain(provider.parts.iter().copied());
        for (call, most) in changes.map(|call| (call, CHANGES)).chain([(Call::List, 12)]) {
            for n in 1..=most {
                let faults = vec![nth(hold, call, n)];
                let is_beyond = !matches!(call, Call::Create | Call::Delete);
                let is_long = call == Call::List;
                cases.push(Case { faults, is_beyond, is_long, ..case(format!("dies_{side}_{}_{n}", said(call)), Fate::Dies) });
            }
        }
        // A create that is lost on its way is looked for: among these lists is the look.
        for n in 3..=8 {
            let faults = vec![nth(&Effect::LoseRequest, Call::Create, 2), nth(hold, Call::List, n)];
            cases.push(Case { faults, is_beyond: n > 6, ..case(format!("dies_{side}_look_{n}"), Fate::Dies) });
        }
    }
    // Each pod and its script are two writes more.
    let most_writes = if provider.dialect.is_some() { 30 } else { 62 };
    for (side, at) in sides {
        for (write, name, certain, most) in [(Write::Status, "status", 8, 16), (Write::Other, "write", 8, most_writes)] {
            for n in 1..=most {
                let stop = Some(Stop { write, nth: n, side: at });
                let is_long = write == Write::Other && provider.dialect.is_some();
                cases.push(Case { stop, is_beyond: n > certain, is_long, ..case(format!("dies_{side}_{name}_{n}"), Fate::Dies) });
            }
        }
    }
    for (what, effect) in [("reply", Effect::LoseReply), ("request", Effect::LoseRequest)] {
        for call in [Call::Create, Call::Delete] {
            for n in 1..=CHANGES {
                let faults = vec![nth(&effect, call, n)];
                cases.push(Case { faults, ..case(format!("{what}_of_{}_{n}_lost", said(call)), Fate::Lives) });
            }
        }
    }
    let lags = Knobs { list_lag: LAG, ..knobs.clone() };
    cases.push(Case { knobs: lags.clone(), ..case("lists_lag".into(), Fate::Lives) });
    for (side, hold) in &holds {
        for (call, n) in [(Call::Create, 2), (Call::Create, 6), (Call::Delete, 1)] {
            let name = format!("lists_lag_dies_{side}_{}_{n}", said(call));
            cases.push(Case { knobs: lags.clone(), faults: vec![nth(hold, call, n)], ..case(name, Fate::Dies) });
        }
        for (call, n) in [(Call::Create, 2), (Call::Create, 6), (Call::Delete, 1), (Call::Delete, 3)] {
            let name = format!("sleeps_{side}_{}_{n}", said(call));
            let is_late = *side == "before" && call == Call::Create;
            cases.push(Case { faults: vec![nth(hold, call, n)], is_late, ..case(name, Fate::Sleeps) });
        }
    }
    for (side, at) in sides {
        for n in [3, 6] {
            let stop = Some(Stop { write: Write::Status, nth: n, side: at });
            cases.push(Case { stop, ..case(format!("sleeps_{side}_status_{n}"), Fate::Sleeps) });
        }
    }
    for n in [1, 4, 6] {
        let storm = Fault::always(Effect::Refuse(Refusal::Throttled(2))).after(n * 3).times(3);
        cases.push(Case { faults: vec![storm], is_long: true, ..case(format!("storm_of_429_{n}"), Fate::Lives) });
        for (name, effect) in [
            ("over_quota", Effect::Refuse(Refusal::Quota)),
            ("no_capacity", Effect::Refuse(Refusal::NoCapacity)),
            ("no_capacity_told_late", Effect::FailLater(Refusal::NoCapacity)),
        ] {
            cases.push(Case { faults: vec![nth(&effect, Call::Create, n)], is_long: true, ..case(format!("{name}_{n}"), Fate::Lives) });
        }
    }
    cases.push(Case { knobs: Knobs { locked_for: Duration::from_secs(50), ..knobs.clone() }, ..case("locked".into(), Fate::Lives) });
    if provider.dialect.is_none() {
        // Its calls are writes to the API server, and nothing goes wrong there but the operator.
        cases.retain(|case| case.faults.is_empty() && case.knobs == knobs);
    }
    let shapes = [Shape::Floor, Shape::Batch, Shape::Surge];
    for (n, case) in cases.iter_mut().enumerate() {
        // So that a part of the cells, such as every sixth, has all of them.
        case.shape = shapes[(n + n / 4) % shapes.len()];
    }
    cases
}
