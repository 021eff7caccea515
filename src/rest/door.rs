//! The way every request takes, in this order: room, host, size, who, what for, may they, body, handler. Its end is one line in
//! the audit log and one count, whatever happened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts as _, Path, Request};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, on};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::orders::{Class, Desk, Refusal};
use crate::runtime::metrics::Metrics;

use super::auth::Gate;
use super::call::{self, Context};
use super::fault::Fault;
use super::hosts::Hosts;
use super::query::Query;
use super::routes::{Group, Needs, Route, table};

/// Largest body, in bytes.
const LARGEST_BODY: usize = 64 * 1024;
/// Longest time for a body to come in.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time for anything, besides what `?wait=` asks for.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Requests at once.
const AT_ONCE: usize = 256;
/// What the log and the metrics say of a request whose caller left before the answer.
const LEFT: u16 = 499;
/// Header with the id that the audit log has.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How the server answers.
#[derive(Clone, Default)]
pub struct Settings {
    /// Namespace of calls that do not say; empty: `default`.
    pub namespace: String,
    /// The one namespace that can be asked for; `None`: any.
    pub only: Option<String>,
    /// Names the server has, besides addresses, localhost and names of Services.
    pub hosts: Vec<String>,
    /// Where requests are counted.
    pub metrics: Metrics,
    /// Once cancelled the server ends: who waits is answered at once, and no connection is taken any more.
    pub ending: CancellationToken,
}

struct Door {
    desk: Desk,
    gate: Gate,
    namespace: String,
    only: Option<String>,
    hosts: Hosts,
    metrics: Metrics,
    room: Semaphore,
    ending: CancellationToken,
}

/// The API. Orders are written as whoever `desk` is, if `gate` lets them in.
pub fn router(desk: Desk, gate: Gate, settings: Settings) -> Router {
    let namespace = if settings.namespace.is_empty() { "default".to_owned() } else { settings.namespace };
    let (hosts, room) = (Hosts::new(&settings.hosts), Semaphore::new(AT_ONCE));
    let (only, metrics, ending) = (settings.only, settings.metrics, settings.ending);
    let door = Arc::new(Door { desk, gate, namespace, only, hosts, metrics, room, ending });
    let mut router = Router::new();
    for route in table() {
        let Ok(filter) = MethodFilter::try_from(route.method.clone()) else { continue };
        let door = door.clone();
        router = router.route(route.path, on(filter, move |request: Request| async move { door.pass(Way::To(route), request).await }));
    }
    let (lost, wrong) = (door.clone(), door);
    router
        .fallback(move |request: Request| async move { lost.pass(Way::Nowhere, request).await })
        .method_not_allowed_fallback(move |request: Request| async move { wrong.pass(Way::WrongMethod, request).await })
}

/// Where a request leads.
#[derive(Clone, Copy)]
enum Way {
    To(&'static Route),
    Nowhere,
    WrongMethod,
}

impl Door {
    async fn pass(self: Arc<Self>, way: Way, request: Request) -> Response {
        let group = if let Way::To(route) = way { route.group } else { Group::Server };
        let mut record = Record::new(self.metrics.clone(), way, request.method());
        let mut response = match self.answer(way, request, &mut record).await {
            Ok(answer) => axum::Json(answer).into_response(),
            Err(fault) => fault.answer(group),
        };
        record.code = response.status().as_u16();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Ok(id) = HeaderValue::from_str(&record.request_id) {
            headers.insert(REQUEST_ID, id);
        }
        response
    }

    async fn answer(&self, way: Way, request: Request, record: &mut Record) -> Result<Value, Fault> {
        let _place = self.room.try_acquire().map_err(|_| {
            Fault::new(StatusCode::SERVICE_UNAVAILABLE, format!("{AT_ONCE} requests are being answered already; try again in a moment"))
        })?;
        self.hosts.check(request.uri(), request.headers())?;
        let route = match way {
            Way::To(route) => route,
            Way::Nowhere => return Err(Fault::new(StatusCode::NOT_FOUND, "there is no such route; /openapi.json lists what there is")),
            Way::WrongMethod => {
                return Err(Fault::new(StatusCode::METHOD_NOT_ALLOWED, "this route does not take that method; see the Allow header"));
            }
        };
        let declared = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > LARGEST_BODY as u64) {
            return Err(too_large());
        }
        // Read now, because the time for all of it depends on it; told to nobody who is not known.
        let query = Query::read(route.query, request.uri().query().unwrap_or_default());
        let limit = TIMEOUT + query.as_ref().ok().and_then(|q| q.wait).unwrap_or_default();
        match tokio::time::timeout(limit, self.serve(route, query, request, record)).await {
            Ok(answer) => answer,
            Err(_) => Err(Fault::new(
                StatusCode::GATEWAY_TIMEOUT,
                "it took too long; whether it was carried out is not known, so look before asking again",
            )),
        }
    }

    async fn serve(&self, route: &Route, query: Result<Query, Refusal>, request: Request, record: &mut Record) -> Result<Value, Fault> {
        let no = |refusal| Fault::of(refusal, route.group);
        let (mut parts, body) = request.into_parts();
        let caller = match route.needs {
            Needs::Public => super::auth::Caller::default(),
            _ => self.gate.who(&parts.headers).await.map_err(no)?,
        };
        caller.name().unwrap_or_default().clone_into(&mut record.user);
        let query = query.map_err(no)?;
        let path = Path::<BTreeMap<String, String>>::from_request_parts(&mut parts, &()).await;
        let Ok(Path(path)) = path else { return Err(no(Refusal::invalid("the path is no text"))) };
        let namespace = match route.needs {
            Needs::Config(_) => self.desk.operator().to_owned(),
            _ => query.namespace.clone().unwrap_or_else(|| self.namespace.clone()),
        };
        record.namespace.clone_from(&namespace);
        if let Some(only) =
            self.only.as_ref().filter(|only| **only != namespace && !matches!(route.needs, Needs::Config(_) | Needs::Public))
        {
            return Err(no(Refusal::not_found(format!(
                "this operator works in namespace {only} alone, and was asked for namespace {namespace}"
            ))));
        }
        let (desk, gate, request_id) = (self.desk.clone(), self.gate.clone(), record.request_id.clone());
        let context = Context { desk, gate, caller, request_id, namespace, path, query, ending: self.ending.clone() };
        let call = call::admit(context, route.needs, &mut record.name).await.map_err(|r| no(self.own(r)))?;
        let bytes = read(&parts.headers, body).await?;
        let running = (route.handler.run)(call, &bytes).map_err(no)?;
        running.await.map_err(|r| no(self.own(r)))
    }

    /// In the operator, credentials that the API server does not know are the operator's: nothing that whoever asks can mend.
    fn own(&self, refusal: Refusal) -> Refusal {
        match (&self.gate, refusal.class) {
            (Gate::Reviewed(_), Class::Unauthenticated) => {
                let message = "the API server does not take the operator's own credentials now; try again".into();
                Refusal { class: Class::Unavailable, message }
            }
            _ => refusal,
        }
    }
}

async fn read(headers: &HeaderMap, body: Body) -> Result<axum::body::Bytes, Fault> {
    let whole = Limited::new(body, LARGEST_BODY).collect();
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, whole).await {
        Ok(Ok(whole)) => whole.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => return Err(Fault::new(StatusCode::BAD_REQUEST, "the body broke off")),
        Err(_) => {
            return Err(Fault::new(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {} s", BODY_TIMEOUT.as_secs())));
        }
    };
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_json = kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if bytes.is_empty() || is_json {
        Ok(bytes)
    } else {
        Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be JSON, and say so: Content-Type: application/json"))
    }
}

fn too_large() -> Fault {
    Fault::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {} KiB", LARGEST_BODY / 1024))
}

/// What is put on record about a request when it ends, also where the caller leaves in the middle.
struct Record {
    metrics: Metrics,
    began: Instant,
    request_id: String,
    way: Way,
    method: Method,
    user: String,
    namespace: String,
    name: Option<String>,
    code: u16,
}

impl Record {
    fn new(metrics: Metrics, way: Way, method: &Method) -> Self {
        let request_id = uuid::Uuid::new_v4().to_string();
        let (user, namespace, name) = Default::default();
        Self { metrics, began: Instant::now(), request_id, way, method: method.clone(), user, namespace, name, code: LEFT }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let (route, method) = match self.way {
            Way::To(route) => (route.path, route.method.as_str()),
            // What strangers make up must not make series.
            Way::Nowhere | Way::WrongMethod => ("other", "other"),
        };
        self.metrics.answered(route, method, self.code, self.began.elapsed());
        let Way::To(Route { needs, .. }) = self.way else { return };
        if self.method.is_safe() {
            return;
        }
        let (verb, resource) = needs.access().unwrap_or_default();
        let (request_id, user, namespace, code) = (&self.request_id, &self.user, &self.namespace, self.code);
        // As debug text, which has no line breaks: names come from outside.
        let name = self.name.as_deref().unwrap_or_default();
        tracing::info!(target: "audit", request_id, ?user, verb, resource, ?namespace, ?name, code, "asked");
    }
}
