//! Vultr's API v2, as far as instances go.
//!
//! Labels are not unique and there is no idempotency, and a locked instance answers a delete with 500.

use std::collections::BTreeMap;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::SecondsFormat;
use serde::Deserialize;
use serde_json::{Value, json};

use super::desk::Cloud;
use super::knobs::Refusal;
use super::vm::{Order, Phase, Vm};
use super::{Call, Dialect, Time, page};

const DIALECT: Dialect = Dialect::Vultr;
const USUAL_PAGE: usize = 100;
const LARGEST_PAGE: usize = 500;
const CURSOR: &str = "next__";

pub(super) fn routes() -> Router<Cloud> {
    Router::new()
        .route("/v2/instances", get(list).post(create))
        .route("/v2/instances/{id}", get(one).delete(delete))
        .route("/v2/instances/{id}/user-data", get(user_data))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    tag: Option<String>,
    label: Option<String>,
    main_ip: Option<String>,
    region: Option<String>,
    per_page: Option<usize>,
    cursor: Option<String>,
}

async fn list(State(cloud): State<Cloud>, headers: HeaderMap, uri: Uri) -> Response {
    cloud
        .answer(DIALECT, Call::List, &headers, None, |desk| {
            let asked: Asked = page::query(&uri)?;
            let size = asked.per_page.unwrap_or(USUAL_PAGE);
            if !(1..=LARGEST_PAGE).contains(&size) {
                return Err(Refusal::Invalid("per_page must be from 1 to 500".to_owned()));
            }
            let cursor = asked.cursor.filter(|cursor| !cursor.is_empty()).map(|cursor| last_of(&cursor)).transpose()?;
            let (mut vms, as_of) = desk.list();
            vms.retain(|vm| {
                let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
                asked.tag.as_ref().is_none_or(|tag| vm.order.tags.contains_key(tag))
                    && is(&asked.label, &vm.order.name)
                    && is(&asked.main_ip, &main_ip(vm, as_of))
                    && is(&asked.region, &vm.order.place)
            });
            let total = vms.len();
            let (vms, next) = page::after(vms, cursor.as_deref(), size, desk.state.knobs.page_size)?;
            let next = next.map(|last| BASE64.encode(format!("{CURSOR}{last}"))).unwrap_or_default();
            let instances: Vec<Value> = vms.into_iter().map(|vm| instance(vm, as_of)).collect();
            let meta = json!({"total": total, "links": {"next": next, "prev": ""}});
            Ok(Json(json!({"instances": instances, "meta": meta})).into_response())
        })
        .await
}

/// The id of the last instance before the page.
fn last_of(cursor: &str) -> Result<String, Refusal> {
    let text = BASE64.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let last = text.and_then(|text| text.strip_prefix(CURSOR).map(ToOwned::to_owned));
    last.ok_or_else(|| Refusal::Invalid("Invalid cursor".to_owned()))
}

#[derive(Deserialize)]
struct Wanted {
    region: String,
    plan: String,
    os_id: Option<u64>,
    image_id: Option<String>,
    snapshot_id: Option<String>,
    #[serde(default)]
    label: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    user_data: String,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

async fn create(State(cloud): State<Cloud>, headers: HeaderMap, body: Bytes) -> Response {
    cloud
        .answer(DIALECT, Call::Create, &headers, None, |desk| {
            let wanted: Wanted = page::body(&body)?;
            let image = wanted.os_id.map(|id| id.to_string()).or(wanted.image_id).or(wanted.snapshot_id);
            let user_data = BASE64.decode(wanted.user_data).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let order = Order {
                name: wanted.label,
                place: wanted.region,
                kind: wanted.plan,
                image: image.ok_or_else(|| Refusal::Invalid("Invalid OS: one of os_id, image_id, snapshot_id".to_owned()))?,
                user_data: user_data.ok_or_else(|| Refusal::Invalid("user_data must be base64".to_owned()))?,
                tags: wanted.tags.into_iter().flatten().map(|tag| (tag, String::new())).collect(),
                rest: wanted.rest,
                ..Order::default()
            };
            let vms = desk.create(vec![order])?;
            let mut answers = vms.iter().map(|vm| instance(vm, desk.now));
            Ok((StatusCode::ACCEPTED, Json(json!({"instance": answers.next()}))).into_response())
        })
        .await
}

async fn one(State(cloud): State<Cloud>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    cloud
        .answer(DIALECT, Call::Get, &headers, None, |desk| {
            let vm = desk.find(number(&id)?)?;
            Ok(Json(json!({"instance": instance(vm, desk.now)})).into_response())
        })
        .await
}

async fn user_data(State(cloud): State<Cloud>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    cloud
        .answer(DIALECT, Call::Get, &headers, None, |desk| {
            let vm = desk.find(number(&id)?)?;
            Ok(Json(json!({"user_data": {"data": BASE64.encode(&vm.order.user_data)}})).into_response())
        })
        .await
}

async fn delete(State(cloud): State<Cloud>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    cloud
        .answer(DIALECT, Call::Delete, &headers, None, |desk| {
            desk.delete(number(&id)?, None)?;
            Ok(StatusCode::NO_CONTENT.into_response())
        })
        .await
}

/// Ids look like UUIDs.
const PREFIX: &str = "cb676a46-66fd-4dfb-b839-";

fn id(vm: &Vm) -> String {
    format!("{PREFIX}{:012x}", vm.id)
}

fn number(id: &str) -> Result<u64, Refusal> {
    let hex = id.strip_prefix(PREFIX).filter(|hex| hex.len() == 12);
    hex.and_then(|hex| u64::from_str_radix(hex, 16).ok()).ok_or_else(|| Refusal::NotFound(id.to_owned()))
}

fn main_ip(vm: &Vm, at: Time) -> String {
    vm.told_address(at).map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string())
}

fn instance(vm: &Vm, at: Time) -> Value {
    let (status, power, server) = match vm.phase(at) {
        Phase::Starting => ("pending", "running", "none"),
        _ if at < vm.unlocked => ("active", "running", "locked"),
        Phase::Running | Phase::Deleting | Phase::Gone => ("active", "running", "ok"),
        Phase::Stopped => ("active", "stopped", "ok"),
    };
    json!({
        "id": id(vm),
        "os": "Ubuntu 24.04 LTS x64",
        "ram": 1024,
        "disk": 25,
        "plan": vm.order.kind,
        "main_ip": main_ip(vm, at),
        "vpc_only": false,
        "vcpu_count": 1,
        "region": vm.order.place,
        "date_created": vm.born.to_rfc3339_opts(SecondsFormat::Secs, false),
        "status": status,
        "power_status": power,
        "server_status": server,
        "allowed_bandwidth": 1000,
        "netmask_v4": "255.255.254.0",
        "gateway_v4": "0.0.0.0",
        "v6_network": "",
        "v6_main_ip": "",
        "v6_network_size": 0,
        "label": vm.order.name,
        "internal_ip": "",
        "kvm": "",
        "os_id": vm.order.image.parse::<u64>().unwrap_or_default(),
        "app_id": 0,
        "image_id": "",
        "snapshot_id": "",
        "firewall_group_id": "",
        "features": [],
        "hostname": vm.order.name,
        "tags": vm.order.tags.keys().collect::<Vec<_>>(),
        "user_scheme": "root",
        "vpcs": [],
    })
}

pub(super) fn refuse(refusal: &Refusal) -> Response {
    let (status, message) = match refusal {
        Refusal::Unauthorized => (StatusCode::UNAUTHORIZED, "Invalid API token."),
        Refusal::Forbidden => (StatusCode::FORBIDDEN, "Unauthorized"),
        Refusal::NotFound(_) => (StatusCode::NOT_FOUND, "Invalid instance."),
        Refusal::Invalid(why) => (StatusCode::BAD_REQUEST, why.as_str()),
        Refusal::Throttled(_) => (StatusCode::TOO_MANY_REQUESTS, "Rate limit exceeded"),
        Refusal::Quota => {
            (StatusCode::BAD_REQUEST, "Server add failed: You have reached the maximum number of active instances for this account")
        }
        Refusal::NoCapacity => (StatusCode::BAD_REQUEST, "Server add failed: This plan is not available in the selected region"),
        Refusal::Locked => (StatusCode::INTERNAL_SERVER_ERROR, "Unable to destroy server: Server is currently locked"),
        Refusal::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "Internal server error"),
        Refusal::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Service unavailable"),
        // This cloud has neither.
        Refusal::NameTaken(_) | Refusal::TokenReused => (StatusCode::BAD_REQUEST, "Invalid label"),
    };
    (status, Json(json!({"error": message, "status": status.as_u16()}))).into_response()
}
