//! What is said about an update: status, conditions, history, and when saying it is worth a write.

use std::time::Duration;

use crate::api::conditions::{
    self, AUTOSCALER_FOLLOWS, Answer, CONFLICTING_MANAGER, HEALTHY, INVALID_SPEC, NEW_VERSION_AVAILABLE, OLD_VERSION_REMOVED,
    ORDER_ACCEPTED, READY, RECONCILING, STALLED, TEMPLATE_ROLLED_OUT, TRAFFIC_SHIFTED,
};
use crate::api::rolling_update::{Transition, Verdict};
use crate::api::{Ratio, RollingUpdateStatus, State, Time, names};
use crate::cluster::facts::Meta;

use super::build;
use super::decide::is_another;
use super::model::{Observation, Side};

/// Reason of OldVersionRemoved=False where cleanupPolicy MANUAL keeps the old version.
pub const KEPT: &str = "CleanupManual";
/// Changes of state that are kept.
const HISTORY: usize = 20;
/// A difference nobody acts on, such as a count of ready pods, waits this long for company.
const MINOR: Duration = Duration::from_secs(15);
/// Characters that are kept of a person's name: no name of Kubernetes' own is longer.
const LONGEST_NAME: usize = 253;

/// One thing said about an update, for its status and its people.
#[derive(Clone, Debug)]
pub struct Saying {
    /// The state it is in now.
    pub state: State,
    /// One CamelCase word why.
    pub reason: String,
    /// A sentence: what is waited for, or what a person must do.
    pub message: String,
    /// Who wanted a change of state: the operator, or the field that a person ordered it by.
    pub by: &'static str,
    /// Whether the routes' parents follow the recorded ratio.
    pub shifted: (Answer, &'static str, String),
    /// An order that is not followed, with reason and message.
    pub refused_order: Option<(&'static str, String)>,
}

impl Saying {
    /// What is mostly said.
    pub fn new(state: State, reason: &str, message: impl Into<String>) -> Self {
        Self {
            state,
            reason: reason.into(),
            message: message.into(),
            by: "operator",
            shifted: (Answer::False, "NotSplit", "the routes name only the Service itself".into()),
            refused_order: None,
        }
    }
}

/// The person whose order a change of state follows: whoever last changed what is asked for, as far as that is known.
pub fn person(meta: &Meta, by: &str) -> Option<String> {
    let name = meta.annotations.get(names::ORDERED_BY).filter(|_| by.starts_with("spec."))?;
    let name: String = name.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
    (!name.is_empty()).then_some(name)
}

/// Who wanted a change of state, for the record: `alice (spec.control)`.
pub fn wanted_by(meta: &Meta, by: &str) -> String {
    person(meta, by).map_or_else(|| by.to_owned(), |name| format!("{name} ({by})"))
}

/// (Ready, Reconciling, Stalled) of each state: what kstatus, Helm and `kubectl wait` go by.
fn kstatus(state: State) -> (bool, bool, bool) {
    match state {
        State::Completed => (true, false, false),
        State::RolledBack | State::Failed => (false, false, true),
        _ => (false, true, false),
    }
}

/// Writes a saying into a status.
pub fn say(status: &mut RollingUpdateStatus, obs: &Observation, saying: &Saying, now: Time) {
    let Saying { state, reason, message, by, shifted, refused_order } = saying;
    if status.state != *state {
        let by = wanted_by(&obs.meta, by);
        status.history.push(Transition { at: now, from: status.state, to: *state, reason: reason.clone(), by });
        let surplus = status.history.len().saturating_sub(HISTORY);
        status.history.drain(..surplus);
        status.state = *state;
        status.state_since = Some(now);
    }
    if state.is_terminal() {
        // Nothing is judged any more.
        status.evidence = None;
    }
    status.state_since.get_or_insert(now);
    status.created_at.get_or_insert(now);
    status.observed_generation = Some(obs.meta.generation);
    status.update_id = Some(obs.meta.name.clone());
    status.artifact_base = obs.wish.as_ref().ok().map(|w| w.artifact_base.clone());
    count_pods(status, obs);

    let generation = obs.meta.generation;
    let (ready, reconciling, stalled) = kstatus(*state);
    let list = &mut status.conditions;
    let mut set =
        |type_: &str, answer: Answer, reason: &str, message: &str| conditions::set(list, generation, now, type_, answer, reason, message);
    set(READY, ready.into(), reason, message);
    set(RECONCILING, reconciling.into(), reason, message);
    set(STALLED, stalled.into(), reason, message);
    let (available, text) = match state {
        State::Deployed | State::Routing | State::Completing | State::Completed => (true, "the new version is deployed"),
        State::RollingBack => (false, "the new version is being removed"),
        State::Pending | State::Deploying | State::RolledBack | State::Failed => (false, "the new version is not deployed"),
    };
    set(NEW_VERSION_AVAILABLE, available.into(), state_word(*state), text);
    set(TRAFFIC_SHIFTED, shifted.0, shifted.1, &shifted.2);
    let (healthy, why, text) = match &status.decision {
        Some(d) => (
            match d.verdict {
                Verdict::Healthy => Answer::True,
                Verdict::Unhealthy => Answer::False,
                Verdict::Unknown => Answer::Unknown,
            },
            d.reason.clone(),
            d.message.clone(),
        ),
        None => (Answer::Unknown, "NotJudged".into(), "nothing has been judged yet".into()),
    };
    set(HEALTHY, healthy, &why, &text);
    let (removed, why, text) = match (state, reason.as_str()) {
        (State::Completed, "Completed" | "AlreadyLive") => (Answer::True, "Removed", "no pod of the old version is left"),
        // Also while it is being removed later on: what is at rest is not said here.
        (State::Completed, _) => (Answer::False, KEPT, "cleanupPolicy MANUAL keeps the old version's pods"),
        _ => (Answer::False, "InUse", "the old version has its pods"),
    };
    set(OLD_VERSION_REMOVED, removed, why, text);
    let fought = (reason == CONFLICTING_MANAGER).then(|| (Answer::True, CONFLICTING_MANAGER, message.clone()));
    say_or_clear(status, obs, now, CONFLICTING_MANAGER, fought);
    say_surroundings(status, obs, refused_order.as_ref(), now);
}

/// Writes into a status that the spec cannot be read.
pub fn say_unreadable(status: &mut RollingUpdateStatus, obs: &Observation, message: &str, now: Time) {
    if status.conditions.is_empty() {
        say(status, obs, &Saying::new(status.state, INVALID_SPEC, message), now);
    }
    let generation = obs.meta.generation;
    status.observed_generation = Some(generation);
    let mut set = |type_, answer| conditions::set(&mut status.conditions, generation, now, type_, answer, INVALID_SPEC, message);
    set(READY, Answer::False);
    // At rest Stalled keeps what was said at the end.
    if status.state.is_active() {
        set(RECONCILING, Answer::False);
        set(STALLED, Answer::True);
    }
}

/// What is said of orders, template and autoscaler: only while there is something to say.
fn say_surroundings(status: &mut RollingUpdateStatus, obs: &Observation, refused: Option<&(&'static str, String)>, now: Time) {
    let refused = refused.map(|(reason, message)| (Answer::False, *reason, message.clone()));
    say_or_clear(status, obs, now, ORDER_ACCEPTED, refused);
    let edited = edited_template(obs).map(|message| (Answer::False, "TemplateChanged", message));
    say_or_clear(status, obs, now, TEMPLATE_ROLLED_OUT, edited);
    let strays = obs.autoscaler.as_ref().map(|name| {
        let message = format!(
            "HorizontalPodAutoscaler {name} sizes Deployment {}, which is at 0 once another version is live; set spec.instances here and point its scaleTargetRef at RollingUpdate {} (aether.dev/v1alpha1), so that it follows from version to version",
            obs.objects.workload, obs.meta.name
        );
        (Answer::False, "PointsAtDeployment", message)
    });
    say_or_clear(status, obs, now, AUTOSCALER_FOLLOWS, strays);
}

/// The pod template of the workload is not what the version that is out, or coming out, was made with.
fn edited_template(obs: &Observation) -> Option<String> {
    let workload = obs.workload.as_ref()?;
    let (Ok(wish), name) = (&obs.wish, &obs.objects.new_revision) else { return None };
    let held = obs.holds_workload() && !build::is_as_paused(workload);
    let made_with = obs.new_deployment().and_then(|d| d.meta.annotations.get(names::BUILT_FROM));
    let edited = match made_with {
        Some(hash) if !is_another(&obs.status, wish) => {
            build::revision_template(workload, wish, name).is_ok_and(|t| *hash != build::short_hash(&t.to_string()))
        }
        Some(_) => false,
        None => held,
    };
    edited.then(|| {
        format!(
            "the pod template of Deployment {} was edited and is not rolled out; bring it out by raising spec.version or spec.attempt, or undo the edit",
            workload.meta.name
        )
    })
}

/// Carries a finished update's status over to the spec's present generation.
pub fn refresh(status: &mut RollingUpdateStatus, obs: &Observation, refused_order: Option<&(&'static str, String)>, now: Time) {
    status.observed_generation = Some(obs.meta.generation);
    for condition in &mut status.conditions {
        condition.observed_generation = Some(obs.meta.generation);
    }
    count_pods(status, obs);
    say_surroundings(status, obs, refused_order, now);
}

fn say_or_clear(status: &mut RollingUpdateStatus, obs: &Observation, now: Time, type_: &str, said: Option<(Answer, &str, String)>) {
    match said {
        Some((answer, reason, message)) => {
            conditions::set(&mut status.conditions, obs.meta.generation, now, type_, answer, reason, &message);
        }
        None => conditions::clear(&mut status.conditions, type_),
    }
}

/// A state as a CamelCase word: RollingBack, Completed.
pub fn state_word(state: State) -> &'static str {
    match state {
        State::Pending => "Pending",
        State::Deploying => "Deploying",
        State::Deployed => "Deployed",
        State::Routing => "Routing",
        State::Completing => "Completing",
        State::Completed => "Completed",
        State::RollingBack => "RollingBack",
        State::RolledBack => "RolledBack",
        State::Failed => "Failed",
    }
}

fn count_pods(status: &mut RollingUpdateStatus, obs: &Observation) {
    if status.state == State::Pending {
        return;
    }
    let shown = if obs.new.deployment.is_some() || status.state.is_active() { &obs.new } else { &obs.old };
    let wanted = if status.state.is_terminal() { shown.wanted() } else { obs.instances() };
    status.ready_instances = Some(shown.ready());
    status.ready = Some(format!("{}/{wanted}", shown.ready()));
    status.selector = selector(measured(status, obs));
}

/// The version whose pods an autoscaler measures: the one that carries most of the traffic. Of two that share it, both
/// together would look half idle.
fn measured<'a>(status: &RollingUpdateStatus, obs: &'a Observation) -> &'a Side {
    let most = status.routing.as_ref().and_then(|r| r.parse::<Ratio>().ok()).is_some_and(|r| r.share() > 0.5);
    match status.state {
        State::Routing if !most => &obs.old,
        State::Routing | State::Completing | State::Completed => &obs.new,
        _ => &obs.old,
    }
}

/// A selector that matches exactly that version's pods.
fn selector(side: &Side) -> Option<String> {
    let deployment = side.deployment.as_ref()?;
    let pairs: Vec<String> = deployment.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let pin = side.pin.as_ref().map(|pin| format!("{}={}", pin.key, pin.value));
    Some(match pin {
        Some(pin) if !pairs.contains(&pin) => [pairs, vec![pin]].concat().join(","),
        _ => pairs.join(","),
    })
}

/// Whether a new status is worth a write now, or after which time.
pub fn worth(old: &RollingUpdateStatus, new: &RollingUpdateStatus, now: Time) -> Result<(), Option<Duration>> {
    if weighty(old) != weighty(new) {
        return Ok(());
    }
    if whole(old) == whole(new) {
        return Err(None);
    }
    let age = old.updated_at.map_or(MINOR, |at| (now - at).to_std().unwrap_or_default());
    match MINOR.checked_sub(age) {
        None | Some(Duration::ZERO) => Ok(()),
        Some(left) => Err(Some(left)),
    }
}

/// A status without what changes by itself.
fn whole(status: &RollingUpdateStatus) -> RollingUpdateStatus {
    let mut status = status.clone();
    status.updated_at = None;
    if let Some(decision) = &mut status.decision {
        decision.at = Time::UNIX_EPOCH;
    }
    status
}

/// A status without what nobody acts on: counts, sentences.
fn weighty(status: &RollingUpdateStatus) -> RollingUpdateStatus {
    let mut status = whole(status);
    status.ready_instances = None;
    status.old_instances = None;
    status.ready = None;
    status.health = None;
    status.evidence = None;
    if let Some(decision) = &mut status.decision {
        decision.message.clear();
    }
    for condition in &mut status.conditions {
        condition.message.clear();
    }
    status
}
