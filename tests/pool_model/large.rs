//! Pools of ten thousand: what is on record stays small, and a decision takes time as the pool is large, not as its square.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use aether_operator::api::proxy_pool::Op;
use aether_operator::api::{ProxyPoolStatus, names};
use aether_operator::cloud::{Marks, Phase, Vm};
use aether_operator::pool::model::{Deed, Health, Observation, Plan, nonce, template};
use serde_json::json;

use super::single::{created, deleted, lists, memory, now, plan_with, pool};

const MANY: u32 = 10_000;
/// What a status may have.
const MOST_BYTES: usize = 256 << 10;
const MOST_IN_FLIGHT: usize = 250;

/// With an id and an address as long as any cloud's.
fn vm(slot: u32, epoch: u32, minutes: i64) -> Vm {
    let id = format!("aether-0123456789-{slot}-{epoch:05}/6f0c3a52-7a54-4d33-9a3e-{slot:012}");
    let born = now() - chrono::TimeDelta::minutes(minutes) + chrono::TimeDelta::nanoseconds(123_456_789);
    let marks = Marks { pool: "uid".into(), slot, epoch, nonce: nonce("uid", slot, epoch), template: template("made from", 8899), born };
    let bits = 0x2001_0db8_1111_2222_3333_4444_0000_0000 + u128::from(slot) + (u128::from(epoch) << 64);
    Vm { id, marks, phase: Phase::Running, address: Some(IpAddr::V6(Ipv6Addr::from_bits(bits))) }
}

fn pool_of(many: u32, minutes: i64, enabled: bool) -> Observation {
    let mut obs = pool(&json!({"minScaling": many, "rolling": {"enabled": enabled, "minAvailable": many / 2, "batchSize": 300}}));
    obs.template = template("made from", 8899);
    obs.status.epoch = many.into();
    lists(&mut obs, (0..many).map(|slot| vm(slot, slot + 1, minutes)).collect());
    obs
}

/// The size of what is on record, and that it is bounded in all its lists.
fn weigh(status: &ProxyPoolStatus) -> usize {
    let bytes = serde_json::to_vec(status).unwrap().len();
    let lists = [status.healthy_ips.len(), status.pending_recycle_ips.len(), status.recycling_ips.len(), status.evicted.len()];
    assert!(lists.iter().all(|n| *n <= 500), "{lists:?}");
    assert!(status.in_flight.len() <= MOST_IN_FLIGHT, "{} are in flight", status.in_flight.len());
    assert!(bytes <= MOST_BYTES, "the status has {bytes} bytes");
    bytes
}

/// Carries the plan out in a cloud that needs no time: what was ordered is there, and not healthy yet.
fn follow(obs: &mut Observation, plan: Plan) {
    let mut vms = obs.list.take().unwrap().vms;
    let gone = deleted(&plan);
    vms.retain(|vm| !gone.contains(&vm.id.as_str()));
    for action in &plan.actions {
        if let Deed::Create(marks) = &action.deed {
            vms.push(Vm { marks: marks.clone(), ..vm(marks.slot, marks.epoch, 0) });
        }
    }
    let fresh = |vm: &Vm| vm.marks.epoch > MANY;
    lists(obs, vms);
    let fresh: Vec<String> = obs.list.iter().flat_map(|l| &l.vms).filter(|vm| fresh(vm)).map(|vm| vm.id.clone()).collect();
    for id in fresh {
        obs.health.insert(id, Health::NotYet { failures: 1 });
    }
    obs.status = plan.status.unwrap_or(obs.status.clone());
}

/// The worst there is: not rolling, everything aged, and five hundred people's wishes besides.
#[test]
fn the_status_of_ten_thousand_stays_small_when_all_go_at_once() {
    let mut obs = pool_of(MANY, 90, false);
    let wishes: Vec<String> = (0..500).map(|n| obs.list.as_ref().unwrap().vms[n * 7].id.clone()).collect();
    obs.meta.annotations.insert(names::EVICT.into(), wishes.join(","));
    let mut heaviest = 0;
    for round in 0..6 {
        let plan = plan_with(&obs, &memory());
        if round == 0 {
            assert_eq!(deleted(&plan).len(), MOST_IN_FLIGHT);
            assert!(plan.status.as_ref().unwrap().in_flight.iter().all(|f| f.op == Op::Evict));
        }
        assert!(created(&plan) <= MOST_IN_FLIGHT);
        follow(&mut obs, plan);
        heaviest = heaviest.max(weigh(&obs.status));
    }
    assert_eq!(obs.status.in_flight.iter().filter(|f| f.vm_id.is_some()).count(), MOST_IN_FLIGHT, "each has all that it can have");
    // Once they are healthy the next ones go: nothing is stuck.
    obs.health.values_mut().for_each(|h| *h = Health::Healthy);
    let plan = plan_with(&obs, &memory());
    assert_eq!(deleted(&plan).len(), MOST_IN_FLIGHT);
    obs.status = plan.status.unwrap();
    heaviest = heaviest.max(weigh(&obs.status));
    // All of the wishes answered, each as long as may be.
    obs.meta.annotations.insert(names::EVICT.into(), (0..500).map(|n| format!("{n:0128}")).collect::<Vec<_>>().join(","));
    heaviest = heaviest.max(weigh(&plan_with(&obs, &memory()).status.unwrap()));
    println!("the status of {MANY} proxies has at most {heaviest} bytes of {MOST_BYTES}");
}

/// A batch that is larger than what can be on record is one of that size.
#[test]
fn a_large_batch_is_bounded_too() {
    let plan = plan_with(&pool_of(MANY, 90, true), &memory());
    assert_eq!(deleted(&plan).len(), MOST_IN_FLIGHT);
    weigh(plan.status.as_ref().unwrap());
}

/// The kernel counts in steps about as long.
const STEP: Duration = Duration::from_millis(20);

/// What this thread has computed so far: whoever else is at work on the machine does not count.
fn computed() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// What so many decisions in a row take, at best.
fn quickest(obs: &Observation, decisions: u32) -> Duration {
    let mut remembered = memory();
    let once = |_| {
        let begin = computed();
        for _ in 0..decisions {
            // From the second time on what was said is remembered, as in life.
            remembered.deferred = plan_with(obs, &remembered).memory.deferred;
        }
        computed().saturating_sub(begin)
    };
    (0..3).map(once).min().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn ten_times_as_many_take_about_ten_times_as_long_to_decide() {
    let with = |change: fn(&mut Observation), minutes, enabled| {
        [MANY / 10, MANY].map(|many| {
            let mut obs = pool_of(many, minutes, enabled);
            change(&mut obs);
            obs
        })
    };
    let situations = vec![
        ("all is well", with(|_| {}, 20, true)),
        ("all are aged", with(|_| {}, 90, true)),
        ("all are aged, not rolling", with(|_| {}, 90, false)),
        ("all are outdated", with(|o| o.template = template("another", 1), 20, true)),
        ("all are dead", with(|o| o.health.values_mut().for_each(|h| *h = Health::Unhealthy { failures: 9 }), 20, true)),
        ("none is there", with(|o| lists(o, vec![]), 20, true)),
        ("each is there twice", with(|o| o.list.as_mut().unwrap().vms.iter_mut().for_each(|v| v.marks.slot /= 2), 20, true)),
        ("far too many", with(|o| o.wish.as_mut().unwrap().min_scaling = 1, 20, true)),
        ("the pool goes", with(|o| o.meta.deleting = true, 20, true)),
    ];
    for (situation, [small, large]) in situations {
        let (small, large) = (quickest(&small, 10), quickest(&large, 1));
        println!("{situation}: {:.1?} for {MANY}, {:.1?} for a tenth", large, small / 10);
        // As its square it would be ten times as much.
        assert!(large < small * 4 + STEP, "{situation}: {large:?}, and {small:?} for ten times as many decisions about a tenth");
    }
}
