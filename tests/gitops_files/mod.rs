//! What is generated for GitOps tools: Argo CD's settings out of the Lua files, and objects of every kind of status, said by
//! the decisions themselves, for the test that runs Lua and CEL on them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use aether_operator::api::proxy_pool::{InFlight, Op, ProxyPoolSpec, Step};
use aether_operator::api::{ProxyPoolStatus, RollingUpdateStatus, State};
use aether_operator::cloud::{Capabilities, Class, Error, Marks, Phase, Rate, Vm};
use aether_operator::cluster::facts::Meta;
use aether_operator::pool::model::{Health, Listed, Memory, Observation};
use aether_operator::pool::plan::plan;
use aether_operator::pool::wish::{Defaults, Wish};
use serde_json::{Value, json};

use super::small_world::{Figures, Seen, figures, now, seen};
use super::state_table::{at_work, ordered, said_in};

/// The orders that are Argo CD's actions.
const ACTIONS: [&str; 5] = ["approve", "complete", "pause", "resume", "rollback"];

/// The ConfigMap `argocd-cm` as far as it is ours.
pub fn argocd_cm() -> String {
    let read = |file: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("gitops/argocd").join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    let orders = read("RollingUpdate/orders.lua");
    let mut actions = format!("discovery.lua: |\n{}definitions:\n", indented(2, &format!("{orders}\nreturn offered()\n")));
    for name in ACTIONS {
        let script = indented(4, &format!("{orders}\nreturn give(\"{name}\")\n"));
        write!(actions, "- name: {name}\n  action.lua: |\n{script}").unwrap();
    }
    let data = [
        ("health.aether.dev_RollingUpdate", read("RollingUpdate/health.lua")),
        ("health.aether.dev_ProxyPool", read("ProxyPool/health.lua")),
        ("actions.aether.dev_RollingUpdate", actions),
    ];
    let mut file = String::from(
        "# Generated from the Lua files in these folders (`make generate`); a test fails when it is stale.\n\
         apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: argocd-cm\n  labels:\n    app.kubernetes.io/name: argocd-cm\n    app.kubernetes.io/part-of: argocd\ndata:\n",
    );
    for (key, text) in data {
        write!(file, "  resource.customizations.{key}: |\n{}", indented(4, &text)).unwrap();
    }
    file
}

fn indented(by: usize, text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("{:by$}{line}\n", "") }).collect()
}

fn printed(objects: &BTreeMap<&str, Value>) -> String {
    serde_json::to_string_pretty(objects).unwrap() + "\n"
}

/// RollingUpdates in every state, and in what else health checks have to tell apart.
pub fn rolling_updates() -> String {
    let manual = |s: Seen| Seen { spec: json!({"requireManualApproval": true}), since: 99, held: &[("in force", 99)], ..s };
    let judged = |figures: Figures, progression: Value, since: i64| Seen {
        spec: json!({"metrics": null, "progression": progression}),
        measured: Some(figures),
        since,
        held: &[("in force", 99)],
        ..at_work(State::Routing)
    };
    let unread = Figures { age: None, problem: "x", counting: false, new: (0, 0), old: (0, 0), slow: None };
    let breach = judged(figures(30, 400), json!({}), 99);
    let undone = Seen { new: None, services: false, weights: None, apex: "user", paused: false, ..seen("ROLLING_BACK") };
    let at_the_end = Seen { routing: "1:0", weights: Some((1, 0)), ..at_work(State::Routing) };

    let mut all: BTreeMap<&str, Value> = State::ALL.into_iter().map(|s| (s.as_str(), object(&at_work(s), &said_in(s)))).collect();
    let cases = [
        ("PENDING, paused", ordered(at_work(State::Pending), &json!({"paused": true}))),
        ("DEPLOYED, awaits approval", manual(at_work(State::Deployed))),
        ("DEPLOYED, first step approved", {
            let approved = ordered(manual(at_work(State::Deployed)), &json!({"approved": "1:9"}));
            Seen { held: &[("in force", 3)], ..approved }
        }),
        ("ROUTING, awaits approval", manual(at_work(State::Routing))),
        ("ROUTING, awaits approval of an odd ratio", {
            let steps = json!({"steps": ["1:1000000", "333333 : 666667", "1:0"]});
            Seen {
                spec: json!({"requireManualApproval": true, "progression": steps}),
                since: 99,
                held: &[("in force", 99)],
                ..at_work(State::Routing)
            }
        }),
        ("ROUTING, paused", ordered(at_work(State::Routing), &json!({"paused": true}))),
        ("ROUTING, a ratio is held", ordered(at_work(State::Routing), &json!({"routing": "1:3"}))),
        (
            "ROUTING, orders for another version",
            Seen { spec: json!({"control": {"version": "1.9.0", "paused": true}}), ..at_work(State::Routing) },
        ),
        ("ROUTING, figures are missing", judged(unread, json!({}), 99)),
        ("ROUTING, no verdict in time", judged(unread, json!({"analysisDeadline": "1m"}), 99)),
        ("ROUTING, a limit is breached", breach.clone()),
        ("ROUTING, at 1:0, held", ordered(at_the_end, &json!({"routing": "1:0"}))),
        ("COMPLETING, paused", ordered(at_work(State::Completing), &json!({"paused": true}))),
        ("ROLLING_BACK after a breach", Seen { rollback: "ErrorRateBreached", ..at_work(State::RollingBack) }),
        ("ROLLED_BACK, ConflictingManager", Seen { rollback: "ConflictingManager", ..undone.clone() }),
    ];
    for (name, seen) in cases {
        let said = seen.plan().status.unwrap_or_else(|| panic!("{name}: nothing is said"));
        all.insert(name, object(&seen, &said));
    }
    // What was approved before a breach is no answer to it, and what is approved afterwards is one.
    let mut answered = all["ROUTING, a limit is breached"].clone();
    answered["spec"]["control"] = json!({"version": "2.0.0", "approved": "1:1"});
    all.insert("ROUTING, a breach is answered", answered);
    let mut before = all["ROUTING, a limit is breached"].clone();
    before["spec"]["control"] = json!({"version": "2.0.0", "approved": "1:1"});
    before["status"]["decision"]["approvedBefore"] = json!("1:1");
    all.insert("ROUTING, approved before the breach", before);
    // At rest, looked at once more.
    let resting = |seen: Seen, said: RollingUpdateStatus| Seen { status: Some(serde_json::to_value(said).unwrap()), ..seen };
    let end = said_in(State::Completed);
    let live = Seen { spec: json!({"version": "1.0.0"}), paused: true, ..at_work(State::Pending) };
    let adopted = live.plan().status.unwrap();
    let edited = resting(Seen { state: "COMPLETED", edited: true, ..live }, adopted);
    let gone = resting(Seen { new: None, ..at_work(State::Completed) }, end);
    for (name, seen) in [("COMPLETED, the template was edited", edited), ("COMPLETED, the live version is gone", gone)] {
        let said = seen.plan().status.unwrap_or_else(|| panic!("{name}: nothing is said"));
        all.insert(name, object(&seen, &said));
    }
    // The spec has changed, and nobody has looked at it yet.
    let behind = |name: &str, spec: &Value| {
        let mut object = all[name].clone();
        object["metadata"]["generation"] = json!(6);
        json_patch::merge(&mut object["spec"], spec);
        object
    };
    let more = [
        ("COMPLETED, the next version is wanted", behind("COMPLETED", &json!({"version": "3.0.0"}))),
        ("ROLLED_BACK, another attempt is wanted", behind("ROLLED_BACK", &json!({"attempt": 2}))),
        ("ROUTING, another version is wanted", behind("ROUTING", &json!({"version": "3.0.0"}))),
        ("ROUTING, a rollback is wanted", behind("ROUTING", &json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}))),
        ("ROUTING, being deleted", {
            let mut object = all["ROUTING"].clone();
            object["metadata"]["deletionTimestamp"] = json!(now());
            object
        }),
        ("no status", {
            let mut object = all["PENDING"].clone();
            object.as_object_mut().unwrap().remove("status");
            object
        }),
        ("just created", born(all["PENDING"].clone(), "rollingupdates")),
    ];
    all.extend(more);
    printed(&all)
}

/// With the status that the definition gives a new object.
fn born(mut object: Value, plural: &str) -> Value {
    let crd = aether_operator::api::crds().into_iter().find(|c| c.spec.names.plural == plural).unwrap();
    let crd = serde_json::to_value(crd).unwrap();
    object["metadata"]["generation"] = json!(1);
    object["status"] = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/default").unwrap().clone();
    object
}

fn object(seen: &Seen, said: &RollingUpdateStatus) -> Value {
    let made = seen.update();
    let mut spec = made["spec"].clone();
    // The definition knows no nulls.
    spec.as_object_mut().unwrap().retain(|_, field| !field.is_null());
    json!({
        "apiVersion": "aether.dev/v1alpha1", "kind": "RollingUpdate",
        "metadata": {"name": "web", "namespace": "shop", "generation": 5}, "spec": spec, "status": said,
    })
}

/// What is different about a pool.
type Change = Box<dyn Fn(&mut Observation)>;

/// Pools as they are well, short, held and in trouble.
pub fn proxy_pools() -> String {
    let base = json!({
        "minScaling": 3, "ageLimit": "1h", "digitalocean": {"region": "lon1"}, "credentialsSecretRef": {"name": "token"},
        "proxy": {"authSecretRef": {"name": "login"}}, "rolling": {"minAvailable": 2, "batchSize": 2},
    });
    let failed = |class| Some(Error { class, message: "the cloud said no".into() });
    let late: Change = Box::new(|obs| {
        let since = now() - chrono::TimeDelta::minutes(30);
        obs.health.insert("vm-2-3".into(), Health::Unknown);
        obs.status.in_flight = vec![InFlight {
            slot: 2,
            op: Op::Recycle,
            phase: Step::Starting,
            since,
            epoch: 3,
            nonce: "n2".into(),
            template: "t".into(),
            born: Some(since),
            attempts: 1,
            missed: 0,
            vm_id: Some("vm-2-3".into()),
            replaces: Some("vm-2-0".into()),
            address: None,
        }];
    });
    let cases: Vec<(&str, Value, Change)> = vec![
        ("available", json!({}), Box::new(|_| {})),
        ("one proxy is missing", json!({}), Box::new(|obs| drop(obs.list.as_mut().unwrap().vms.pop()))),
        ("too few proxies", json!({}), Box::new(|obs| obs.list.as_mut().unwrap().vms.truncate(1))),
        ("paused", json!({"paused": true}), Box::new(|_| {})),
        ("not listed yet", json!({}), Box::new(|obs| obs.list = None)),
        ("provider unreachable", json!({}), Box::new(move |obs| obs.list_error = failed(Class::Transient))),
        ("provider never reached", json!({}), Box::new(move |obs| (obs.list, obs.list_error) = (None, failed(Class::Transient)))),
        ("provider unreachable, paused", json!({"paused": true}), Box::new(move |obs| obs.list_error = failed(Class::Transient))),
        ("credentials refused", json!({}), Box::new(move |obs| obs.list_error = failed(Class::Auth))),
        ("a replacement is late", json!({}), late),
    ];
    let mut all = BTreeMap::new();
    for (name, change, seen) in cases {
        let mut spec = base.clone();
        json_patch::merge(&mut spec, &change);
        let mut obs = pool(&spec);
        seen(&mut obs);
        let memory = Memory { last_mutation: Some(now() - chrono::TimeDelta::hours(1)), ..Memory::default() };
        let said = plan(&obs, &memory, now()).status.unwrap_or_else(|| panic!("{name}: nothing is said"));
        all.insert(
            name,
            json!({
                "apiVersion": "aether.dev/v1alpha1", "kind": "ProxyPool",
                "metadata": {"name": "crawl", "namespace": "shop", "generation": 5}, "spec": spec, "status": said,
            }),
        );
    }
    let mut behind = all["available"].clone();
    behind["metadata"]["generation"] = json!(6);
    all.insert("the spec has changed", behind);
    let mut deleted = all["available"].clone();
    deleted["metadata"]["deletionTimestamp"] = json!(now());
    all.insert("being deleted", deleted);
    let mut unsaid = all["available"].clone();
    unsaid.as_object_mut().unwrap().remove("status");
    all.insert("no status", unsaid);
    let fresh = born(all["available"].clone(), "proxypools");
    all.insert("just created", fresh);
    printed(&all)
}

/// Three healthy young proxies.
fn pool(spec: &Value) -> Observation {
    let spec: ProxyPoolSpec = serde_json::from_value(spec.clone()).unwrap();
    let vms: Vec<Vm> = (0..3)
        .map(|slot| {
            let born = now() - chrono::TimeDelta::minutes(20);
            let marks = Marks { pool: "uid".into(), slot, epoch: slot + 1, nonce: format!("n{slot}"), template: "t".into(), born };
            let address = format!("10.0.{slot}.1").parse().ok();
            Vm { id: format!("vm-{slot}-{}", slot + 1), marks, phase: Phase::Running, address }
        })
        .collect();
    Observation {
        meta: Meta {
            uid: "uid".into(),
            name: "crawl".into(),
            generation: 5,
            finalizers: vec!["aether.dev/proxies".into()],
            ..Meta::default()
        },
        wish: Wish::parse("crawl", &spec, &Defaults::default()),
        orphan: false,
        status: ProxyPoolStatus { epoch: 3, ..ProxyPoolStatus::default() },
        template: "t".into(),
        health: vms.iter().map(|v| (v.id.clone(), Health::Healthy)).collect(),
        list: Some(Listed { at: now(), vms }),
        list_error: None,
        direct: None,
        capabilities: Capabilities { idempotent_create: false, unique_names: false, settle_seconds: 30 },
        rate: Rate::default(),
        requests: None,
    }
}
