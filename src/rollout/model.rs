//! What a decision is made from and what comes out of it: plain data, owned, without a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use json_patch::PatchOperation;
use serde_json::Value;

use crate::api::rolling_update::{Objects, ShiftMode};
use crate::api::{Ratio, RollingUpdateStatus, State, Time, names};
use crate::cluster::facts::{Deployment, Fact, HttpRoute, Key, Kind, Meta, Pod, ReplicaSet, Service};
use crate::metrics_source::measure::Measured;
use crate::traffic::apex::Pin;
use crate::traffic::gateway::{Names, names_service};
use crate::traffic::pods::Share;

use super::build::{Owner, short_hash};
use super::decide::Cause;
use super::wish::{SpecError, Wish};

/// All that a decision about one RollingUpdate looks at.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The RollingUpdate's own metadata.
    pub meta: Meta,
    /// What is wanted.
    pub wish: Result<Wish, Unreadable>,
    /// What was said last.
    pub status: RollingUpdateStatus,
    /// The names this update works on: the recorded ones, or those it would start with.
    pub objects: Objects,
    /// The version that carries the traffic by the workload's own record or image.
    pub live: Result<Live, String>,
    /// The user's Deployment.
    pub workload: Option<Arc<Deployment>>,
    /// The apex Service.
    pub apex: Option<Arc<Service>>,
    /// Pods behind the apex.
    pub apex_endpoints: Endpoints,
    /// The old version.
    pub old: Side,
    /// The new version.
    pub new: Side,
    /// Routes of the update: those named in the spec, else those that name one of its Services. None in Pods mode:
    /// what reaches the apex then is a caller of the Service like any other.
    pub routes: Vec<Arc<HttpRoute>>,
    /// Routes named in the spec that do not exist.
    pub missing_routes: Vec<String>,
    /// Another RollingUpdate that is at work on the same workload.
    pub rival: Option<String>,
    /// Pods mode: what the EndpointSlice controller makes of the serving labels (see [`crate::traffic::pods`]).
    pub serving: Endpoints,
    /// A HorizontalPodAutoscaler that sizes the user's Deployment.
    pub autoscaler: Option<String>,
    /// A HorizontalPodAutoscaler sizes the RollingUpdate itself.
    pub autoscaled: bool,
    /// What was measured of this release; `None` until there was a round.
    pub measured: Option<Arc<Measured>>,
}

/// A spec that cannot be read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// What is wrong with it.
    pub error: SpecError,
    /// What to go back by all the same.
    pub last_resort: Box<Wish>,
}

/// The version that carries the traffic before an update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Which.
    pub version: String,
    /// The Deployment that runs it.
    pub revision: String,
}

/// Pods behind a Service, by name, over all of its EndpointSlices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// There is at least one EndpointSlice.
    pub known: bool,
    /// Those that get new connections.
    pub ready: BTreeSet<String>,
}

/// One version in the cluster.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// Its Deployment.
    pub deployment: Option<Arc<Deployment>>,
    /// The label that tells its pods apart; `None` while that cannot be told.
    pub pin: Option<Pin>,
    /// The one ReplicaSet of it that has pods; `None` where there is none or several.
    pub set: Option<Arc<ReplicaSet>>,
    /// ReplicaSets of it whose pods are born in service (Pods mode).
    pub edited: Vec<Arc<ReplicaSet>>,
    /// Its pods, terminating ones too.
    pub pods: Vec<Arc<Pod>>,
    /// Its Service.
    pub service: Option<Arc<Service>>,
    /// Pods behind that Service.
    pub endpoints: Endpoints,
}

impl Side {
    /// Names of its pods.
    pub fn pod_names(&self) -> BTreeSet<&str> {
        self.pods.iter().map(|p| p.meta.name.as_str()).collect()
    }

    /// Its pods that are there to stay.
    pub fn staying(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.iter().filter(|p| !p.meta.deleting)
    }

    /// Pods that are ready and there to stay.
    pub fn ready(&self) -> i32 {
        count(self.staying().filter(|p| p.ready))
    }

    /// Pods wanted.
    pub fn wanted(&self) -> i32 {
        self.deployment.as_ref().map_or(0, |d| d.replicas)
    }
}

/// How many, as the API counts.
pub fn count<T>(things: impl IntoIterator<Item = T>) -> i32 {
    i32::try_from(things.into_iter().count()).unwrap_or(i32::MAX)
}

impl Observation {
    /// Shorthand for the split's Services.
    pub fn names(&self) -> Names<'_> {
        Names { apex: &self.objects.service, old: &self.objects.old_service, new: &self.objects.new_revision }
    }

    /// Pods that the new version is brought out with, as recorded at the start.
    pub fn instances(&self) -> i32 {
        self.status.new_instances.unwrap_or(1)
    }

    /// Traffic is shifted by the Service's endpoints, not by routes.
    pub fn by_pods(&self) -> bool {
        self.objects.mode == ShiftMode::Pods
    }

    /// Pods in service that a ratio comes to, in Pods mode.
    pub fn share(&self, ratio: Ratio) -> Share {
        Share::of(ratio, self.old.wanted(), self.instances())
    }

    /// Whether the new version gets anything by that ratio: by pods a small one may come to none.
    pub fn gives_new(&self, ratio: Ratio) -> bool {
        if self.by_pods() { self.share(ratio).new > 0 } else { !ratio.is_all_old() }
    }

    /// The ratio on record gives the new version something.
    pub fn has_traffic(&self) -> bool {
        self.status.routing.as_ref().and_then(|r| r.parse().ok()).is_some_and(|r| self.gives_new(r))
    }

    /// Who the update's objects belong to.
    pub fn owner(&self) -> Owner {
        let Meta { namespace, name, uid, .. } = self.meta.clone();
        let release = short_hash(&format!("{uid} {} {}", self.objects.new_revision, self.status.attempt.unwrap_or(1)));
        Owner { namespace, name, uid, release }
    }

    /// The old version runs in the user's own Deployment.
    pub fn old_is_workload(&self) -> bool {
        self.workload.as_ref().is_some_and(|w| w.meta.name == self.objects.old_revision)
    }

    /// The operator holds the workload paused.
    pub fn holds_workload(&self) -> bool {
        self.workload.as_ref().is_some_and(|w| w.paused && w.meta.annotations.contains_key(names::PAUSED_TEMPLATE))
    }

    /// Version Services of this update that are there, ours by label and owner.
    pub fn version_services(&self) -> impl Iterator<Item = &Arc<Service>> {
        [&self.old.service, &self.new.service].into_iter().flatten().filter(|s| is_service_of(s, &self.meta.uid))
    }

    /// The new version's Deployment, if it is ours.
    pub fn new_deployment(&self) -> Option<&Arc<Deployment>> {
        self.new.deployment.as_ref().filter(|d| is_revision_of(d, &self.objects.new_revision))
    }
}

/// Whether a Service was made by that update: by label and by owner.
pub fn is_service_of(service: &Service, update_uid: &str) -> bool {
    service.meta.labels.get(names::UPDATE_UID).is_some_and(|u| u == update_uid) && service.meta.owners.iter().any(|o| o == update_uid)
}

/// Whether a Deployment was made by the operator as that revision.
pub fn is_revision_of(deployment: &Deployment, revision: &str) -> bool {
    deployment.meta.labels.get(names::REVISION).is_some_and(|r| r == revision) && deployment.meta.name == revision
}

/// What the driver remembers of an update between two decisions. Losing it (a crash) makes waits
/// start again and refused writes be tried once more; it never makes one shorter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// Since when a fact has been seen to hold without a break.
    pub since: BTreeMap<&'static str, Time>,
    /// What the API server refused for good, by the name of the object.
    pub refused: BTreeMap<String, String>,
    /// What the API server said to the last write that it will not take as things are.
    pub denied: Option<String>,
    /// Why a rollback was decided, whether or not its record could be written yet.
    pub going_back: Option<Cause>,
    /// When this process began the update that it has led ever since: no other one can be about to write for it.
    pub from_start: Option<Time>,
    /// The ratio that the Service's endpoints are on their way to, in Pods mode.
    pub heading: Option<Ratio>,
}

/// What to do about one RollingUpdate now.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// To be done in this order; the first that fails ends the plan.
    pub actions: Vec<Action>,
    /// To be written after the actions, if it says anything new.
    pub status: Option<RollingUpdateStatus>,
    /// Read live right before the status is written: what an end depends on.
    pub live: Vec<LiveCheck>,
    /// To be published with the status.
    pub notes: Vec<Note>,
    /// To look again after this time even if nothing happens.
    pub requeue: Option<Duration>,
    /// What to remember.
    pub memory: Memory,
}

/// An object by kind and key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub key: Key,
}

impl Target {
    /// The object with that metadata.
    pub fn of(kind: Kind, meta: &Meta) -> Self {
        Self { kind, key: meta.key() }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.gvk().2, self.key.name)
    }
}

/// One write, with what must still be true when it is made.
#[derive(Clone, Debug)]
pub struct Action {
    /// Why, for logs.
    pub why: &'static str,
    /// What.
    pub write: Write,
    /// Read live right before it: what a destructive write depends on.
    pub live: Vec<LiveCheck>,
    /// Goes out even if an earlier write of the plan failed: one route that cannot be written keeps no other one.
    pub regardless: bool,
}

/// The writes there are.
#[derive(Clone, Debug)]
pub enum Write {
    /// A JSON Patch with its own guards.
    Patch(Target, Vec<PatchOperation>),
    /// A new object; that one of ours is there already is success.
    Create(Target, Value),
    /// Deletes exactly that object.
    Delete(Target, String),
    /// Deletes the version Services of a release in one request; the names are what it will find.
    DeleteServices {
        /// The update whose label and owner reference they carry, and its release.
        owner: Owner,
        /// (name, uid) of each.
        services: Vec<(String, String)>,
    },
}

/// What becomes of an object that was created by a process that had stood still and leads no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LateCreate {
    /// The update works with it: its leader sees it.
    Stays,
    /// The update is about to end, and whether its leader has seen it in time shows only then.
    Waits,
    /// Nothing wants it any more.
    Goes,
}

/// Judges such an object by what its update says now; `None`: there is no update any more.
pub fn late_create(status: Option<&RollingUpdateStatus>, created: &Target) -> LateCreate {
    let Some((status, objects)) = status.and_then(|s| Some((s, s.objects.as_ref()?))) else { return LateCreate::Goes };
    let name = &created.key.name;
    let is_deployment = created.kind == Kind::Deployment;
    let is_named = *name == objects.new_revision || (!is_deployment && *name == objects.old_service);
    match status.state {
        _ if !is_named => LateCreate::Goes,
        State::Deploying | State::Deployed | State::Routing => LateCreate::Stays,
        // The live version itself, which somebody has deleted in between.
        State::Completing | State::Completed if is_deployment => LateCreate::Stays,
        State::Completing | State::RollingBack => LateCreate::Waits,
        State::Pending | State::Completed | State::RolledBack | State::Failed => LateCreate::Goes,
    }
}

/// What is read live before a write that cannot be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveCheck {
    /// The Service has exactly this selector.
    Selector(Key, BTreeMap<String, String>),
    /// The route names none of these Services.
    RouteWithout(Key, Vec<String>),
    /// The object is at the version that was looked at: a create, for one, has no guard of its own.
    Unchanged(Target, String),
    /// There is no such object.
    Absent(Target),
    /// Nothing of that name is there that was made for the update with that UID.
    Gone(Target, String),
}

impl LiveCheck {
    /// That object is as it was looked at.
    pub fn unchanged(kind: Kind, meta: &Meta) -> Self {
        Self::Unchanged(Target::of(kind, meta), meta.resource_version.clone())
    }

    /// What is read.
    pub fn target(&self) -> Target {
        let (kind, key) = match self {
            Self::Selector(key, _) => (Kind::Service, key),
            Self::RouteWithout(key, _) => (Kind::HttpRoute, key),
            Self::Unchanged(target, _) | Self::Absent(target) | Self::Gone(target, _) => return target.clone(),
        };
        Target { kind, key: key.clone() }
    }

    /// Whether it is so; `None`: there is no such object.
    pub fn holds(&self, found: Option<&Fact>) -> bool {
        match (self, found) {
            (Self::Absent(_) | Self::Gone(..), None) => true,
            (Self::Gone(..), Some(Fact::Deployment(deployment))) => !is_revision_of(deployment, &deployment.meta.name),
            (Self::Gone(_, update), Some(Fact::Service(service))) => !is_service_of(service, update),
            (Self::Unchanged(_, version), Some(fact)) => fact.meta().resource_version == *version,
            (Self::Selector(_, selector), Some(Fact::Service(service))) => service.selector == *selector,
            (Self::RouteWithout(_, services), Some(Fact::HttpRoute(route))) => !services.iter().any(|s| names_service(route, s)),
            _ => false,
        }
    }
}

/// Something people should hear about: an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Something is not as it should be.
    pub warning: bool,
    /// One CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// Version and ratio it is about.
    pub about: String,
}
