//! Amazon EC2's query API, as far as instances go: forms in, XML out.
//!
//! A `ClientToken` makes a repeated request safe. Signatures are not verified; the access key id names the account, and
//! the credential scope the region, of which only its own instances are shown.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::SecondsFormat;
use serde_json::{Value, json};

use super::desk::{Cloud, Desk};
use super::ec2_form::Form;
use super::ec2_xml;
use super::knobs::Refusal;
use super::vm::{End, Order, Phase, Vm};
use super::{Call, Dialect, Time, page};

pub(super) use ec2_xml::refuse;

const DIALECT: Dialect = Dialect::Ec2;
const PAGE: std::ops::RangeInclusive<usize> = 5..=1000;
const LONGEST_USER_DATA: usize = 16 * 1024;
const LONGEST_TOKEN: usize = 64;

pub(super) fn routes() -> Router<Cloud> {
    Router::new().route("/", post(query))
}

/// What an action does, for a region.
type Act = fn(&mut Desk, Form, &str) -> Result<Value, Refusal>;

async fn query(State(cloud): State<Cloud>, headers: HeaderMap, body: Bytes) -> Response {
    let form = Form::parse(&body);
    let region = region(&headers);
    let action = form.get("Action").unwrap_or_default().to_owned();
    let (call, act): (Call, Act) = match action.as_str() {
        "RunInstances" => (Call::Create, run),
        "DescribeInstances" => (Call::List, describe),
        "TerminateInstances" => (Call::Delete, terminate),
        // Whoever needs another one will see.
        _ => (Call::Get, |_, form, _| Err(Refusal::Invalid(format!("no action {}", form.get("Action").unwrap_or_default())))),
    };
    let act = |desk: &mut Desk| Ok(ec2_xml::answer(&format!("{action}Response"), &act(desk, form, &region)?));
    cloud.answer(DIALECT, call, &headers, None, act).await
}

/// `eu-west-1` of `Credential=KEY/20260101/eu-west-1/ec2/aws4_request`.
fn region(headers: &HeaderMap) -> String {
    let header = headers.get("authorization").and_then(|header| header.to_str().ok()).unwrap_or_default();
    let scope = header.split_once("Credential=").map(|(_, scope)| scope).unwrap_or_default();
    scope.split('/').nth(2).unwrap_or("us-east-1").to_owned()
}

fn run(desk: &mut Desk, mut form: Form, region: &str) -> Result<Value, Refusal> {
    let invalid = |why: &str| Refusal::Invalid(why.to_owned());
    let mut count = |name: &str| -> Result<usize, Refusal> {
        let count = form.take(name).and_then(|count| count.parse().ok()).filter(|count| (1..=1000).contains(count));
        count.ok_or_else(|| Refusal::Invalid(format!("{name} must be from 1 to 1000")))
    };
    let (least, most) = (count("MinCount")?, count("MaxCount")?);
    if least > most {
        return Err(invalid("MinCount is more than MaxCount"));
    }
    let user_data = form.take("UserData").unwrap_or_default();
    let user_data = BASE64.decode(user_data).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let user_data = user_data.ok_or_else(|| invalid("Invalid BASE64 encoding of user data."))?;
    if user_data.len() > LONGEST_USER_DATA {
        return Err(invalid("User data is limited to 16384 bytes"));
    }
    let token = form.take("ClientToken").filter(|token| !token.is_empty());
    if token.as_ref().is_some_and(|token| token.len() > LONGEST_TOKEN || !token.is_ascii()) {
        return Err(invalid("ClientToken has more than 64 characters, or others than ASCII"));
    }
    let tags = form.take_tags("instance")?;
    let template = Order {
        name: tags.get("Name").cloned().unwrap_or_default(),
        place: form.take("Placement.AvailabilityZone").unwrap_or_else(|| format!("{region}a")),
        kind: form.take("InstanceType").unwrap_or_else(|| "m1.small".to_owned()),
        image: form.take("ImageId").ok_or_else(|| invalid("The request must contain the parameter ImageId"))?,
        user_data,
        tags,
        network_tags: Vec::new(),
        spot: form.take("InstanceMarketOptions.MarketType").is_some_and(|market| market == "spot"),
        token,
        rest: form.rest(),
    };
    let ordered = |count| vec![template.clone(); count];
    let vms = match desk.create(ordered(most)) {
        // As many as can be had, but not fewer than wanted.
        Err(Refusal::Quota | Refusal::NoCapacity) if least < most => desk.create(ordered(least))?,
        done => done?,
    };
    let (account, now) = (desk.account, desk.now);
    Ok(reservation(account, &vms.iter().collect::<Vec<_>>(), now))
}

fn describe(desk: &mut Desk, mut form: Form, region: &str) -> Result<Value, Refusal> {
    let ids = form.take_list("InstanceId").iter().map(|id| number(id)).collect::<Result<Vec<_>, _>>()?;
    let size = form.take("MaxResults").map(|size| size.parse().ok().filter(|size| PAGE.contains(size)));
    let size = size.map(|size| size.ok_or_else(|| Refusal::Invalid("MaxResults must be from 5 to 1000".to_owned()))).transpose()?;
    let token = form.take("NextToken");
    if !ids.is_empty() && size.is_some() {
        return Err(Refusal::Invalid("The parameter instancesSet cannot be used with the parameter maxResults".to_owned()));
    }
    let filters = form.take_filters();
    if let Some(unknown) = form.rest().keys().next() {
        return Err(Refusal::Invalid(format!("UnknownParameter {unknown}")));
    }
    let (mut vms, as_of) = desk.list();
    vms.retain(|vm| vm.order.place.starts_with(region));
    if let Some(missing) = ids.iter().find(|id| !vms.iter().any(|vm| vm.id == **id)) {
        return Err(Refusal::NotFound(id(*missing)));
    }
    vms.retain(|vm| ids.is_empty() || ids.contains(&vm.id));
    for (name, patterns) in &filters {
        let mut found = Vec::new();
        for vm in vms {
            let values = filtered(vm, name, as_of)?;
            if values.iter().any(|value| patterns.iter().any(|pattern| matches(pattern, value))) {
                found.push(vm);
            }
        }
        vms = found;
    }
    // Without a size there are no pages.
    let cap = size.and(desk.state.knobs.page_size);
    let (vms, next) = page::after(vms, token.as_deref(), size.unwrap_or(usize::MAX), cap)?;
    let reservations: Vec<Value> = vms.into_iter().map(|vm| reservation(desk.account, &[vm], as_of)).collect();
    Ok(json!({"reservationSet": reservations, "nextToken": next}))
}

fn terminate(desk: &mut Desk, mut form: Form, region: &str) -> Result<Value, Refusal> {
    let ids = form.take_list("InstanceId").iter().map(|id| number(id)).collect::<Result<Vec<_>, _>>()?;
    if ids.is_empty() {
        return Err(Refusal::Invalid("The request must contain the parameter InstanceId".to_owned()));
    }
    let now = desk.now;
    let remembered = |vm: &&Vm| vm.gone().is_none_or(|gone| now < gone + DIALECT.remembers());
    let theirs = |vm: &&Vm| vm.dialect == DIALECT && vm.account == desk.account && vm.order.place.starts_with(region);
    let vms = ids.iter().map(|wanted| {
        let found = desk.state.vms().iter().find(|vm| vm.id == *wanted).filter(theirs).filter(remembered);
        found.cloned().ok_or_else(|| Refusal::NotFound(id(*wanted)))
    });
    let vms: Vec<Vm> = vms.collect::<Result<_, _>>()?;
    if vms.iter().any(|vm| vm.is_alive(now) && now < vm.unlocked) {
        return Err(Refusal::Locked);
    }
    let ended = vms.into_iter().map(|vm| {
        let after = if vm.is_alive(now) { desk.delete(vm.id, None)? } else { vm.clone() };
        Ok(json!({"instanceId": id(vm.id), "currentState": state(&after, now), "previousState": state(&vm, now)}))
    });
    Ok(json!({"instancesSet": ended.collect::<Result<Vec<_>, Refusal>>()?}))
}

fn id(number: u64) -> String {
    format!("i-{number:017x}")
}

fn number(id: &str) -> Result<u64, Refusal> {
    let hex = id.strip_prefix("i-").filter(|hex| matches!(hex.len(), 8 | 17));
    hex.and_then(|hex| u64::from_str_radix(hex, 16).ok()).ok_or_else(|| Refusal::Invalid(format!("Invalid id: \"{id}\"")))
}

/// What a filter of this name looks at.
fn filtered(vm: &Vm, name: &str, at: Time) -> Result<Vec<String>, Refusal> {
    if let Some(key) = name.strip_prefix("tag:") {
        return Ok(vm.order.tags.get(key).cloned().into_iter().collect());
    }
    Ok(match name {
        "tag-key" => vm.order.tags.keys().cloned().collect(),
        "instance-state-name" => vec![state_name(vm, at).1.to_owned()],
        "client-token" => vm.order.token.iter().cloned().collect(),
        "instance-id" => vec![id(vm.id)],
        "ip-address" => vm.told_address(at).map(|ip| ip.to_string()).into_iter().collect(),
        "image-id" => vec![vm.order.image.clone()],
        "instance-type" => vec![vm.order.kind.clone()],
        "availability-zone" => vec![vm.order.place.clone()],
        _ => return Err(Refusal::Invalid(format!("The filter '{name}' is invalid"))),
    })
}

/// `*` stands for any text, `?` for any character.
fn matches(pattern: &str, value: &str) -> bool {
    let mut rest = value.chars();
    match (pattern.chars().next(), pattern.char_indices().nth(1).map_or("", |(at, _)| pattern.get(at..).unwrap_or_default())) {
        (None, _) => value.is_empty(),
        (Some('*'), others) => {
            value.char_indices().map(|(at, _)| at).chain([value.len()]).any(|at| value.get(at..).is_some_and(|tail| matches(others, tail)))
        }
        (Some('?'), others) => rest.next().is_some() && matches(others, rest.as_str()),
        (Some(c), others) => rest.next() == Some(c) && matches(others, rest.as_str()),
    }
}

fn state_name(vm: &Vm, at: Time) -> (u16, &'static str) {
    match vm.phase(at) {
        Phase::Starting => (0, "pending"),
        Phase::Running => (16, "running"),
        Phase::Deleting => (32, "shutting-down"),
        Phase::Gone => (48, "terminated"),
        Phase::Stopped => (80, "stopped"),
    }
}

fn state(vm: &Vm, at: Time) -> Value {
    let (code, name) = state_name(vm, at);
    json!({"code": code, "name": name})
}

fn reservation(account: &str, vms: &[&Vm], at: Time) -> Value {
    let first = vms.first().map_or(0, |vm| vm.id);
    json!({
        "reservationId": format!("r-{first:017x}"),
        "ownerId": account,
        "groupSet": [],
        "instancesSet": vms.iter().map(|vm| instance(vm, at)).collect::<Vec<_>>(),
    })
}

fn instance(vm: &Vm, at: Time) -> Value {
    let reason = match vm.ends.as_ref().filter(|_| vm.phase(at) == Phase::Gone) {
        Some((_, End::Deleted)) => Some(("Client.UserInitiatedShutdown", "User initiated shutdown".to_owned())),
        Some((_, End::Vanished)) if vm.order.spot => Some(("Server.SpotInstanceTermination", "Spot instance termination".to_owned())),
        Some((_, End::Vanished)) => Some(("Server.InternalError", "Internal error".to_owned())),
        Some((_, End::Failed(Refusal::NoCapacity))) => {
            Some(("Server.InsufficientInstanceCapacity", "Insufficient capacity to launch".to_owned()))
        }
        Some((_, End::Failed(_))) => Some(("Server.InternalError", "Internal error on launch".to_owned())),
        None => None,
    };
    let ip = vm.told_address(at).filter(|_| !vm.phase(at).is_over());
    json!({
        "instanceId": id(vm.id),
        "imageId": vm.order.image,
        "instanceState": state(vm, at),
        "instanceType": vm.order.kind,
        "launchTime": vm.born.to_rfc3339_opts(SecondsFormat::Millis, true),
        "placement": {"availabilityZone": vm.order.place, "tenancy": "default"},
        "monitoring": {"state": "disabled"},
        "ipAddress": ip,
        "clientToken": vm.order.token,
        "instanceLifecycle": vm.order.spot.then_some("spot"),
        "stateReason": reason.map(|(code, message)| json!({"code": code, "message": message})),
        "architecture": "x86_64",
        "amiLaunchIndex": 0,
        "tagSet": vm.order.tags.iter().map(|(key, value)| json!({"key": key, "value": value})).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_a_whole() {
        for (pattern, value) in [("a", "a"), ("*", ""), ("*", "abc"), ("a*c", "abbc"), ("a?c", "abc"), ("*b*", "abc"), ("", "")] {
            assert!(matches(pattern, value), "{pattern} {value}");
        }
        for (pattern, value) in [("a", "ab"), ("a?", "a"), ("*b", "abc"), ("", "a"), ("a", "")] {
            assert!(!matches(pattern, value), "{pattern} {value}");
        }
    }

    #[test]
    fn ids_are_read_as_they_are_written() {
        assert_eq!(number(&id(4711)), Ok(4711));
        assert!(number("i-xyz").is_err() && number("4711").is_err());
    }
}
