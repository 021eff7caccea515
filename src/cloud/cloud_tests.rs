//! One table of clouds and one of answers: what holds for one JSON cloud is asked of all of them.

use std::fmt::Write as _;

use base64::Engine as _;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::kinds::{
    CLOUDS, DIGITALOCEAN, GCP, HETZNER, Labels, PASSWORD, TOKEN, UID, VULTR, flat_tags, kind, labels, map, marks, order, token,
};
use super::scripted::{Reply, Seen, Server, json_of};
use super::*;
use crate::cloud::digitalocean;
use crate::cloud::marks::POOL;

#[tokio::test]
async fn a_list_is_every_page_and_every_vm_of_the_pool() {
    for kind in CLOUDS {
        let unreadable = [(POOL.to_owned(), UID.to_owned()), ("aether-slot".into(), "three".into())];
        let strangers = [(POOL.to_owned(), "another".to_owned())];
        let first = (kind.page)(vec![kind.ours(1, kind.running), (kind.vm)(9, kind.running, &strangers)], 4, true);
        let second = (kind.page)(vec![(kind.vm)(3, kind.running, &unreadable), kind.ours(2, kind.starting)], 4, false);
        let server = Server::with([json_of(200, &first), json_of(200, &second)]).await;
        let found = kind.cloud(&server).list(UID).await.unwrap();
        let made = "2024-01-01T00:00:00Z".parse().unwrap();
        let third = Vm { marks: Marks::unreadable(UID, made), ..kind.read(3, Phase::Running) };
        assert_eq!(found, [kind.read(1, Phase::Running), third, kind.read(2, Phase::Starting)], "{}", kind.name);
        let seen = server.seen();
        assert_eq!(seen.len(), 2, "{}", kind.name);
        for request in &seen {
            assert_eq!(request.method, "GET");
            assert!(request.target.starts_with(kind.path) && request.target.contains(kind.queries[0]), "{request:?}");
            assert!(request.head.contains(&format!("authorization: bearer {TOKEN}")), "{request:?}");
        }
        assert!(!seen[0].target.contains(kind.queries[1]) && seen[1].target.contains(kind.queries[1]), "{seen:?}");
    }
}

#[tokio::test]
async fn half_a_list_is_no_list() {
    for kind in CLOUDS {
        let first = json_of(200, &(kind.page)(vec![kind.ours(1, kind.running)], 2, true));
        let without_id = (kind.page)(vec![json!({"status": "active", "tags": [], "labels": {}})], 1, false);
        for second in [json_of(500, &json!({})), json_of(200, &json!({})), json_of(200, &without_id), Reply::Lost, Reply::Cut] {
            let server = Server::with([first.clone(), second]).await;
            assert_eq!(kind.cloud(&server).list(UID).await.unwrap_err().class, Class::Transient, "{}", kind.name);
        }
        // One that points at itself ends.
        let server = Server::with(vec![first; 3]).await;
        assert_eq!(kind.cloud(&server).list(UID).await.unwrap_err().class, Class::Transient, "{}", kind.name);
    }
}

#[rstest]
#[case("digitalocean")]
#[case("hetzner")]
#[tokio::test]
async fn a_list_that_changed_while_it_was_read_is_no_list(#[case] name: &str) {
    let kind = kind(name);
    // One went from the first page in between, so one slipped from the second to the first.
    let first = json_of(200, &(kind.page)(vec![kind.ours(1, kind.running)], 4, true));
    let second = json_of(200, &(kind.page)(vec![kind.ours(3, kind.running)], 3, false));
    let server = Server::with([first, second]).await;
    assert_eq!(kind.cloud(&server).list(UID).await.unwrap_err().class, Class::Transient);
}

#[tokio::test]
async fn an_attempt_is_found_by_its_nonce() {
    for kind in CLOUDS {
        let page = (kind.page)(vec![kind.ours(2, kind.running), kind.ours(1, kind.running)], 2, false);
        let none = json_of(200, &(kind.page)(vec![], 0, false));
        let server = Server::with([json_of(200, &page), none.clone(), none]).await;
        let cloud = kind.cloud(&server);
        assert_eq!(cloud.find(&marks(1)).await.unwrap(), Some(kind.read(1, Phase::Running)), "{}", kind.name);
        assert_eq!(cloud.find(&marks(1)).await.unwrap(), None, "{}", kind.name);
        assert!(server.seen()[0].target.contains(kind.queries[2]), "{:?}", server.seen());
    }
}

#[tokio::test]
async fn an_order_says_all_there_is_to_say() {
    for kind in CLOUDS {
        let server = Server::with([json_of(202, &(kind.made)(kind.ours(1, kind.starting)))]).await;
        let made = kind.cloud(&server).create(&order()).await.unwrap();
        assert_eq!((made.id, made.marks, made.phase), ((kind.id)(1), marks(1), Phase::Starting), "{}", kind.name);
        let Seen { method, target, body, .. } = server.seen().remove(0);
        assert_eq!((&*method, target.split('?').next().unwrap()), ("POST", kind.path));
        assert_eq!(body["name"].as_str().or(body["label"].as_str()), Some("pool-6f0c3a52-1-2"));
        let (place, encoded) = kind.user_data;
        let script = body.pointer(place).unwrap().as_str().unwrap();
        let script = if encoded { base64::engine::general_purpose::STANDARD.decode(script).unwrap() } else { script.into() };
        assert_eq!(String::from_utf8(script).unwrap(), order().user_data, "{}", kind.name);
        let written = body.pointer(kind.mark).unwrap();
        let expected = if written.is_array() { json!(flat_tags(&labels(&marks(1)))) } else { map(&labels(&marks(1))) };
        assert_eq!(*written, expected, "{}", kind.name);
    }
}

#[tokio::test]
async fn an_order_whose_answer_is_lost_may_have_been_carried_out() {
    let refused = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    };
    for kind in CLOUDS {
        for reply in [Reply::Lost, Reply::Cut, json_of(202, &json!({})), json_of(503, &json!({})), Reply::Whole(202, "", "<html>".into())] {
            let server = Server::with([reply]).await;
            assert_eq!(kind.cloud(&server).create(&order()).await.unwrap_err().class, Class::Unknown, "{}", kind.name);
            assert_eq!(server.seen().len(), 1, "nothing is tried twice");
        }
        let cloud = (kind.make)(Some(&refused)).unwrap();
        assert_eq!(cloud.create(&order()).await.unwrap_err().class, Class::Transient, "{}", kind.name);
        assert_eq!(cloud.list(UID).await.unwrap_err().class, Class::Transient, "{}", kind.name);
    }
}

#[tokio::test]
async fn what_cannot_be_ordered_is_never_sent() {
    for kind in CLOUDS {
        let server = Server::with([]).await;
        let cloud = kind.cloud(&server);
        let upper = Order { marks: Marks { nonce: "UPPER".into(), ..marks(1) }, ..order() };
        let long = Order { user_data: "x".repeat(300 << 10), ..order() };
        for order in [upper, long] {
            assert_eq!(cloud.create(&order).await.unwrap_err().class, Class::Invalid, "{}", kind.name);
        }
        for id in ["", "?tag_name=x", "../1", "1/2", "1 2"] {
            assert_eq!(cloud.delete(id).await.unwrap_err().class, Class::Invalid, "{}", kind.name);
        }
        assert!(server.seen().is_empty());
        assert_eq!((kind.make)(Some("ftp://x")).err().unwrap().class, Class::Invalid);
    }
}

#[tokio::test]
async fn what_is_gone_is_deleted() {
    for kind in CLOUDS {
        let ok = Reply::Whole(if kind.name == "hetzner" { 200 } else { 204 }, "", String::new());
        let server = Server::with([ok, json_of(404, &json!({})), json_of(500, &json!({})), Reply::Lost]).await;
        let cloud = kind.cloud(&server);
        let id = (kind.id)(5);
        assert_eq!(cloud.delete(&id).await, Ok(()), "{}", kind.name);
        assert_eq!(cloud.delete(&id).await, Ok(()), "{}", kind.name);
        assert_eq!(cloud.delete(&id).await.unwrap_err().class, Class::Unknown, "{}", kind.name);
        assert_eq!(cloud.delete(&id).await.unwrap_err().class, Class::Unknown, "{}", kind.name);
        assert!(server.seen().iter().all(|s| s.method == "DELETE" && s.target == format!("{}/{id}", kind.path)), "{:?}", server.seen());
    }
}

#[rstest]
#[case("digitalocean", 401, r#"{"id":"unauthorized","message":"Unable to authenticate you"}"#, Class::Auth)]
#[case("digitalocean", 403, r#"{"id":"forbidden","message":"You do not have access for the attempted action."}"#, Class::Auth)]
#[case(
    "digitalocean",
    422,
    r#"{"id":"unprocessable_entity","message":"creating this/these droplet(s) will exceed your droplet limit"}"#,
    Class::Quota
)]
#[case("digitalocean", 422, r#"{"id":"unprocessable_entity","message":"Size is not available in this region."}"#, Class::Capacity)]
#[case("digitalocean", 422, r#"{"id":"unprocessable_entity","message":"Region is currently unavailable"}"#, Class::Capacity)]
#[case("digitalocean", 422, r#"{"id":"unprocessable_entity","message":"You specified an invalid image."}"#, Class::Invalid)]
#[case("digitalocean", 422, r#"{"id":"unprocessable_entity","message":"Droplet already has a pending event."}"#, Class::Transient)]
#[case("digitalocean", 429, r#"{"id":"too_many_requests","message":"API rate limit exceeded."}"#, Class::Throttled(None))]
#[case("hetzner", 401, r#"{"error":{"code":"unauthorized","message":"unable to authenticate"}}"#, Class::Auth)]
#[case("hetzner", 403, r#"{"error":{"code":"token_readonly","message":"token is only allowed to perform GET requests"}}"#, Class::Auth)]
#[case("hetzner", 403, r#"{"error":{"code":"resource_limit_exceeded","message":"server limit exceeded"}}"#, Class::Quota)]
#[case("hetzner", 412, r#"{"error":{"code":"resource_unavailable","message":"server type 45 unavailable in 'fsn1'"}}"#, Class::Capacity)]
#[case("hetzner", 412, r#"{"error":{"code":"placement_error","message":"error during placement"}}"#, Class::Capacity)]
#[case("hetzner", 409, r#"{"error":{"code":"conflict","message":"the resource was changed"}}"#, Class::Transient)]
#[case("hetzner", 423, r#"{"error":{"code":"locked","message":"server is locked"}}"#, Class::Transient)]
#[case(
    "hetzner",
    429,
    r#"{"error":{"code":"rate_limit_exceeded","message":"limit of 3600 requests per hour reached"}}"#,
    Class::Throttled(None)
)]
#[case("gcp", 401, r#"{"error":{"code":401,"message":"Invalid Credentials","errors":[{"reason":"authError"}]}}"#, Class::Auth)]
#[case("gcp", 403, r#"{"error":{"code":403,"message":"Required permission","errors":[{"reason":"forbidden"}]}}"#, Class::Auth)]
#[case("gcp", 403, r#"{"error":{"code":403,"message":"Rate","errors":[{"reason":"rateLimitExceeded"}]}}"#, Class::Throttled(None))]
#[case("gcp", 403, r#"{"error":{"code":403,"message":"Quota 'CPUS' exceeded.","errors":[{"reason":"quotaExceeded"}]}}"#, Class::Quota)]
#[case("gcp", 400, r#"{"error":{"code":400,"message":"not ready","errors":[{"reason":"resourceNotReady"}]}}"#, Class::Transient)]
#[case("gcp", 503, r#"{"error":{"code":503,"message":"Backend","errors":[{"reason":"backendError"}]}}"#, Class::Unknown)]
#[case("vultr", 401, r#"{"error":"Invalid API token.","status":401}"#, Class::Auth)]
#[case(
    "vultr",
    400,
    r#"{"error":"Server add failed: You have reached the maximum monthly fee limit for this account.","status":400}"#,
    Class::Quota
)]
#[case("vultr", 400, r#"{"error":"Plan is not available in the selected region.","status":400}"#, Class::Capacity)]
#[case("vultr", 400, r#"{"error":"Invalid plan.","status":400}"#, Class::Invalid)]
#[case("vultr", 429, r#"{"error":"Rate limit reached","status":429}"#, Class::Throttled(None))]
#[case("vultr", 503, "upstream", Class::Unknown)]
#[tokio::test]
async fn each_error_of_an_order_has_its_class(#[case] name: &str, #[case] status: u16, #[case] body: &str, #[case] class: Class) {
    let kind = kind(name);
    let server = Server::with([Reply::Whole(status, "", body.into())]).await;
    assert_eq!(kind.cloud(&server).create(&order()).await.unwrap_err().class, class);
}

#[tokio::test]
async fn a_locked_instance_is_deleted_later() {
    let body = r#"{"error":"Unable to destroy server: This server is currently locked","status":500}"#;
    let server = Server::with([Reply::Whole(500, "", body.into())]).await;
    assert_eq!(VULTR.cloud(&server).delete(&(VULTR.id)(1)).await.unwrap_err().class, Class::Transient);
}

#[tokio::test]
async fn a_name_that_is_taken_by_the_same_slot_is_its_vm() {
    let hetzners = json!({"error": {"code": "uniqueness_error", "message": "server name is already used"}});
    let googles = json!({"error": {"code": 409, "message": "already exists", "errors": [{"reason": "alreadyExists"}]}});
    for (kind, taken) in [(HETZNER, hetzners), (GCP, googles)] {
        let taken = json_of(409, &taken);
        let page = |labels: Labels<'_>| json_of(200, &(kind.page)(vec![(kind.vm)(1, kind.running, labels)], 1, false));
        let earlier = labels(&Marks { nonce: "earlier".into(), ..marks(1) });
        let strangers = [("team".to_owned(), "search".to_owned())];
        let server = Server::with([taken.clone(), page(&earlier), taken.clone(), page(&strangers), taken, Reply::Lost]).await;
        let cloud = kind.cloud(&server);
        let adopted = cloud.create(&order()).await.unwrap();
        assert_eq!((&*adopted.id, &*adopted.marks.nonce), ("1", "earlier"));
        let look = server.seen().remove(1).target;
        assert!(look.contains("name=pool-6f0c3a52-1-2") || look.contains("name%3Dpool-6f0c3a52-1-2"), "{look}");
        assert_eq!(cloud.create(&order()).await.unwrap_err().class, Class::Invalid);
        assert_eq!(cloud.create(&order()).await.unwrap_err().class, Class::Transient);
    }
}

fn operation(status: &str, code: Option<&str>) -> Value {
    let mut operation = json!({"kind": "compute#operation", "name": "op-1", "status": status, "targetId": "1"});
    if let Some(code) = code {
        operation["error"] = json!({"errors": [{"code": code, "message": format!("no {PASSWORD}")}]});
        operation["httpErrorStatusCode"] = json!(503);
    }
    operation
}

#[rstest]
#[case("ZONE_RESOURCE_POOL_EXHAUSTED", Class::Capacity)]
#[case("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", Class::Capacity)]
#[case("QUOTA_EXCEEDED", Class::Quota)]
#[case("INTERNAL_ERROR", Class::Transient)]
#[tokio::test]
async fn an_operations_error_comes_late(#[case] code: &str, #[case] class: Class) {
    let end = json_of(200, &operation("DONE", Some(code)));
    let none = json_of(200, &(GCP.page)(vec![], 0, false));
    let failed = json_of(200, &json!({"kind": "compute#operationList", "items": [operation("DONE", Some(code))]}));
    let server = Server::with([json_of(200, &operation("RUNNING", None)), end, none, failed]).await;
    let cloud = GCP.cloud(&server);
    // While it is waited for, or later, when the instance is looked for.
    let (at_once, late) = (cloud.create(&order()).await.unwrap_err(), cloud.find(&marks(1)).await.unwrap_err());
    assert_eq!((at_once.class, late.class), (class, class));
    assert!(!format!("{at_once:?}{late:?}").contains(PASSWORD));
    let seen = server.seen();
    assert_eq!((&*seen[1].method, &*seen[1].target), ("POST", "/base/projects/p/zones/z/operations/op-1/wait"));
    let (_, id) = seen[0].target.split_once("requestId=").unwrap();
    assert!(seen[3].target.contains(&format!("clientOperationId%3D{id}")), "{seen:?}");
}

#[tokio::test]
async fn an_order_that_is_taken_is_taken_whatever_becomes_of_the_waiting() {
    for reply in [Reply::Lost, json_of(500, &json!({})), json_of(200, &operation("RUNNING", None))] {
        let server = Server::with([json_of(200, &operation("PENDING", None)), reply]).await;
        assert_eq!(GCP.cloud(&server).create(&order()).await.unwrap().phase, Phase::Starting);
    }
}

#[tokio::test]
async fn the_same_attempt_is_the_same_request_and_another_is_another() {
    let done = json_of(200, &operation("DONE", None));
    let server = Server::with(vec![done; 3]).await;
    let cloud = GCP.cloud(&server);
    let another = Order { marks: Marks { nonce: "another".into(), ..marks(1) }, ..order() };
    for order in [order(), order(), another] {
        cloud.create(&order).await.unwrap();
    }
    let ids: Vec<_> = server.seen().into_iter().map(|seen| seen.target.split_once("requestId=").unwrap().1.to_owned()).collect();
    assert!(ids[0] == ids[1] && ids[0] != ids[2], "{ids:?}");
    let uuid = regex::Regex::new("^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$").unwrap();
    assert!(uuid.is_match(&ids[0]), "{ids:?}");
    assert_eq!(server.seen()[0].body["scheduling"]["provisioningModel"], "SPOT");
}

#[rstest]
#[case("digitalocean", "new", Phase::Starting)]
#[case("digitalocean", "active", Phase::Running)]
#[case("digitalocean", "off", Phase::Stopped)]
#[case("digitalocean", "archive", Phase::Stopped)]
#[case("hetzner", "initializing", Phase::Starting)]
#[case("hetzner", "starting", Phase::Starting)]
#[case("hetzner", "running", Phase::Running)]
#[case("hetzner", "migrating", Phase::Running)]
#[case("hetzner", "stopping", Phase::Stopped)]
#[case("hetzner", "off", Phase::Stopped)]
#[case("hetzner", "deleting", Phase::Deleting)]
#[case("hetzner", "unknown", Phase::Running)]
#[case("gcp", "STAGING", Phase::Starting)]
#[case("gcp", "RUNNING", Phase::Running)]
#[case("gcp", "REPAIRING", Phase::Running)]
#[case("gcp", "STOPPING", Phase::Stopped)]
#[case("gcp", "TERMINATED", Phase::Stopped)]
#[case("vultr", "pending", Phase::Starting)]
#[case("vultr", "active", Phase::Running)]
#[case("vultr", "suspended", Phase::Stopped)]
#[tokio::test]
async fn states_have_their_phases(#[case] name: &str, #[case] state: &str, #[case] phase: Phase) {
    let kind = kind(name);
    let mut vm = kind.ours(1, state);
    if state == "suspended" {
        vm["server_status"] = json!("ok");
    }
    let server = Server::with([json_of(200, &(kind.page)(vec![vm], 1, false))]).await;
    assert_eq!(kind.cloud(&server).list(UID).await.unwrap()[0].phase, phase);
}

#[rstest]
#[case("running", "ok", Phase::Running)]
#[case("running", "locked", Phase::Running)]
#[case("running", "installingbooting", Phase::Starting)]
#[case("running", "none", Phase::Starting)]
#[case("stopped", "ok", Phase::Stopped)]
#[tokio::test]
async fn an_active_instance_need_not_run(#[case] power: &str, #[case] state: &str, #[case] phase: Phase) {
    let mut vm = VULTR.ours(1, "active");
    vm["power_status"] = json!(power);
    vm["server_status"] = json!(state);
    vm["main_ip"] = json!("0.0.0.0");
    let server = Server::with([json_of(200, &(VULTR.page)(vec![vm], 1, false))]).await;
    let found = VULTR.cloud(&server).list(UID).await.unwrap().remove(0);
    assert_eq!((found.phase, found.address), (phase, None));
}

#[tokio::test]
async fn what_is_left_of_the_limit_is_told() {
    let kind = DIGITALOCEAN;
    let empty = (kind.page)(vec![], 0, false).to_string();
    let limits = "ratelimit-limit: 5000\r\nratelimit-remaining: 4816\r\nratelimit-reset: 1444931833\r\n";
    let server =
        Server::with([Reply::Whole(200, limits, empty), Reply::Whole(429, "retry-after: 5\r\nratelimit-remaining: 0\r\n", "{}".into())])
            .await;
    let cloud = kind.cloud(&server);
    cloud.list(UID).await.unwrap();
    assert_eq!(cloud.rate(), Rate { remaining: Some(4816), backoff_until: None });
    assert_eq!(cloud.list(UID).await.unwrap_err().class, Class::Throttled(Some(std::time::Duration::from_secs(5))));
    assert!(cloud.rate().backoff_until.is_some());
}

/// Whatever an answer repeats, and however a thing is printed.
#[tokio::test]
async fn no_secret_is_ever_shown() {
    for kind in CLOUDS {
        let order = order();
        let encoded = base64::engine::general_purpose::STANDARD.encode(&order.user_data);
        let said = format!("{TOKEN} {PASSWORD} {} {encoded}", order.user_data);
        let body = json!({"id": said, "message": said, "error": {"code": said, "message": said, "errors": [{"reason": said}]}});
        let vultrs = json!({"error": said});
        let mut shown = format!("{order:?}");
        for body in [body, vultrs] {
            for status in [400, 401, 429, 500] {
                let server = Server::with([json_of(status, &body), json_of(200, &body)]).await;
                let cloud = kind.cloud(&server);
                for _ in 0..2 {
                    let error = cloud.create(&order).await.unwrap_err();
                    write!(shown, "{error} {error:?}").unwrap();
                }
            }
        }
        let server = Server::with([json_of(202, &(kind.made)(kind.ours(1, kind.starting)))]).await;
        write!(shown, "{:?}", kind.cloud(&server).create(&order).await.unwrap()).unwrap();
        for secret in [TOKEN, PASSWORD, "echo 'Basic", &encoded[..20]] {
            assert!(!shown.contains(secret), "{}: {shown}", kind.name);
        }
    }
    let place = digitalocean::Place { region: "lon1".into(), size: "s".into(), image: "1".into() };
    let shown = format!("{:?}", digitalocean::DigitalOcean::new(http::client().unwrap(), None, token(), place).unwrap());
    assert!(!shown.contains(TOKEN) && shown.contains("lon1"), "{shown}");
}
