//! DigitalOcean's API v2, as far as droplets go.
//!
//! Names are not unique, and there is no idempotency: the same request twice makes two droplets.

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
use super::rate::Budget;
use super::vm::{Order, Phase, Vm};
use super::{Call, Dialect, Time, page};

const DIALECT: Dialect = Dialect::DigitalOcean;
/// Usual and largest number of droplets on a page.
const PAGE: (usize, usize) = (20, 200);
const LONGEST_USER_DATA: usize = 64 * 1024;
const MOST_AT_ONCE: usize = 10;

pub(super) fn routes() -> Router<Cloud> {
    Router::new().route("/v2/droplets", get(list).post(create).delete(delete_tagged)).route("/v2/droplets/{id}", get(one).delete(delete))
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    tag_name: Option<String>,
    name: Option<String>,
    page: Option<usize>,
    per_page: Option<usize>,
}

async fn list(State(cloud): State<Cloud>, headers: HeaderMap, uri: Uri) -> Response {
    let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    cloud
        .answer(DIALECT, Call::List, &headers, None, |desk| {
            let Asked { tag_name, name, page, per_page } = page::query(&uri)?;
            if tag_name.is_some() && name.is_some() {
                return Err(Refusal::Invalid("name and tag_name cannot be used together".to_owned()));
            }
            let (mut vms, as_of) = desk.list();
            vms.retain(|vm| tag_name.as_ref().is_none_or(|tag| vm.order.tags.contains_key(tag)));
            vms.retain(|vm| name.as_ref().is_none_or(|name| vm.order.name.eq_ignore_ascii_case(name)));
            let (vms, page) = page::numbered(vms, page, per_page, PAGE, desk.state.knobs.page_size)?;
            let filter = [("tag_name", tag_name), ("name", name)].into_iter().find_map(|(key, value)| Some((key, value?)));
            let filter = filter.map_or_else(String::new, |(key, value)| {
                format!("&{key}={}", form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>())
            });
            let link = |number| format!("http://{host}/v2/droplets?page={number}&per_page={}{filter}", page.size);
            let mut pages = serde_json::Map::new();
            if page.number > 1 {
                pages.extend([("first".to_owned(), json!(link(1))), ("prev".to_owned(), json!(link(page.number - 1)))]);
            }
            if page.number < page.last {
                pages.extend([("next".to_owned(), json!(link(page.number + 1))), ("last".to_owned(), json!(link(page.last)))]);
            }
            let links = if pages.is_empty() { json!({}) } else { json!({"pages": pages}) };
            let droplets: Vec<Value> = vms.into_iter().map(|vm| droplet(vm, as_of)).collect();
            Ok(Json(json!({"droplets": droplets, "links": links, "meta": {"total": page.total}})).into_response())
        })
        .await
}

#[derive(Deserialize)]
struct Wanted {
    name: Option<String>,
    names: Option<Vec<String>>,
    #[serde(default)]
    region: String,
    size: String,
    #[serde(deserialize_with = "page::text")]
    image: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    user_data: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

async fn create(State(cloud): State<Cloud>, headers: HeaderMap, body: Bytes) -> Response {
    cloud
        .answer(DIALECT, Call::Create, &headers, None, |desk| {
            let wanted: Wanted = page::body(&body)?;
            let (names, several) = match (wanted.name, wanted.names) {
                (Some(name), None) => (vec![name], false),
                (None, Some(names)) if (1..=MOST_AT_ONCE).contains(&names.len()) => (names, true),
                _ => return Err(Refusal::Invalid("one name, or 1 to 10 names".to_owned())),
            };
            let (tags, user_data) = (wanted.tags.unwrap_or_default(), wanted.user_data.unwrap_or_default());
            if let Some(name) = names.iter().find(|name| !is_hostname(name)) {
                return Err(Refusal::Invalid(format!("Only valid hostname characters are allowed. (a-z, A-Z, 0-9, . and -): {name}")));
            }
            if let Some(tag) = tags.iter().find(|tag| !is_tag(tag)) {
                return Err(Refusal::Invalid(format!(
                    "tag {tag} is invalid: letters, numbers, colons, dashes and underscores, at most 255"
                )));
            }
            if user_data.len() > LONGEST_USER_DATA {
                return Err(Refusal::Invalid("user_data is longer than 64 KiB".to_owned()));
            }
            let order = |name| Order {
                name,
                place: wanted.region.clone(),
                kind: wanted.size.clone(),
                image: wanted.image.clone(),
                user_data: user_data.clone(),
                tags: tags.iter().map(|tag| (tag.clone(), String::new())).collect(),
                rest: wanted.rest.clone(),
                ..Order::default()
            };
            let vms = desk.create(names.into_iter().map(order).collect())?;
            let actions = vms.iter().filter_map(|vm| {
                let id = desk.state.operation_on(vm.id, Call::Create)?.id;
                Some(json!({"id": id, "rel": "create", "href": format!("https://api.digitalocean.com/v2/actions/{id}")}))
            });
            let links = json!({"actions": actions.collect::<Vec<_>>()});
            let mut droplets = vms.iter().map(|vm| droplet(vm, desk.now));
            let answer = match (several, droplets.next()) {
                (false, Some(droplet)) => json!({"droplet": droplet, "links": links}),
                (_, first) => json!({"droplets": first.into_iter().chain(droplets).collect::<Vec<_>>(), "links": links}),
            };
            Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
        })
        .await
}

async fn one(State(cloud): State<Cloud>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    cloud
        .answer(DIALECT, Call::Get, &headers, None, |desk| {
            let vm = desk.find(page::number(&id)?)?;
            Ok(Json(json!({"droplet": droplet(vm, desk.now)})).into_response())
        })
        .await
}

async fn delete(State(cloud): State<Cloud>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    cloud
        .answer(DIALECT, Call::Delete, &headers, None, |desk| {
            let id = page::number(&id)?;
            desk.delete(id, None)?;
            Ok(StatusCode::NO_CONTENT.into_response())
        })
        .await
}

/// Everything with the tag, as the real one does: no client of ours should ever call it.
async fn delete_tagged(State(cloud): State<Cloud>, headers: HeaderMap, uri: Uri) -> Response {
    let act = |desk: &mut Desk| {
        let Asked { tag_name: Some(tag), name: None, page: None, per_page: None } = page::query(&uri)? else {
            return Err(Refusal::Invalid("tag_name is missing".to_owned()));
        };
        let tagged = desk.state.vms().iter().filter(|vm| vm.order.tags.contains_key(&tag));
        let tagged: Vec<u64> = tagged.map(|vm| vm.id).collect();
        for id in tagged {
            // Those of other accounts and those that are gone are not found.
            match desk.delete(id, None) {
                Ok(_) | Err(Refusal::NotFound(_)) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    cloud.answer(DIALECT, Call::Delete, &headers, None, act).await
}

fn is_hostname(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && name.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c))
}

fn is_tag(tag: &str) -> bool {
    !tag.is_empty() && tag.len() <= 255 && tag.chars().all(|c| c.is_ascii_alphanumeric() || ":-_".contains(c))
}

fn droplet(vm: &Vm, at: Time) -> Value {
    let status = match vm.phase(at) {
        Phase::Starting => "new",
        Phase::Running | Phase::Deleting => "active",
        Phase::Stopped => "off",
        Phase::Gone => "archive",
    };
    let public = vm.told_address(at).map(|ip| json!({"ip_address": ip, "netmask": "255.255.240.0", "gateway": ip, "type": "public"}));
    json!({
        "id": vm.id,
        "name": vm.order.name,
        "status": status,
        "locked": at < vm.unlocked || status == "new",
        "created_at": vm.born.to_rfc3339_opts(SecondsFormat::Secs, true),
        "memory": 1024,
        "vcpus": 1,
        "disk": 25,
        "region": {"slug": vm.order.place, "name": vm.order.place, "available": true, "features": [], "sizes": [vm.order.kind]},
        "image": {"id": 1, "slug": vm.order.image, "name": vm.order.image, "distribution": "Ubuntu", "public": true, "type": "base"},
        "size": {"slug": vm.order.kind, "memory": 1024, "vcpus": 1, "disk": 25, "available": true, "regions": [vm.order.place]},
        "size_slug": vm.order.kind,
        "networks": {"v4": Vec::from_iter(public), "v6": []},
        "tags": vm.order.tags.keys().collect::<Vec<_>>(),
        "features": [],
        "volume_ids": [],
        "backup_ids": [],
        "snapshot_ids": [],
    })
}

pub(super) fn refuse(refusal: &Refusal) -> Response {
    const UNPROCESSABLE: (StatusCode, &str) = (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable_entity");
    let ((status, id), message) = match refusal {
        Refusal::Unauthorized => ((StatusCode::UNAUTHORIZED, "Unauthorized"), "Unable to authenticate you"),
        Refusal::Forbidden => ((StatusCode::FORBIDDEN, "Forbidden"), "You are not authorized to perform this operation"),
        Refusal::NotFound(_) => ((StatusCode::NOT_FOUND, "not_found"), "The resource you were accessing could not be found."),
        Refusal::Invalid(why) => (UNPROCESSABLE, why.as_str()),
        Refusal::Quota => (UNPROCESSABLE, "creating this/these droplet(s) will exceed your droplet limit"),
        Refusal::NoCapacity => (UNPROCESSABLE, "Size is not available in this region."),
        Refusal::Locked => (UNPROCESSABLE, "Droplet already has a pending event."),
        Refusal::Throttled(_) => ((StatusCode::TOO_MANY_REQUESTS, "too_many_requests"), "API Rate limit exceeded."),
        Refusal::Unavailable => ((StatusCode::SERVICE_UNAVAILABLE, "service_unavailable"), "Service Unavailable"),
        Refusal::Broken => ((StatusCode::INTERNAL_SERVER_ERROR, "server_error"), "Unexpected server-side error"),
        // This cloud has neither.
        Refusal::NameTaken(_) | Refusal::TokenReused => (UNPROCESSABLE, "Name is already in use"),
    };
    let mut response = (status, Json(json!({"id": id, "message": message, "request_id": "fake"}))).into_response();
    if let Refusal::Throttled(seconds) = refusal {
        response.headers_mut().insert("retry-after", HeaderValue::from(*seconds));
    }
    response
}

pub(super) fn tell_budget(headers: &mut HeaderMap, budget: Budget) {
    headers.insert("ratelimit-limit", HeaderValue::from(budget.limit));
    headers.insert("ratelimit-remaining", HeaderValue::from(budget.remaining));
    headers.insert("ratelimit-reset", HeaderValue::from(budget.reset.timestamp()));
    // Only those who are too fast are told how long to wait. Who has used up the hour has to read the reset.
    if budget.remaining == 0 {
        headers.remove("retry-after");
    }
}
