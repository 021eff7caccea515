use std::fmt::Write as _;

use rstest::rstest;
use tokio::net::TcpListener;

use super::*;
use crate::cloud::http;
use crate::cloud::kinds::{PASSWORD, TOKEN, UID, labels, marks, order};
use crate::cloud::scripted::{Reply, Seen, Server};

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";

async fn cloud(base: &str, market: Market) -> Aws {
    let keys = Keys { id: "AKIATEST".into(), secret: TOKEN.into(), session: None };
    let place = Place {
        region: "eu-central-1".into(),
        ami: "ami-0123456789abcdef0".into(),
        instance_type: "t3.micro".into(),
        subnet: None,
        security_groups: vec!["sg-1".into()],
        market,
    };
    Aws::new(http::client().unwrap(), Some(base), Some(keys), place).await.unwrap()
}

fn id(n: u32) -> String {
    format!("i-{n:017x}")
}

fn instance(n: u32, state: &str, tags: &[(String, String)], reason: &str) -> String {
    let mut items = String::new();
    for (key, value) in tags {
        write!(items, "<item><key>{key}</key><value>{value}</value></item>").unwrap();
    }
    format!(
        "<item><instanceId>{}</instanceId><instanceState><code>1</code><name>{state}</name></instanceState>\
         <launchTime>2024-01-01T00:00:00.000Z</launchTime><ipAddress>192.0.2.{n}</ipAddress><tagSet>{items}</tagSet>\
         <stateReason><code>{reason}</code><message>x</message></stateReason></item>",
        id(n)
    )
}

fn ours(n: u32, state: &str) -> String {
    instance(n, state, &labels(&marks(n)), "")
}

fn page(instances: &[String], next: &str) -> Reply {
    let mut sets = String::new();
    for instance in instances {
        write!(sets, "<item><reservationId>r-1</reservationId><instancesSet>{instance}</instancesSet></item>").unwrap();
    }
    let next = if next.is_empty() { String::new() } else { format!("<nextToken>{next}</nextToken>") };
    xml("DescribeInstancesResponse", &format!("<reservationSet>{sets}</reservationSet>{next}"))
}

fn xml(root: &str, inner: &str) -> Reply {
    let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><{root} xmlns=\"{NAMESPACE}\"><requestId>1</requestId>{inner}</{root}>");
    Reply::Whole(200, "content-type: text/xml;charset=UTF-8\r\n", body)
}

fn made(n: u32) -> Reply {
    xml("RunInstancesResponse", &format!("<reservationId>r-1</reservationId><instancesSet>{}</instancesSet>", ours(n, "pending")))
}

fn refused(status: u16, code: &str, message: &str) -> Reply {
    let error = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    Reply::Whole(status, "", format!("<Response><Errors>{error}</Errors><RequestID>1</RequestID></Response>"))
}

/// What was asked, as pairs of a form.
fn form(seen: &Seen) -> Vec<(String, String)> {
    let url = reqwest::Url::parse(&format!("http://x/?{}", seen.body.as_str().unwrap())).unwrap();
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

fn value(seen: &Seen, name: &str) -> String {
    form(seen).into_iter().find(|(key, _)| key == name).map(|(_, value)| value).unwrap_or_default()
}

fn read(n: u32, phase: Phase) -> Vm {
    Vm { id: id(n), marks: marks(n), phase, address: format!("192.0.2.{n}").parse().ok() }
}

#[tokio::test]
async fn a_list_is_every_page_and_every_instance_of_the_pool() {
    let unreadable = [(POOL.to_owned(), UID.to_owned()), ("aether-slot".into(), "three".into())];
    let strangers = [(POOL.to_owned(), "another".to_owned())];
    let first = page(&[ours(1, "running"), instance(9, "running", &strangers, "")], "more");
    let second = page(&[instance(3, "shutting-down", &unreadable, ""), ours(2, "pending"), ours(4, "stopped")], "");
    let server = Server::with([first, second]).await;
    let found = cloud(&server.base, Market::OnDemand).await.list(UID).await.unwrap();
    let third = Vm { marks: Marks::unreadable(UID, "2024-01-01T00:00:00Z".parse().unwrap()), ..read(3, Phase::Deleting) };
    assert_eq!(found, [read(1, Phase::Running), third, read(2, Phase::Starting), read(4, Phase::Stopped)]);
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    for request in &seen {
        assert!(request.head.contains("credential=akiatest/") && request.head.contains("/eu-central-1/ec2/"), "{request:?}");
        assert_eq!((value(request, "Filter.1.Name"), value(request, "Filter.1.Value.1")), ("tag:aether-pool".into(), UID.into()));
        assert!(!form(request).iter().any(|(_, value)| value == "terminated"), "{request:?}");
    }
    assert_eq!((value(&seen[0], "NextToken"), value(&seen[1], "NextToken")), (String::new(), "more".into()));
}

#[tokio::test]
async fn half_a_list_is_no_list() {
    let nameless = page(&["<item><tagSet/></item>".into()], "");
    for second in [refused(500, "InternalError", ""), nameless, Reply::Whole(200, "", "<html>".into()), Reply::Lost, Reply::Cut] {
        let server = Server::with([page(&[ours(1, "running")], "more"), second]).await;
        assert_eq!(cloud(&server.base, Market::OnDemand).await.list(UID).await.unwrap_err().class, Class::Transient);
    }
}

#[tokio::test]
async fn an_order_says_all_there_is_to_say() {
    let server = Server::with([made(1)]).await;
    let vm = cloud(&server.base, Market::OnDemand).await.create(&order()).await.unwrap();
    assert_eq!((vm.id, vm.marks, vm.phase), (id(1), marks(1), Phase::Starting));
    let seen = server.seen().remove(0);
    for (name, expected) in [
        ("Action", "RunInstances"),
        ("MinCount", "1"),
        ("MaxCount", "1"),
        ("ImageId", "ami-0123456789abcdef0"),
        ("InstanceType", "t3.micro"),
        ("SecurityGroupId.1", "sg-1"),
        ("MetadataOptions.HttpTokens", "required"),
        ("MetadataOptions.HttpPutResponseHopLimit", "1"),
        ("InstanceMarketOptions.MarketType", ""),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.1.Value", "pool-6f0c3a52-1-2"),
    ] {
        assert_eq!(value(&seen, name), expected, "{name}");
    }
    assert_eq!((value(&seen, "ClientToken"), value(&seen, "ClientToken").len()), (token(&marks(1), false), 62));
    assert_eq!(STANDARD.decode(value(&seen, "UserData")).unwrap(), order().user_data.into_bytes());
    for (mark, expected) in labels(&marks(1)) {
        let at = form(&seen).into_iter().find(|(_, value)| *value == mark).unwrap().0;
        assert_eq!(value(&seen, &at.replace("Key", "Value")), expected, "{mark}");
    }
}

#[tokio::test]
async fn a_subnet_gives_public_addresses() {
    let server = Server::with([made(1)]).await;
    let mut cloud = cloud(&server.base, Market::OnDemand).await;
    cloud.place.subnet = Some("subnet-1".into());
    cloud.create(&order()).await.unwrap();
    let seen = server.seen().remove(0);
    for (name, expected) in [("SubnetId", "subnet-1"), ("AssociatePublicIpAddress", "true"), ("SecurityGroupId.1", "sg-1")] {
        assert_eq!(value(&seen, &format!("NetworkInterface.1.{name}")), expected);
    }
    assert_eq!(value(&seen, "SecurityGroupId.1"), "");
}

#[tokio::test]
async fn an_order_whose_answer_is_lost_may_have_been_carried_out() {
    let refusing = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    };
    for reply in
        [Reply::Lost, Reply::Cut, xml("RunInstancesResponse", ""), refused(503, "Unavailable", ""), Reply::Whole(200, "", "{}".into())]
    {
        let server = Server::with([reply]).await;
        assert_eq!(cloud(&server.base, Market::Spot).await.create(&order()).await.unwrap_err().class, Class::Unknown);
        assert_eq!(server.seen().len(), 1, "nothing is tried twice");
    }
    let cloud = cloud(&refusing, Market::OnDemand).await;
    assert_eq!(cloud.create(&order()).await.unwrap_err().class, Class::Transient);
    assert_eq!(cloud.list(UID).await.unwrap_err().class, Class::Transient);
}

#[tokio::test]
async fn what_does_not_fit_is_never_sent() {
    let server = Server::with([]).await;
    let long = Order { user_data: "x".repeat(USER_DATA + 1), ..order() };
    let odd = Order { marks: Marks { nonce: "UPPER".into(), ..marks(1) }, ..order() };
    for order in [long, odd] {
        // The look for an earlier attempt finds nothing that it could.
        let error = cloud(&server.base, Market::OnDemand).await.run(&order, false).await.unwrap_err();
        assert_eq!(error.class, Class::Invalid);
    }
    assert!(server.seen().is_empty());
}

#[rstest]
#[case(Market::Spot)]
#[case(Market::SpotElseOnDemand)]
#[tokio::test]
async fn where_there_is_no_spot_capacity_it_may_be_on_demand(#[case] market: Market) {
    let look = (market == Market::SpotElseOnDemand).then(|| page(&[], ""));
    let server = Server::with(look.into_iter().chain([refused(500, "InsufficientInstanceCapacity", "none"), made(1)])).await;
    let done = cloud(&server.base, market).await.create(&order()).await;
    let seen: Vec<_> = server.seen().into_iter().filter(|seen| value(seen, "Action") == "RunInstances").collect();
    assert_eq!(seen.len(), if market == Market::Spot { 1 } else { 2 });
    assert_eq!(value(&seen[0], "InstanceMarketOptions.SpotOptions.SpotInstanceType"), "one-time");
    assert_eq!(value(&seen[0], "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior"), "terminate");
    match seen.get(1) {
        None => assert_eq!(done.unwrap_err().class, Class::Capacity),
        Some(second) => {
            assert_eq!((value(second, "InstanceMarketOptions.MarketType"), done.unwrap().id), (String::new(), id(1)));
            assert_ne!(value(&seen[0], "ClientToken"), value(second, "ClientToken"));
        }
    }
}

/// The reply of the second market was lost: the first one is not asked again.
#[tokio::test]
async fn an_attempt_that_came_to_the_second_market_is_found() {
    let server = Server::with([page(&[ours(1, "pending")], "")]).await;
    assert_eq!(cloud(&server.base, Market::SpotElseOnDemand).await.create(&order()).await.unwrap().id, id(1));
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn what_is_gone_already_is_no_vm() {
    let gone = format!("<reservationId>r-1</reservationId><instancesSet>{}</instancesSet>", ours(1, "terminated"));
    for reply in [xml("RunInstancesResponse", &gone), refused(400, "IdempotentInstanceTerminated", "")] {
        let server = Server::with([reply]).await;
        assert_eq!(cloud(&server.base, Market::Spot).await.create(&order()).await.unwrap_err().class, Class::Transient);
    }
}

#[tokio::test]
async fn a_token_that_is_used_leads_to_the_first_attempt() {
    for (there, found) in [(vec![ours(1, "running")], true), (vec![ours(2, "running")], false), (vec![], false)] {
        let server = Server::with([refused(400, "IdempotentParameterMismatch", ""), page(&there, "")]).await;
        let answer = cloud(&server.base, Market::OnDemand).await.create(&order()).await;
        assert_eq!(answer.map(|vm| vm.id).map_err(|e| e.class), if found { Ok(id(1)) } else { Err(Class::Invalid) });
    }
    let server = Server::with([refused(400, "IdempotentParameterMismatch", ""), Reply::Lost]).await;
    assert_eq!(cloud(&server.base, Market::OnDemand).await.create(&order()).await.unwrap_err().class, Class::Unknown);
}

#[rstest]
#[case("running", "", Ok(true))]
#[case("terminated", "Client.UserInitiatedShutdown", Ok(false))]
#[case("terminated", "Server.SpotInstanceTermination", Ok(false))]
#[case("terminated", "Server.InsufficientInstanceCapacity", Err(Class::Capacity))]
#[case("terminated", "Server.InternalError", Err(Class::Capacity))]
#[case("terminated", "Client.VolumeLimitExceeded", Err(Class::Quota))]
#[tokio::test]
async fn a_look_for_an_attempt_tells_what_became_of_it(#[case] state: &str, #[case] reason: &str, #[case] expected: Result<bool, Class>) {
    let server = Server::with([page(&[instance(1, state, &labels(&marks(1)), reason)], "")]).await;
    let found = cloud(&server.base, Market::OnDemand).await.find(&marks(1)).await;
    assert_eq!(found.map(|vm| vm.is_some()).map_err(|e| e.class), expected);
    assert_eq!(value(&server.seen()[0], "Filter.2.Value.1"), "n0nce1");
}

#[rstest]
#[case(503, "RequestLimitExceeded", Class::Throttled(None))]
#[case(400, "VcpuLimitExceeded", Class::Quota)]
#[case(400, "MaxSpotInstanceCountExceeded", Class::Quota)]
#[case(500, "InsufficientInstanceCapacity", Class::Capacity)]
#[case(401, "AuthFailure", Class::Auth)]
#[case(403, "UnauthorizedOperation", Class::Auth)]
#[case(400, "RequestExpired", Class::Auth)]
#[case(400, "InvalidAMIID.NotFound", Class::Invalid)]
#[case(500, "InternalError", Class::Unknown)]
#[tokio::test]
async fn a_refusal_says_what_follows(#[case] status: u16, #[case] code: &str, #[case] class: Class) {
    let script = order().user_data;
    let secret = format!("{PASSWORD} {TOKEN} {}", STANDARD.encode(&script));
    let server = Server::with([refused(status, code, &secret), page(&[], "")]).await;
    let error = cloud(&server.base, Market::OnDemand).await.create(&order()).await.unwrap_err();
    assert_eq!(error.class, class);
    assert!(error.message.starts_with(&format!("EC2 answered {status} {code}")), "{error}");
    for canary in [PASSWORD, TOKEN, &STANDARD.encode(&script)[..20]] {
        assert!(!error.message.contains(canary), "{error}");
    }
}

#[tokio::test]
async fn what_is_gone_is_deleted() {
    let gone = refused(400, "InvalidInstanceID.NotFound", "");
    let locked = refused(400, "OperationNotPermitted", "");
    let done = xml("TerminateInstancesResponse", "<instancesSet/>");
    let server = Server::with([done, gone, locked, Reply::Lost]).await;
    let cloud = cloud(&server.base, Market::OnDemand).await;
    for expected in [Ok(()), Ok(()), Err(Class::Transient), Err(Class::Unknown)] {
        assert_eq!(cloud.delete(&id(1)).await.map_err(|e| e.class), expected);
    }
    assert_eq!(value(&server.seen()[0], "InstanceId.1"), id(1));
}

#[test]
fn keys_are_not_shown() {
    let keys = Keys { id: "AKIATEST".into(), secret: TOKEN.into(), session: Some(TOKEN.into()) };
    assert!(!format!("{keys:?}").contains(TOKEN));
}
