//! Compute Engine's API v1, as far as instances and the operations on them go.
//!
//! The account is the project of the path. Names are unique in a zone, a `requestId` makes a repeated request safe, and
//! quota and capacity are refused in the operation, later, where other clouds refuse the request.

use std::collections::BTreeMap;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chrono::SecondsFormat;
use serde::Deserialize;
use serde_json::{Value, json};

use super::desk::{Cloud, Desk};
use super::gce_filter::Filter;
use super::knobs::Refusal;
use super::state::{Operation, Progress};
use super::vm::{Order, Phase, Vm};
use super::{Call, Dialect, Time, page};

const DIALECT: Dialect = Dialect::Gce;
const LARGEST_PAGE: usize = 500;
const ROOT: &str = "https://www.googleapis.com/compute/v1";

pub(super) fn routes() -> Router<Cloud> {
    const ZONE: &str = "/compute/v1/projects/{project}/zones/{zone}";
    Router::new()
        .route(&format!("{ZONE}/instances"), get(list).post(insert))
        .route(&format!("{ZONE}/instances/{{name}}"), get(one).delete(delete))
        .route(&format!("{ZONE}/operations"), get(operations))
        .route(&format!("{ZONE}/operations/{{name}}"), get(operation_by_name))
        // The real one may answer before the operation is done, too.
        .route(&format!("{ZONE}/operations/{{name}}/wait"), post(operation_by_name))
        .route("/compute/v1/projects/{project}/aggregated/instances", get(aggregated))
        .route("/token", post(token))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Asked {
    filter: String,
    max_results: Option<usize>,
    page_token: Option<String>,
    return_partial_success: Option<bool>,
    /// The format of the answer, which is JSON.
    #[serde(rename = "$alt")]
    _alt: Option<String>,
    #[serde(rename = "alt")]
    _old_alt: Option<String>,
}

/// One page of the project's instances, each with its zone, and the token of the next page.
struct Found {
    instances: Vec<(String, Value)>,
    next: Option<String>,
}

fn find(desk: &Desk, uri: &Uri, zone: Option<&str>) -> Result<Found, Refusal> {
    let Asked { filter, max_results, page_token, .. } = page::query(uri)?;
    let size = max_results.unwrap_or(LARGEST_PAGE);
    if size > LARGEST_PAGE {
        return Err(Refusal::Invalid("Invalid value for field 'maxResults': at most 500".to_owned()));
    }
    let filter: Filter = filter.parse()?;
    let (mut vms, as_of) = desk.list();
    vms.retain(|vm| zone.is_none_or(|zone| vm.order.place == zone) && filter.selects(vm, status(vm, as_of)));
    let token = page_token.as_deref().filter(|token| !token.is_empty());
    let (vms, next) = page::after(vms, token, size, desk.state.knobs.page_size)?;
    let instances = vms.into_iter().map(|vm| (vm.order.place.clone(), instance(desk, vm, as_of))).collect();
    Ok(Found { instances, next })
}

async fn list(State(cloud): State<Cloud>, headers: HeaderMap, Path((project, zone)): Path<(String, String)>, uri: Uri) -> Response {
    let act = |desk: &mut Desk| {
        let Found { instances, next } = find(desk, &uri, Some(&zone))?;
        let items: Vec<Value> = instances.into_iter().map(|(_, instance)| instance).collect();
        Ok(answer("instanceList", &format!("projects/{project}/zones/{zone}/instances"), &json!(items), next))
    };
    cloud.answer(DIALECT, Call::List, &headers, Some(&project), act).await
}

async fn aggregated(State(cloud): State<Cloud>, headers: HeaderMap, Path(project): Path<String>, uri: Uri) -> Response {
    let act = |desk: &mut Desk| {
        let Found { instances, next } = find(desk, &uri, None)?;
        let mut zones: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for (zone, instance) in instances {
            zones.entry(format!("zones/{zone}")).or_default().push(instance);
        }
        let items: BTreeMap<String, Value> = zones.into_iter().map(|(zone, instances)| (zone, json!({"instances": instances}))).collect();
        Ok(answer("instanceAggregatedList", &format!("projects/{project}/aggregated/instances"), &json!(items), next))
    };
    cloud.answer(DIALECT, Call::List, &headers, Some(&project), act).await
}

fn answer(kind: &str, id: &str, items: &Value, next: Option<String>) -> Response {
    let mut answer = json!({"kind": format!("compute#{kind}"), "id": id, "items": items, "selfLink": format!("{ROOT}/{id}")});
    if let (Some(answer), Some(next)) = (answer.as_object_mut(), next) {
        answer.insert("nextPageToken".to_owned(), next.into());
    }
    Json(answer).into_response()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    name: String,
    machine_type: String,
    disks: Vec<Disk>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    tags: NetworkTags,
    #[serde(default)]
    scheduling: Scheduling,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Disk {
    initialize_params: DiskParams,
    source: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DiskParams {
    source_image: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NetworkTags {
    items: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Scheduling {
    provisioning_model: String,
    preemptible: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Once {
    request_id: Option<String>,
}

async fn insert(
    State(cloud): State<Cloud>,
    headers: HeaderMap,
    Path((project, zone)): Path<(String, String)>,
    uri: Uri,
    body: Bytes,
) -> Response {
    let act = |desk: &mut Desk| {
        let Once { request_id } = page::query(&uri)?;
        let order = order(page::body(&body)?, zone, request_id)?;
        let vms = desk.create(vec![order])?;
        let [vm] = vms.as_slice() else { return Err(Refusal::Broken) };
        last_operation(desk, vm.id, Call::Create)
    };
    cloud.answer(DIALECT, Call::Create, &headers, Some(&project), act).await
}

fn order(wanted: Wanted, zone: String, token: Option<String>) -> Result<Order, Refusal> {
    let invalid = |field: &str, value: &str| Refusal::Invalid(format!("Invalid value for field 'resource.{field}': '{value}'."));
    if !is_name(&wanted.name) {
        return Err(invalid("name", &wanted.name));
    }
    if let Some((key, value)) = wanted.labels.iter().find(|(key, value)| !is_label(key) || key.is_empty() || !is_label(value)) {
        return Err(invalid("labels", &format!("{key}={value}")));
    }
    let disk = wanted.disks.into_iter().next().unwrap_or_default();
    let image = if disk.initialize_params.source_image.is_empty() { disk.source } else { disk.initialize_params.source_image };
    if image.is_empty() {
        return Err(invalid("disks", ""));
    }
    let is_user_data = |item: &Item| matches!(item.key.as_str(), "startup-script" | "user-data");
    Ok(Order {
        name: wanted.name,
        place: zone,
        kind: wanted.machine_type.rsplit('/').next().unwrap_or_default().to_owned(),
        image,
        user_data: wanted.metadata.items.into_iter().find(is_user_data).map(|item| item.value).unwrap_or_default(),
        tags: wanted.labels,
        network_tags: wanted.tags.items,
        spot: wanted.scheduling.preemptible || wanted.scheduling.provisioning_model == "SPOT",
        token,
        rest: wanted.rest,
    })
}

fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(inner) && !name.ends_with('-')
}

fn is_label(text: &str) -> bool {
    text.len() <= 63 && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c))
}

type Named = (String, String, String);

async fn one(State(cloud): State<Cloud>, headers: HeaderMap, Path((project, zone, name)): Path<Named>) -> Response {
    let act = |desk: &mut Desk| {
        let vm = named(desk, &zone, &name)?;
        Ok(Json(instance(desk, &vm, desk.now)).into_response())
    };
    cloud.answer(DIALECT, Call::Get, &headers, Some(&project), act).await
}

/// By its name, or by its number.
fn named(desk: &Desk, zone: &str, name: &str) -> Result<Vm, Refusal> {
    let by_number = || name.parse().ok().and_then(|id| desk.find(id).ok().filter(|vm| vm.order.place == zone));
    let found = desk.state.find_named(DIALECT, desk.account, zone, name, desk.now);
    let path = || format!("projects/{}/zones/{zone}/instances/{name}", desk.account);
    found.ok().or_else(by_number).cloned().ok_or_else(|| Refusal::NotFound(path()))
}

async fn delete(State(cloud): State<Cloud>, headers: HeaderMap, Path((project, zone, name)): Path<Named>, uri: Uri) -> Response {
    let act = |desk: &mut Desk| {
        let Once { request_id } = page::query(&uri)?;
        let before = request_id.as_ref().and_then(|token| desk.state.operation_of(DIALECT, desk.account, token));
        if let Some(before) = before {
            return Ok(Json(operation(desk, before)).into_response());
        }
        let id = named(desk, &zone, &name)?.id;
        desk.delete(id, request_id)?;
        last_operation(desk, id, Call::Delete)
    };
    cloud.answer(DIALECT, Call::Delete, &headers, Some(&project), act).await
}

/// Of the operations on a zone only those are ever asked for that a request with that `requestId` began.
async fn operations(State(cloud): State<Cloud>, headers: HeaderMap, Path((project, zone)): Path<(String, String)>, uri: Uri) -> Response {
    let act = |desk: &mut Desk| {
        let Asked { filter, .. } = page::query(&uri)?;
        let token = filter.strip_prefix("clientOperationId=");
        let token = token.ok_or_else(|| Refusal::Invalid(format!("Invalid value for field 'filter': '{filter}'.")))?;
        let begun = desk.state.operation_of(DIALECT, desk.account, token.trim_matches('"'));
        let items: Vec<Value> = begun.into_iter().map(|begun| operation(desk, begun)).collect();
        Ok(answer("operationList", &format!("projects/{project}/zones/{zone}/operations"), &json!(items), None))
    };
    cloud.answer(DIALECT, Call::Operation, &headers, Some(&project), act).await
}

async fn operation_by_name(State(cloud): State<Cloud>, headers: HeaderMap, Path((project, zone, name)): Path<Named>) -> Response {
    let act = |desk: &mut Desk| {
        let path = format!("projects/{}/zones/{zone}/operations/{name}", desk.account);
        let id = name.strip_prefix("operation-").unwrap_or(&name).parse().map_err(|_| Refusal::NotFound(path))?;
        Ok(Json(operation(desk, desk.operation(id)?)).into_response())
    };
    cloud.answer(DIALECT, Call::Operation, &headers, Some(&project), act).await
}

/// Where service accounts get their bearer token. The signature of their assertion is not looked at.
async fn token(State(cloud): State<Cloud>) -> Response {
    Json(json!({"access_token": cloud.any_credential(), "expires_in": 3600, "token_type": "Bearer"})).into_response()
}

fn last_operation(desk: &Desk, vm: u64, call: Call) -> Result<Response, Refusal> {
    desk.state.operation_on(vm, call).map(|found| Json(operation(desk, found)).into_response()).ok_or(Refusal::Broken)
}

fn operation(desk: &Desk, operation: &Operation) -> Value {
    let vm = desk.state.vms().iter().find(|vm| vm.id == operation.vm);
    let (name, place) = vm.map(|vm| (vm.order.name.as_str(), vm.order.place.as_str())).unwrap_or_default();
    let zone = format!("{ROOT}/projects/{}/zones/{place}", desk.account);
    let mut answer = json!({
        "kind": "compute#operation",
        "id": operation.id.to_string(),
        "name": format!("operation-{}", operation.id),
        "zone": zone,
        "clientOperationId": operation.token,
        "operationType": if operation.call == Call::Create { "insert" } else { "delete" },
        "targetLink": format!("{zone}/instances/{name}"),
        "targetId": operation.vm.to_string(),
        "user": "fake@example.com",
        "insertTime": rfc3339(operation.started),
        "startTime": rfc3339(operation.started),
        "selfLink": format!("{zone}/operations/operation-{}", operation.id),
    });
    let outcome = match desk.state.progress(operation, desk.now) {
        Progress::Running => json!({"status": "RUNNING", "progress": 0}),
        Progress::Done(at) => json!({"status": "DONE", "progress": 100, "endTime": rfc3339(at)}),
        Progress::Failed(at, refusal) => {
            let (status, _, message) = words(&refusal);
            let code = match refusal {
                Refusal::Quota => "QUOTA_EXCEEDED",
                Refusal::NoCapacity => "ZONE_RESOURCE_POOL_EXHAUSTED",
                _ => "INTERNAL_ERROR",
            };
            json!({
                "status": "DONE", "progress": 100, "endTime": rfc3339(at),
                "error": {"errors": [{"code": code, "message": message}]},
                "httpErrorStatusCode": status.as_u16(), "httpErrorMessage": status.canonical_reason(),
            })
        }
    };
    if let (Some(answer), Value::Object(outcome)) = (answer.as_object_mut(), outcome) {
        answer.extend(outcome);
    }
    answer
}

fn rfc3339(at: Time) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, false)
}

fn status(vm: &Vm, at: Time) -> &'static str {
    match vm.phase(at) {
        Phase::Starting => "PROVISIONING",
        Phase::Running => "RUNNING",
        Phase::Stopped => "TERMINATED",
        Phase::Deleting | Phase::Gone => "STOPPING",
    }
}

fn instance(desk: &Desk, vm: &Vm, at: Time) -> Value {
    let zone = format!("{ROOT}/projects/{}/zones/{}", desk.account, vm.order.place);
    // The access is there from the beginning, without an address.
    let mut access = json!({"kind": "compute#accessConfig", "type": "ONE_TO_ONE_NAT", "name": "External NAT"});
    if let (Some(access), Some(ip)) = (access.as_object_mut(), vm.told_address(at)) {
        access.insert("natIP".to_owned(), json!(ip));
    }
    json!({
        "kind": "compute#instance",
        "id": vm.id.to_string(),
        "name": vm.order.name,
        "creationTimestamp": rfc3339(vm.born),
        "status": status(vm, at),
        "zone": zone,
        "machineType": format!("{zone}/machineTypes/{}", vm.order.kind),
        "labels": vm.order.tags,
        "labelFingerprint": "42WmSpB8rSM=",
        "tags": {"items": vm.order.network_tags, "fingerprint": "42WmSpB8rSM="},
        "metadata": {"kind": "compute#metadata", "fingerprint": "42WmSpB8rSM=", "items": [{"key": "startup-script", "value": vm.order.user_data}]},
        "networkInterfaces": [{"kind": "compute#networkInterface", "name": "nic0", "accessConfigs": [access]}],
        "scheduling": {"provisioningModel": if vm.order.spot { "SPOT" } else { "STANDARD" }, "preemptible": vm.order.spot},
        "selfLink": format!("{zone}/instances/{}", vm.order.name),
    })
}

/// Status, reason and message.
fn words(refusal: &Refusal) -> (StatusCode, &'static str, String) {
    let (status, reason, message) = match refusal {
        Refusal::Unauthorized => (StatusCode::UNAUTHORIZED, "authError", "Invalid Credentials"),
        Refusal::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Required 'compute.instances.create' permission"),
        Refusal::NotFound(what) => return (StatusCode::NOT_FOUND, "notFound", format!("The resource '{what}' was not found")),
        Refusal::NameTaken(name) => {
            return (StatusCode::CONFLICT, "alreadyExists", format!("The resource 'instances/{name}' already exists"));
        }
        Refusal::Invalid(why) => (StatusCode::BAD_REQUEST, "invalid", why.as_str()),
        Refusal::TokenReused => (StatusCode::BAD_REQUEST, "invalid", "Invalid value for field 'requestId': it was used before."),
        Refusal::Throttled(_) => (StatusCode::FORBIDDEN, "rateLimitExceeded", "Rate Limit Exceeded"),
        Refusal::Quota => (StatusCode::FORBIDDEN, "quotaExceeded", "Quota 'INSTANCES' exceeded."),
        Refusal::NoCapacity => (
            StatusCode::SERVICE_UNAVAILABLE,
            "resourceExhausted",
            "The zone does not have enough resources available to fulfill the request.",
        ),
        Refusal::Locked => (StatusCode::BAD_REQUEST, "resourceNotReady", "The resource is not ready"),
        Refusal::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "backendError", "Backend Error"),
        Refusal::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "backendError", "Internal Error"),
    };
    (status, reason, message.to_owned())
}

pub(super) fn refuse(refusal: &Refusal) -> Response {
    let (status, reason, message) = words(refusal);
    let domain = if matches!(refusal, Refusal::Throttled(_) | Refusal::Quota) { "usageLimits" } else { "global" };
    let errors = json!([{"message": message, "domain": domain, "reason": reason}]);
    (status, Json(json!({"error": {"code": status.as_u16(), "message": message, "errors": errors}}))).into_response()
}
