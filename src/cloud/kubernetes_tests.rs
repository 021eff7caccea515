use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::cloud::scripted::{Reply, Server, json_of};

const UID: &str = "6f0c3a52-7a54-4d33-9a3e-2f8b1c0d9e11";
const PASSWORD: &str = "canary-password-5up3r";
const PODS: &str = "/base/api/v1/namespaces/ns/pods";
const SECRETS: &str = "/base/api/v1/namespaces/ns/secrets";

fn client(server: &Server) -> Client {
    // Of the library's own TLS nothing is used here, but it wants to know a provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = kube::Config::new(server.base.parse().unwrap());
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

fn cloud(server: &Server) -> Kubernetes {
    let client = client(server);
    let place = Place { namespace: "ns".into(), image: "tinyproxy:1".into(), resources: None, port: 8899, owner: None };
    Kubernetes::new(&client, place)
}

fn marks_of(slot: u32) -> Marks {
    let born = chrono::DateTime::from_timestamp_millis(1_700_000_000_123).unwrap();
    Marks { pool: UID.into(), slot, epoch: 2, nonce: format!("n0nce{slot}"), template: "ab12".into(), born }
}

fn order() -> Order {
    Order { name: "pool-1-2".into(), marks: marks_of(1), user_data: format!("echo {PASSWORD}\n") }
}

fn pod(marks: &Marks, phase: &str) -> Value {
    let labels: serde_json::Map<_, _> = marks::write(marks).unwrap().into_iter().map(|(mark, value)| (mark.into(), json!(value))).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "pool-1-2", "uid": "u1", "labels": labels, "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"containers": []}, "status": {"phase": phase, "podIP": "10.1.2.3"}
    })
}

fn list(pods: &[Value], more: Option<&str>) -> Reply {
    json_of(200, &json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"continue": more}, "items": pods}))
}

fn failure(code: u16, reason: &str, message: &str) -> Reply {
    json_of(code, &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}))
}

fn secret(pool: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pool-1-2", "resourceVersion": "7", "labels": {POOL: pool}}})
}

#[tokio::test]
async fn a_list_is_every_page() {
    let mut unreadable = pod(&marks_of(3), "Running");
    unreadable["metadata"]["labels"]["aether-slot"] = json!("three");
    let server = Server::with([
        list(&[pod(&marks_of(1), "Running")], Some("more=")),
        list(&[unreadable, pod(&Marks { pool: "another".into(), ..marks_of(1) }, "Running")], None),
    ])
    .await;
    let found = cloud(&server).list(UID).await.unwrap();
    assert_eq!(found.len(), 2);
    let expected = Vm { id: "pool-1-2/u1".into(), marks: marks_of(1), phase: Phase::Running, address: "10.1.2.3".parse().ok() };
    assert_eq!(found[0], expected);
    assert_eq!(found[1].marks, Marks::unreadable(UID, "2024-01-01T00:00:00Z".parse().unwrap()));
    let seen = server.seen();
    assert!(seen[0].target.starts_with(PODS) && seen[0].target.contains(UID), "{seen:?}");
    assert!(seen[1].target.contains("continue=more"), "{seen:?}");
}

#[tokio::test]
async fn half_a_list_is_no_list() {
    let first = list(&[pod(&marks_of(1), "Running")], Some("more="));
    for second in [failure(410, "Expired", "too old"), failure(500, "InternalError", "x"), json_of(200, &json!({})), Reply::Lost] {
        let server = Server::with([first.clone(), second]).await;
        assert!(cloud(&server).list(UID).await.is_err());
    }
}

#[rstest]
#[case("Pending", false, Phase::Starting)]
#[case("Running", false, Phase::Running)]
#[case("Failed", false, Phase::Stopped)]
#[case("Succeeded", false, Phase::Stopped)]
#[case("Unknown", false, Phase::Running)]
#[case("Running", true, Phase::Deleting)]
fn phases(#[case] word: &str, #[case] going: bool, #[case] phase: Phase) {
    let mut pod = pod(&marks_of(1), word);
    if going {
        pod["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:01Z");
    }
    assert_eq!(vm(UID, &serde_json::from_value(pod).unwrap()).unwrap().phase, phase);
}

#[tokio::test]
async fn the_script_is_there_before_the_pod_and_not_in_it() {
    let server = Server::with([json_of(201, &secret(UID)), json_of(201, &pod(&marks_of(1), "Pending"))]).await;
    let made = cloud(&server).create(&order()).await.unwrap();
    assert_eq!((&*made.id, made.phase, made.marks), ("pool-1-2/u1", Phase::Starting, marks_of(1)));
    let seen = server.seen();
    assert!(seen[0].target.starts_with(SECRETS) && seen[1].target.starts_with(PODS), "{seen:?}");
    assert_eq!(seen[0].body["data"]["run"], "ZWNobyBjYW5hcnktcGFzc3dvcmQtNXVwM3IK");
    assert_eq!(seen[1].body["spec"]["volumes"][0]["secret"]["secretName"], "pool-1-2");
    assert_eq!(seen[1].body["metadata"]["labels"]["aether-nonce"], "n0nce1");
    assert_eq!(seen[1].body["spec"]["automountServiceAccountToken"], false);
    assert!(!seen[1].body.to_string().contains(PASSWORD));
    // From then on it goes with the pod.
    let of_the_pod = json!([{"apiVersion": "v1", "kind": "Pod", "name": "pool-1-2", "uid": "u1"}]);
    assert_eq!((&*seen[2].method, &seen[2].body["metadata"]["ownerReferences"]), ("PATCH", &of_the_pod));
    assert!(seen[2].target.starts_with(&format!("{SECRETS}/pool-1-2")), "{seen:?}");
}

/// Whatever the pool's pods were made for, those that are to stay do not go with it, nor do their scripts.
#[tokio::test]
async fn pods_that_are_let_go_of_belong_to_nobody() {
    let owner = |uid: &str| json!({"apiVersion": "aether.dev/v1alpha1", "kind": "ProxyPool", "name": "p", "uid": uid});
    let mut with = pod(&marks_of(1), "Running");
    with["metadata"]["ownerReferences"] = json!([owner(UID), owner("another")]);
    let patched = json_of(200, &json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "pool-1-2"}}));
    let server = Server::with([list(&[pod(&marks_of(2), "Running"), with.clone()], None), patched.clone(), patched.clone()]).await;
    let client = client(&server);
    let_go(&client, "ns", UID).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.len(), 3, "one has no owner and is left alone: {seen:?}");
    assert!(seen[0].target.contains(UID) && seen[1].target.starts_with(&format!("{SECRETS}/pool-1-2")), "{seen:?}");
    assert_eq!(seen[1].body["metadata"]["ownerReferences"][0]["uid"], "u1");
    assert!(seen[2].target.starts_with(&format!("{PODS}/pool-1-2")), "{seen:?}");
    assert_eq!(seen[2].body["metadata"], json!({"uid": "u1", "ownerReferences": [owner("another")]}));

    // Gone in the meantime: nothing is left to do. Refused: the pool must not go.
    let gone = failure(404, "NotFound", "gone");
    let server = Server::with([list(&[with.clone()], None), gone.clone(), gone]).await;
    let_go(&self::client(&server), "ns", UID).await.unwrap();
    for refused in [failure(403, "Forbidden", "may not"), Reply::Lost] {
        let server = Server::with([list(&[with.clone()], None), patched.clone(), refused]).await;
        assert!(let_go(&self::client(&server), "ns", UID).await.is_err());
    }
}

#[tokio::test]
async fn what_an_attempt_left_behind_is_taken_over() {
    let exists = failure(409, "AlreadyExists", "exists");
    let earlier = pod(&Marks { nonce: "earlier".into(), ..marks_of(1) }, "Running");
    let replies = [
        exists.clone(),
        json_of(200, &secret(UID)),
        json_of(200, &secret(UID)),
        exists.clone(),
        list(std::slice::from_ref(&earlier), None),
    ];
    let server = Server::with(replies).await;
    assert_eq!(cloud(&server).create(&order()).await.unwrap().marks.nonce, "earlier");
    let seen = server.seen();
    assert_eq!((&*seen[2].method, &seen[2].body["metadata"]["resourceVersion"]), ("PATCH", &json!("7")));
    assert!(seen[4].target.contains("fieldSelector=metadata.name%3Dpool-1-2"), "{:?}", seen[4]);

    let server = Server::with([exists.clone(), json_of(200, &secret("another"))]).await;
    assert_eq!(cloud(&server).create(&order()).await.unwrap_err().class, Class::Invalid);

    let mut going = earlier;
    going["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:01Z");
    let server = Server::with([json_of(201, &secret(UID)), exists.clone(), list(&[going], None)]).await;
    assert_eq!(cloud(&server).create(&order()).await.unwrap_err().class, Class::Transient);
    let strangers = pod(&Marks { pool: "another".into(), ..marks_of(1) }, "Running");
    let server = Server::with([json_of(201, &secret(UID)), exists.clone(), list(&[strangers], None)]).await;
    assert_eq!(cloud(&server).create(&order()).await.unwrap_err().class, Class::Invalid);
    let server = Server::with([json_of(201, &secret(UID)), exists, list(&[], None)]).await;
    assert_eq!(cloud(&server).create(&order()).await.unwrap_err().class, Class::Transient);
}

#[rstest]
#[case(failure(403, "Forbidden", "exceeded quota: pods"), Class::Quota)]
#[case(failure(403, "Forbidden", "may not"), Class::Auth)]
#[case(failure(401, "Unauthorized", "no"), Class::Auth)]
#[case(failure(422, "Invalid", PASSWORD), Class::Invalid)]
#[case(failure(500, "InternalError", "x"), Class::Unknown)]
#[case(Reply::Lost, Class::Unknown)]
#[tokio::test]
async fn each_error_of_an_order_has_its_class(#[case] reply: Reply, #[case] class: Class) {
    let server = Server::with([json_of(201, &secret(UID)), reply]).await;
    let error = cloud(&server).create(&order()).await.unwrap_err();
    assert_eq!(error.class, class);
    assert!(!format!("{error:?}").contains(PASSWORD));
}

#[tokio::test]
async fn without_a_script_no_pod_is_asked_for() {
    let server = Server::with([Reply::Lost]).await;
    assert_eq!(cloud(&server).create(&order()).await.unwrap_err().class, Class::Transient);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn deletes_name_and_uid_and_then_the_script() {
    let ok = json_of(200, &json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}));
    let server = Server::with([ok.clone(), ok]).await;
    assert_eq!(cloud(&server).delete("pool-1-2/u1").await, Ok(()));
    let seen = server.seen();
    assert_eq!(seen[0].body["preconditions"]["uid"], "u1");
    assert!(seen[1].target.starts_with(&format!("{SECRETS}/pool-1-2")), "{seen:?}");

    let gone = failure(404, "NotFound", "gone");
    let server = Server::with([gone.clone(), gone]).await;
    assert_eq!(cloud(&server).delete("pool-1-2/u1").await, Ok(()));
    // Another pod of that name keeps its script.
    let server = Server::with([failure(409, "Conflict", "the UID is another")]).await;
    assert_eq!(cloud(&server).delete("pool-1-2/u1").await, Ok(()));
    assert_eq!(server.seen().len(), 1);
    for id in ["", "name", "/u1", "name/"] {
        assert_eq!(cloud(&server).delete(id).await.unwrap_err().class, Class::Invalid);
    }
}
