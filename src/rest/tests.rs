//! The API as far as it goes without a cluster. That every identity gets exactly what it may is shown on the real one.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ALLOW, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use rstest::rstest;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::call::parse;
use super::query::Query;
use super::routes::{Group, Needs, Route, table};
use super::{Gate, Settings, openapi, router, updates};
use crate::cluster::SharedIndex;
use crate::orders::pools::RollingPatch;
use crate::orders::{Desk, Start};
use crate::pool::wish::Defaults;
use crate::runtime::metrics::Metrics;

/// An API whose API server does not answer: port 1 of this machine.
fn api(reviewed: bool, metrics: &Metrics) -> axum::Router {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    config.default_retry = false;
    let client = kube::Client::try_from(config).unwrap();
    let desk = Desk::new(client.clone(), "aether-system", Defaults::default());
    let gate = if reviewed { Gate::reviewed(client, "aether.dev") } else { Gate::Own };
    let settings =
        Settings { namespace: "shop".into(), hosts: vec!["aether.example.com".into()], metrics: metrics.clone(), ..Settings::default() };
    router(desk, gate, settings)
}

type Headers<'a> = &'a [(HeaderName, &'a str)];

const TOKEN: (HeaderName, &str) = (AUTHORIZATION, "Bearer abc");
const JSON: (HeaderName, &str) = (CONTENT_TYPE, "application/json");
const LOCAL: (HeaderName, &str) = (HOST, "localhost:8080");
const ORIGIN: HeaderName = axum::http::header::ORIGIN;

fn request(method: &Method, uri: &str, headers: Headers<'_>, body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    request.body(body).unwrap()
}

async fn answer(api: axum::Router, request: Request<Body>) -> (axum::http::response::Parts, Value) {
    let (parts, body) = api.oneshot(request).await.unwrap().into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (parts, serde_json::from_slice(&bytes).unwrap())
}

/// Code and sentence of an answer to somebody with the caller's own rights.
async fn own(method: Method, uri: &str, headers: Headers<'_>, body: &'static str) -> (u16, Value) {
    let (parts, said) = answer(api(false, &Metrics::default()), request(&method, uri, headers, Body::from(body))).await;
    (parts.status.as_u16(), said)
}

/// The path of a route with something for each name.
fn filled(route: &Route) -> String {
    let path = route.path.replace("{id}", "my-slice").replace("{provider}", "hetzner").replace("{instance}", "default");
    if route.query.iter().any(|p| p.is_needed) { format!("{path}?ip_address=192.0.2.1") } else { path }
}

#[test]
fn every_route_is_there_once_and_says_what_it_needs() {
    let all: BTreeSet<String> = table().iter().map(|r| format!("{} {}", r.method, r.path)).collect();
    assert_eq!(all.len(), table().len());
    let public: Vec<&str> = table().iter().filter(|r| r.needs == Needs::Public).map(|r| r.path).collect();
    assert_eq!(public, ["/openapi.json", "/healthz"]);
    for route in table() {
        let (verb, _) = route.needs.access().unwrap_or(("get", ""));
        let looks = matches!(verb, "get" | "list");
        assert_eq!(looks, route.method == Method::GET, "{} {}: {:?}", route.method, route.path, route.needs);
        assert!(!route.summary.is_empty() && !route.needs.sentence().is_empty());
        assert_eq!(route.path.contains("{id}"), matches!(route.needs, Needs::Update(_)), "{}", route.path);
        assert!(route.query.iter().any(|p| p.name == "namespace"), "{}", route.path);
    }
}

#[test]
fn every_order_needs_the_verb_that_the_admission_policy_asks_for() {
    use crate::api::Ratio;
    use crate::orders::{Hold, Order};
    let orders = [
        ("routing", Order::Routing(Hold(Some(Ratio::ALL_NEW)))),
        ("approve", Order::Approve(None)),
        ("pause", Order::Pause),
        ("resume", Order::Resume),
        ("complete", Order::Complete),
        ("rollback", Order::Rollback),
    ];
    for (name, order) in orders {
        let path = format!("/rolling-update/{{id}}/{name}");
        let route = table().iter().find(|r| r.path == path && r.method == Method::POST).unwrap();
        assert_eq!(route.needs, Needs::Update(order.verb()));
    }
}

#[test]
fn every_route_is_documented() {
    let document = openapi::document();
    for route in table() {
        let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
        assert_eq!(operation["description"], json!(route.needs.sentence()), "{} {}", route.method, route.path);
        assert_eq!(operation["security"] == json!([]), route.needs == Needs::Public);
        assert_eq!(operation["requestBody"].is_object(), route.handler.body.is_some());
    }
    let operations: usize = document["paths"].as_object().unwrap().values().map(|p| p.as_object().unwrap().len()).sum();
    assert_eq!(operations, table().len());
    let names = document["paths"].as_object().unwrap().values().flat_map(|p| p.as_object().unwrap().values());
    let names: BTreeSet<&str> = names.map(|o| o["operationId"].as_str().unwrap()).collect();
    assert_eq!(names.len(), table().len());
}

/// Every reference leads somewhere, and nothing of Kubernetes is needed to read it.
#[test]
fn the_document_stands_alone() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match value.as_str() {
                        Some(target) if key == "$ref" => found.push(target),
                        _ => references(value, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|v| references(v, found)),
            _ => {}
        }
    }
    let document = openapi::document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > table().len());
    for target in found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target}");
    }
    assert!(!openapi::text().contains("x-kubernetes"));
}

/// What would be told or done is never reached: the API server cannot even be asked who this is.
#[tokio::test]
async fn nobody_gets_in_unless_the_api_server_says_who_it_is() {
    for route in table() {
        let metrics = Metrics::default();
        let body = || if route.handler.needs_body { Body::from("{\"version\": 1}") } else { Body::empty() };
        for headers in [&[LOCAL, JSON] as Headers<'_>, &[LOCAL, JSON, (AUTHORIZATION, "Basic YTpi")]] {
            let (parts, said) = answer(api(true, &metrics), request(&route.method, &filled(route), headers, body())).await;
            if route.needs == Needs::Public {
                assert_eq!(parts.status, StatusCode::OK, "{}: {said}", route.path);
                continue;
            }
            assert_eq!(parts.status, StatusCode::UNAUTHORIZED, "{}: {said}", route.path);
            assert_eq!(parts.headers[WWW_AUTHENTICATE], "Bearer");
            assert!(said[route.group.error_key()].is_string(), "{said}");
        }
        let (parts, said) = answer(api(true, &metrics), request(&route.method, &filled(route), &[LOCAL, JSON, TOKEN], body())).await;
        let wanted = if route.needs == Needs::Public { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        assert_eq!(parts.status, wanted, "{}: {said}", route.path);
        assert_eq!(parts.headers.contains_key(RETRY_AFTER), wanted != StatusCode::OK);
        assert!(!said.to_string().contains("abc"), "{said}");
        // Three answers, each counted by the template of its route.
        let text = metrics.text(&SharedIndex::default());
        let counted = text.lines().filter(|l| l.starts_with("aether_rest_requests_total{"));
        let counted = counted.filter(|l| l.contains(&format!("route=\"{}\"", route.path)));
        let counted: u32 = counted.map(|l| l.rsplit(' ').next().unwrap().parse::<u32>().unwrap()).sum();
        assert_eq!(counted, 3, "{text}");
    }
}

#[tokio::test]
async fn with_ones_own_rights_it_is_the_api_server_that_answers_for_every_route() {
    for route in table().iter().filter(|r| r.needs != Needs::Public) {
        let body = match route.path {
            "/rolling-update/start" => r#"{"artifactBase": "org.example:my-slice", "version": "2.0.0"}"#,
            "/rolling" if route.method == Method::PATCH => r#"{"enabled": true}"#,
            "/rolling-update/{id}/routing" => r#"{"routing": "1:1"}"#,
            _ => "",
        };
        let (code, said) = own(route.method.clone(), &filled(route), &[LOCAL, JSON], body).await;
        let message = said[route.group.error_key()].as_str().unwrap();
        assert!(code == 503 && message.contains("the API server cannot be reached"), "{}: {code} {said}", route.path);
    }
}

#[rstest]
#[case::no_host(&[], 421)]
#[case::a_strange_host(&[(HOST, "evil.example")], 421)]
#[case::two_hosts(&[LOCAL, (HOST, "localhost")], 421)]
#[case::a_page(&[LOCAL, (ORIGIN, "http://localhost:8080")], 403)]
#[case::a_page_without_a_name(&[LOCAL, (ORIGIN, "null")], 403)]
#[case::a_page_that_says_so_elsewhere(&[LOCAL, (HeaderName::from_static("sec-fetch-site"), "cross-site")], 403)]
#[case::a_person(&[LOCAL, (HeaderName::from_static("sec-fetch-site"), "none")], 200)]
#[case::a_configured_name(&[(HOST, "aether.example.com")], 200)]
#[case::an_address(&[(HOST, "10.0.0.7:8080")], 200)]
#[tokio::test]
async fn only_under_its_names_and_not_for_web_pages(#[case] headers: Headers<'_>, #[case] wanted: u16) {
    assert_eq!(own(Method::GET, "/healthz", headers, "").await.0, wanted);
    // Before anything else is looked at, also where nothing is.
    let lost = if wanted == 200 { 404 } else { wanted };
    assert_eq!(own(Method::POST, "/nowhere", headers, "").await.0, lost);
}

#[tokio::test]
async fn a_request_line_with_another_host_is_turned_away_too() {
    assert_eq!(own(Method::GET, "http://evil.example/healthz", &[LOCAL], "").await.0, 421);
    assert_eq!(own(Method::GET, "http://localhost/healthz", &[LOCAL], "").await.0, 200);
}

#[tokio::test]
async fn what_is_not_there_says_so_in_json() {
    let (code, said) = own(Method::GET, "/rolling-update", &[LOCAL], "").await;
    assert!(code == 404 && said["error"].as_str().unwrap().contains("/openapi.json"), "{said}");
    let metrics = Metrics::default();
    let (parts, said) = answer(api(true, &metrics), request(&Method::PUT, "/rolling", &[LOCAL], Body::empty())).await;
    assert!(parts.status == 405 && said["error"].is_string(), "{said}");
    assert!(parts.headers[ALLOW].to_str().unwrap().contains("PATCH"), "{:?}", parts.headers);
    // Whatever strangers make up, there is one series.
    assert!(metrics.text(&SharedIndex::default()).contains("aether_rest_requests_total{route=\"other\",method=\"other\",code=\"405\"} 1"));
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_anybody_asks_who_sends_it() {
    let declared = format!("{}", 64 * 1024 + 1);
    let headers = [LOCAL, JSON, (CONTENT_LENGTH, declared.as_str())];
    let asked = request(&Method::POST, "/rolling-update/start", &headers, Body::empty());
    assert_eq!(answer(api(true, &Metrics::default()), asked).await.0.status, StatusCode::PAYLOAD_TOO_LARGE);
    // One that does not say how large it is, is read as far as is allowed.
    let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 4096]));
    let asked = request(&Method::POST, "/rolling-update/start", &[LOCAL, JSON], Body::from_stream(endless));
    assert_eq!(answer(api(false, &Metrics::default()), asked).await.0.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let asked = request(
        &Method::POST,
        "/rolling-update/start",
        &[LOCAL, JSON],
        Body::from_stream(futures::stream::pending::<Result<&str, std::io::Error>>()),
    );
    let began = std::time::Instant::now();
    let (parts, said) = answer(api(false, &Metrics::default()), asked).await;
    assert!(parts.status == StatusCode::REQUEST_TIMEOUT && began.elapsed() < Duration::from_secs(20), "{said} {:?}", began.elapsed());
}

#[rstest]
#[case(&[LOCAL], 415)]
#[case(&[LOCAL, (CONTENT_TYPE, "text/plain")], 415)]
#[case(&[LOCAL, (CONTENT_TYPE, "application/x-www-form-urlencoded")], 415)]
#[case(&[LOCAL, JSON], 503)]
#[case(&[LOCAL, (CONTENT_TYPE, "Application/JSON; charset=utf-8")], 503)]
#[tokio::test]
async fn a_body_says_that_it_is_json(#[case] headers: Headers<'_>, #[case] wanted: u16) {
    let (code, said) = own(Method::PATCH, "/rolling", headers, r#"{"enabled": true}"#).await;
    assert!(code == wanted && said["detail"].is_string(), "{code} {said}");
}

#[tokio::test]
async fn no_more_than_there_is_room_for() {
    let api = api(false, &Metrics::default());
    let never = || Body::from_stream(futures::stream::pending::<Result<&str, std::io::Error>>());
    let mut waiting = futures::stream::FuturesUnordered::new();
    for _ in 0..256 {
        waiting.push(api.clone().oneshot(request(&Method::PATCH, "/rolling", &[LOCAL, JSON], never())));
    }
    assert!(futures::poll!(futures::StreamExt::next(&mut waiting)).is_pending());
    let (parts, said) = answer(api.clone(), request(&Method::GET, "/healthz", &[LOCAL], Body::empty())).await;
    assert!(parts.status == StatusCode::SERVICE_UNAVAILABLE && parts.headers.contains_key(RETRY_AFTER), "{said}");
    drop(waiting);
    assert_eq!(answer(api, request(&Method::GET, "/healthz", &[LOCAL], Body::empty())).await.0.status, StatusCode::OK);
}

#[rstest]
#[case("/rolling-updates?namespace=../kube-system")]
#[case("/rolling-updates?namespace=")]
#[case("/rolling-updates?namespace=a&namespace=b")]
#[case("/rolling-updates?wait=1s")]
#[case("/rolling-updates?all=maybe")]
#[case("/?limit=0")]
#[case("/?limit=101")]
#[case("/?offset=-1")]
#[case("/random?limit=1")]
#[tokio::test]
async fn a_parameter_that_makes_no_sense_is_named(#[case] uri: &str) {
    let (code, said) = own(Method::GET, uri, &[LOCAL], "").await;
    insta::with_settings!({snapshot_suffix => uri.replace(|c: char| !c.is_ascii_alphanumeric(), "_"), description => uri}, {
        insta::assert_snapshot!(format!("{code} {said}"));
    });
}

#[rstest]
#[case("/destroy")]
#[case("/destroy?ip_address=localhost")]
#[case("/destroy?ip_address=192.0.2.1&force=true")]
#[tokio::test]
async fn destroying_needs_one_address(#[case] uri: &str) {
    let (code, said) = own(Method::DELETE, uri, &[LOCAL], "").await;
    insta::with_settings!({snapshot_suffix => uri.replace(|c: char| !c.is_ascii_alphanumeric(), "_"), description => uri}, {
        insta::assert_snapshot!(format!("{code} {said}"));
    });
}

#[test]
fn waiting_has_an_end() {
    let route = table().iter().find(|r| r.path == "/rolling-update/{id}/complete").unwrap();
    assert_eq!(Query::read(route.query, "wait=10m").unwrap().wait, Some(Duration::from_mins(10)));
    assert_eq!(Query::read(route.query, "wait=10m1s").unwrap_err().message, "wait: must be at most 10m; ask again for more");
    assert_eq!(Query::read(route.query, "wait=5").unwrap_err().message, "wait: \"5\" is no duration: write for example 30s, 5m or 1h30m");
    let start = table().iter().find(|r| r.path == "/rolling-update/start").unwrap();
    let query = Query::read(start.query, "dryRun&supersede=true").unwrap();
    assert!(query.dry_run && query.supersede);
    // What is spelled wrong must not be done in earnest.
    assert!(Query::read(start.query, "dryrun=true").unwrap_err().message.contains("this route knows namespace, wait, supersede, dryRun"));
}

#[test]
fn what_is_wrong_with_a_body_is_said_by_the_name_of_the_field() {
    fn start(text: &str) -> String {
        parse::<Start>(text.as_bytes()).unwrap_err().message
    }
    let good = r#"{"artifactBase": "org.example:my-slice", "version": "2.0.0""#;
    insta::assert_snapshot!(
        [
            start(""),
            start("{}"),
            start("{"),
            start("null"),
            start(r#"{"artifactBase": "org.example:my-slice"}"#),
            start(&format!("{good}, \"instances\": \"3\"}}")),
            start(&format!("{good}, \"maxLatencyMs\": 0.5}}")),
            start(&format!("{good}, \"cleanupPolicy\": \"NEVER\"}}")),
            start(&format!("{good}, \"replicas\": 3}}")),
            start(&format!("{good}, \"version\": \"2.0.1\"}}")),
            start(&format!("{good}}} x")),
            parse::<updates::Routing>(b"{\"ratio\": \"1:1\"}").err().unwrap().message,
            parse::<RollingPatch>(b"{\"batch_size\": -1.5}").unwrap_err().message,
            parse::<RollingPatch>(b"{\"min_available\": \"five\"}").unwrap_err().message,
            parse::<super::routes::Nothing>(b"{\"routing\": \"1:1\"}").err().unwrap().message,
        ]
        .join("\n")
    );
}

#[test]
fn makes_no_sense_is_said_with_the_code_of_each_guide() {
    assert_eq!((Group::Updates.invalid(), Group::Pools.invalid()), (StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY));
    assert_eq!((Group::Updates.error_key(), Group::Pools.error_key()), ("error", "detail"));
}
