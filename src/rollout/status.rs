//! What is said about an update: status, conditions, history, and when saying it is worth a write.

use std::time::Duration;

use crate::api::conditions::{
    self, Answer, HEALTHY, NEW_VERSION_AVAILABLE, OLD_VERSION_REMOVED, ORDER_ACCEPTED, READY, RECONCILING, STALLED, TRAFFIC_SHIFTED,
    WORKLOAD_RELEASED,
};
use crate::api::rolling_update::{Transition, Verdict};
use crate::api::{RollingUpdateStatus, State, Time, names};

use super::model::Observation;

/// Reason of OldVersionRemoved=False where cleanupPolicy MANUAL keeps the old version.
pub const KEPT: &str = "CleanupManual";
/// Changes of state that are kept.
const HISTORY: usize = 20;
/// A difference nobody acts on, such as a count of ready pods, waits this long for company.
const MINOR: Duration = Duration::from_secs(15);

/// One thing said about an update, for its status and its people.
#[derive(Clone, Debug)]
pub struct Saying {
    /// The state it is in now.
    pub state: State,
    /// One CamelCase word why.
    pub reason: String,
    /// A sentence: what is waited for, or what a person must do.
    pub message: String,
    /// Who wanted a change of state.
    pub by: &'static str,
    /// Whether the routes' parents follow the recorded ratio.
    pub shifted: (Answer, &'static str, String),
    /// An order that is not followed, with reason and message.
    pub refused_order: Option<(&'static str, String)>,
    /// Why the workload stays paused after the end.
    pub unreleased: Option<String>,
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
            unreleased: None,
        }
    }
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
    let Saying { state, reason, message, by, shifted, refused_order, unreleased } = saying;
    if status.state != *state {
        status.history.push(Transition { at: now, from: status.state, to: *state, reason: reason.clone(), by: (*by).into() });
        let surplus = status.history.len().saturating_sub(HISTORY);
        status.history.drain(..surplus);
        status.state = *state;
        status.state_since = Some(now);
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
    let available = matches!(state, State::Deployed | State::Routing | State::Completing | State::Completed);
    set(
        NEW_VERSION_AVAILABLE,
        available.into(),
        state_word(*state),
        if available { "the new version is deployed" } else { "the new version is not deployed" },
    );
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
        (State::Completed, _) => (Answer::False, KEPT, "cleanupPolicy MANUAL keeps the old version's pods"),
        _ => (Answer::False, "InUse", "the old version has its pods"),
    };
    set(OLD_VERSION_REMOVED, removed, why, text);
    say_order(status, obs, refused_order.as_ref(), now);
    match unreleased {
        Some(message) => {
            conditions::set(&mut status.conditions, generation, now, WORKLOAD_RELEASED, Answer::False, "TemplateChanged", message);
        }
        None => conditions::clear(&mut status.conditions, WORKLOAD_RELEASED),
    }
}

/// Carries a finished update's status over to the spec's present generation.
pub fn refresh(status: &mut RollingUpdateStatus, obs: &Observation, refused_order: Option<&(&'static str, String)>, now: Time) {
    status.observed_generation = Some(obs.meta.generation);
    for condition in &mut status.conditions {
        condition.observed_generation = Some(obs.meta.generation);
    }
    count_pods(status, obs);
    say_order(status, obs, refused_order, now);
}

fn say_order(status: &mut RollingUpdateStatus, obs: &Observation, refused: Option<&(&'static str, String)>, now: Time) {
    match refused {
        Some((reason, message)) => {
            conditions::set(&mut status.conditions, obs.meta.generation, now, ORDER_ACCEPTED, Answer::False, reason, message);
        }
        None => conditions::clear(&mut status.conditions, ORDER_ACCEPTED),
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
    let shown = if obs.new.deployment.is_some() { &obs.new } else { &obs.old };
    if status.state == State::Pending || shown.deployment.is_none() {
        return;
    }
    let ready = shown.pods.iter().filter(|p| p.ready && !p.meta.deleting).count();
    let ready = i32::try_from(ready).unwrap_or(i32::MAX);
    let wanted = status.new_instances.unwrap_or_else(|| shown.wanted());
    status.ready_instances = Some(if std::ptr::eq(shown, &raw const obs.new) || status.state == State::Completed { ready } else { 0 });
    status.ready = status.ready_instances.map(|ready| format!("{ready}/{wanted}"));
    if !obs.objects.new_revision.is_empty() {
        status.selector = Some(format!("{}={}", names::REVISION, obs.objects.new_revision));
    }
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
    status.ready = None;
    status.health = None;
    if let Some(decision) = &mut status.decision {
        decision.message.clear();
    }
    for condition in &mut status.conditions {
        condition.message.clear();
    }
    status
}
