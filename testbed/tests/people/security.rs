//! Who may call what: every route of the operator's own table, for every kind of caller; and what means harm.

use std::fmt::Write as _;
use std::sync::{Arc, LazyLock};

use aether_operator::rest::routes::{self, Needs, Route};
use anyhow::ensure;
use serde_json::json;
use testbed::pool_bed::{LOGIN, OTHER, PoolBed, SECRET_KEY, TOKEN};
use tokio::sync::Mutex;

use crate::answers::{AUDIENCE, PORT, token};
use crate::place::{Answer, Place, account, call, raw};

/// Secrets that the operator knows: in no answer and no log.
pub const CANARIES: [&str; 4] = [TOKEN, OTHER[1], SECRET_KEY, LOGIN[1]];
const NAMESPACE: &str = "sec";

static TABLE: LazyLock<Mutex<Vec<String>>> = LazyLock::new(<_>::default);

/// A caller: what is sent as Authorization, and whether that is somebody.
struct Caller {
    name: &'static str,
    authorization: Option<String>,
    may: fn(&Needs) -> May,
}

#[derive(Clone, Copy, PartialEq)]
enum May {
    Unknown,
    No,
    Yes,
}

fn nobody(_: &Needs) -> May {
    May::Unknown
}

fn stranger(_: &Needs) -> May {
    May::No
}

fn viewer(needs: &Needs) -> May {
    match needs.access() {
        Some((_, "configmaps")) => May::No,
        // Who may list pools may know that nobody has an address; what happens to one that somebody has is tested with the pools.
        Some(("get" | "list" | "destroy", _)) => May::Yes,
        _ => May::No,
    }
}

fn editor(needs: &Needs) -> May {
    match needs.access() {
        Some((_, "configmaps") | ("approve", _)) => May::No,
        _ => May::Yes,
    }
}

fn admin(needs: &Needs) -> May {
    if matches!(needs.access(), Some((_, "configmaps"))) { May::No } else { May::Yes }
}

fn everything(_: &Needs) -> May {
    May::Yes
}

/// A request that would change nothing even where it is allowed.
fn request(route: &Route) -> (String, String) {
    let path = route.path.replace("{id}", "web").replace("{provider}", "nobody").replace("{instance}", "nothing");
    let query = if path == "/destroy" { "ip_address=203.0.113.9&" } else { "" };
    let body = match route.path {
        "/rolling-update/start" => json!({"artifactBase": "org.example:nothing", "version": "2.0.0"}).to_string(),
        "/rolling-update/{id}/routing" => json!({"routing": "1:1"}).to_string(),
        "/rolling" if route.method == "PATCH" => json!({"batch_size": 0}).to_string(),
        _ => String::new(),
    };
    (format!("{path}?{query}namespace={NAMESPACE}"), body)
}

async fn send(route: &Route, authorization: Option<&str>) -> anyhow::Result<Answer> {
    let (path, body) = request(route);
    let mut headers = Vec::new();
    if !body.is_empty() {
        headers.push(("Content-Type", "application/json"));
    }
    headers.extend(authorization.map(|a| ("Authorization", a)));
    call(PORT, route.method.as_str(), &path, &headers, &body).await
}

pub async fn every_route_for_every_identity(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let place = Place::serving(pools, NAMESPACE, &["web"]).await?;
    place.adopt("web", json!({})).await?;
    let other = Place::empty(pools, "sec-other").await?;
    account(pools, NAMESPACE, "viewer", "view").await?;
    account(pools, NAMESPACE, "boss", "admin").await?;
    pools.bed.kubectl(&["create", "serviceaccount", "root", "-n", NAMESPACE]).await?;
    let root = format!("--serviceaccount={NAMESPACE}:root");
    pools.bed.kubectl(&["create", "clusterrolebinding", "sec-root", "--clusterrole=cluster-admin", &root]).await?;
    let bearer = |token: String| Some(format!("Bearer {token}"));
    let of = async |namespace: &str, name: &str| anyhow::Ok(bearer(token(pools, namespace, name, AUDIENCE).await?));
    let callers = [
        Caller { name: "no token", authorization: None, may: nobody },
        Caller { name: "malformed", authorization: Some("Bearer nothing".into()), may: nobody },
        // Good for the API server, and made for it alone.
        Caller { name: "wrong audience", authorization: bearer(pools.bed.service_account_token(NAMESPACE, "boss").await?), may: nobody },
        Caller { name: "viewer", authorization: of(NAMESPACE, "viewer").await?, may: viewer },
        Caller { name: "editor elsewhere", authorization: of("sec-other", "dev").await?, may: stranger },
        Caller { name: "editor", authorization: of(NAMESPACE, "dev").await?, may: editor },
        Caller { name: "admin", authorization: of(NAMESPACE, "boss").await?, may: admin },
        Caller { name: "cluster admin", authorization: of(NAMESPACE, "root").await?, may: everything },
    ];
    let before = place.update("web").await?["metadata"]["generation"].clone();
    let mut wrong = Vec::new();
    for route in routes::table() {
        let mut row = format!("| {} {} |", route.method, route.path);
        for caller in &callers {
            let answer = send(route, caller.authorization.as_deref()).await?;
            let _ = write!(row, " {} |", answer.code);
            let may = if route.needs == Needs::Public { May::Yes } else { (caller.may)(&route.needs) };
            let is_right = match may {
                May::Unknown => answer.code == 401 && answer.head.to_ascii_lowercase().contains("www-authenticate: bearer"),
                May::No => answer.code == 403,
                May::Yes => answer.code < 500 && answer.code != 401 && answer.code != 403,
            };
            if !is_right {
                wrong.push(format!("{} for {}: {} {}", row, caller.name, answer.code, answer.body));
            }
            if CANARIES.iter().chain(caller.authorization.as_deref().as_ref()).any(|secret| answer.body.contains(*secret)) {
                wrong.push(format!("{row} for {}: a secret in {}", caller.name, answer.body));
            }
            if answer.code >= 400 && answer.json()?.get(route.group.error_key()).is_none_or(|e| !e.is_string()) {
                wrong.push(format!("{row} for {}: no sentence in {}", caller.name, answer.body));
            }
        }
        TABLE.lock().await.push(row);
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(routes::table().len() >= 19, "only {} routes", routes::table().len());
    ensure!(place.update("web").await?["metadata"]["generation"] == before, "one of these calls changed something");
    other.close().await?;
    place.close().await
}

/// What was answered, as Markdown.
pub async fn table() -> String {
    let head = "| route | no token | malformed | wrong audience | viewer | editor elsewhere | editor | admin | cluster admin |\n|---|---|---|---|---|---|---|---|---|";
    format!("{head}\n{}", TABLE.lock().await.join("\n"))
}

pub async fn bodies_hosts_and_ids_that_mean_harm(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let place = Place::empty(pools, "sec-harm").await?;
    let dev = format!("Bearer {}", token(pools, "sec-harm", "dev", AUDIENCE).await?);
    let start = "/rolling-update/start?namespace=sec-harm";
    let list = "/rolling-updates?namespace=sec-harm";
    let expect = |what: &str, answer: &Answer, codes: &[u16]| {
        ensure!(codes.contains(&answer.code), "{what}: {} {}", answer.code, answer.body);
        ensure!(!CANARIES.iter().any(|secret| answer.body.contains(secret)), "{what}: a secret in {}", answer.body);
        ensure!(!answer.body.contains("panicked") && !answer.body.contains(".rs:"), "{what}: internals in {}", answer.body);
        Ok(())
    };
    for authorization in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer  ",
        "Basic dXNlcjpwYXNz",
        "Bearer a b",
        "Token x",
        "Bearer \u{e9}",
        &format!("Bearer {}", "x".repeat(6000)),
    ] {
        for (method, path) in [("GET", list), ("POST", start), ("POST", "/rolling-update/web/rollback?namespace=sec-harm")] {
            let answer = call(PORT, method, path, &[("Authorization", authorization), ("Content-Type", "application/json")], "").await?;
            expect(&format!("{authorization:.20}"), &answer, &[400, 401])?;
        }
    }
    let twice = call(PORT, "GET", list, &[("Authorization", &dev), ("Authorization", "Bearer nothing")], "").await?;
    expect("two tokens", &twice, &[400, 401])?;
    let as_dev = ("Authorization", &*dev);
    let json = ("Content-Type", "application/json");
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:9081", ""] {
        expect(host, &call(PORT, "GET", list, &[as_dev, ("Host", host)], "").await?, &[400, 403, 421])?;
    }
    for host in ["localhost:9081", "127.0.0.1", "[::1]:9081", "aether-operator.aether-system.svc"] {
        expect(host, &call(PORT, "GET", list, &[as_dev, ("Host", host)], "").await?, &[200])?;
    }
    expect("a web page", &call(PORT, "POST", start, &[as_dev, json, ("Origin", "https://evil.example")], "{}").await?, &[403])?;
    expect("a form", &call(PORT, "POST", start, &[as_dev, ("Content-Type", "text/plain")], "{}").await?, &[415])?;

    let memory = pools.operator.lock().await.memory_mib()?.0;
    // Too large before anybody asks who it is.
    expect("a large body", &call(PORT, "POST", start, &[json], &"x".repeat(1 << 20)).await?, &[413])?;
    let promised = format!(
        "POST {start} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\nConnection: close\r\n\r\n"
    );
    expect("a promised one", &raw(PORT, promised.as_bytes()).await?, &[413])?;
    let chunks = format!(
        "POST {start} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {dev}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{}0\r\n\r\n",
        format!("10000\r\n{}\r\n", "x".repeat(65536)).repeat(64)
    );
    expect("chunks", &raw(PORT, chunks.as_bytes()).await?, &[400, 413])?;
    // Who does not end is not waited for.
    let half = format!(
        "POST {start} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {dev}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    );
    expect("half a body", &raw(PORT, half.as_bytes()).await?, &[408])?;
    let slow = raw(PORT, format!("GET {list} HTTP/1.1\r\nHost: local").as_bytes()).await;
    ensure!(slow.as_ref().map_or_else(|e| !e.to_string().contains("in time"), |a| a.code == 408), "half a head: {slow:?}");

    for body in [
        "[".repeat(20_000),
        "{\"artifactBase\":".repeat(2000),
        "{\"artifactBase\": \"a:b\", \"version\": 1e999}".into(),
        "{\"artifactBase\": \"a:b\", \"version\": \"1\", \"version\": \"2\"}".into(),
        "\u{0}".into(),
        "null".into(),
        "{\"artifactBase\": \"a:b\", \"version\": \"1\", \"instances\": 99999999999999999999}".into(),
    ] {
        let answer = call(PORT, "POST", start, &[as_dev, json], &body).await?;
        expect(&format!("{body:.40}"), &answer, &[400])?;
    }
    let long = "x".repeat(4000);
    for id in ["..%2f..%2fapi", "%00", "WEB", "%e2%98%83", "web%0d%0aX-Injected:1", "-", "a%20b", &long] {
        for (method, rest) in [("GET", ""), ("GET", "/health"), ("POST", "/rollback")] {
            let answer = call(PORT, method, &format!("/rolling-update/{id}{rest}?namespace=sec-harm"), &[as_dev], "").await?;
            expect(&format!("{id:.30}{rest}"), &answer, &[400, 403, 404, 414])?;
            ensure!(!answer.head.to_ascii_lowercase().contains("x-injected"), "{}", answer.head);
        }
    }
    for namespace in ["../kube-system", "%2e%2e", "A", "", &long] {
        let answer = call(PORT, "GET", &format!("/rolling-updates?namespace={namespace}"), &[as_dev], "").await?;
        expect(&format!("namespace {namespace:.20}"), &answer, &[400, 403, 404])?;
    }
    let after = pools.operator.lock().await.memory_mib()?.0;
    ensure!(after < memory + 64, "memory went from {memory} to {after} MiB");
    expect("afterwards", &call(PORT, "GET", list, &[as_dev], "").await?, &[200])?;
    place.close().await
}
