//! Planted bugs: each must be caught, by the rule that is there for it.

use aether_operator::api::proxy_pool::Step;
use aether_operator::cloud::Phase;
use aether_operator::pool::model::{Deed, Health, Listed, Observation, Plan, Reply};
use serde_json::json;

use super::cloud::Ways;
use super::scenario::{Act, Faults, Scenario, elsewhere};
use super::world::World;

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The deadlock of the original.
    AgedIsNotAvailable,
    /// A slot is free again as soon as the delete call has returned.
    SlotFreedByTheDelete,
    FailedListIsEmpty,
    UnknownCreateIsAskedForAgain,
    OneFailedProbeIsDeath,
    ProbesAlwaysTrusted,
    DeletedByAddress,
    ForeignIsOurs,
    BatchIgnored,
    FloorIgnored,
    PendingIsAvailable,
    UnsettledListIsGood,
    EvictionForgotten,
    IntentNotOnRecord,
    StatusWithoutNews,
    GoneWithoutItsProxies,
    DeletionTakenForDone,
    StoppedIsServing,
    KnownIsForgotten,
}

use Bug::*;

impl Bug {
    /// What the plan is made from, seen wrongly.
    pub fn blind(self, obs: &mut Observation, world: &World) {
        let listed = |obs: &mut Observation, change: &dyn Fn(&mut Listed)| obs.list.iter_mut().for_each(change);
        match self {
            AgedIsNotAvailable => {
                let aged = world.wish().age_limit.unwrap_or_default();
                for vm in obs.list.iter().flat_map(|l| &l.vms).filter(|vm| vm.marks.born + aged <= world.now) {
                    obs.health.insert(vm.id.clone(), Health::Unknown);
                }
            }
            SlotFreedByTheDelete => obs.status.in_flight.retain(|f| f.phase != Step::Deleting),
            FailedListIsEmpty if obs.list_error.is_some() => {
                obs.list_error = None;
                obs.list = Some(Listed { at: world.now, vms: Vec::new() });
            }
            OneFailedProbeIsDeath => {
                for health in obs.health.values_mut() {
                    if matches!(health, Health::Unhealthy { .. }) {
                        *health = Health::Unhealthy { failures: 99 };
                    }
                }
            }
            ProbesAlwaysTrusted => {
                obs.direct = None;
                obs.wish.as_mut().unwrap().health.max_unhealthy_percent = 100;
            }
            ForeignIsOurs => listed(obs, &|l| l.vms.iter_mut().for_each(|vm| vm.marks.pool = "uid".into())),
            BatchIgnored => obs.wish.as_mut().unwrap().rolling.batch_size = 99,
            FloorIgnored => obs.wish.as_mut().unwrap().rolling.min_available = 0,
            PendingIsAvailable => {
                for vm in obs.list.iter_mut().flat_map(|l| &mut l.vms).filter(|vm| vm.phase == Phase::Starting) {
                    vm.phase = Phase::Running;
                }
                for vm in obs.list.iter().flat_map(|l| &l.vms) {
                    obs.health.insert(vm.id.clone(), Health::Healthy);
                }
            }
            UnsettledListIsGood => obs.capabilities.settle_seconds = 0,
            EvictionForgotten => obs.status.evicted.clear(),
            KnownIsForgotten => obs.status.known = 0,
            DeletionTakenForDone => {
                let marked: Vec<String> = obs.status.in_flight.iter().filter_map(|f| f.replaces.clone()).collect();
                listed(obs, &|l| l.vms.retain(|vm| !marked.contains(&vm.id)));
            }
            StoppedIsServing => {
                for vm in obs.list.iter_mut().flat_map(|l| &mut l.vms).filter(|vm| vm.phase == Phase::Stopped) {
                    vm.phase = Phase::Running;
                    obs.health.insert(vm.id.clone(), Health::Healthy);
                }
            }
            _ => {}
        }
    }

    /// The plan, followed wrongly.
    pub fn spoil(self, plan: &mut Plan, world: &World) {
        match self {
            UnknownCreateIsAskedForAgain => {
                plan.memory.creates.values_mut().for_each(|c| c.answer = Reply::Missing);
            }
            DeletedByAddress => {
                for action in &mut plan.actions {
                    if let Deed::Delete { id, .. } = &mut action.deed {
                        let address = world.cloud.real(id).and_then(|r| r.vm.address);
                        // The list of the account is searched for the address, pending ones (none yet) come first.
                        if let Some(other) = world.cloud.vms.iter().find(|r| address.is_none() || r.vm.address == address) {
                            id.clone_from(&other.vm.id);
                        }
                    }
                }
            }
            IntentNotOnRecord if plan.actions.iter().any(|a| matches!(a.deed, Deed::Create(_))) => {
                plan.status = None;
                for action in &mut plan.actions {
                    action.needs = aether_operator::pool::model::Needs::Nothing;
                }
            }
            StatusWithoutNews => plan.status = plan.status.take().or_else(|| Some(world.status.clone())),
            GoneWithoutItsProxies if world.meta.deleting => {
                for action in &mut plan.actions {
                    action.deed = Deed::Release;
                }
            }
            _ => {}
        }
    }
}

fn example() -> Scenario {
    Scenario::new("the guide's example")
}

fn outage() -> Scenario {
    example().then(900, Act::Outage(true, Some(false))).then(1500, Act::Outage(false, Some(true)))
}

fn lists_fail() -> Scenario {
    Scenario { faults: Faults { list: 30, ..Faults::default() }, ..example() }
}

fn replies_lost() -> Scenario {
    let ways = Ways { lag: 5, late: 10, settle: 20, ..Ways::default() };
    Scenario { faults: Faults { unheard: 30, unsent: 30, ..Faults::default() }, ways, ..example() }
}

fn probes_flicker() -> Scenario {
    Scenario { faults: Faults { probe: 10, ..Faults::default() }, ..example() }
}

fn lags() -> Scenario {
    Scenario { ways: Ways { lag: 40, settle: 45, ..Ways::default() }, ..example() }
}

fn addresses_reused() -> Scenario {
    Scenario { ways: Ways { reuses: true, ..Ways::default() }, ..example() }.then(900, Act::Evict(true))
}

/// Deleted before any of its machines has an address.
fn deleted_young() -> Scenario {
    Scenario { ways: Ways { address: 200, ..Ways::default() }, ..example() }.then(60, Act::Delete)
}

fn high_floor() -> Scenario {
    example().with(&json!({"rolling": {"minAvailable": 4}}))
}

fn deleted() -> Scenario {
    example().then(900, Act::Delete)
}

fn low_floor() -> Scenario {
    example().with(&json!({"rolling": {"minAvailable": 1}}))
}

fn slow_to_go() -> Scenario {
    Scenario { ways: Ways { going: 60, ..Ways::default() }, ..low_floor() }
}

fn one_stops() -> Scenario {
    let floor = json!({"rolling": {"minAvailable": 4, "batchSize": 1}});
    example().with(&floor).then(3500, Act::Stop(4))
}

fn another_account() -> Scenario {
    example().with(&elsewhere()).then(900, Act::Switched(true)).then(1800, Act::Switched(false))
}

fn deleted_elsewhere() -> Scenario {
    example().with(&elsewhere()).then(900, Act::Switched(true)).then(900, Act::Delete).then(1800, Act::Switched(false))
}

/// A bug, the rule that catches it, and the scenario in which it does.
type Planted = (Bug, &'static str, fn() -> Scenario);

/// All of them.
pub const TABLE: [Planted; 20] = [
    (AgedIsNotAvailable, "progress", example),
    (SlotFreedByTheDelete, "I2", slow_to_go),
    (FailedListIsEmpty, "I4", lists_fail),
    (UnknownCreateIsAskedForAgain, "I7", replies_lost),
    (OneFailedProbeIsDeath, "I1", probes_flicker),
    (ProbesAlwaysTrusted, "I9", outage),
    (DeletedByAddress, "I10", deleted_young),
    (ForeignIsOurs, "I10", example),
    (BatchIgnored, "I2", low_floor),
    (FloorIgnored, "I1", high_floor),
    (PendingIsAvailable, "I1", example),
    (UnsettledListIsGood, "I4", lags),
    (EvictionForgotten, "evict", addresses_reused),
    (IntentNotOnRecord, "I6", example),
    (StatusWithoutNews, "rest", example),
    (GoneWithoutItsProxies, "I10", deleted),
    (DeletionTakenForDone, "I3", slow_to_go),
    (StoppedIsServing, "I1", one_stops),
    (KnownIsForgotten, "account", another_account),
    (KnownIsForgotten, "I10", deleted_elsewhere),
];

/// Each of them, which goes well without its bug.
pub fn scenarios() -> Vec<Scenario> {
    TABLE.iter().map(|(_, _, scenario)| scenario()).collect()
}
