//! One plan at a time: what a pool of three is told to do, case by case.

use aether_operator::api::proxy_pool::{DeletionPolicy, Op, ProxyPoolSpec, Step};
use aether_operator::api::{ProxyPoolStatus, Time, names};
use aether_operator::cloud::{Capabilities, Class, Error, Marks, Phase, Rate, Vm};
use aether_operator::cluster::facts::Meta;
use aether_operator::pool::model::{Deed, Health, Listed, Memory, Observation, Plan, Requests, listens_at, template};
use aether_operator::pool::plan::plan;
use aether_operator::pool::wish::{Defaults, Wish};
use rstest::rstest;
use serde_json::{Value, json};

pub fn now() -> Time {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

/// A VM that is that many minutes old.
fn vm(slot: u32, epoch: u32, minutes: i64) -> Vm {
    let born = now() - chrono::TimeDelta::minutes(minutes);
    let marks = Marks { pool: "uid".into(), slot, epoch, nonce: format!("n{epoch}"), template: "t".into(), born };
    let address = format!("10.0.{slot}.{epoch}").parse().ok();
    Vm { id: format!("vm-{slot}-{epoch}"), marks, phase: Phase::Running, address }
}

/// Three healthy young proxies, with that change of the spec.
pub fn pool(change: &Value) -> Observation {
    let mut spec = json!({
        "minScaling": 3, "ageLimit": "1h", "digitalocean": {"region": "lon1"}, "credentialsSecretRef": {"name": "t"},
        "instance": "default", "proxy": {"authSecretRef": {"name": "p"}}, "rolling": {"minAvailable": 2, "batchSize": 2},
    });
    json_patch::merge(&mut spec, change);
    let spec: ProxyPoolSpec = serde_json::from_value(spec).unwrap();
    let mut obs = Observation {
        meta: Meta { uid: "uid".into(), name: "p".into(), finalizers: vec![names::POOL_FINALIZER.into()], ..Meta::default() },
        wish: Wish::parse("p", &spec, &Defaults::default()),
        orphan: spec.deletion_policy == Some(DeletionPolicy::Orphan),
        status: ProxyPoolStatus { epoch: 3, ..ProxyPoolStatus::default() },
        template: "t".into(),
        list: None,
        list_error: None,
        health: std::collections::BTreeMap::new(),
        direct: None,
        capabilities: Capabilities { idempotent_create: false, unique_names: false, settle_seconds: 30 },
        rate: Rate::default(),
        requests: None,
    };
    lists(&mut obs, vec![vm(0, 1, 20), vm(1, 2, 20), vm(2, 3, 20)]);
    obs
}

/// The list shows these, all healthy.
pub fn lists(obs: &mut Observation, vms: Vec<Vm>) {
    obs.health = vms.iter().map(|v| (v.id.clone(), Health::Healthy)).collect();
    obs.list = Some(Listed { at: now(), vms });
}

pub fn memory() -> Memory {
    Memory { last_mutation: Some(now() - chrono::TimeDelta::hours(1)), ..Memory::default() }
}

fn decide(obs: &Observation) -> Plan {
    plan(obs, &memory(), now())
}

pub fn plan_with(obs: &Observation, memory: &Memory) -> Plan {
    plan(obs, memory, now())
}

pub fn deleted(plan: &Plan) -> Vec<&str> {
    plan.actions.iter().filter_map(|a| if let Deed::Delete { id, .. } = &a.deed { Some(id.as_str()) } else { None }).collect()
}

pub fn created(plan: &Plan) -> usize {
    plan.actions.iter().filter(|a| matches!(a.deed, Deed::Create(_))).count()
}

fn says<'a>(plan: &'a Plan, type_: &str) -> Option<&'a str> {
    plan.status.as_ref()?.conditions.iter().find(|c| c.type_ == type_).map(|c| c.status.as_str())
}

#[test]
fn a_good_pool_is_left_alone() {
    let mut obs = pool(&json!({}));
    let first = decide(&obs);
    assert_eq!(first.actions, []);
    obs.status = first.status.unwrap();
    assert_eq!(obs.status.ready.as_deref(), Some("3/3"));
    let second = decide(&obs);
    assert_eq!((second.actions.len(), second.status, second.notes), (0, None, vec![]));
}

#[test]
fn the_documented_lines_are_said_once() {
    let mut obs = pool(&json!({}));
    lists(&mut obs, vec![vm(0, 1, 70), vm(1, 2, 65), vm(2, 3, 20)]);
    let first = decide(&obs);
    let lines: Vec<_> = first.notes.iter().map(|n| n.message.as_str()).collect();
    assert_eq!(
        lines,
        [
            "Rolling deployment: Marked 10.0.0.1 for recycling in digitalocean/default. Currently recycling 1/2 proxies",
            "Rolling deployment: Cannot recycle 10.0.1.2 for digitalocean/default. Would reduce available proxies below minimum (1 < 2)",
            "Rolling deployment: Deferred recycling digitalocean/default droplet -> 10.0.1.2",
        ]
    );
    assert_eq!(deleted(&first), ["vm-0-1"]);
    obs.status = first.status.clone().unwrap();
    assert_eq!((obs.status.healthy, obs.status.recycling, obs.status.aged), (2, 1, 2));
    assert_eq!(plan(&obs, &first.memory, now()).notes, []);
}

#[rstest]
#[case::none(|o: &mut Observation| o.list = None)]
#[case::failed(|o: &mut Observation| o.list_error = Some(Error { class: Class::Transient, message: "no".into() }))]
#[case::old(|o: &mut Observation| o.list.as_mut().unwrap().at -= chrono::TimeDelta::minutes(2))]
fn without_a_good_list_nothing_is_done(#[case] spoil: fn(&mut Observation)) {
    let mut obs = pool(&json!({}));
    lists(&mut obs, vec![vm(0, 1, 70)]);
    spoil(&mut obs);
    assert_eq!(decide(&obs).actions, []);
    let unsettled = Memory { last_mutation: Some(now() - chrono::TimeDelta::seconds(29)), ..Memory::default() };
    let mut obs = pool(&json!({}));
    lists(&mut obs, vec![vm(0, 1, 70)]);
    assert_eq!(plan(&obs, &unsettled, now()).actions, []);
}

#[test]
fn a_create_is_on_record_before_it_is_made() {
    let mut obs = pool(&json!({}));
    lists(&mut obs, vec![vm(0, 1, 20), vm(1, 2, 20)]);
    let plan = decide(&obs);
    let Deed::Create(marks) = &plan.actions[0].deed else { panic!("{:?}", plan.actions) };
    let intent = &plan.status.as_ref().unwrap().in_flight[0];
    assert_eq!((intent.slot, intent.epoch, &intent.nonce, intent.op), (marks.slot, marks.epoch, &marks.nonce, Op::Fill));
    assert_eq!(marks.epoch, 4);
    // The process that comes next looks for it before it asks again.
    obs.status = plan.status.unwrap();
    assert!(matches!(&decide(&obs).actions[0].deed, Deed::Look(looked) if looked == marks));
}

#[rstest]
#[case::one_failure(1, &[])]
#[case::below_the_threshold(2, &[])]
#[case::dead(3, &["vm-0-1"])]
fn a_proxy_is_dead_after_its_failures(#[case] failures: u32, #[case] wanted: &[&str]) {
    let mut obs = pool(&json!({}));
    obs.health.insert("vm-0-1".into(), Health::Unhealthy { failures });
    assert_eq!(deleted(&decide(&obs)), wanted);
}

#[test]
fn many_at_once_are_not_believed() {
    let mut obs = pool(&json!({}));
    for id in ["vm-0-1", "vm-1-2"] {
        obs.health.insert(id.into(), Health::Unhealthy { failures: 9 });
    }
    let plan = decide(&obs);
    assert_eq!((deleted(&plan).len(), says(&plan, "ProbeTrusted")), (0, Some("False")));
    obs.health.insert("vm-1-2".into(), Health::Healthy);
    obs.direct = Some(false);
    assert_eq!(deleted(&decide(&obs)).len(), 0);
}

#[test]
fn of_two_in_one_place_the_oldest_that_serves_stays() {
    let mut obs = pool(&json!({}));
    let twins = [30, 25, 22].map(|minutes| Vm { id: format!("twin-{minutes}"), ..vm(0, 1, minutes) });
    lists(&mut obs, [twins.to_vec(), vec![vm(1, 2, 20), vm(2, 3, 20)]].concat());
    obs.health.insert("twin-30".into(), Health::Unhealthy { failures: 1 });
    let plan = decide(&obs);
    assert_eq!(deleted(&plan), ["twin-30", "twin-22"]);
    assert_eq!(plan.status.as_ref().unwrap().duplicates_removed, 2);
}

#[test]
fn a_rotation_without_its_record_is_taken_up() {
    let mut obs = pool(&json!({"maxScaling": 4}));
    lists(&mut obs, vec![vm(0, 1, 61), vm(0, 4, 5), vm(1, 2, 20), vm(2, 3, 20)]);
    let plan = decide(&obs);
    let flight = &plan.status.as_ref().unwrap().in_flight[0];
    assert_eq!((flight.op, flight.phase, flight.replaces.as_deref(), flight.epoch), (Op::Recycle, Step::Marked, Some("vm-0-1"), 4));
    assert_eq!(created(&plan), 0);
}

#[test]
fn what_carries_another_uid_is_not_there() {
    let mut obs = pool(&json!({}));
    let mut foreign = vm(0, 9, 90);
    foreign.marks.pool = "another".into();
    foreign.phase = Phase::Stopped;
    obs.list.as_mut().unwrap().vms.push(foreign);
    assert_eq!(decide(&obs).actions, []);
}

#[rstest]
#[case::by_address("10.0.1.2", &["vm-1-2"])]
#[case::by_id("vm-0-1, vm-1-2,vm-2-3", &["vm-0-1", "vm-1-2", "vm-2-3"])]
#[case::by_lines("vm-0-1\n10.0.1.2\t,  vm-2-3\n", &["vm-0-1", "vm-1-2", "vm-2-3"])]
#[case::nobody("198.51.100.7", &[])]
fn evictions_pass_floor_and_batch_once(#[case] annotation: &str, #[case] wanted: &[&str]) {
    let mut obs = pool(&json!({"rolling": {"minAvailable": 2, "batchSize": 1}}));
    obs.meta.annotations.insert(names::EVICT.into(), annotation.into());
    let plan = decide(&obs);
    assert_eq!(deleted(&plan), wanted);
    // Whoever has that address later is left alone.
    obs.status = plan.status.unwrap();
    obs.status.in_flight.clear();
    lists(&mut obs, vec![vm(0, 11, 1), Vm { address: "10.0.1.2".parse().ok(), ..vm(1, 12, 1) }, vm(2, 13, 1)]);
    obs.list.as_mut().unwrap().vms[0].address = "198.51.100.7".parse().ok();
    assert_eq!(deleted(&decide(&obs)), [""; 0]);
}

#[test]
fn a_window_that_is_shut_defers_and_says_when_it_opens() {
    let windows = json!([{"schedule": "0 2 * * *", "duration": "1h"}]);
    let mut obs = pool(&json!({"rolling": {"windows": windows}}));
    lists(&mut obs, vec![vm(0, 1, 70), vm(1, 2, 20), vm(2, 3, 20)]);
    let plan = decide(&obs);
    assert_eq!(plan.actions, []);
    let said = plan.status.unwrap().conditions.into_iter().find(|c| c.type_ == "Recycling").unwrap();
    assert!(said.message.contains("2026-01-02 02:00:00"), "{}", said.message);
}

#[test]
fn a_rotation_that_cannot_keep_up_is_told_with_the_numbers() {
    let change = json!({"minScaling": 100, "maxScaling": 100, "rolling": {"batchSize": 1}});
    let plan = decide(&pool(&change));
    assert_eq!(says(&plan, "RotationFeasible"), Some("False"));
    assert!(plan.notes.iter().any(|n| n.message.starts_with("100 proxies, 1 at once, 5m per replacement")), "{:?}", plan.notes);
}

#[test]
fn a_floor_that_cannot_be_kept_is_lowered_with_both_numbers() {
    let plan = decide(&pool(&json!({"rolling": {"minAvailable": 3}})));
    assert_eq!(says(&plan, "ConfigAdjusted"), Some("True"));
    assert!(plan.notes.iter().any(|n| n.warning && n.message.contains("minAvailable 3") && n.message.contains("2 is kept")));
}

#[test]
fn a_pool_without_its_finalizer_creates_nothing_yet() {
    let mut obs = pool(&json!({}));
    obs.meta.finalizers.clear();
    lists(&mut obs, vec![]);
    assert_eq!(decide(&obs).actions.iter().map(|a| &a.deed).collect::<Vec<_>>(), [&Deed::Hold]);
}

#[test]
fn the_finalizer_goes_after_two_empty_lists() {
    let mut obs = pool(&json!({}));
    obs.meta.deleting = true;
    assert_eq!(deleted(&decide(&obs)).len(), 3);
    lists(&mut obs, vec![]);
    let first = decide(&obs);
    assert_eq!(first.actions, []);
    // The same list a second time is no second list.
    assert_eq!(plan(&obs, &first.memory, now()).actions, []);
    obs.list.as_mut().unwrap().at += chrono::TimeDelta::seconds(10);
    let later = now() + chrono::TimeDelta::seconds(10);
    assert_eq!(plan(&obs, &first.memory, later).actions.iter().map(|a| &a.deed).collect::<Vec<_>>(), [&Deed::Release]);
}

fn deeds(plan: &Plan) -> Vec<&Deed> {
    plan.actions.iter().map(|a| &a.deed).collect()
}

#[rstest]
#[case::nothing_was_ever_ordered(json!({}), |o: &mut Observation| o.status.epoch = 0, true)]
#[case::nor_can_the_spec_be_read(json!({"maxScaling": 1}), |o: &mut Observation| o.status.epoch = 0, true)]
#[case::orphaned_without_a_list(json!({"deletionPolicy": "Orphan"}), |_: &mut Observation| {}, true)]
#[case::orphaned_with_a_spec_nobody_reads(json!({"deletionPolicy": "Orphan", "maxScaling": 1}), |_: &mut Observation| {}, true)]
#[case::something_was_ordered(json!({}), |_: &mut Observation| {}, false)]
#[case::and_the_spec_cannot_be_read(json!({"maxScaling": 1}), |_: &mut Observation| {}, false)]
#[case::a_proxy_is_listed(json!({}), |o: &mut Observation| { o.status.epoch = 0; lists(o, vec![vm(0, 1, 20)]); }, false)]
#[case::it_is_not_deleted(json!({"deletionPolicy": "Orphan"}), |o: &mut Observation| o.meta.deleting = false, false)]
fn a_pool_that_has_nothing_to_wait_for_goes_at_once(#[case] spec: Value, #[case] change: fn(&mut Observation), #[case] goes: bool) {
    let mut obs = pool(&spec);
    obs.meta.deleting = true;
    obs.list = None;
    change(&mut obs);
    assert_eq!(deeds(&decide(&obs)).contains(&&Deed::Release), goes);
}

#[test]
fn what_is_left_of_a_pool_is_not_known_without_a_list() {
    let mut obs = pool(&json!({}));
    obs.meta.deleting = true;
    obs.list = None;
    obs.list_error = Some(Error { class: Class::Auth, message: "token refused".into() });
    let said = decide(&obs).status.unwrap().conditions.into_iter().find(|c| c.type_ == "Ready").unwrap();
    for part in ["not known", "token refused", "deletionPolicy: Orphan"] {
        assert!(said.message.contains(part), "{}", said.message);
    }
}

#[test]
fn an_entry_that_is_too_long_is_skipped_and_told_once() {
    let mut obs = pool(&json!({}));
    obs.meta.annotations.insert(names::EVICT.into(), format!("vm-0-1,{}", "ä".repeat(257)));
    let first = decide(&obs);
    assert_eq!(deleted(&first), ["vm-0-1"]);
    let told = |plan: &Plan| plan.notes.iter().filter(|n| n.reason == "EvictionSkipped").count();
    obs.status = first.status.clone().unwrap();
    let kept: Vec<_> = obs.status.evicted.iter().map(|e| e.entry.as_str()).collect();
    assert_eq!((kept, told(&first), told(&plan(&obs, &first.memory, now()))), (vec!["vm-0-1"], 1, 0));
}

/// Marks that say nothing, in the one way or the other.
#[rstest]
#[case::no_slot(|v: &mut Vm| v.marks = Marks::unreadable("uid", v.marks.born))]
#[case::the_last_epoch(|v: &mut Vm| v.marks.epoch = u32::MAX)]
#[case::born_at_the_end_of_time(|v: &mut Vm| v.marks.born = Time::MAX_UTC)]
#[case::born_in_two_days(|v: &mut Vm| v.marks.born = now() + chrono::TimeDelta::days(2))]
fn what_cannot_be_told_by_its_marks_counts_and_is_left_alone(#[case] spoil: fn(&mut Vm)) {
    let mut obs = pool(&json!({"maxScaling": 4}));
    let mut odd = vm(9, 9, 300);
    spoil(&mut odd);
    let three = vec![vm(0, 1, 20), vm(1, 2, 20), vm(2, 3, 20)];
    lists(&mut obs, [three.clone(), vec![odd.clone()]].concat());
    let first = decide(&obs);
    assert_eq!(first.actions, []);
    let told = |plan: &Plan| plan.notes.iter().filter(|n| n.reason == "Unreadable" && n.message.contains("vm-9-9")).count();
    assert_eq!((told(&first), told(&plan(&obs, &first.memory, now()))), (1, 0));
    assert_eq!(first.status.unwrap().replicas, Some(4));
    // It takes no place, but the room of one.
    for (most, wanted) in [(4, 1), (3, 0)] {
        obs.wish = pool(&json!({"maxScaling": most})).wish;
        lists(&mut obs, [three[1..].to_vec(), vec![odd.clone()]].concat());
        assert_eq!((created(&decide(&obs)), deleted(&decide(&obs)).len()), (wanted, 0));
    }
    obs.meta.deleting = true;
    assert!(deleted(&decide(&obs)).contains(&"vm-9-9"));
}

#[test]
fn after_the_last_epoch_nothing_is_ordered() {
    let mut obs = pool(&json!({}));
    lists(&mut obs, vec![vm(0, u32::MAX - 1, 20), vm(1, 2, 20)]);
    assert_eq!(created(&decide(&obs)), 0);
}

#[rstest]
#[case::aged(90, "t", &["vm-0-1", "vm-1-2", "vm-2-3", "vm-3-4", "vm-4-5"])]
#[case::drifted(20, "u", &["vm-0-1", "vm-1-2"])]
#[case::both(90, "u", &["vm-0-1", "vm-1-2", "vm-2-3", "vm-3-4", "vm-4-5"])]
fn without_rolling_only_what_is_aged_goes_at_once(#[case] minutes: i64, #[case] template: &str, #[case] wanted: &[&str]) {
    let mut obs = pool(&json!({"minScaling": 5, "rolling": {"enabled": false, "minAvailable": 3, "batchSize": 2}}));
    obs.template = template.into();
    lists(&mut obs, (0..5).map(|slot| vm(slot, slot + 1, minutes)).collect());
    assert_eq!(deleted(&decide(&obs)), wanted);
    // The floor holds too: it is batch or floor, whichever is narrower.
    let rolling = json!({"enabled": false, "minAvailable": 4, "batchSize": 2});
    obs.wish = pool(&json!({"minScaling": 5, "rolling": rolling})).wish;
    assert_eq!(deleted(&decide(&obs)).len(), if wanted.len() == 5 { 5 } else { 1 });
}

#[test]
fn what_is_published_stays_until_all_have_been_asked() {
    let mut obs = pool(&json!({}));
    obs.health.remove("vm-0-1");
    assert_eq!(decide(&obs).serving, None);
    obs.health.insert("vm-0-1".into(), Health::NotYet { failures: 1 });
    assert_eq!(decide(&obs).serving.map(|s| s.len()), Some(2));
    obs.health.clear();
    obs.meta.deleting = true;
    assert_eq!(decide(&obs).serving.map(|s| s.len()), Some(0));
}

/// An edit of the port, say: what runs goes on listening at the old one.
#[test]
fn an_edited_port_is_rolled_out_and_each_is_asked_and_published_where_it_listens() {
    let mut obs = pool(&json!({"proxy": {"port": 9000}}));
    let mut vms = vec![vm(0, 1, 20), vm(1, 2, 20), vm(2, 3, 20)];
    vms[1].marks.template = template("before", 3128);
    vms[2].marks.template = template("before", 3128);
    obs.template = template("after", 9000);
    vms[0].marks.template.clone_from(&obs.template);
    lists(&mut obs, vms);
    let ports = |plan: &Plan| plan.serving.as_ref().unwrap().iter().map(std::net::SocketAddr::port).collect::<Vec<_>>();
    let first = decide(&obs);
    // The floor is 2: one at a time, and the other still where it is.
    assert_eq!((deleted(&first), ports(&first)), (vec!["vm-1-2"], vec![9000, 3128]));
    assert_eq!(listens_at(&obs.list.as_ref().unwrap().vms[1], 9000), "10.0.1.2:3128".parse().ok());
    // What was made before ports were on record, and what has no address yet.
    assert_eq!(listens_at(&vm(0, 1, 1), 9000), "10.0.0.1:9000".parse().ok());
    assert_eq!(listens_at(&Vm { address: None, ..vm(0, 1, 1) }, 9000), None);
}

/// Five were there, and the list is empty.
#[rstest]
#[case::another_account(json!({}), 5, None, true)]
#[case::one_may_be_gone(json!({}), 1, None, false)]
#[case::a_person_says_so(json!({}), 5, Some("3"), false)]
#[case::of_others(json!({}), 5, Some("2"), true)]
#[case::the_spec_names_the_account(json!({"digitalocean": null, "gcp": {"project": "p", "zone": "z"}}), 5, None, false)]
fn a_list_without_any_of_them_is_taken_for_another_accounts(
    #[case] spec: Value,
    #[case] known: i32,
    #[case] told: Option<&str>,
    #[case] brakes: bool,
) {
    let mut obs = pool(&spec);
    obs.status.known = known;
    if let Some(epoch) = told {
        obs.meta.annotations.insert(names::GONE.into(), epoch.into());
    }
    lists(&mut obs, vec![]);
    let plan = decide(&obs);
    let status = plan.status.as_ref().unwrap();
    let said = status.conditions.iter().find(|c| c.type_ == "RunawayBrake").map(|c| c.message.as_str()).unwrap_or_default();
    assert_eq!((created(&plan) == 0, plan.serving.is_none(), said.contains("aether.dev/gone=3")), (brakes, brakes, brakes), "{said}");
    assert_eq!((status.known, said.contains("none of the 5 ") && said.contains("Secret t ")), if brakes { (5, true) } else { (0, false) });
    // Nor is it let go of.
    obs.meta.deleting = true;
    let memory = Memory { empty_since: Some(now() - chrono::TimeDelta::seconds(10)), ..memory() };
    assert_eq!(deeds(&plan_with(&obs, &memory)).contains(&&Deed::Release), !brakes);
}

#[test]
fn what_is_deleted_from_here_is_not_missed() {
    let mut obs = pool(&json!({"minScaling": 0}));
    let first = decide(&obs);
    assert_eq!((deleted(&first).len(), first.status.as_ref().unwrap().known), (2, 1));
    // A list that has not settled raises nothing.
    obs.status = first.status.unwrap();
    let unsettled = Memory { last_mutation: Some(now() - chrono::TimeDelta::seconds(5)), ..Memory::default() };
    obs.status.in_flight.clear();
    assert_eq!(plan(&obs, &unsettled, now()).status.map_or(obs.status.known, |s| s.known), 1);
    obs.list = None;
    assert_eq!(decide(&obs).status.map_or(obs.status.known, |s| s.known), 1);
}

/// In a full pool, whether it lacks a place or has one too many: the brake says which VM it is, and the ways out.
#[rstest]
#[case::takes_a_place(2, 3, true)]
#[case::comes_on_top(3, 3, true)]
#[case::there_is_room_for_all(2, 4, false)]
fn an_unreadable_vm_that_takes_anothers_room_is_named(#[case] readable: usize, #[case] most: u32, #[case] brakes: bool) {
    let mut obs = pool(&json!({"maxScaling": most}));
    let mut odd = vm(9, 9, 300);
    odd.marks = Marks::unreadable("uid", odd.marks.born);
    let mut vms = vec![vm(0, 1, 70), vm(1, 2, 20), vm(2, 3, 20)];
    vms.truncate(readable);
    lists(&mut obs, [vms, vec![odd]].concat());
    let plan = decide(&obs);
    let conditions = &plan.status.as_ref().unwrap().conditions;
    let said = conditions.iter().find(|c| c.type_ == "RunawayBrake").map(|c| c.message.clone()).unwrap_or_default();
    let parts = ["vm-9-9", "maxScaling", "aether-*", "delete them at the provider"];
    assert_eq!(parts.map(|part| said.contains(part)), [brakes; 4], "{said}");
    assert_eq!(created(&plan) == 0, brakes);
}

#[test]
fn each_reason_why_there_is_no_list_is_told_once_and_its_end() {
    let mut obs = pool(&json!({}));
    let mut memory = memory();
    let failed = |class, message: &str| Some(Error { class, message: message.into() });
    let told: Vec<Vec<String>> = [
        failed(Class::Transient, "one"),
        failed(Class::Transient, "one"),
        failed(Class::Transient, "two"),
        failed(Class::Auth, "three"),
        failed(Class::Auth, "three"),
        None,
        None,
        failed(Class::Transient, "one"),
    ]
    .into_iter()
    .map(|error| {
        obs.list_error = error;
        let plan = plan_with(&obs, &memory);
        memory = plan.memory;
        obs.status = plan.status.unwrap_or(obs.status.clone());
        plan.notes.into_iter().filter(|n| ["ListFailed", "Listed", "ProviderReachable"].contains(&n.reason)).map(|n| n.message).collect()
    })
    .collect();
    let line = |text: &str| vec![format!("the proxies of digitalocean/default {text}")];
    let expected = [
        line("cannot be listed: temporarily failed: one"),
        vec![],
        line("cannot be listed: temporarily failed: two"),
        line("cannot be listed: credentials refused: three"),
        vec![],
        line("are listed again"),
        vec![],
        line("cannot be listed: temporarily failed: one"),
    ];
    assert_eq!(told, expected);
}

/// Large enough a batch, and yet not in time: the cloud does not take so many requests.
#[rstest]
#[case::not_known(None, "True", "1000 proxies, 250 at once, 1m30s per replacement: 6m of an ageLimit of 1h")]
#[case::enough(Some(5.0), "True", "of 5.0 requests a second lists take 2.1, for the rest 11m29s is needed")]
#[case::too_few(Some(2.5), "False", "of 2.5 requests a second lists take 2.1, for the rest 1h23m20s is needed")]
#[case::none_left(Some(1.0), "False", "of 1.0 requests a second lists take 2.1, for the rest nothing is left")]
fn a_rotation_that_the_rate_limit_does_not_allow_is_told(#[case] per_second: Option<f64>, #[case] feasible: &str, #[case] numbers: &str) {
    let mut obs = pool(&json!({"minScaling": 1000, "rolling": {"minAvailable": 0, "batchSize": 1000}}));
    obs.requests = per_second.map(|per_second| Requests { burst: 100.0, per_second, page: 50 });
    let memory = Memory { replacement_took: Some(std::time::Duration::from_secs(90)), ..memory() };
    let plan = plan_with(&obs, &memory);
    let conditions = &plan.status.as_ref().unwrap().conditions;
    let said = conditions.iter().find(|c| c.type_ == "RotationFeasible").unwrap();
    assert_eq!(said.status, feasible, "{}", said.message);
    assert!(said.message.ends_with(numbers), "{}", said.message);
}
