//! The REST API of the operator itself, with a token: codes, bodies, and how long it takes.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use testbed::operator::Operator;
use testbed::pool_bed::PoolBed;
use tokio::time::Instant;

use crate::place::{Answer, Place, account, call};

/// Where the operator answers.
pub const PORT: u16 = 9081;
/// Whom tokens for it are made for.
pub const AUDIENCE: &str = "aether.dev";
/// Calls that are timed, one after the other.
const TIMED: usize = 100;

/// A token of that ServiceAccount for that audience.
pub async fn token(pools: &PoolBed, namespace: &str, name: &str, audience: &str) -> anyhow::Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(pools.bed.client(), namespace);
    let spec = TokenRequestSpec { audiences: vec![audience.to_owned()], ..TokenRequestSpec::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts.create_token_request(name, &PostParams::default(), &request).await?;
    Ok(answer.status.context("no token")?.token)
}

/// One call with a token; a body is JSON.
pub async fn ask(token: &str, method: &str, path: &str, body: &Value) -> anyhow::Result<Answer> {
    let authorization = format!("Bearer {token}");
    let mut headers = vec![("Authorization", &*authorization)];
    let text = if body.is_null() { String::new() } else { body.to_string() };
    if !text.is_empty() {
        headers.push(("Content-Type", "application/json"));
    }
    call(PORT, method, path, &headers, &text).await
}

async fn expect(token: &str, method: &str, path: &str, body: Value, code: u16, words: &str) -> anyhow::Result<Value> {
    let answer = ask(token, method, path, &body).await?;
    ensure!(answer.code == code, "{method} {path} {body}: {} instead of {code}: {}", answer.code, answer.body);
    ensure!(answer.body.contains(words), "{method} {path} {body}: {words:?} is not in {}", answer.body);
    answer.json()
}

pub async fn updates_over_rest(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let place = Place::serving(pools, "rest-updates", &["web"]).await?;
    place.adopt("web", json!({})).await?;
    let dev = token(pools, "rest-updates", "dev", AUDIENCE).await?;
    let path = |rest: &str| format!("{rest}{}namespace=rest-updates", if rest.contains('?') { '&' } else { '?' });
    let none = expect(&dev, "GET", &path("/rolling-updates"), Value::Null, 200, "").await?;
    ensure!(none == json!({"updates": []}), "{none}");
    expect(&dev, "GET", &path("/rolling-update/current"), Value::Null, 404, "error").await?;
    expect(&dev, "GET", &path("/rolling-update/nobody"), Value::Null, 404, "error").await?;
    let start = json!({"artifactBase": "org.example:web", "version": "2.0.0", "requireManualApproval": true});
    let started = expect(&dev, "POST", &path("/rolling-update/start?wait=60s"), start.clone(), 200, "DEPLOYED").await?;
    ensure!(started["updateId"] == "web" && started["oldVersion"] == "1.0.0", "{started:#}");
    let one = expect(&dev, "GET", &path("/rolling-update/current"), Value::Null, 200, "").await?;
    ensure!(one["updateId"] == "web", "{one}");
    let health = expect(&dev, "GET", &path("/rolling-update/web/health"), Value::Null, 200, "Unknown").await;
    let health = match health {
        Ok(health) => health,
        // Readiness alone decides here, and may have by now.
        Err(_) => expect(&dev, "GET", &path("/rolling-update/web/health"), Value::Null, 200, "verdict").await?,
    };
    ensure!(health["newVersion"]["requestCount"] == 0, "{health:#}");
    expect(&dev, "POST", &path("/rolling-update/web/complete"), Value::Null, 409, "1:0").await?;
    expect(&dev, "POST", &path("/rolling-update/web/routing"), json!({"routing": "0:0"}), 400, "new:old").await?;
    expect(&dev, "POST", &path("/rolling-update/web/routing"), json!({"ratio": "1:1"}), 400, "routing").await?;
    expect(&dev, "POST", &path("/rolling-update/web/routing"), json!(["1:1"]), 400, "object").await?;
    // Who may write the object may not thereby take the approval away, nor the name of who ordered.
    let bed = &pools.bed;
    let verbs = "--verb=get,list,watch,create,patch";
    bed.kubectl(&["-n", "rest-updates", "create", "role", "starter", verbs, "--resource=rollingupdates.aether.dev"]).await?;
    bed.kubectl(&["-n", "rest-updates", "create", "serviceaccount", "starter"]).await?;
    bed.kubectl(&["-n", "rest-updates", "create", "rolebinding", "starter", "--role=starter", "--serviceaccount=rest-updates:starter"])
        .await?;
    let newcomer = token(pools, "rest-updates", "starter", AUDIENCE).await?;
    let mut unapproved = start.clone();
    unapproved["requireManualApproval"] = json!(false);
    expect(&newcomer, "POST", &path("/rolling-update/start"), unapproved, 403, "approve").await?;
    expect(&newcomer, "POST", &path("/rolling-update/start"), start.clone(), 200, "").await?;
    expect(&dev, "POST", &path("/rolling-update/web/approve"), Value::Null, 403, "approve").await?;
    let half = expect(&dev, "POST", &path("/rolling-update/web/routing?wait=60s"), json!({"routing": "1:1"}), 200, "").await?;
    ensure!(half["routing"] == "1:1" && half["state"] == "ROUTING" && half["asked"]["routing"] == "1:1", "{half:#}");
    expect(&dev, "POST", &path("/rolling-update/web/pause"), Value::Null, 200, "\"paused\":true").await?;
    expect(&dev, "POST", &path("/rolling-update/web/resume"), Value::Null, 200, "\"paused\":false").await?;
    let update = place.update("web").await?;
    ensure!(update["metadata"]["annotations"]["aether.dev/ordered-by"] == "system:serviceaccount:rest-updates:dev", "{update:#}");
    let back = expect(&dev, "POST", &path("/rolling-update/web/rollback?wait=60s"), Value::Null, 200, "").await?;
    ensure!(back["state"] == "ROLLED_BACK", "{back:#}");
    let history = place.update("web").await?["status"]["history"].clone();
    ensure!(history.to_string().contains("rest-updates:dev"), "nobody is named: {history:#}");
    expect(&dev, "POST", &path("/rolling-update/web/rollback"), Value::Null, 409, "ROLLED_BACK").await?;
    // A start is a start, also of the same version once more, and for who may do nothing else.
    expect(&newcomer, "POST", &path("/rolling-update/start?dryRun=true"), start.clone(), 200, "PENDING").await?;
    let starting = bed.pki().token_kubeconfig("starter-rest-updates", &bed.service_account_token("rest-updates", "starter").await?)?;
    let line = "aether -n rest-updates update start org.example:web 2.0.0 --manual-approval --dry-run";
    crate::place::run(pools, &starting, "rest-updates", line).await?.succeeded()?;
    // Two at once come to one update.
    let again = || ask(&dev, "POST", "/rolling-update/start?namespace=rest-updates", &start);
    let (one, two) = tokio::try_join!(again(), again())?;
    ensure!(one.code == 200 && two.code == 200, "{one:?} {two:?}");
    ensure!(place.update("web").await?["spec"]["attempt"] == 2, "two starts at once made two attempts");
    expect(&dev, "POST", &path("/rolling-update/web/routing?wait=90s"), json!({"routing": "1:0"}), 200, "ROUTING").await?;
    let done = expect(&dev, "POST", &path("/rolling-update/web/complete?wait=90s"), Value::Null, 200, "").await?;
    ensure!(done["state"] == "COMPLETED", "{done:#}");
    place.close().await
}

pub async fn starts_that_are_refused(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let place = Place::serving(pools, "rest-starts", &["web"]).await?;
    let dev = token(pools, "rest-starts", "dev", AUDIENCE).await?;
    let path = "/rolling-update/start?namespace=rest-starts";
    let start = |change: Value| {
        let mut body = json!({"artifactBase": "org.example:web", "version": "2.0.0"});
        for (key, value) in change.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        body
    };
    for (body, code, words) in [
        (start(json!({"artifactBase": "web"})), 400, "artifactBase"),
        (start(json!({"artifactBase": "a:../../x"})), 400, "artifactBase"),
        (start(json!({"artifactBase": "org.example:nothing"})), 404, "nothing"),
        (start(json!({"version": "no spaces please"})), 400, "version"),
        (start(json!({"version": 2})), 400, "version"),
        (start(json!({"instances": 0})), 400, "instances"),
        (start(json!({"instances": "three"})), 400, "instances"),
        (start(json!({"maxErrorRate": 1.5})), 400, "maxErrorRate"),
        (start(json!({"maxLatencyMs": -1})), 400, "maxLatencyMs"),
        (start(json!({"cleanupPolicy": "LATER"})), 400, "cleanupPolicy"),
        (start(json!({"surprise": true})), 400, "surprise"),
        (json!({"version": "2.0.0"}), 400, "artifactBase"),
        (json!([]), 400, ""),
    ] {
        let answer = expect(&dev, "POST", path, body, code, words).await?;
        ensure!(answer["error"].is_string(), "{answer}");
    }
    let left = pools.bed.kubectl(&["-n", "rest-starts", "get", "rollingupdates", "-o", "name"]).await?;
    ensure!(left.trim().is_empty(), "something half-made is left: {left}");
    expect(&dev, "POST", path, start(json!({"requireManualApproval": true})), 200, "PENDING").await?;
    expect(&dev, "POST", path, start(json!({"version": "3.0.0"})), 409, "supersede").await?;
    expect(&dev, "POST", &format!("{path}&supersede=true"), start(json!({"version": "3.0.0"})), 200, "3.0.0").await?;
    place.close().await
}

pub async fn pools_over_rest(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let limit = crate::place::LIMIT;
    let namespace = testbed::pool_bed::NAMESPACE;
    let uid =
        pools.apply("rest", "hetzner", json!({"minScaling": 3, "rolling": {"enabled": true, "minAvailable": 1, "batchSize": 1}})).await?;
    let pool = pools.until_pool("rest", "healthy", limit, |p| p.pointer("/status/healthy") == Some(&json!(3))).await?;
    account(pools, namespace, "keeper", "admin").await?;
    let keeper = token(pools, namespace, "keeper", AUDIENCE).await?;
    let path = |rest: &str| format!("{rest}{}namespace={namespace}", if rest.contains('?') { '&' } else { '?' });
    let all = expect(&keeper, "GET", &path("/rolling/hetzner/rest"), Value::Null, 200, "request_id").await?;
    ensure!(all["status"]["hetzner/rest"]["healthy"] == 3, "{all:#}");
    let detail = expect(&keeper, "GET", &path("/rolling/nobody"), Value::Null, 404, "").await?;
    ensure!(detail == json!({"detail": "Provider 'nobody' not found"}), "{detail}");
    expect(&keeper, "GET", &path("/rolling/hetzner/other"), Value::Null, 404, "detail").await?;
    let page = expect(&keeper, "GET", &path("/?offset=0&limit=2"), Value::Null, 200, "").await?;
    ensure!(page["proxies"].as_array().is_some_and(|p| p.len() == 2), "{page:#}");
    let proxy = expect(&keeper, "GET", &path("/random"), Value::Null, 200, "").await?;
    ensure!(
        proxy["proxy"]["url"].as_str().is_some_and(|u| u.starts_with("http://")) && proxy["proxy"]["auth_enabled"] == true,
        "{proxy:#}"
    );
    expect(&keeper, "DELETE", &path("/destroy?ip_address=not-an-address"), Value::Null, 422, "detail").await?;
    expect(&keeper, "DELETE", &path("/destroy"), Value::Null, 422, "ip_address").await?;
    expect(&keeper, "DELETE", &path("/destroy?ip_address=203.0.113.7"), Value::Null, 404, "203.0.113.7").await?;
    let victim = pool.pointer("/status/healthy_ips/0").and_then(Value::as_str).context("no address")?.to_owned();
    account(pools, namespace, "watcher", "view").await?;
    let watcher = token(pools, namespace, "watcher", AUDIENCE).await?;
    expect(&watcher, "DELETE", &path(&format!("/destroy?ip_address={victim}")), Value::Null, 403, "destroy").await?;
    expect(&keeper, "DELETE", &path(&format!("/destroy?ip_address={victim}")), Value::Null, 200, &victim).await?;
    let replaced = |truth: &testbed::fake_cloud::Truth| truth.vms.iter().any(|vm| vm.address.to_string() == victim && vm.doomed.is_some());
    pools.until(&uid, "without the victim", limit, replaced).await?;
    expect(&keeper, "PATCH", &path("/rolling"), json!({"batch_size": 2}), 403, "configmaps").await?;
    Ok(())
}

/// A second operator, which does not lead, takes orders too; the leader follows them.
pub async fn followers_answer_as_well(pools: &Arc<PoolBed>) -> anyhow::Result<()> {
    let place = Place::serving(pools, "rest-follower", &["web"]).await?;
    place.adopt("web", json!({})).await?;
    let dev = token(pools, "rest-follower", "dev", AUDIENCE).await?;
    let environment = [("ROLLING_DEPLOYMENT", "True"), ("ROLLING_MIN_AVAILABLE", "3"), ("ROLLING_BATCH_SIZE", "2")];
    let mut follower = Operator::start_in(&pools.bed, "follower", 8082, crate::LEASE, &environment).await?;
    let authorization = format!("Bearer {dev}");
    let headers = [("Authorization", &*authorization), ("Content-Type", "application/json")];
    let body = json!({"artifactBase": "org.example:web", "version": "2.0.0", "requireManualApproval": true}).to_string();
    let answer = call(9082, "POST", "/rolling-update/start?namespace=rest-follower&wait=60s", &headers, &body).await?;
    ensure!(answer.code == 200 && answer.json()?["state"] == "DEPLOYED", "{answer:?}");
    // Whoever waits for what does not come is answered when the operator ends: what was ordered stands.
    call(9082, "POST", "/rolling-update/web/pause?namespace=rest-follower", &headers, "").await?;
    place.until("web", "paused", |u| u["spec"]["control"]["paused"] == true).await?;
    let body = json!({"routing": "1:1"}).to_string();
    let waiting = call(9082, "POST", "/rolling-update/web/routing?namespace=rest-follower&wait=5m", &headers, &body);
    let ending = async {
        place.until("web", "ordered", |u| u["spec"]["control"]["routing"] == "1:1").await?;
        follower.stop().await
    };
    let (answer, ()) = tokio::try_join!(waiting, ending)?;
    ensure!(answer.code == 200 && answer.json()?["asked"]["routing"] == "1:1", "{answer:?}");
    place.close().await
}

/// How long calls take, one after the other on a cluster that does nothing else: p50 and p99, as Markdown.
pub async fn latencies(pools: &Arc<PoolBed>) -> anyhow::Result<String> {
    let place = Place::serving(pools, "rest-timed", &["web"]).await?;
    place.adopt("web", json!({})).await?;
    let dev = token(pools, "rest-timed", "dev", AUDIENCE).await?;
    let path = |rest: &str| format!("{rest}?namespace=rest-timed");
    let start = json!({"artifactBase": "org.example:web", "version": "2.0.0", "requireManualApproval": true});
    expect(&dev, "POST", &format!("{}&wait=60s", path("/rolling-update/start")), start, 200, "DEPLOYED").await?;
    let mut rows = vec![format!("| call ({TIMED} times) | p50 ms | p99 ms |\n|---|---|---|")];
    for (method, route, bodies) in [
        ("GET", "/healthz", [Value::Null, Value::Null]),
        ("GET", "/rolling-updates", [Value::Null, Value::Null]),
        ("GET", "/rolling-update/web", [Value::Null, Value::Null]),
        ("GET", "/rolling-update/web/health", [Value::Null, Value::Null]),
        ("GET", "/rolling", [Value::Null, Value::Null]),
        // In turns, so that each is a write.
        ("POST", "/rolling-update/web/routing", [json!({"routing": "0:1"}), json!({"routing": "0:2"})]),
    ] {
        let mut took = Vec::new();
        for body in bodies.iter().cycle().take(TIMED) {
            let begun = Instant::now();
            let answer = ask(&dev, method, &path(route), body).await?;
            ensure!(answer.code == 200, "{answer:?}");
            took.push(begun.elapsed());
        }
        took.sort_unstable();
        let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)].as_secs_f64() * 1e3;
        rows.push(format!("| {method} {route} | {:.1} | {:.1} |", at(50), at(99)));
    }
    place.close().await?;
    Ok(rows.join("\n"))
}
