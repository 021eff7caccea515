//! Hetzner Cloud's API v1, as far as servers and their actions go.
//!
//! A server's name is unique in its project, which is what makes a repeated create safe.

use std::collections::BTreeMap;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use chrono::SecondsFormat;
use serde::Deserialize;
use serde_json::{Value, json};

use super::desk::{Cloud, Desk};
use super::knobs::Refusal;
use super::labels::{self, Selector};
use super::rate::Budget;
use super::state::{Operation, Progress};
use super::vm::{Order, Phase, Vm};
use super::{Call, Dialect, Time, page};

const DIALECT: Dialect = Dialect::Hetzner;
/// Usual and largest number of servers on a page.
const PAGE: (usize, usize) = (25, 50);
const LONGEST_USER_DATA: usize = 32 * 1024;

pub(super) fn routes() -> Router<Cloud> {
    Router::new()
        .route("/v1/servers", get(list).post(create))
        .route("/v1/servers/{id}", get(one).delete(delete))
        .route("/v1/actions/{id}", get(action_by_id))
        .route("/v1/servers/actions/{id}", get(action_by_id))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    label_selector: Option<String>,
    name: Option<String>,
    page: Option<usize>,
    per_page: Option<usize>,
}

async fn list(State(cloud): State<Cloud>, headers: HeaderMap, uri: Uri) -> Response {
    cloud
        .answer(DIALECT, Call::List, &headers, None, |desk| {
            let Asked { label_selector, name, page, per_page } = page::query(&uri)?;
            let selector: Selector = label_selector.as_deref().unwrap_or_default().parse()?;
            let (mut vms, as_of) = desk.list();
            vms.retain(|vm| selector.selects(&vm.order.tags) && name.as_ref().is_none_or(|name| vm.order.name == *name));
            let (vms, page) = page::numbered(vms, page, per_page, PAGE, desk.state.knobs.page_size)?;
            let pagination = json!({
                "page": page.number,
                "per_page": page.size,
                "previous_page": (page.number > 1).then(|| page.number - 1),
                "next_page": (page.number < page.last).then_some(page.number + 1),
                "last_page": page.last,
                "total_entries": page.total,
            });
            let servers: Vec<Value> = vms.into_iter().map(|vm| server(vm, as_of)).collect();
            Ok(Json(json!({"servers": servers, "meta": {"pagination": pagination}})).into_response())
        })
        .await
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    #[serde(deserialize_with = "page::text")]
    server_type: String,
    #[serde(deserialize_with = "page::text")]
    image: String,
    location: Option<String>,
    /// Taken out of the API in 2026.
    datacenter: Option<Value>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    user_data: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

async fn create(State(cloud): State<Cloud>, headers: HeaderMap, body: Bytes) -> Response {
    cloud
        .answer(DIALECT, Call::Create, &headers, None, |desk| {
            let wanted: Wanted = page::body(&body)?;
            let invalid = |why: &str| Err(Refusal::Invalid(why.to_owned()));
            let user_data = wanted.user_data.unwrap_or_default();
            if !is_hostname(&wanted.name) {
                return invalid("name is no valid hostname");
            } else if wanted.datacenter.is_some() {
                return invalid("datacenter: use location");
            } else if user_data.len() > LONGEST_USER_DATA {
                return invalid("user_data is longer than 32 KiB");
            } else if !wanted.labels.iter().all(|(key, value)| labels::is_key(key) && labels::is_value(value)) {
                return invalid("labels: a key or value is not valid");
            }
            let order = Order {
                name: wanted.name,
                place: wanted.location.unwrap_or_else(|| "fsn1".to_owned()),
                kind: wanted.server_type,
                image: wanted.image,
                user_data,
                tags: wanted.labels,
                rest: wanted.rest,
                ..Order::default()
            };
            let vms = desk.create(vec![order])?;
            let [vm] = vms.as_slice() else { return Err(Refusal::Broken) };
            let answer = json!({
                "server": server(vm, desk.now),
                "action": last_action(desk, vm.id, Call::Create),
                "next_actions": [],
                "root_password": null,
            });
            Ok((StatusCode::CREATED, Json(answer)).into_response())
        })
        .await
}

async fn one(State(cloud): State<Cloud>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    cloud
        .answer(DIALECT, Call::Get, &headers, None, |desk| {
            let vm = desk.find(page::number(&id)?)?;
            Ok(Json(json!({"server": server(vm, desk.now)})).into_response())
        })
        .await
}

async fn delete(State(cloud): State<Cloud>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    cloud
        .answer(DIALECT, Call::Delete, &headers, None, |desk| {
            let id = page::number(&id)?;
            desk.delete(id, None)?;
            Ok(Json(json!({"action": last_action(desk, id, Call::Delete)})).into_response())
        })
        .await
}

async fn action_by_id(State(cloud): State<Cloud>, headers: HeaderMap, Path(id): Path<u64>) -> Response {
    cloud
        .answer(DIALECT, Call::Operation, &headers, None, |desk| {
            let operation = desk.operation(id)?;
            Ok(Json(json!({"action": action(desk, operation)})).into_response())
        })
        .await
}

fn last_action(desk: &Desk, vm: u64, call: Call) -> Option<Value> {
    Some(action(desk, desk.state.operation_on(vm, call)?))
}

fn action(desk: &Desk, operation: &Operation) -> Value {
    let (status, finished, error) = match desk.state.progress(operation, desk.now) {
        Progress::Running => ("running", None, None),
        Progress::Done(at) => ("success", Some(at), None),
        Progress::Failed(at, refusal) => {
            let (_, code, message) = words(&refusal);
            ("error", Some(at), Some(json!({"code": code, "message": message})))
        }
    };
    json!({
        "id": operation.id,
        "command": if operation.call == Call::Create { "create_server" } else { "delete_server" },
        "status": status,
        "progress": if finished.is_some() { 100 } else { 0 },
        "started": rfc3339(operation.started),
        "finished": finished.map(rfc3339),
        "resources": [{"id": operation.vm, "type": "server"}],
        "error": error,
    })
}

fn rfc3339(at: Time) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, false)
}

fn is_hostname(name: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty() && label.len() <= 63 && label.chars().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn server(vm: &Vm, at: Time) -> Value {
    let status = match vm.phase(at) {
        Phase::Starting => "initializing",
        Phase::Running => "running",
        Phase::Stopped => "off",
        Phase::Deleting | Phase::Gone => "deleting",
    };
    let ipv4 = vm.told_address(at).map(|ip| json!({"id": vm.id, "ip": ip, "blocked": false, "dns_ptr": format!("host-{}.fake", vm.id)}));
    json!({
        "id": vm.id,
        "name": vm.order.name,
        "status": status,
        "created": rfc3339(vm.born),
        "public_net": {"ipv4": ipv4, "ipv6": null, "floating_ips": [], "firewalls": []},
        "private_net": [],
        "server_type": {
            "id": 1, "name": vm.order.kind, "description": vm.order.kind, "cores": 2, "memory": 4.0, "disk": 40,
            "storage_type": "local", "cpu_type": "shared", "architecture": "x86", "prices": [],
        },
        "location": {
            "id": 1, "name": vm.order.place, "description": vm.order.place, "country": "DE", "city": "Falkenstein",
            "latitude": 50.476, "longitude": 12.370, "network_zone": "eu-central",
        },
        "image": {
            "id": 1, "type": "system", "status": "available", "name": vm.order.image, "description": vm.order.image,
            "os_flavor": "ubuntu", "os_version": "24.04", "architecture": "x86", "labels": {},
        },
        "iso": null,
        "rescue_enabled": false,
        "locked": at < vm.unlocked,
        "backup_window": null,
        "outgoing_traffic": 0,
        "ingoing_traffic": 0,
        "included_traffic": 654_321,
        "protection": {"delete": false, "rebuild": false},
        "labels": vm.order.tags,
        "volumes": [],
        "load_balancers": [],
        "primary_disk_size": 40,
        "placement_group": null,
    })
}

fn words(refusal: &Refusal) -> (StatusCode, &'static str, String) {
    let (status, code, message) = match refusal {
        Refusal::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "unable to authenticate"),
        Refusal::Forbidden => (StatusCode::FORBIDDEN, "token_readonly", "the token is read-only"),
        Refusal::NotFound(what) => return (StatusCode::NOT_FOUND, "not_found", format!("server with ID '{what}' not found")),
        Refusal::NameTaken(_) => (StatusCode::CONFLICT, "uniqueness_error", "server name is already used"),
        Refusal::Invalid(why) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_input", why.as_str()),
        Refusal::Throttled(_) => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", "rate limit exceeded"),
        Refusal::Quota => (StatusCode::FORBIDDEN, "resource_limit_exceeded", "server limit exceeded"),
        Refusal::NoCapacity => (StatusCode::PRECONDITION_FAILED, "resource_unavailable", "error during placement"),
        Refusal::Locked => (StatusCode::LOCKED, "locked", "server is locked"),
        Refusal::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the service is currently unavailable"),
        Refusal::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal server error"),
        // This cloud has no such tokens.
        Refusal::TokenReused => (StatusCode::CONFLICT, "conflict", "the resource has changed"),
    };
    (status, code, message.to_owned())
}

pub(super) fn refuse(refusal: &Refusal) -> Response {
    let (status, code, message) = words(refusal);
    let details = matches!(refusal, Refusal::Invalid(_)).then(|| json!({"fields": []}));
    (status, Json(json!({"error": {"code": code, "message": message, "details": details}}))).into_response()
}

pub(super) fn tell_budget(headers: &mut HeaderMap, budget: Budget) {
    let (remaining, reset) = budget.throttled.map_or((budget.remaining, budget.reset), |until| (0, until));
    headers.insert("ratelimit-limit", HeaderValue::from(budget.limit));
    headers.insert("ratelimit-remaining", HeaderValue::from(remaining));
    headers.insert("ratelimit-reset", HeaderValue::from(reset.timestamp()));
}
