//! `aether undeploy`: removes a version. Whatever an update still has in its hands is removed by ending that update, so that the
//! operator does it in its own order; only what nothing is under way for is deleted here.

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::api::rolling_update::CleanupPolicy;
use crate::api::{Ratio, RollingUpdate, State};
use crate::cluster::client::bounded;
use crate::orders::desk::{Manner, refusal};
use crate::orders::view::Update;
use crate::orders::{Order, Refusal};
use crate::rollout::decide::keeps_old;

use super::args::{Artifact, Undeploy};
use super::revisions::{Inventory, Revision};
use super::session::Session;
use super::{Failure, note, print, render};

/// How a version goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// The update is rolled back, which removes its new version.
    Rollback,
    /// The update is completed, which removes its old version.
    Complete,
    /// The cleanup policy becomes IMMEDIATE, so that the operator removes the old version that it keeps.
    EndKeeping,
    /// It is on its way out.
    UnderWay,
    /// Its Deployment is deleted, or the user's own scaled to 0.
    Now,
}

/// What removing a version means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How it goes.
    pub removal: Removal,
    /// What breaks: only done with --force.
    pub breaks: Option<String>,
}

/// Removes a version.
pub async fn run(session: &Session, asked: &Undeploy) -> Result<(), Failure> {
    let there = Inventory::read(session, &asked.artifact).await?;
    let revision = there.find(&asked.artifact, &session.namespace)?;
    let plan = plan(revision, there.update.as_ref());
    if let Some(breaks) = &plan.breaks {
        if !asked.force {
            return Err(Failure::failed(format!("{breaks}; --force removes it all the same")));
        }
        note(&format!("warning: {breaks}"));
    }
    let said = carry_out(session, &asked.artifact, revision, there.update.as_ref(), &plan.removal).await?;
    print(&format!("{}: {said}\n", asked.artifact))
}

/// Decides how a version goes, and what that breaks; pure.
pub fn plan(revision: &Revision, update: Option<&RollingUpdate>) -> Plan {
    let version = &revision.version;
    let safe = |removal| Plan { removal, breaks: None };
    let breaking = |removal, breaks: String| Plan { removal, breaks: Some(breaks) };
    let live = || {
        let breaks = format!("version {version} is live and carries all traffic: without it callers get errors until another one serves");
        breaking(Removal::Now, breaks)
    };
    let Some(update) = update else {
        return if revision.is_workload || revision.is_noted_live { live() } else { safe(Removal::Now) };
    };
    let (shown, status) = (Update::of(update), update.status.clone().unwrap_or_default());
    let objects = status.objects.clone().unwrap_or_default();
    let (is_new, is_old) = (objects.new_revision == revision.name(), objects.old_revision == revision.name());
    let id = &shown.update_id;
    let share = |ratio: &str| ratio.parse::<Ratio>().map_or(0.0, Ratio::share);
    let asked_share = share(&shown.routing);
    // What the data plane follows may be behind.
    let in_force = shown.effective_routing.as_deref().map_or(asked_share, share);
    // The state as it is recorded: while the next release is only asked for, it still says who is live.
    match status.state {
        State::Completed if is_new => live(),
        State::Completed if is_old && keeps_old(&status) => safe(Removal::EndKeeping),
        State::RolledBack | State::Failed if is_old => live(),
        State::Pending if revision.is_workload => live(),
        State::Pending | State::Completed | State::RolledBack | State::Failed => {
            let is_only = revision.is_workload && status.objects.is_none();
            if revision.is_noted_live || is_only { live() } else { safe(Removal::Now) }
        }
        State::Completing if is_old && shown.cleanup_policy == CleanupPolicy::Immediate => safe(Removal::UnderWay),
        State::Completing if is_old => safe(Removal::EndKeeping),
        State::Completing if is_new => live(),
        State::RollingBack if is_new && asked_share.max(in_force) > 0.0 => {
            let share = render::percent(asked_share.max(in_force));
            let breaks = format!(
                "version {version} still carries {share} of the traffic while update {id} is rolled back: its callers get errors until the gateway follows"
            );
            breaking(Removal::Now, breaks)
        }
        State::RollingBack if is_new => safe(Removal::UnderWay),
        _ if is_new && asked_share.max(in_force) > 0.0 => {
            let share = render::percent(asked_share.max(in_force));
            breaking(Removal::Rollback, format!("version {version} carries {share} of the traffic: update {id} would be rolled back"))
        }
        _ if is_new => safe(Removal::Rollback),
        _ if is_old && asked_share.min(in_force) < 1.0 => {
            let share = render::percent(1.0 - asked_share.min(in_force));
            breaking(
                Removal::Now,
                format!("version {version} carries {share} of the traffic and is the way back of update {id}: its callers get errors"),
            )
        }
        _ if is_old => safe(Removal::Complete),
        _ if revision.is_noted_live => live(),
        _ => safe(Removal::Now),
    }
}

async fn carry_out(
    session: &Session,
    artifact: &Artifact,
    revision: &Revision,
    update: Option<&RollingUpdate>,
    removal: &Removal,
) -> Result<String, Refusal> {
    let id = update.map(RollingUpdate::name_any).unwrap_or_default();
    let order = async |order| session.desk.order(&session.namespace, &id, &order, Manner::default()).await;
    Ok(match (removal, update) {
        (Removal::Rollback, _) => {
            order(Order::Rollback).await?;
            format!("removed by rolling back update {id}, which is asked for")
        }
        (Removal::Complete, _) => {
            order(Order::Complete).await?;
            format!("removed by completing update {id}, which is asked for")
        }
        (Removal::EndKeeping, Some(update)) => {
            session.desk.end_keeping(update, Manner::default()).await?;
            format!(
                "cleanupPolicy of update {id} is IMMEDIATE now, so the operator removes it; --cleanup sets another one for the next release"
            )
        }
        (Removal::UnderWay | Removal::EndKeeping, _) => {
            let reason = update.map(|u| Update::of(u).message).unwrap_or_default();
            format!("update {id} is removing it already: {reason}")
        }
        (Removal::Now, _) => remove(session, artifact, revision).await?,
    })
}

/// Deletes a Deployment of the operator's, with its pods first; scales the user's own to 0.
async fn remove(session: &Session, artifact: &Artifact, revision: &Revision) -> Result<String, Refusal> {
    let api = Api::<Deployment>::namespaced(session.desk.client().clone(), &session.namespace);
    let (name, uid) = (revision.name(), revision.deployment.uid());
    let what = format!("Deployment {name} of {artifact}");
    if revision.is_workload {
        let patch = json!({"metadata": {"uid": uid}, "spec": {"replicas": 0}});
        let params = PatchParams { field_manager: Some("aether".into()), ..PatchParams::default() };
        bounded(api.patch(&name, &params, &Patch::Merge(patch))).await.map_err(|e| refusal(&e, &what))?;
        return Ok(format!("Deployment {name} is scaled to 0; it stays as the template of the next release"));
    }
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        // As it was when this was decided: an update that begins meanwhile writes it.
        preconditions: Some(Preconditions { uid, resource_version: revision.deployment.resource_version() }),
        ..DeleteParams::default()
    };
    bounded(api.delete(&name, &params)).await.map_err(|e| refusal(&e, &what))?;
    Ok(format!("Deployment {name} is deleted"))
}
