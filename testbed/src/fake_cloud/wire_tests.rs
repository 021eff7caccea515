//! Knobs and faults over the wire, byte by byte: what clients that are not ours do not show.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// `None`: the connection ended without a word.
async fn send(cloud: &FakeCloud, request: &str, headers: &str, body: &str) -> Option<Reply> {
    let mut stream = TcpStream::connect(cloud.address).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nhost: fake\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    stream.write_all((head + body).as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some(Reply { status, head: head.to_lowercase(), body: body.to_owned() })
}

const EC2: &str = "Version=2016-11-15";

/// A request of a kind in a dialect, with this credential.
async fn ask(cloud: &FakeCloud, dialect: Dialect, call: Call, credential: &str) -> Option<Reply> {
    let bearer = format!("authorization: Bearer {credential}\r\n");
    let sigv4 = format!("authorization: AWS4-HMAC-SHA256 Credential={credential}/20260101/eu-west-1/ec2/aws4_request, Signature=0\r\n");
    let post = |path: &str| format!("POST {path}");
    let (request, headers, body) = match (dialect, call) {
        (Dialect::DigitalOcean, Call::Create) => (post("/v2/droplets"), bearer, json!({"name": "x", "size": "s", "image": 1}).to_string()),
        (Dialect::DigitalOcean, _) => ("GET /v2/droplets".to_owned(), bearer, String::new()),
        (Dialect::Hetzner, Call::Create) => (post("/v1/servers"), bearer, json!({"name": "x", "server_type": "s", "image": 1}).to_string()),
        (Dialect::Hetzner, _) => ("GET /v1/servers".to_owned(), bearer, String::new()),
        (Dialect::Vultr, Call::Create) => (post("/v2/instances"), bearer, json!({"region": "r", "plan": "p", "os_id": 1}).to_string()),
        (Dialect::Vultr, _) => ("GET /v2/instances".to_owned(), bearer, String::new()),
        (Dialect::Gce, Call::Create) => {
            let body = json!({"name": "x", "machineType": "m", "disks": [{"initializeParams": {"sourceImage": "i"}}]});
            (post("/compute/v1/projects/p/zones/z/instances"), bearer, body.to_string())
        }
        (Dialect::Gce, _) => ("GET /compute/v1/projects/p/zones/z/instances".to_owned(), bearer, String::new()),
        (Dialect::Ec2, Call::Create) => (post("/"), sigv4, format!("Action=RunInstances&{EC2}&ImageId=i&MinCount=1&MaxCount=1")),
        (Dialect::Ec2, _) => (post("/"), sigv4, format!("Action=DescribeInstances&{EC2}")),
    };
    send(cloud, &request, &headers, &body).await
}

async fn status(cloud: &FakeCloud, dialect: Dialect, call: Call) -> Option<u16> {
    ask(cloud, dialect, call, "test").await.map(|reply| reply.status)
}

async fn control(cloud: &FakeCloud, request: &str, body: &Value) -> Reply {
    send(cloud, request, "content-type: application/json\r\n", &body.to_string()).await.unwrap()
}

/// A cloud whose time stands still.
async fn still() -> FakeCloud {
    let cloud = FakeCloud::start(Settings::default()).await.unwrap();
    cloud.set_clock(Clock::Stop);
    cloud
}

async fn with_machines(knobs: Knobs) -> (FakeCloud, UnboundedReceiver<Change>) {
    let (machines, told) = unbounded_channel();
    let addresses = vec![IpAddr::from(Ipv4Addr::new(127, 0, 0, 9))];
    let cloud = FakeCloud::start(Settings { machines: Some(machines), addresses, knobs, ..Settings::default() }).await.unwrap();
    (cloud, told)
}

#[tokio::test]
async fn a_lost_reply_is_no_reply_to_what_was_done() {
    for dialect in Dialect::ALL {
        let cloud = still().await;
        cloud.add_fault(Fault::always(Effect::LoseReply).on(Call::Create).times(1));
        assert_eq!(status(&cloud, dialect, Call::Create).await, None, "{dialect}");
        assert_eq!(cloud.truth().vms.len(), 1, "{dialect}");
        assert_eq!(status(&cloud, dialect, Call::List).await, Some(200), "{dialect}");
    }
}

#[tokio::test]
async fn a_lost_request_is_not_done() {
    for dialect in Dialect::ALL {
        let cloud = still().await;
        cloud.add_fault(Fault::always(Effect::LoseRequest).of(dialect).times(1));
        assert_eq!(status(&cloud, dialect, Call::Create).await, None, "{dialect}");
        assert!(cloud.truth().vms.is_empty(), "{dialect}");
        assert_eq!(cloud.truth().called(Call::Create), 1, "but asked for");
    }
}

#[tokio::test]
async fn a_delayed_reply_is_late_to_what_was_done() {
    let cloud = std::sync::Arc::new(still().await);
    cloud.add_fault(Fault::always(Effect::Delay(Duration::from_hours(1))));
    let asking = tokio::spawn({
        let cloud = cloud.clone();
        async move { status(&cloud, Dialect::Vultr, Call::Create).await }
    });
    while cloud.truth().vms.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!asking.is_finished());
    asking.abort();
}

#[tokio::test]
async fn each_cloud_throttles_in_its_own_way() {
    let limit = Limit { requests: 1, per: Duration::from_mins(1), shape: Shape::Sliding, call: None };
    for (dialect, refused, words) in [
        (Dialect::DigitalOcean, 429, "too_many_requests"),
        (Dialect::Hetzner, 429, "rate_limit_exceeded"),
        (Dialect::Vultr, 429, "Rate limit exceeded"),
        (Dialect::Gce, 403, "rateLimitExceeded"),
        (Dialect::Ec2, 503, "<Code>RequestLimitExceeded</Code>"),
    ] {
        let cloud = still().await;
        cloud.set(|knobs| knobs.limits = Some(vec![limit]));
        let (first, second) =
            (ask(&cloud, dialect, Call::List, "test").await.unwrap(), ask(&cloud, dialect, Call::List, "test").await.unwrap());
        assert_eq!((first.status, second.status), (200, refused), "{dialect}");
        assert!(second.body.contains(words), "{dialect}: {}", second.body);
        let reset = (cloud.now() + limit.per).timestamp().to_string();
        let told = matches!(dialect, Dialect::DigitalOcean | Dialect::Hetzner);
        assert_eq!(first.header("ratelimit-remaining"), told.then_some("0"), "{dialect}");
        assert_eq!(second.header("ratelimit-reset"), told.then_some(reset.as_str()), "{dialect}");
        assert_eq!(second.header("retry-after"), None, "{dialect}");
        cloud.set_clock(Clock::Advance(limit.per));
        assert_eq!(status(&cloud, dialect, Call::List).await, Some(200), "{dialect}");
    }
}

#[tokio::test]
async fn a_burst_is_told_how_long_to_wait() {
    let cloud = still().await;
    cloud.add_fault(Fault::always(Effect::Refuse(Refusal::Throttled(7))).times(2));
    let reply = ask(&cloud, Dialect::DigitalOcean, Call::List, "test").await.unwrap();
    assert_eq!((reply.status, reply.header("retry-after"), reply.header("ratelimit-remaining")), (429, Some("7"), Some("4999")));
    let reply = ask(&cloud, Dialect::Hetzner, Call::List, "test").await.unwrap();
    let until = (cloud.now() + Duration::from_secs(7)).timestamp().to_string();
    assert_eq!((reply.header("ratelimit-remaining"), reply.header("ratelimit-reset")), (Some("0"), Some(until.as_str())));
}

#[tokio::test]
async fn a_single_list_may_be_stale() {
    let cloud = still().await;
    assert_eq!(status(&cloud, Dialect::Hetzner, Call::Create).await, Some(201));
    cloud.add_fault(Fault::always(Effect::Stale(Duration::from_secs(1))).on(Call::List).times(1));
    for expected in [0, 1] {
        let list = ask(&cloud, Dialect::Hetzner, Call::List, "test").await.unwrap().json();
        assert_eq!(list["servers"].as_array().unwrap().len(), expected);
    }
}

#[tokio::test]
async fn nobody_gets_in_without_a_known_credential() {
    let cloud = still().await;
    for dialect in Dialect::ALL {
        let reply = ask(&cloud, dialect, Call::List, "stranger").await.unwrap();
        assert_eq!(reply.status, 401, "{dialect}");
        assert!(!reply.body.contains("stranger"), "{dialect}");
    }
    assert_eq!(send(&cloud, "GET /v1/servers", "", "").await.unwrap().status, 401);
}

#[tokio::test]
async fn accounts_are_told_apart_by_their_credentials() {
    let accounts = ["one", "two"].map(|name| (format!("key-{name}"), name.to_owned())).into();
    let cloud = FakeCloud::start(Settings { accounts, ..Settings::default() }).await.unwrap();
    for dialect in [Dialect::DigitalOcean, Dialect::Hetzner, Dialect::Vultr, Dialect::Ec2] {
        for key in ["key-one", "key-two"] {
            assert!(ask(&cloud, dialect, Call::Create, key).await.unwrap().status < 300, "{dialect}");
        }
    }
    for account in ["one", "two"] {
        assert_eq!(cloud.truth().only(|vm| vm.account == account).vms.len(), 4);
    }
}

#[tokio::test]
async fn machines_are_told_of_by_the_cloud_s_clock() {
    let (cloud, mut told) = with_machines(Knobs { boots_after: Duration::from_hours(1), ..Knobs::default() }).await;
    cloud.set_clock(Clock::Stop);
    assert_eq!(status(&cloud, Dialect::DigitalOcean, Call::Create).await, Some(202));
    assert!(told.try_recv().is_err());
    cloud.set_clock(Clock::Advance(Duration::from_hours(1)));
    let Some(Change::Booted(vm)) = told.recv().await else { panic!("it did not boot") };
    assert_eq!((vm.id, vm.address.to_string()), (1, "127.0.0.9".to_owned()));
    cloud.kill(1, Death::Vanishes).unwrap();
    assert!(matches!(told.recv().await, Some(Change::Died(vm)) if vm.id == 1));
    assert!(cloud.kill(1, Death::Vanishes).is_err());
    assert_eq!(status(&cloud, Dialect::DigitalOcean, Call::Create).await, Some(202), "its address is free again");
}

#[tokio::test]
async fn machines_are_told_of_though_nobody_asks() {
    let knobs = Knobs { boots_after: Duration::from_millis(30), lifetime: Duration::from_millis(30), ..Knobs::default() };
    let (cloud, mut told) = with_machines(knobs).await;
    assert_eq!(status(&cloud, Dialect::Vultr, Call::Create).await, Some(202));
    assert!(matches!(told.recv().await, Some(Change::Booted(_))));
    assert!(matches!(told.recv().await, Some(Change::Died(_))));
}

#[tokio::test]
async fn everything_can_be_set_over_http() {
    let cloud = still().await;
    assert_eq!(control(&cloud, "PATCH /control/knobs", &json!({"boots_after": 5})).await.status, 200);
    assert_eq!(control(&cloud, "PATCH /control/knobs", &json!({"quota": 2})).await.json()["boots_after"], json!(5.0));
    assert_eq!(control(&cloud, "PATCH /control/knobs", &json!({"colour": "red"})).await.status, 422);
    let fault = json!({"effect": {"refuse": {"throttled": 3}}, "dialect": "hetzner", "call": "create", "after": 1, "times": 1});
    assert_eq!(control(&cloud, "POST /control/faults", &fault).await.status, 204);
    assert_eq!(control(&cloud, "GET /control/faults", &json!(null)).await.json()[0]["effect"], fault["effect"]);
    assert_eq!(status(&cloud, Dialect::Hetzner, Call::Create).await, Some(201));
    assert_eq!(status(&cloud, Dialect::Hetzner, Call::Create).await, Some(429));
    control(&cloud, "POST /control/faults", &json!({"effect": "lose_reply"})).await;
    assert_eq!(control(&cloud, "DELETE /control/faults", &json!(null)).await.status, 204);
    assert_eq!(status(&cloud, Dialect::Hetzner, Call::List).await, Some(200));
    let before = cloud.now();
    assert_eq!(control(&cloud, "POST /control/clock", &json!({"advance": 6})).await.json()["now"], json!(before + Duration::from_secs(6)));
    assert_eq!(control(&cloud, "POST /control/vms/1/death", &json!("stops")).await.status, 204);
    assert_eq!(control(&cloud, "POST /control/vms/7/death", &json!("stops")).await.status, 404);
    let truth = control(&cloud, "GET /truth?by=name", &json!(null)).await.json();
    assert_eq!((&truth["alive"], &truth["lowest"]["serving"], &truth["vms"][0]["name"]), (&json!(1), &json!(0), &json!("x")));
    assert!(truth["calls"].as_array().unwrap().contains(&json!({"dialect": "hetzner", "call": "create", "times": 2})), "{truth}");
}

#[tokio::test]
async fn service_accounts_get_a_token_that_is_good() {
    let cloud = still().await;
    let token = send(&cloud, "POST /token", "", "").await.unwrap().json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(ask(&cloud, Dialect::Gce, Call::Create, &token).await.unwrap().status, 200);
    assert_eq!(cloud.truth().vms[0].account, "p");
}
