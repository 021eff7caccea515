//! `aether update`.

use std::time::Duration;

use kube::ResourceExt as _;

use crate::api::{RollingUpdate, State};
use crate::orders::desk::Manner;
use crate::orders::view::{HealthAnswer, Update as View, Updates};
use crate::orders::{Order, Refusal, updates};
use crate::runtime::clock;

use super::args::{List, Start, Update, Wait};
use super::render::{self, Page, VersionPods};
use super::session::Session;
use super::{Failure, live, note, pods, print, show};

/// Runs a command about updates.
pub async fn run(session: &Session, command: Update) -> Result<(), Failure> {
    match command {
        Update::Start(asked) => start(session, asked).await,
        Update::Routing(asked) => order(session, &asked.id.id, Order::Routing(asked.ratio), asked.wait).await,
        Update::Approve(asked) => order(session, &asked.id.id, Order::Approve(asked.ratio), asked.wait).await,
        Update::Pause(asked) => order(session, &asked.id.id, Order::Pause, asked.wait).await,
        Update::Resume(asked) => order(session, &asked.id.id, Order::Resume, asked.wait).await,
        Update::Complete(asked) => order(session, &asked.id.id, Order::Complete, asked.wait).await,
        Update::Rollback(asked) => order(session, &asked.id.id, Order::Rollback, asked.wait).await,
        Update::Status(asked) => Box::pin(status(session, &asked.id.id, asked.watch)).await,
        Update::List(asked) => list(session, asked).await,
        Update::Health(asked) => health(session, &asked.id).await,
    }
}

async fn start(session: &Session, asked: Start) -> Result<(), Failure> {
    let start = updates::Start {
        artifact_base: asked.artifact_base,
        version: asked.version,
        instances: asked.instances,
        max_error_rate: asked.max_error_rate,
        max_latency_ms: asked.max_latency_ms,
        thresholds: asked.thresholds,
        require_manual_approval: asked.manual_approval.then_some(true),
        cleanup_policy: asked.cleanup,
    };
    let manner = Manner { by: None, dry_run: asked.dry_run };
    let update = session.desk.start(&session.namespace, &start, asked.supersede, manner).await?;
    let shown = View::of(&update);
    if session.is_for_people() {
        let (id, version) = (&shown.update_id, &start.version);
        print(&if asked.dry_run {
            format!("update {id}: version {version} could be started (dry run, nothing is written)\n")
        } else {
            let next = session.hint(&format!("update status {id} -w"));
            format!("update {id}: version {version} asked for\nwatch it with: {next}\n")
        })?;
    }
    if !asked.wait.wait {
        return unless_for_people(session, &shown);
    }
    finish(session, &update, asked.wait.timeout, live::is_over, State::Completed).await
}

async fn order(session: &Session, id: &str, order: Order, wait: Wait) -> Result<(), Failure> {
    let id = session.desk.resolve(&session.namespace, id).await?;
    let update = session.desk.order(&session.namespace, &id, &order, Manner::default()).await?;
    let shown = View::of(&update);
    if session.is_for_people() {
        print(&format!("{}\n", render::confirmation(&shown, &order)))?;
    }
    if !wait.wait {
        return unless_for_people(session, &shown);
    }
    let good = if order == Order::Rollback { State::RolledBack } else { State::Completed };
    let last = live::wait(session, &update, wait.timeout, |u| order.is_followed(u)).await?;
    if !order.stands(&last) {
        let routing = View::of(&last).asked.routing.unwrap_or_else(|| "none".into());
        return Err(Failure::failed(format!("update {id}: somebody else has asked for another ratio meanwhile ({routing})")));
    }
    ended(session, &View::of(&last), good)
}

/// Waits, says how it ended, and makes an exit code of it. `good`: the end that was meant, if it is one.
pub async fn finish(
    session: &Session,
    update: &RollingUpdate,
    limit: Duration,
    is_done: impl Fn(&RollingUpdate) -> bool,
    good: State,
) -> Result<(), Failure> {
    ended(session, &View::of(&live::wait(session, update, limit, is_done).await?), good)
}

fn ended(session: &Session, last: &View, good: State) -> Result<(), Failure> {
    unless_for_people(session, last)?;
    verdict(last, good)?;
    note(&render::ending(last));
    Ok(())
}

/// Whether it ended as meant. What is not over yet has only been waited for so far, and has come there.
pub fn verdict(update: &View, good: State) -> Result<(), Failure> {
    if update.is_active() || update.state == good { Ok(()) } else { Err(Failure::failed(render::ending(update))) }
}

fn unless_for_people(session: &Session, shown: &View) -> Result<(), Failure> {
    if session.is_for_people() { Ok(()) } else { show(session.format, shown, |_| String::new()) }
}

async fn status(session: &Session, id: &str, watch: bool) -> Result<(), Failure> {
    let id = session.desk.resolve(&session.namespace, id).await?;
    let update = session.desk.update(&session.namespace, &id).await?;
    if watch && session.is_for_people() {
        return Box::pin(live::watch(session, &id)).await;
    }
    if watch {
        // One document per change.
        return live::follow(session, &id, live::is_over, |u| show(session.format, &View::of(u), |_| String::new())).await.map(|_| ());
    }
    if !session.is_for_people() {
        return unless_for_people(session, &View::of(&update));
    }
    print(&render::page(&page(session, &update).await, clock::now()))
}

/// Everything that is shown of one update. Pods that may not be read are left out, and it is said why.
pub async fn page(session: &Session, update: &RollingUpdate) -> Page {
    let shown = View::of(update);
    Page {
        health: HealthAnswer::of(update),
        history: update.status.iter().flat_map(|s| s.history.clone()).collect(),
        pods: version_pods(session, update, &shown).await.map_err(|e| e.message),
        update: shown,
    }
}

async fn version_pods(session: &Session, update: &RollingUpdate, shown: &View) -> Result<Vec<VersionPods>, Refusal> {
    let Some(objects) = update.status.as_ref().and_then(|s| s.objects.as_ref()) else { return Ok(Vec::new()) };
    let sides =
        [(shown.old_version.clone().unwrap_or_default(), &objects.old_revision), (shown.new_version.clone(), &objects.new_revision)];
    let mut versions = Vec::new();
    for (version, revision) in sides.into_iter().filter(|(_, revision)| !revision.is_empty()) {
        let found = pods::of(session.desk.client(), &session.namespace, revision).await?;
        versions.push(VersionPods { version, pods: found.iter().map(pods::row).collect() });
    }
    Ok(versions)
}

async fn list(session: &Session, asked: List) -> Result<(), Failure> {
    let all = session.desk.updates(session.scope(asked.all_namespaces)).await?;
    let found: Vec<View> = all.iter().map(View::of).filter(|u| asked.all || u.is_active()).collect();
    if found.is_empty() && session.is_for_people() {
        let kind = if asked.all { "updates" } else { "active updates" };
        let place = if asked.all_namespaces { "any namespace".into() } else { format!("namespace {}", session.namespace) };
        let more = if asked.all || all.is_empty() { "" } else { "; --all shows those that are over" };
        note(&format!("There are no {kind} in {place}{more}."));
        return Ok(());
    }
    let answer = Updates { updates: found };
    show(session.format, &answer, |wide| render::updates(&answer.updates, asked.all_namespaces, wide, clock::now()))
}

async fn health(session: &Session, id: &str) -> Result<(), Failure> {
    let id = session.desk.resolve(&session.namespace, id).await?;
    let update = session.desk.update(&session.namespace, &id).await?;
    let answer = HealthAnswer::of(&update);
    show(session.format, &answer, |_| format!("Update:     {}\n{}", update.name_any(), render::health(&answer, clock::now())))
}
