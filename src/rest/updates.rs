//! Routes about rolling updates, and about the server.

use std::future::Future;

use kube::ResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Ratio, RollingUpdate};
use crate::orders::view::{HealthAnswer, Update, Updates};
use crate::orders::{Order, Refusal, Start, updates};

use super::call::Call;
use super::routes::Nothing;

/// The ratio to hold.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// `new:old`, for example 1:3; `auto`: hold none, the steps go on by themselves.
    routing: String,
}

/// What is approved.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Steps up to this ratio new:old. Default: the next step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    routing: Option<String>,
}

/// The server answers.
#[derive(Serialize, Deserialize, JsonSchema)]
pub struct Healthz {
    /// ok
    status: &'static str,
}

pub(super) async fn start(call: Call, start: Start) -> Result<Update, Refusal> {
    let supersede = call.query().supersede;
    let may_move = call.may_also();
    let update = call.desk().start_where(call.namespace(), &start, supersede, call.manner(), &may_move).await?;
    // A dry run is followed by nobody.
    if call.query().dry_run { Ok(Update::of(&update)) } else { waited(&call, update, updates::is_deployed).await }
}

pub(super) async fn list(call: Call, _: Nothing) -> Result<Updates, Refusal> {
    let all = call.desk().updates(Some(call.namespace())).await?;
    let shown = all.iter().map(Update::of).filter(|u| call.query().all || u.is_active());
    Ok(Updates { updates: shown.collect() })
}

pub(super) async fn get(call: Call, _: Nothing) -> Result<Update, Refusal> {
    Ok(Update::of(&call.desk().update(call.namespace(), call.update()).await?))
}

pub(super) async fn health(call: Call, _: Nothing) -> Result<HealthAnswer, Refusal> {
    Ok(HealthAnswer::of(&call.desk().update(call.namespace(), call.update()).await?))
}

pub(super) async fn routing(call: Call, body: Routing) -> Result<Update, Refusal> {
    order(call, Order::Routing(body.routing.parse().map_err(|why| Refusal::invalid(format!("routing: {why}")))?)).await
}

pub(super) async fn approve(call: Call, body: Approval) -> Result<Update, Refusal> {
    order(call, Order::Approve(body.routing.as_deref().map(ratio).transpose()?)).await
}

pub(super) fn pause(call: Call, _: Nothing) -> impl Future<Output = Result<Update, Refusal>> {
    order(call, Order::Pause)
}

pub(super) fn resume(call: Call, _: Nothing) -> impl Future<Output = Result<Update, Refusal>> {
    order(call, Order::Resume)
}

pub(super) fn complete(call: Call, _: Nothing) -> impl Future<Output = Result<Update, Refusal>> {
    order(call, Order::Complete)
}

pub(super) fn rollback(call: Call, _: Nothing) -> impl Future<Output = Result<Update, Refusal>> {
    order(call, Order::Rollback)
}

pub(super) async fn healthz(_: Call, _: Nothing) -> Result<Healthz, Refusal> {
    Ok(Healthz { status: "ok" })
}

fn ratio(text: &str) -> Result<Ratio, Refusal> {
    text.parse().map_err(|why| Refusal::invalid(format!("routing: {why}")))
}

async fn order(call: Call, order: Order) -> Result<Update, Refusal> {
    let update = call.desk().order(call.namespace(), call.update(), &order, call.manner()).await?;
    waited(&call, update, |update| order.is_followed(update)).await
}

/// What is asked for now; with `?wait=` as it is when it has been followed, or when the time is over, or the server's.
async fn waited(call: &Call, update: RollingUpdate, is_there: impl Fn(&RollingUpdate) -> bool) -> Result<Update, Refusal> {
    let update = match call.query().wait {
        Some(limit) if !is_there(&update) => {
            let (namespace, id) = (update.namespace().unwrap_or_default(), update.name_any());
            tokio::select! {
                waited = Box::pin(call.desk().wait(update, limit, is_there)) => waited?,
                () = call.ends() => call.desk().update(&namespace, &id).await?,
            }
        }
        _ => update,
    };
    Ok(Update::of(&update))
}
