//! The control API: what tests may do from Rust, for all others.
//!
//! | request | |
//! |---|---|
//! | `GET /control/knobs`, `PATCH /control/knobs` | [`Knobs`]; a patch changes what it names |
//! | `GET`, `POST`, `DELETE /control/faults` | the [`Fault`]s that are left; adds one; clears all |
//! | `POST /control/clock` | a [`Clock`] setting: `"stop"`, `"go"`, `{"advance": 60}`; answers with the time |
//! | `POST /control/vms/{id}/death` | the VM dies by itself: `"vanishes"` or `"stops"` |
//! | `GET /truth?by=pool,slot,epoch&since=TIME` | see [`Truth`]; twins by these marks (default `name`), the lowest numbers since then (default: the first birth) |

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::desk::Cloud;
use super::{Clock, Death, Fault, Knobs, Time, Truth};

pub(super) fn routes() -> Router<Cloud> {
    Router::new()
        .route("/control/knobs", get(knobs).patch(set_knobs))
        .route("/control/faults", get(faults).post(add_fault).delete(clear_faults))
        .route("/control/clock", post(set_clock))
        .route("/control/vms/{id}/death", post(kill))
        .route("/truth", get(truth))
}

async fn knobs(State(cloud): State<Cloud>) -> Json<Knobs> {
    Json(cloud.with(|state, _| state.knobs.clone()))
}

async fn set_knobs(
    State(cloud): State<Cloud>,
    Json(patch): Json<serde_json::Map<String, Value>>,
) -> Result<Json<Knobs>, (StatusCode, String)> {
    let invalid = |error: serde_json::Error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string());
    let patched = cloud.with(|state, _| {
        let mut knobs = serde_json::to_value(&state.knobs)?;
        if let Some(knobs) = knobs.as_object_mut() {
            knobs.extend(patch);
        }
        state.knobs = serde_json::from_value(knobs)?;
        Ok(state.knobs.clone())
    });
    patched.map(Json).map_err(invalid)
}

async fn faults(State(cloud): State<Cloud>) -> Json<Vec<Fault>> {
    Json(cloud.with(|state, _| state.faults.clone()))
}

async fn add_fault(State(cloud): State<Cloud>, Json(fault): Json<Fault>) -> StatusCode {
    cloud.with(|state, _| state.faults.push(fault));
    StatusCode::NO_CONTENT
}

async fn clear_faults(State(cloud): State<Cloud>) -> StatusCode {
    cloud.with(|state, _| state.faults.clear());
    StatusCode::NO_CONTENT
}

async fn set_clock(State(cloud): State<Cloud>, Json(setting): Json<Clock>) -> Json<Value> {
    cloud.set_clock(setting);
    Json(json!({"now": cloud.with(|_, now| now)}))
}

async fn kill(State(cloud): State<Cloud>, Path(id): Path<u64>, Json(death): Json<Death>) -> StatusCode {
    match cloud.with(|state, now| state.kill(id, death, now)) {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::NOT_FOUND,
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    by: Option<String>,
    since: Option<Time>,
}

async fn truth(State(cloud): State<Cloud>, Query(Asked { by, since }): Query<Asked>) -> Json<Value> {
    let truth = cloud.with(|state, now| Truth::of(state, now));
    let marks: Vec<&str> = by.as_deref().unwrap_or("name").split(',').collect();
    let counts = truth.counts();
    let since = since.or(counts.first().map(|count| count.at)).unwrap_or(truth.now);
    let (alive, serving) = truth.lowest(since);
    let calls = truth.calls.iter().map(|((dialect, call), times)| json!({"dialect": dialect, "call": call, "times": times}));
    Json(json!({
        "now": truth.now,
        "vms": truth.vms,
        "alive": truth.alive().count(),
        "counts": counts,
        "highest": truth.highest(),
        "lowest": {"since": since, "alive": alive, "serving": serving},
        "calls": calls.collect::<Vec<_>>(),
        "twins": truth.twins(&marks),
    }))
}
