//! The drive loop: one decision at a time per object, a bounded number of objects at once.
//!
//! News and timers put keys into a queue; a key that is being worked on is worked on again after.
//! It runs while this process is the leader and forgets everything when it is not.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::time::{DelayQueue, delay_queue};

use crate::api::rolling_update::Objects;
use crate::api::{State, names};
use crate::rollout::apply::{Applied, apply};
use crate::rollout::decide::decide;
use crate::rollout::model::Memory;
use crate::rollout::observe::observe;
use crate::rollout::wish::Wish;
use crate::runtime::clock;
use crate::runtime::metrics::Metrics;
use crate::traffic::gateway;

use super::SharedIndex;
use super::event::Publisher;
use super::facts::{Key, Kind, Update};
use super::index::Index;
use super::watch::News;
use super::write::Writer;

/// Objects worked on at the same time. Mostly they wait for the API server, and an order must not wait for them.
const CONCURRENCY: usize = 64;
/// Writes of one object in a row before the others get their turn.
const TURNS: usize = 32;
/// First and longest wait after a write that did not work.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));

/// What working on an object needs.
#[derive(Clone)]
pub struct Context {
    /// The cluster as known.
    pub index: Arc<SharedIndex>,
    /// The way to write.
    pub writer: Writer,
    /// The way to tell people.
    pub publisher: Publisher,
    /// What is counted.
    pub metrics: Metrics,
}

/// Between two looks at an object.
#[derive(Clone, Debug, Default)]
struct Kept {
    /// The term of leading in which that was.
    term: Option<u64>,
    memory: Memory,
    failures: u32,
}

struct Done {
    key: Key,
    kept: Kept,
    again: Option<Duration>,
    /// Something was written: what the answer has told the index is no news any more when the watch tells it.
    wrote: bool,
}

/// Works on whatever the news are about, until the channel closes. Starts with everything there is.
pub async fn run(context: Context, news: &mut mpsc::UnboundedReceiver<News>) {
    let mut queue = Queue::default();
    for key in all(&context.index.lock()) {
        queue.push(key);
    }
    let mut busy: JoinSet<Done> = JoinSet::new();
    let mut kept: HashMap<Key, Kept> = HashMap::new();
    let mut running: HashMap<tokio::task::Id, Key> = HashMap::new();
    loop {
        while busy.len() < CONCURRENCY
            && let Some(key) = queue.pop(|key| lane(&context.index.lock(), key))
        {
            let state = kept.get(&key).cloned().unwrap_or_default();
            let task = busy.spawn(work(context.clone(), key.clone(), state));
            running.insert(task.id(), key);
        }
        tokio::select! {
            said = news.recv() => match said {
                Some(News::Measured(key)) => queue.push(key),
                Some(News::Object(kind, fact)) => concerned(&context.index.lock(), kind, &fact.meta().key()).into_iter().for_each(|key| queue.push(key)),
                None => return,
            },
            Some(done) = busy.join_next_with_id() => match done {
                Ok((task, Done { key, kept: state, again, wrote })) => {
                    running.remove(&task);
                    if wrote {
                        let others = concerned(&context.index.lock(), Kind::RollingUpdate, &key);
                        others.into_iter().filter(|other| *other != key).for_each(|other| queue.push(other));
                    }
                    if context.index.lock().update(&key).is_some() {
                        kept.insert(key.clone(), state);
                    } else {
                        kept.remove(&key);
                    }
                    queue.done(key, again);
                }
                Err(error) => {
                    // A panic is a bug, but one object's: it is tried again, and no other is delayed.
                    tracing::error!(%error, "a decision failed");
                    if let Some(key) = running.remove(&error.id()) {
                        queue.done(key, Some(BACKOFF.1));
                    }
                }
            },
            Some(due) = queue.timers.next() => {
                let key = due.into_inner();
                queue.timer.remove(&key);
                queue.push(key);
            }
        }
    }
}

/// Decides and applies until there is nothing more to do now.
async fn work(context: Context, key: Key, mut kept: Kept) -> Done {
    let mut wrote = false;
    let term = context.writer.term();
    if kept.term != term {
        // Another process may have led in between.
        kept = Kept { term, ..Kept::default() };
    }
    for _ in 0..TURNS {
        let Some(obs) = observe(&context.index.lock(), &key) else {
            return Done { key, kept: Kept::default(), again: None, wrote };
        };
        let plan = decide(&obs, &kept.memory, clock::now());
        kept.memory = plan.memory.clone();
        context.metrics.decided();
        match apply(&context.writer, &context.publisher, &obs, &plan).await {
            Applied::Nothing => {
                kept.failures = 0;
                return Done { key, kept, again: plan.requeue, wrote };
            }
            Applied::Written => {
                wrote = true;
                kept.failures = 0;
                if !plan.actions.is_empty() {
                    kept.memory.denied = None;
                }
            }
            Applied::Stale if kept.failures < 3 => kept.failures += 1,
            Applied::Refused { object, message } => {
                kept.memory.refused.insert(object, message);
            }
            Applied::Later(Some(said)) if kept.memory.denied.is_none() => kept.memory.denied = Some(said),
            Applied::Stale | Applied::Later(_) => {
                kept.failures = kept.failures.saturating_add(1);
                let wait = BACKOFF.0.saturating_mul(1 << kept.failures.min(10)).min(BACKOFF.1);
                return Done { key, kept, again: Some(wait), wrote };
            }
            Applied::NotLeader => return Done { key, kept, again: Some(BACKOFF.1), wrote },
        }
    }
    Done { key, kept, again: Some(BACKOFF.0), wrote }
}

/// What only one decision at a time may be about: the workload. Two updates of one workload that could both
/// start are so asked one after the other, and the second sees that the first has started.
fn lane(index: &Index, key: &Key) -> Key {
    let update = index.update(key);
    let object = update.as_ref().and_then(|u| u.object.as_ref().ok());
    let recorded = update.as_ref().and_then(|u| recorded(u)).map(|o| o.workload.clone());
    let wanted = || object.and_then(|o| Wish::parse(&o.spec).ok()).map(|w| w.workload);
    Key::new(&key.namespace, recorded.or_else(wanted).unwrap_or_default())
}

fn all(index: &Index) -> Vec<Key> {
    index.updates().map(|u| u.meta.key()).collect()
}

/// The RollingUpdates that a piece of news may matter to: the one it is about, first of all; then those of its namespace
/// that wait to start, those at work on what it is about, and those at rest that take care of it.
pub fn concerned(index: &Index, kind: Kind, about: &Key) -> Vec<Key> {
    let own = (kind == Kind::RollingUpdate).then(|| about.clone());
    let (mut keys, mut others) = (Vec::new(), Vec::new());
    let mut found = own.is_some();
    for update in index.updates_in(&about.namespace) {
        let key = update.meta.key();
        match update.state() {
            _ if Some(&key) == own.as_ref() => {}
            Some(State::Pending) => keys.push(key),
            Some(state) if state.is_terminal() => keys.extend(cares_for(index, update, kind, about).then_some(key)),
            Some(_) if works_with(index, update, kind, about) => {
                found = true;
                keys.push(key);
            }
            Some(_) => others.push(key),
            None => {}
        }
    }
    if !found {
        // What nobody works with now may have been somebody's before.
        keys.append(&mut others);
    }
    own.into_iter().chain(keys).collect()
}

/// An update at work looks at its own Deployments, Services and routes, and at what their controllers make of them.
fn works_with(index: &Index, update: &Update, kind: Kind, about: &Key) -> bool {
    let Some(objects) = recorded(update) else { return true };
    let (name, namespace) = (about.name.as_str(), about.namespace.as_str());
    let deployments = [&objects.workload, &objects.old_revision, &objects.new_revision];
    let services = [&objects.service, &objects.old_service, &objects.new_revision];
    match kind {
        Kind::RollingUpdate => false,
        Kind::Deployment => deployments.iter().any(|d| *d == name),
        Kind::ReplicaSet | Kind::Pod => deployments.iter().any(|d| is_named_after(name, d)),
        Kind::Service => services.iter().any(|s| *s == name),
        Kind::EndpointSlice => services.iter().any(|s| is_named_after(name, s)),
        Kind::HttpRoute => {
            let mut routes = index.routes(namespace).filter(|r| r.meta.name == name);
            objects.routes.iter().any(|r| r == name) || routes.any(|r| services.iter().any(|s| gateway::names_service(r, s)))
        }
        Kind::Autoscaler => true,
    }
}

/// Controllers call what they make after what they make it for, cut so that their suffix fits.
fn is_named_after(name: &str, owner: &str) -> bool {
    const KEPT: usize = 57;
    name.starts_with(owner.get(..KEPT).unwrap_or(owner))
}

/// An update at rest looks after its Deployments, its Service and whatever may scale them, unless another one is at work;
/// and after what comes with a label of its shift when that is over.
fn cares_for(index: &Index, update: &Update, kind: Kind, about: &Key) -> bool {
    let (Some(objects), name) = (recorded(update), about.name.as_str()) else { return false };
    let is_of = |d: &String| is_named_after(name, d);
    match kind {
        Kind::ReplicaSet => is_of(&objects.old_revision) || is_of(&objects.new_revision),
        Kind::Pod => index.pod(about).is_some_and(|p| p.meta.labels.contains_key(names::SERVING)),
        Kind::RollingUpdate => index.update(about).is_some_and(|o| recorded(&o).is_some_and(|o| o.workload == objects.workload)),
        Kind::Deployment => [&objects.workload, &objects.old_revision, &objects.new_revision].iter().any(|n| *n == name),
        Kind::Service => objects.service == name,
        Kind::Autoscaler => true,
        _ => false,
    }
}

/// What an update works on, once it has started.
fn recorded(update: &Update) -> Option<&Objects> {
    update.object.as_ref().ok()?.status.as_ref()?.objects.as_ref()
}

/// Keys to work on, each at most once, and none while it is being worked on.
#[derive(Default)]
struct Queue {
    ready: VecDeque<Key>,
    queued: HashSet<Key>,
    /// Key -> its lane.
    busy: HashMap<Key, Key>,
    again: HashSet<Key>,
    timers: DelayQueue<Key>,
    timer: HashMap<Key, delay_queue::Key>,
}

impl Queue {
    fn push(&mut self, key: Key) {
        if self.busy.contains_key(&key) {
            self.again.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// The next key whose lane is free.
    fn pop(&mut self, lane: impl Fn(&Key) -> Key) -> Option<Key> {
        let (at, lane) = self.ready.iter().enumerate().find_map(|(at, key)| {
            let lane = lane(key);
            let free = !self.busy.values().any(|b| *b == lane);
            free.then_some((at, lane))
        })?;
        let key = self.ready.remove(at)?;
        self.queued.remove(&key);
        self.busy.insert(key.clone(), lane);
        if let Some(timer) = self.timer.remove(&key) {
            self.timers.remove(&timer);
        }
        Some(key)
    }

    fn done(&mut self, key: Key, again: Option<Duration>) {
        self.busy.remove(&key);
        if self.again.remove(&key) {
            self.push(key);
        } else if let Some(wait) = again {
            // A moment more, or a wait that ends on a boundary would find it not quite reached.
            let timer = self.timers.insert(key.clone(), wait + Duration::from_millis(5));
            if let Some(old) = self.timer.insert(key, timer) {
                self.timers.remove(&old);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::facts::Fact;
    use serde_json::{Value, json};

    fn object(kind: Kind, name: &str, rest: &Value) -> Fact {
        let (group, version, kind_name, _) = kind.gvk();
        let mut object = json!({
            "apiVersion": format!("{group}/{version}"), "kind": kind_name,
            "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "1"},
        });
        for (key, value) in rest.as_object().unwrap() {
            object[key] = value.clone();
        }
        Fact::read(kind, serde_json::from_value(object).unwrap())
    }

    fn update(name: &str, state: &str) -> Fact {
        let objects = json!({
            "workload": name, "service": name, "oldRevision": name, "oldService": format!("{name}-1-0-0"),
            "newRevision": format!("{name}-2-0-0"), "routes": [name],
        });
        let spec = json!({"artifactBase": format!("shop.example:{name}"), "version": "2.0.0"});
        let objects = if state == "PENDING" { Value::Null } else { objects };
        object(Kind::RollingUpdate, name, &json!({"spec": spec, "status": {"state": state, "objects": objects}}))
    }

    fn names(index: &Index, kind: Kind, about: &str) -> Vec<String> {
        concerned(index, kind, &Key::new("shop", about)).into_iter().map(|k| k.name).collect()
    }

    #[test]
    fn news_go_to_those_who_look_at_what_they_are_about() {
        let mut index = Index::default();
        for (name, state) in [("cart", "ROUTING"), ("desk", "ROLLING_BACK"), ("rest", "COMPLETED"), ("wait", "PENDING")] {
            index.apply(Kind::RollingUpdate, update(name, state));
        }
        for (name, service) in [("cart", "other"), ("new", "desk-2-0-0")] {
            let rules = json!([{"backendRefs": [{"name": service}]}]);
            index.apply(Kind::HttpRoute, object(Kind::HttpRoute, name, &json!({"spec": {"rules": rules}})));
        }
        let cases: [(Kind, &str, &[&str]); 13] = [
            (Kind::RollingUpdate, "desk", &["desk", "wait"]),
            (Kind::RollingUpdate, "gone", &["gone", "wait"]),
            (Kind::Deployment, "cart-2-0-0", &["cart", "wait"]),
            (Kind::Deployment, "rest", &["rest", "wait", "cart", "desk"]),
            (Kind::ReplicaSet, "desk-6d4cf56db6", &["desk", "wait"]),
            (Kind::Pod, "desk-2-0-0-6d4cf56db6-x7k2p", &["desk", "wait"]),
            (Kind::Pod, "strange", &["wait", "cart", "desk"]),
            (Kind::Service, "cart-1-0-0", &["cart", "wait"]),
            (Kind::EndpointSlice, "cart-1-0-0-fgh7k", &["cart", "wait"]),
            (Kind::HttpRoute, "cart", &["cart", "wait"]),
            (Kind::HttpRoute, "new", &["desk", "wait"]),
            (Kind::HttpRoute, "strange", &["wait", "cart", "desk"]),
            (Kind::Autoscaler, "any", &["cart", "desk", "rest", "wait"]),
        ];
        for (kind, about, wanted) in cases {
            assert_eq!(names(&index, kind, about), wanted, "{kind:?} {about}");
        }
    }

    #[test]
    fn what_a_controller_makes_of_a_long_name_is_known() {
        let long = "a".repeat(63);
        assert!(is_named_after(&format!("{}x7k2p", &long[..58]), &long));
        assert!(!is_named_after("web-2-0-0-x", "web-1-0-0"));
    }
}
