//! What to write for an order about a rolling update; pure.

use kube::ResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::conditions::{self, Answer, TRAFFIC_SHIFTED};
use crate::api::rolling_update::{CleanupPolicy, Outcome, RollingUpdateSpec, Thresholds};
use crate::api::{Ratio, RollingUpdate, State};
use crate::rollout::wish::Wish;

use super::Refusal;
use super::view::{Update, speaks_of_spec};

/// The body of `POST /rolling-update/start`, and what `aether update start` is told. What is left out stays as it is on an
/// object that is there, and gets the default on a new one.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Start {
    /// `group:name` of what is released; the name is the default name of its Deployment and Service.
    pub artifact_base: String,
    /// The version wanted live.
    pub version: String,
    /// Pods of the new version. Default: as many as the old one has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instances: Option<i32>,
    /// Largest share of failed requests, 0 to 1. Default 0.01.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_error_rate: Option<f64>,
    /// Largest p99 latency in milliseconds. Default 500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency_ms: Option<i32>,
    /// Preset of the two limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<Thresholds>,
    /// Every routing change waits for a person. Default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_manual_approval: Option<bool>,
    /// What happens to the old version after completion. Default GRACE_PERIOD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cleanup_policy: Option<CleanupPolicy>,
}

/// What a start comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Begin {
    /// A new object.
    Create(Box<RollingUpdate>),
    /// The object that is there goes on to the version.
    Move(Move),
}

/// How an object that is there goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Its name.
    pub name: String,
    /// A merge patch.
    pub patch: Value,
    /// The verbs on it that whoever asks must have: the same ones that the admission policy asks of whoever writes it.
    pub verbs: &'static [&'static str],
    /// Another version or attempt is wanted, not only other limits.
    pub is_anew: bool,
}

/// An order about an update that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Hold this ratio new:old, or none any more.
    Routing(Hold),
    /// The next step may be taken, or all up to this ratio.
    Approve(Option<Ratio>),
    /// Hold everything where it is.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Retire the old version.
    Complete,
    /// All traffic back to the old version.
    Rollback,
}

/// A ratio to hold, or `auto`: the steps go on by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold(pub Option<Ratio>);

impl std::str::FromStr for Hold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim() == "auto" {
            return Ok(Self(None));
        }
        text.parse().map(|ratio| Self(Some(ratio))).map_err(|why| format!("{why}, or auto"))
    }
}

impl Order {
    /// The verb on `rollingupdates` that whoever gives it must have.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Routing(_) | Self::Pause | Self::Resume => "route",
            Self::Approve(_) => "approve",
            Self::Complete => "complete",
            Self::Rollback => "rollback",
        }
    }

    /// It is still asked for. Only a ratio is told: the others end an update, or are over at once.
    pub fn stands(&self, update: &RollingUpdate) -> bool {
        let asked = || Update::of(update).asked.routing.and_then(|text| text.parse::<Ratio>().ok());
        if let Self::Routing(Hold(ratio)) = self { asked() == *ratio } else { true }
    }

    /// The update is where the order wants it, or will never be.
    pub fn is_followed(&self, update: &RollingUpdate) -> bool {
        let status = update.status.clone().unwrap_or_default();
        if status.observed_generation < update.metadata.generation {
            return false;
        }
        let state = status.state;
        match self {
            // Somebody else may have asked for another one meanwhile.
            Self::Routing(Hold(Some(ratio))) => {
                state.is_terminal() || !self.stands(update) || (is_confirmed(update) && ratio_of(update) == Some(*ratio))
            }
            Self::Complete | Self::Rollback => state.is_terminal(),
            Self::Routing(Hold(None)) | Self::Approve(_) | Self::Pause | Self::Resume => true,
        }
    }
}

/// The new version is deployed, or never will be: what waiting for a start waits for.
pub fn is_deployed(update: &RollingUpdate) -> bool {
    let status = update.status.clone().unwrap_or_default();
    let busy = matches!(status.state, State::Pending | State::Deploying);
    status.observed_generation >= update.metadata.generation && speaks_of_spec(update) && !busy
}

/// The name part of `group:name`, which a new RollingUpdate is named after.
pub fn name_of(artifact_base: &str) -> Result<&str, Refusal> {
    let shown: String = artifact_base.chars().take(80).collect();
    let wrong = || Refusal::invalid(format!("artifactBase: {shown:?} is no artifact; write group:name, for example org.example:my-slice"));
    let (group, name) = artifact_base.split_once(':').ok_or_else(wrong)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let good = !group.is_empty()
        && group.chars().all(fits)
        && !name.is_empty()
        && name.chars().all(|c| fits(c) && !c.is_ascii_uppercase() && c != '_');
    if good { Ok(name) } else { Err(wrong()) }
}

/// The workload that a start is about.
pub fn workload<'a>(start: &'a Start, there: &'a [RollingUpdate]) -> Result<&'a str, Refusal> {
    let name = name_of(&start.artifact_base)?;
    let named = there.iter().find(|u| u.spec.artifact_base == start.artifact_base);
    Ok(named.map_or(name, workload_of))
}

fn workload_of(update: &RollingUpdate) -> &str {
    let name = update.spec.workload.as_ref().and_then(|w| w.name.as_deref());
    name.unwrap_or_else(|| update.spec.artifact_base.split_once(':').map_or("", |(_, name)| name))
}

/// Decides what a start comes to. `there`: every RollingUpdate of the namespace.
pub fn start(start: &Start, there: &[RollingUpdate], supersede: bool) -> Result<Begin, Refusal> {
    let name = name_of(&start.artifact_base)?;
    let workload = workload(start, there)?;
    let own = there.iter().find(|u| u.spec.artifact_base == start.artifact_base);
    let rival =
        there.iter().find(|u| u.spec.artifact_base != start.artifact_base && workload_of(u) == workload && Update::of(u).is_active());
    if let Some(rival) = rival {
        let (id, artifact) = (rival.name_any(), &rival.spec.artifact_base);
        return Err(Refusal::conflict(format!(
            "update {id} of {artifact} is active on the same workload {workload}; complete it or roll it back first"
        )));
    }
    let Some(own) = own else {
        if let Some(other) = there.iter().find(|u| u.name_any() == name) {
            let artifact = &other.spec.artifact_base;
            return Err(Refusal::conflict(format!(
                "artifactBase: the RollingUpdate {name} is there and is for {artifact}; start {artifact}, or create a RollingUpdate of another name for {}",
                start.artifact_base
            )));
        }
        return Ok(Begin::Create(Box::new(RollingUpdate::new(name, spec(start)))));
    };
    let shown = Update::of(own);
    let is_same = own.spec.version == start.version;
    if shown.is_active() && !is_same && !supersede {
        return Err(Refusal::conflict(format!(
            "update {} to version {} is active ({}); complete it, roll it back, or supersede it (--supersede, ?supersede=true)",
            shown.update_id, own.spec.version, shown.state
        )));
    }
    let ends = shown.state == State::RollingBack || shown.asked.outcome == Some(Outcome::Rollback);
    if shown.is_active() && is_same && ends {
        return Err(Refusal::conflict(format!("update {} is being rolled back; start it again when that is over", shown.update_id)));
    }
    let is_again = is_same && matches!(shown.state, State::RolledBack | State::Failed);
    let is_anew = !is_same || is_again;
    let lets_go = own.spec.require_manual_approval == Some(true) && start.require_manual_approval == Some(false);
    let mut wanted = json!(start);
    if let Some(spec) = wanted.as_object_mut() {
        spec.remove("artifactBase");
        if is_anew {
            // Orders for what was before would end it at once.
            spec.insert("control".into(), Value::Null);
        }
        if is_again {
            spec.insert("attempt".into(), json!(own.spec.attempt.unwrap_or(1) + 1));
        }
    }
    let verbs: &[&str] = if lets_go && !is_anew { &["patch", "approve"] } else { &["patch"] };
    Ok(Begin::Move(Move { name: own.name_any(), patch: json!({"spec": wanted}), verbs, is_anew }))
}

fn spec(start: &Start) -> RollingUpdateSpec {
    RollingUpdateSpec {
        artifact_base: start.artifact_base.clone(),
        version: start.version.clone(),
        attempt: None,
        instances: start.instances,
        thresholds: start.thresholds,
        max_error_rate: start.max_error_rate,
        max_latency_ms: start.max_latency_ms,
        require_manual_approval: start.require_manual_approval,
        cleanup_policy: start.cleanup_policy,
        workload: None,
        traffic: None,
        progression: None,
        metrics: None,
        control: None,
    }
}

/// The merge patch for an order; `None`: it is asked for already.
pub fn order(update: &RollingUpdate, order: &Order) -> Result<Option<Value>, Refusal> {
    let shown = Update::of(update);
    let id = &shown.update_id;
    let no = |why: String| Err(Refusal::conflict(format!("update {id}: {why}")));
    if !shown.is_active() {
        return no(format!("it is {} and takes no orders; start the next version, or the same one again", shown.state));
    }
    if shown.asked.version != shown.new_version && *order != Order::Rollback {
        return no(format!("it is being superseded by version {}; wait until that has begun", shown.asked.version));
    }
    let ends = shown.state == State::RollingBack || shown.asked.outcome == Some(Outcome::Rollback);
    if ends && *order != Order::Rollback {
        return no("it is being rolled back".into());
    }
    if shown.state == State::Completing && matches!(order, Order::Routing(_) | Order::Approve(_)) {
        return no("it is being completed; all traffic is on the new version".into());
    }
    let field = match order {
        Order::Routing(Hold(ratio)) => json!({"routing": ratio.map(|r| r.to_string())}),
        Order::Approve(ratio) => json!({"approved": approval(update, &shown, *ratio)?}),
        Order::Pause => json!({"paused": true}),
        Order::Resume => json!({"paused": null}),
        Order::Complete => {
            let all_new = in_force(&shown).is_all_new() && is_confirmed(update);
            if shown.state != State::Completing && !all_new {
                return no(format!(
                    "completing needs all traffic on the new version and routing is {}; set routing 1:0 first",
                    shown.routing
                ));
            }
            json!({"outcome": Outcome::Complete})
        }
        Order::Rollback => json!({"outcome": Outcome::Rollback}),
    };
    Ok(changed(update, &field).then(|| patch(update, field)))
}

fn changed(update: &RollingUpdate, field: &Value) -> bool {
    let orders = update.spec.control.as_ref().filter(|c| c.version == update.spec.version).map_or(Value::Null, |c| json!(c));
    field.as_object().into_iter().flatten().any(|(key, wanted)| orders.get(key).unwrap_or(&Value::Null) != wanted)
}

/// Orders for another version must not come back to life with this one's.
fn patch(update: &RollingUpdate, mut field: Value) -> Value {
    let outdated = update.spec.control.as_ref().is_some_and(|c| c.version != update.spec.version);
    if let Some(control) = field.as_object_mut() {
        if outdated {
            for key in ["routing", "approved", "paused", "outcome"] {
                control.entry(key).or_insert(Value::Null);
            }
        }
        control.insert("version".into(), json!(update.spec.version));
    }
    json!({"spec": {"control": field}})
}

/// The ratio that an approval is for: the one that is named, else the next step.
fn approval(update: &RollingUpdate, shown: &Update, named: Option<Ratio>) -> Result<String, Refusal> {
    let nothing = |why: &str| Refusal::conflict(format!("update {}: there is nothing to approve; {why}", shown.update_id));
    let wish = Wish::parse(&update.spec).map_err(|e| Refusal::invalid(e.to_string()))?;
    let breached = shown.decision.as_ref().and_then(|d| d.approved_before.clone());
    if !wish.manual_approval && breached.is_none() {
        return Err(nothing("it goes on by itself (requireManualApproval is false, and no limit is breached)"));
    }
    let current = in_force(shown);
    let next = wish.steps.iter().find(|s| s.ratio.exceeds(current)).map(|s| s.text.clone());
    let wanted = named.map(|r| r.to_string()).or(next).ok_or_else(|| nothing("all traffic is on the new version; complete it"))?;
    let approved = wish.orders.approved.as_ref().map(|a| a.ratio);
    let is_new = wanted.parse::<Ratio>().ok().is_some_and(|w| approved.is_none_or(|a| w.exceeds(a)));
    match breached {
        // What was approved before the breach is no answer to it.
        Some(before) if before == wanted => Err(nothing("that ratio was approved before the limit was breached; set the routing instead")),
        Some(_) => Ok(wanted),
        None if is_new => Ok(wanted),
        None => Err(nothing("that step is approved already")),
    }
}

/// Not what the release before ended with.
fn in_force(shown: &Update) -> Ratio {
    shown.routing.parse().unwrap_or(Ratio::ALL_OLD)
}

fn ratio_of(update: &RollingUpdate) -> Option<Ratio> {
    update.status.as_ref()?.routing.as_ref()?.parse().ok()
}

fn is_confirmed(update: &RollingUpdate) -> bool {
    let shifted = update.status.as_ref().and_then(|s| conditions::find(&s.conditions, TRAFFIC_SHIFTED));
    shifted.is_some_and(|c| c.status == Answer::True.as_str())
}
