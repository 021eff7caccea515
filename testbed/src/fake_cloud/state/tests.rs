use std::net::Ipv4Addr;
use std::time::Duration;

use chrono::DateTime;

use super::*;
use crate::fake_cloud::{Fault, Truth};

const DIALECT: Dialect = Dialect::DigitalOcean;

fn at(seconds: i64) -> Time {
    DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn address(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn cloud(addresses: u8, knobs: Knobs) -> State {
    State { knobs, ..State::new((1..=addresses).map(address)) }
}

fn order(name: &str) -> Order {
    Order { name: name.to_owned(), place: "here".to_owned(), ..Order::default() }
}

/// One VM, or why not.
fn create(state: &mut State, order: Order, now: Time) -> Result<Vm, Refusal> {
    create_in(state, DIALECT, order, now)
}

fn create_in(state: &mut State, dialect: Dialect, order: Order, now: Time) -> Result<Vm, Refusal> {
    state.advance(now);
    state.create(dialect, "a", vec![order], None, now).map(|vms| vms[0].clone())
}

fn listed(state: &State, now: Time) -> Vec<u64> {
    state.list(DIALECT, "a", now).0.iter().map(|vm| vm.id).collect()
}

/// Boots as positive, deaths as negative ids.
fn told(state: &mut State, now: Time) -> Vec<i64> {
    let id = |vm: &Vm| i64::try_from(vm.id).unwrap();
    let changes = state.advance(now);
    changes
        .iter()
        .map(|change| match change {
            Change::Booted(vm) => id(vm),
            Change::Died(vm) => -id(vm),
        })
        .collect()
}

#[test]
fn a_vm_boots_serves_and_is_deleted() {
    let mut state = cloud(1, Knobs { boots_after: seconds(10), address_after: seconds(15), deleted_after: seconds(5), ..Knobs::default() });
    let vm = create(&mut state, order("x"), at(0)).unwrap();
    assert_eq!((vm.phase(at(9)), vm.phase(at(10))), (Phase::Starting, Phase::Running));
    assert_eq!((vm.told_address(at(14)), vm.told_address(at(15))), (None, Some(address(1))));
    assert_eq!(told(&mut state, at(9)), [0_i64; 0]);
    assert_eq!(state.next_due(at(9)), Some(at(10)));
    assert_eq!(told(&mut state, at(10)), [1]);
    let vm = state.delete(DIALECT, "a", 1, None, at(20)).unwrap();
    assert_eq!((vm.phase(at(20)), vm.phase(at(25))), (Phase::Deleting, Phase::Gone));
    assert_eq!(told(&mut state, at(20)), [-1], "it stops serving at once");
    assert!(listed(&state, at(24)) == [1] && listed(&state, at(25)).is_empty());
    assert_eq!(state.delete(DIALECT, "a", 1, None, at(25)), Err(Refusal::NotFound("1".to_owned())));
    assert!(told(&mut state, at(99)).is_empty());
    assert_eq!(state.next_due(at(99)), None);
}

#[test]
fn what_is_deleted_before_it_boots_never_boots() {
    let mut state = cloud(1, Knobs { boots_after: seconds(10), ..Knobs::default() });
    create(&mut state, order("x"), at(0)).unwrap();
    state.delete(DIALECT, "a", 1, None, at(5)).unwrap();
    assert!(told(&mut state, at(60)).is_empty());
    assert_eq!(state.operation_on(1, Call::Create).map(|it| state.progress(it, at(5))), Some(Progress::Done(at(5))));
}

#[test]
fn deleting_twice_does_not_begin_anew() {
    let mut state = cloud(1, Knobs { deleted_after: seconds(10), ..Knobs::default() });
    create(&mut state, order("x"), at(0)).unwrap();
    state.delete(DIALECT, "a", 1, None, at(5)).unwrap();
    assert_eq!(state.delete(DIALECT, "a", 1, None, at(9)).unwrap().gone(), Some(at(15)));
}

#[test]
fn a_lagging_list_shows_what_was() {
    let mut state = cloud(2, Knobs { list_lag: seconds(30), ..Knobs::default() });
    create(&mut state, order("x"), at(0)).unwrap();
    assert!(listed(&state, at(29)).is_empty());
    assert_eq!(listed(&state, at(30)), [1]);
    state.delete(DIALECT, "a", 1, None, at(40)).unwrap();
    let (vms, as_of) = state.list(DIALECT, "a", at(69));
    assert_eq!(vms[0].phase(as_of), Phase::Running, "the list does not know yet");
    assert!(listed(&state, at(70)).is_empty());
    assert!(state.find(DIALECT, "a", 1, at(41)).is_err(), "by id it is known at once");
}

#[test]
fn a_locked_vm_is_not_deleted() {
    let mut state = cloud(1, Knobs { locked_for: seconds(10), ..Knobs::default() });
    create(&mut state, order("x"), at(0)).unwrap();
    assert_eq!(state.delete(DIALECT, "a", 1, None, at(9)), Err(Refusal::Locked));
    assert!(state.delete(DIALECT, "a", 1, None, at(10)).is_ok());
}

#[test]
fn vms_die_by_themselves() {
    for (death, phase) in [(Death::Vanishes, Phase::Gone), (Death::Stops, Phase::Stopped)] {
        let mut state = cloud(1, Knobs { boots_after: seconds(10), lifetime: seconds(50), death, ..Knobs::default() });
        create(&mut state, order("x"), at(0)).unwrap();
        assert_eq!(told(&mut state, at(59)), [1]);
        assert_eq!(told(&mut state, at(60)), [-1]);
        assert_eq!(state.vms()[0].phase(at(60)), phase);
        let mut state = cloud(1, Knobs::default());
        create(&mut state, order("x"), at(0)).unwrap();
        state.kill(1, death, at(7)).unwrap();
        assert_eq!((told(&mut state, at(7)), state.vms()[0].phase(at(7))), (vec![1, -1], phase));
    }
    assert!(cloud(1, Knobs::default()).kill(1, Death::Stops, at(0)).is_err());
}

#[test]
fn a_stopped_vm_counts_and_can_be_deleted() {
    let mut state = cloud(1, Knobs { quota: Some(1), ..Knobs::default() });
    create(&mut state, order("x"), at(0)).unwrap();
    state.kill(1, Death::Stops, at(5)).unwrap();
    assert_eq!(create(&mut state, order("y"), at(6)), Err(Refusal::Quota));
    state.delete(DIALECT, "a", 1, None, at(7)).unwrap();
    assert!(create(&mut state, order("y"), at(8)).is_ok());
}

#[test]
fn quota_is_for_each_account_and_all_or_nothing() {
    let mut state = cloud(9, Knobs { quota: Some(2), ..Knobs::default() });
    create(&mut state, order("x"), at(0)).unwrap();
    assert_eq!(state.create(DIALECT, "a", vec![order("y"), order("z")], None, at(1)), Err(Refusal::Quota));
    assert_eq!(state.vms().len(), 1);
    assert_eq!(state.create(DIALECT, "b", vec![order("y"), order("z")], None, at(1)).map(|vms| vms.len()), Ok(2));
}

#[test]
fn names_are_unique_where_the_cloud_says_so() {
    for (dialect, unique) in Dialect::ALL.map(|dialect| (dialect, matches!(dialect, Dialect::Hetzner | Dialect::Gce))) {
        let mut state = cloud(9, Knobs::default());
        create_in(&mut state, dialect, order("x"), at(0)).unwrap();
        let again = create_in(&mut state, dialect, order("x"), at(1));
        assert_eq!(again.err(), unique.then(|| Refusal::NameTaken("x".to_owned())), "{dialect:?}");
        let elsewhere = create_in(&mut state, dialect, Order { place: "there".to_owned(), ..order("x") }, at(2));
        assert_eq!(elsewhere.is_ok(), dialect != Dialect::Hetzner, "{dialect:?}");
        state.delete(dialect, "a", 1, None, at(3)).unwrap();
        assert_eq!(create_in(&mut state, dialect, order("y"), at(4)).err(), None);
    }
}

#[test]
fn a_name_is_free_again_even_while_the_list_lags() {
    let mut state = cloud(9, Knobs { list_lag: seconds(60), ..Knobs::default() });
    create_in(&mut state, Dialect::Hetzner, order("x"), at(0)).unwrap();
    assert!(create_in(&mut state, Dialect::Hetzner, order("x"), at(1)).is_err(), "though no list shows it");
    state.delete(Dialect::Hetzner, "a", 1, None, at(2)).unwrap();
    assert!(create_in(&mut state, Dialect::Hetzner, order("x"), at(3)).is_ok());
}

#[test]
fn the_same_token_makes_one_vm() {
    let mut state = cloud(9, Knobs::default());
    let wanted = Order { token: Some("t".to_owned()), ..order("x") };
    let first = create(&mut state, wanted.clone(), at(0)).unwrap();
    assert_eq!(create(&mut state, wanted.clone(), at(1)).unwrap().id, first.id);
    assert_eq!(create(&mut state, Order { kind: "big".to_owned(), ..wanted.clone() }, at(2)), Err(Refusal::TokenReused));
    let other_account = state.create(DIALECT, "b", vec![wanted.clone()], None, at(3)).unwrap();
    assert_ne!(other_account[0].id, first.id);
    state.delete(DIALECT, "a", first.id, None, at(4)).unwrap();
    assert_eq!(create(&mut state, wanted, at(5)).unwrap().id, first.id, "even when it is gone");
}

#[test]
fn accounts_do_not_see_each_other() {
    let mut state = cloud(9, Knobs::default());
    create(&mut state, order("x"), at(0)).unwrap();
    assert!(state.list(DIALECT, "b", at(1)).0.is_empty());
    assert!(state.list(Dialect::Vultr, "a", at(1)).0.is_empty());
    assert!(state.find(DIALECT, "b", 1, at(1)).is_err());
    assert!(state.delete(DIALECT, "b", 1, None, at(1)).is_err());
    assert!(state.operation(DIALECT, "a", 1).is_some() && state.operation(DIALECT, "b", 1).is_none());
}

#[test]
fn addresses_are_used_again_late_or_at_once() {
    for (reuse, expected) in [(Reuse::Late, [1, 2, 3, 1]), (Reuse::AtOnce, [3, 3, 3, 3])] {
        let mut state = cloud(3, Knobs { reuse, ..Knobs::default() });
        let mut given = Vec::new();
        for round in 0..4 {
            let vm = create(&mut state, order("x"), at(round)).unwrap();
            given.push(vm.address);
            state.delete(DIALECT, "a", vm.id, None, at(round)).unwrap();
        }
        assert_eq!(given, expected.map(address), "{reuse:?}");
    }
}

#[test]
fn an_address_belongs_to_one_vm_at_a_time() {
    let mut state = cloud(1, Knobs { deleted_after: seconds(10), ..Knobs::default() });
    create(&mut state, order("x"), at(0)).unwrap();
    state.delete(DIALECT, "a", 1, None, at(1)).unwrap();
    assert_eq!(create(&mut state, order("y"), at(10)), Err(Refusal::NoCapacity));
    assert!(create(&mut state, order("y"), at(11)).is_ok());
}

#[test]
fn an_order_that_fails_later_is_there_until_then() {
    let mut state = cloud(1, Knobs { boots_after: seconds(10), ..Knobs::default() });
    state.create(DIALECT, "a", vec![order("x")], Some(&Refusal::NoCapacity), at(0)).unwrap();
    let operation = state.operation(DIALECT, "a", 1).unwrap().clone();
    assert!(listed(&state, at(9)) == [1] && listed(&state, at(10)).is_empty());
    assert_eq!(state.progress(&operation, at(9)), Progress::Running);
    assert_eq!(state.progress(&operation, at(10)), Progress::Failed(at(10), Refusal::NoCapacity));
    assert!(told(&mut state, at(60)).is_empty());
    assert!(create(&mut state, order("y"), at(60)).is_ok(), "its address is free again");
}

#[test]
fn operations_take_as_long_as_what_they_do() {
    let mut state = cloud(1, Knobs { boots_after: seconds(10), deleted_after: seconds(5), ..Knobs::default() });
    create(&mut state, Order { token: Some("t".to_owned()), ..order("x") }, at(0)).unwrap();
    state.delete(DIALECT, "a", 1, Some("u".to_owned()), at(20)).unwrap();
    let progress = |call, now| state.progress(state.operation_on(1, call).unwrap(), now);
    assert_eq!((progress(Call::Create, at(9)), progress(Call::Create, at(10))), (Progress::Running, Progress::Done(at(10))));
    assert_eq!((progress(Call::Delete, at(24)), progress(Call::Delete, at(25))), (Progress::Running, Progress::Done(at(25))));
    assert_eq!(state.operation_of(DIALECT, "a", "u").map(|it| it.id), Some(2));
    assert!(state.operation_of(DIALECT, "b", "u").is_none());
}

#[test]
fn what_exceeds_the_rate_is_throttled_by_account() {
    let limit = crate::fake_cloud::Limit { requests: 2, per: seconds(10), shape: crate::fake_cloud::Shape::Sliding, call: None };
    let mut state = cloud(1, Knobs { limits: Some(vec![limit]), ..Knobs::default() });
    let mut spend = |account, now| state.spend(DIALECT, account, Call::List, now).0;
    assert_eq!([spend("a", at(0)), spend("a", at(1)), spend("a", at(2))], [Ok(()), Ok(()), Err(Refusal::Throttled(8))]);
    assert_eq!([spend("b", at(2)), spend("a", at(10))], [Ok(()), Ok(())]);
    state.knobs.limits = Some(Vec::new());
    assert!((0..100).all(|_| state.spend(DIALECT, "a", Call::List, at(11)) == (Ok(()), None)));
}

#[test]
fn faults_are_used_up() {
    let mut state = cloud(1, Knobs::default());
    state.faults.push(Fault::always(Effect::LoseReply).times(1));
    assert_eq!(state.strike(DIALECT, "a", Call::Get), Some(Effect::LoseReply));
    assert_eq!(state.strike(DIALECT, "a", Call::Get), None);
}

#[test]
fn the_truth_knows_how_many_there_were() {
    let mut state = cloud(9, Knobs { boots_after: seconds(10), ..Knobs::default() });
    for (name, born) in [("x", 0), ("y", 0), ("z", 30)] {
        create(&mut state, order(name), at(born)).unwrap();
    }
    state.advance(at(20));
    state.delete(DIALECT, "a", 1, None, at(35)).unwrap();
    let truth = Truth::of(&state, at(100));
    let counts: Vec<_> = truth.counts().iter().map(|count| (count.at, count.alive, count.serving)).collect();
    assert_eq!(counts, [(at(0), 2, 0), (at(10), 2, 2), (at(30), 3, 2), (at(35), 2, 1), (at(40), 2, 2)]);
    assert_eq!((truth.lowest(at(0)), truth.lowest(at(10)), truth.lowest(at(20)), truth.lowest(at(50))), ((2, 0), (2, 1), (2, 1), (2, 2)));
    assert_eq!(truth.lowest(at(-5)), (0, 0), "before the first, nothing was");
    assert_eq!((truth.highest(), truth.alive().count()), (3, 2));
    assert_eq!(Truth::of(&state, at(100)).only(|vm| vm.id == 1).lowest(at(20)), (0, 0));
}

#[test]
fn the_truth_finds_twins_by_labels_and_by_flat_tags() {
    let mut state = cloud(9, Knobs::default());
    let tagged = |tags: &[(&str, &str)]| {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Order { tags: tags.collect(), ..order("n") }
    };
    create(&mut state, tagged(&[("pool", "p"), ("slot", "1"), ("epoch", "0")]), at(0)).unwrap();
    create(&mut state, tagged(&[("pool:p", ""), ("slot:1", ""), ("epoch=0", "")]), at(1)).unwrap();
    create(&mut state, tagged(&[("pool", "p"), ("slot", "1"), ("epoch", "1")]), at(2)).unwrap();
    create(&mut state, tagged(&[("pool", "p"), ("slot", "1")]), at(3)).unwrap();
    let twins = Truth::of(&state, at(9)).twins(&["pool", "slot", "epoch"]);
    assert_eq!(twins.iter().map(|twins| (twins.vms.as_slice(), twins.at_once)).collect::<Vec<_>>(), [([1, 2].as_slice(), 2)]);
    assert_eq!(Truth::of(&state, at(9)).twins(&["name"])[0].vms, [1, 2, 3, 4]);
    state.advance(at(10));
    state.delete(DIALECT, "a", 1, None, at(10)).unwrap();
    state.advance(at(20));
    let again = state.vms()[0].order.clone();
    create(&mut state, again, at(20)).unwrap();
    let twins = Truth::of(&state, at(30)).only(|vm| vm.id != 2).twins(&["pool", "slot", "epoch"]);
    assert_eq!((twins[0].vms.as_slice(), twins[0].at_once), ([1, 5].as_slice(), 1), "one after the other");
}
