//! The decision: from an observation and the time to a plan. Total, without a clock, without effects.

use std::time::Duration;

use json_patch::PatchOperation;
use serde_json::{Value, json};

use crate::api::conditions::{self, Answer, INVALID_SPEC, OLD_VERSION_REMOVED, READY};
use crate::api::rolling_update::{CleanupPolicy, Outcome};
use crate::api::{Ratio, RollingUpdateStatus, State, Time, names};
use crate::cluster::facts::{Key, Kind, Meta};
use crate::cluster::patch;

use super::model::{Action, LiveCheck, Memory, Note, Observation, Plan, Target, Write};
use super::states::{completing, deploying, pending, progress, resting, rolling_back, shifting};
use super::status::{self, Saying};
use super::verdict;
use super::wish::Wish;

/// Decides what to do about one RollingUpdate now.
pub fn decide(obs: &Observation, memory: &Memory, now: Time) -> Plan {
    let plan = turn(obs, memory, now, false);
    if plan.status.is_none() || obs.measured.is_none() {
        return plan;
    }
    // What is written anyway is written with the newest figures; they alone are never worth a write.
    turn(obs, memory, now, true)
}

fn turn(obs: &Observation, memory: &Memory, now: Time, is_writing: bool) -> Plan {
    let mut turn = Turn::new(obs, memory, now);
    turn.is_writing = is_writing;
    if let Some(measured) = obs.measured.as_ref().filter(|_| is_writing && matches!(obs.status.state, State::Deployed | State::Routing)) {
        turn.status.evidence = Some(measured.evidence.clone()).filter(|e| !e.steps.is_empty()).or(turn.status.evidence);
        turn.status.health = verdict::health(obs, measured).or(turn.status.health);
    }
    let state = obs.status.state;
    let wish = match &obs.wish {
        Ok(wish) => wish,
        // The way back is there whatever else is wrong.
        Err(spec) if state.is_active() && goes_back(obs, &spec.last_resort, memory) => &spec.last_resort,
        Err(spec) => {
            // Nothing is known of what is wanted: touch nothing, let go of what is not held.
            if obs.meta.deleting && !state.is_active() {
                resting::let_go(&mut turn);
            } else {
                turn.say_unreadable(&spec.error.to_string());
            }
            return turn.finish();
        }
    };
    let anew = is_another(&obs.status, wish);
    match state {
        _ if obs.meta.deleting && !state.is_active() => resting::let_go(&mut turn),
        State::Pending => pending::go_on(&mut turn, wish),
        State::Completed if keeps_old(&obs.status) && (anew || wish.cleanup != CleanupPolicy::Manual) => completing::go_on(&mut turn, wish),
        _ if state.is_terminal() && anew => pending::go_on(&mut turn, wish),
        State::Completed | State::RolledBack | State::Failed => resting::go_on(&mut turn, wish),
        State::RollingBack => rolling_back::go_on(&mut turn, wish),
        State::Deploying | State::Deployed | State::Routing | State::Completing => match reason_to_go_back(obs, wish, memory, anew) {
            Some(cause) => rolling_back::begin(&mut turn, wish, &cause),
            None => match state {
                State::Deploying => deploying::go_on(&mut turn, wish),
                State::Completing => completing::go_on(&mut turn, wish),
                _ => shifting::go_on(&mut turn, wish),
            },
        },
    }
    turn.finish()
}

/// The wish is for another version or attempt than the status speaks of.
pub fn is_another(status: &RollingUpdateStatus, wish: &Wish) -> bool {
    status.new_version.as_ref().is_some_and(|v| *v != wish.version) || status.attempt.is_some_and(|a| a != wish.attempt)
}

/// COMPLETED with the old version kept by cleanupPolicy MANUAL: it goes when the policy says so, or when the next
/// release begins.
pub fn keeps_old(status: &RollingUpdateStatus) -> bool {
    let removed = conditions::find(&status.conditions, OLD_VERSION_REMOVED);
    status.state == State::Completed && removed.is_some_and(|c| c.reason == status::KEPT)
}

/// Why an update goes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// One CamelCase word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// Who wanted it.
    pub by: &'static str,
}

/// Whether what has begun is on its way back or out, or has a reason to be.
fn goes_back(obs: &Observation, wish: &Wish, memory: &Memory) -> bool {
    obs.status.state == State::RollingBack || obs.meta.deleting || reason_to_go_back(obs, wish, memory, false).is_some()
}

fn reason_to_go_back(obs: &Observation, wish: &Wish, memory: &Memory, anew: bool) -> Option<Cause> {
    let cause = |reason, message: String, by| Some(Cause { reason, message, by });
    let ordered = wish.orders.outcome == Some(Outcome::Rollback);
    if obs.status.state == State::Completing && (completing::is_retired(obs) || !completing::old_version_is_whole(obs)) {
        // Past the point of no return the way on is the short one, unless a person asks for the long one or it has no end.
        let (why, by) = match (ordered, anew && is_gone(obs)) {
            (true, _) => ("spec.control.outcome is Rollback".to_owned(), "spec.control"),
            (_, true) => {
                (format!("Deployment {} was deleted and version {} is wanted now", obs.objects.new_revision, wish.version), "spec.version")
            }
            _ => return None,
        };
        return completing::can_come_back(obs)
            .then(|| cause(BROUGHT_BACK, format!("{why}; not instant: the old version is scaled up first"), by))?;
    }
    if obs.meta.deleting {
        return cause("Deleted", "the RollingUpdate is being deleted; traffic goes back to the old version first".into(), "deletion");
    }
    if anew {
        return cause(
            "Superseded",
            format!("version {} is wanted now; traffic goes back to the old version first", wish.version),
            "spec.version",
        );
    }
    if ordered {
        return cause("RollbackOrdered", "spec.control.outcome is Rollback".into(), "spec.control");
    }
    let is_shifting = matches!(obs.status.state, State::Deployed | State::Routing);
    if let Some(breach) = verdict::latched(obs).filter(|_| is_shifting && progress::rolls_back(wish)) {
        return cause(verdict::breach_word(&breach.reason), breach.message.clone(), "operator");
    }
    if memory.going_back.is_some() {
        return memory.going_back.clone();
    }
    if obs.status.state != State::Deploying && is_gone(obs) {
        let message = format!("Deployment {} was deleted; raise spec.attempt to bring it out again", obs.objects.new_revision);
        return cause("NewVersionGone", message, "operator");
    }
    if obs.status.state == State::Completing && obs.new.ready() == 0 && obs.old.ready() > 0 {
        let message = format!("no pod of Deployment {} is ready, which carries all traffic", obs.objects.new_revision);
        return cause("NewVersionNotServing", message, "operator");
    }
    let (object, said) = memory.refused.first_key_value()?;
    cause(REFUSED, format!("the API server refuses {object}: {said}"), "operator")
}

/// Somebody has deleted the new version.
fn is_gone(obs: &Observation) -> bool {
    obs.new_deployment().is_none_or(|d| d.meta.deleting)
}

/// The cause of a rollback whose target had been scaled down already: traffic waits until it is whole again.
pub const BROUGHT_BACK: &str = "RollbackAfterScaleDown";

/// The one cause after which a rollback ends in FAILED: trying again cannot help until a person changes something.
pub const REFUSED: &str = "RefusedByApiServer";

/// Orders for another version than `spec.version` are ignored, and it is said.
pub fn other_version(wish: &Wish) -> Option<(&'static str, String)> {
    let other = wish.orders.for_other.as_ref()?;
    Some((
        "OtherVersion",
        format!("spec.control is for version {other}, spec.version is {}; set control.version to give orders", wish.version),
    ))
}

/// One decision in the making.
pub struct Turn<'a> {
    /// What is seen.
    pub obs: &'a Observation,
    /// What was remembered.
    pub memory: &'a Memory,
    /// The time.
    pub now: Time,
    /// The status to be, to begin with the present one.
    pub status: RollingUpdateStatus,
    plan: Plan,
    late: bool,
    is_writing: bool,
}

impl<'a> Turn<'a> {
    fn new(obs: &'a Observation, memory: &'a Memory, now: Time) -> Self {
        // What was refused counts for the attempt it was refused in.
        let refused = if obs.status.state.is_active() { memory.refused.clone() } else { <_>::default() };
        // Another process may have begun it, and this one was refused.
        let is_on_record = |at: &Time| obs.status.state != State::Deploying || obs.status.state_since == Some(*at);
        let (denied, from_start) = (memory.denied.clone(), memory.from_start.filter(is_on_record));
        let plan = Plan { memory: Memory { refused, denied, from_start, ..Memory::default() }, ..Plan::default() };
        Self { obs, memory, now, status: obs.status.clone(), plan, late: false, is_writing: false }
    }

    /// How long a fact has held without a break, this look included. Saying it is what keeps it alive.
    pub fn held(&mut self, fact: &'static str) -> Duration {
        let since = self.memory.since.get(fact).copied().unwrap_or(self.now);
        self.plan.memory.since.insert(fact, since);
        (self.now - since).to_std().unwrap_or_default()
    }

    /// Lets a fact that has held until now go on holding.
    pub fn keep(&mut self, fact: &'static str) {
        if self.memory.since.contains_key(fact) {
            self.held(fact);
        }
    }

    /// A fact ends here: if it holds again, it is from the next turn on.
    pub fn forget(&mut self, fact: &'static str) {
        self.plan.memory.since.remove(fact);
    }

    /// Whether this process has led the update from its start.
    pub fn leads_from_start(&self) -> bool {
        self.plan.memory.from_start.is_some()
    }

    /// Whether a fact was said to hold in this turn.
    pub fn is_held(&self, fact: &'static str) -> bool {
        self.plan.memory.since.contains_key(fact)
    }

    /// Whether a fact has held that long; if not, looks again when it will have.
    pub fn held_for(&mut self, fact: &'static str, wanted: Duration) -> bool {
        let held = self.held(fact);
        self.wake_after(wanted.saturating_sub(held));
        held >= wanted
    }

    /// Whether that time has come; if not, looks again then.
    pub fn is_past(&mut self, time: Time) -> bool {
        let left = (time - self.now).to_std().unwrap_or_default();
        self.wake_after(left);
        left.is_zero()
    }

    /// Looks again after that time at the latest.
    pub fn wake_after(&mut self, wait: Duration) {
        if !wait.is_zero() {
            self.plan.requeue = Some(self.plan.requeue.map_or(wait, |r| r.min(wait)));
        }
    }

    /// The status is going to be written, so it may hold the newest figures.
    pub fn is_writing(&self) -> bool {
        self.is_writing
    }

    /// Takes back what was to be done.
    pub fn abandon(&mut self) {
        self.plan.actions.clear();
    }

    /// Whether this turn acts.
    pub fn acts(&self) -> bool {
        !self.plan.actions.is_empty()
    }

    /// Whether this turn patches that object.
    pub fn patches(&self, kind: Kind, meta: &Meta) -> bool {
        let it = Target::of(kind, meta);
        self.plan.actions.iter().any(|a| matches!(&a.write, Write::Patch(target, _) if *target == it))
    }

    /// From here on this process leads the update from its start, if that gets on record.
    pub fn starts(&mut self) {
        self.plan.memory.from_start = Some(self.now);
    }

    /// Adds a write.
    pub fn act(&mut self, why: &'static str, write: Write) {
        self.act_if(why, write, Vec::new());
    }

    /// Adds a write that is made only if these things are still so, read live.
    pub fn act_if(&mut self, why: &'static str, write: Write, live: Vec<LiveCheck>) {
        self.plan.actions.push(Action { why, write, live, regardless: false });
    }

    /// Adds a patch that goes out even if an earlier write of this turn fails.
    pub fn patch_regardless(&mut self, why: &'static str, kind: Kind, meta: &Meta, ops: Vec<PatchOperation>) {
        self.plan.actions.push(Action { why, write: Write::Patch(Target::of(kind, meta), ops), live: Vec::new(), regardless: true });
    }

    /// Publishes a warning with the status of this turn.
    pub fn warn(&mut self, reason: &str, message: String) {
        self.plan.notes.push(Note { warning: true, reason: reason.into(), about: message.clone(), message });
    }

    /// Remembers which ratio the Service's endpoints are on their way to.
    pub fn heads_for(&mut self, ratio: Ratio) {
        self.plan.memory.heading = Some(ratio);
    }

    /// Adds a patch.
    pub fn patch(&mut self, why: &'static str, kind: Kind, meta: &Meta, ops: Vec<PatchOperation>) {
        self.act(why, Write::Patch(Target::of(kind, meta), ops));
    }

    /// Says what is going on. The last word counts.
    #[allow(clippy::needless_pass_by_value, reason = "a saying is made for being said")]
    pub fn say(&mut self, mut saying: Saying) {
        if let Some(said) = &self.memory.denied
            && saying.state == self.obs.status.state
            && self.acts()
        {
            saying.reason = "WriteDenied".into();
            saying.message = format!("the API server denies a write that comes next: {said}");
        }
        let told = (&self.obs.status.state, &self.obs.status.routing, reason_of(&self.obs.status));
        let (held_by, was_held_by) = (progress::held_by(&self.status, Some(&saying.reason)), progress::held_by(&self.obs.status, told.2));
        let is_news = told != (&saying.state, &self.status.routing, Some(&saying.reason)) || held_by != was_held_by;
        // The first figures of a step are on their way.
        if is_news && (held_by, saying.reason.as_str()) != (Some(verdict::NOT_MEASURED_YET), progress::AWAITING) {
            let warning = matches!(saying.state, State::RollingBack | State::RolledBack | State::Failed)
                || (saying.state == self.obs.status.state && saying.reason != status::state_word(saying.state));
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let about = format!("{} {} {}", text(&self.status.new_version), text(&self.status.routing), held_by.unwrap_or_default());
            let person = status::person(&self.obs.meta, saying.by).filter(|_| saying.state != self.obs.status.state);
            let ordered = person.map(|name| format!(" (ordered by {name})")).unwrap_or_default();
            let message = format!("{}: {}{ordered}", saying.state, saying.message);
            self.plan.notes.retain(|n| n.about == n.message && n.reason != saying.reason);
            self.plan.notes.push(Note { warning, reason: saying.reason.clone(), message, about });
        }
        status::say(&mut self.status, self.obs, &saying, self.now);
    }

    /// Says that the spec cannot be read. What was said of the cluster stays said, since nothing is looked at.
    pub fn say_unreadable(&mut self, error: &str) {
        let told = conditions::find(&self.obs.status.conditions, READY);
        if told.is_none_or(|ready| (ready.reason.as_str(), ready.message.as_str()) != (INVALID_SPEC, error)) {
            let message = format!("{}: {error}", self.obs.status.state);
            self.plan.notes.push(Note { warning: true, reason: INVALID_SPEC.into(), about: message.clone(), message });
        }
        status::say_unreadable(&mut self.status, self.obs, error, self.now);
    }

    /// The finalizer goes away: nothing of the cluster is in our hands.
    pub fn drop_finalizer(&mut self) {
        let finalizers = &self.obs.meta.finalizers;
        if !finalizers.iter().any(|f| f == names::FINALIZER) {
            return;
        }
        let rest: Vec<&String> = finalizers.iter().filter(|f| *f != names::FINALIZER).collect();
        let ops = vec![patch::test("/metadata/finalizers", json!(finalizers)), patch::replace("/metadata/finalizers", json!(rest))];
        self.patch("nothing is held any more", Kind::RollingUpdate, &self.obs.meta, ops);
    }

    /// Makes sure of the finalizer before anything is touched: whether that takes a write first.
    pub fn hold_on(&mut self) -> bool {
        let meta = &self.obs.meta;
        if meta.finalizers.iter().any(|f| f == names::FINALIZER) {
            return false;
        }
        let mut ops = vec![patch::test("/metadata/uid", json!(meta.uid))];
        if meta.finalizers.is_empty() {
            ops.extend([patch::only_at(meta), patch::add("/metadata/finalizers", json!([names::FINALIZER]))]);
        } else {
            ops.push(patch::add("/metadata/finalizers/-", json!(names::FINALIZER)));
        }
        self.patch("traffic must go back before the object does", Kind::RollingUpdate, meta, ops);
        true
    }

    /// From now on there is no way but back.
    pub fn goes_back(&mut self, cause: &Cause) {
        self.plan.memory.going_back = Some(cause.clone());
        self.late = cause.reason == BROUGHT_BACK;
    }

    /// This turn begins to go back to a version that was scaled down already.
    pub fn is_late(&self) -> bool {
        self.late
    }

    /// The update is as it was looked at: a process that has just begun may know it as it was before it ended.
    pub fn still_wanted(&self) -> LiveCheck {
        LiveCheck::unchanged(Kind::RollingUpdate, &self.obs.meta)
    }

    /// What this turn says is written only if these things are so, read live.
    pub fn say_if(&mut self, live: Vec<LiveCheck>) {
        self.plan.live = live;
    }

    /// A new object of ours, unless the API server has refused it, made only if these things are so, read live.
    pub fn create(&mut self, why: &'static str, kind: Kind, name: &str, object: Value, mut live: Vec<LiveCheck>) {
        if self.memory.refused.contains_key(name) {
            return;
        }
        let key = Key::new(&self.obs.meta.namespace, name);
        live.push(self.still_wanted());
        self.act_if(why, Write::Create(Target { kind, key }, object), live);
    }

    fn finish(mut self) -> Plan {
        if self.plan.actions.is_empty() {
            self.plan.memory.denied = None;
        }
        match status::worth(&self.obs.status, &self.status, self.now) {
            Ok(()) => {
                if self.memory.denied.is_some() {
                    // The word about it comes first; the write itself is tried again after.
                    self.plan.actions.clear();
                }
                self.status.updated_at = Some(self.now);
                self.plan.status = Some(self.status);
            }
            Err(later) => {
                self.plan.notes.clear();
                if let Some(later) = later {
                    self.plan.requeue = Some(self.plan.requeue.map_or(later, |r| r.min(later)));
                }
            }
        }
        self.plan
    }
}

fn reason_of(status: &RollingUpdateStatus) -> Option<&String> {
    conditions::find(&status.conditions, READY).map(|c| &c.reason)
}

/// What is said of the gate while nothing is wrong.
pub fn shifted_to(text: &str) -> (Answer, &'static str, String) {
    (Answer::True, "Confirmed", format!("every parent of the routes has acknowledged {text}"))
}
