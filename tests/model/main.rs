//! Tier 1: the real index, observation and decision against a modelled cluster, with faults, judged by invariants.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod bugs;
mod controllers;
mod endpoints;
mod gateway;
mod health;
mod invariants;
mod meddler;
mod normal;
mod operator;
mod orders;
mod people;
mod random;
mod requests;
mod rest;
mod rng;
mod scenario;
mod scenarios;
mod sim;
mod truth;
mod world;
mod writes;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use aether_operator::api::State;
use requests::{FAULTS, Fault};
use scenario::{Act, Goal, Scenario, When};
use serde_json::json;
use sim::{Faults, Report, run};

/// Mutating requests of a promotion in five steps.
const MOST_WRITES: usize = 25;

fn play(scenario: &Scenario, faults: &Faults, seed: u64) -> Report {
    run(scenario, faults, None, seed).unwrap_or_else(|failure| panic!("{}", failure.story))
}

/// Five steps, nothing goes wrong; the finalizer is there from birth.
#[test]
fn a_promotion_needs_few_writes() {
    let report = play(&Scenario::new("promotion"), &Faults::default(), 1);
    assert!(report.writes <= MOST_WRITES, "{} writes:\n{}", report.writes, report.world.story(usize::MAX));
}

/// Runs that all must go well, on all cores; says which did not, and the story of the first.
fn play_all(runs: impl Iterator<Item = (Scenario, Faults, u64)>) {
    let runs: Vec<_> = runs.collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((number, (scenario, faults, seed))) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, runs.get(n)?)))
                {
                    if let Err(failure) = run(scenario, faults, None, *seed) {
                        failed.lock().unwrap().push((number, failure));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|(number, _)| *number);
    if let Some((_, first)) = failed.first() {
        let list = failed.iter().map(|(number, f)| {
            let (scenario, faults, seed) = &runs[*number];
            format!("seed {seed}, {:?}, {}\n      {}: {}", faults.at, scenario.name, f.violation.0, f.violation.1)
        });
        panic!("{} of {} runs failed:\n{}\n\n{}", failed.len(), runs.len(), list.collect::<Vec<_>>().join("\n"), first.story);
    }
}

#[test]
fn every_scenario() {
    play_all(scenarios::all().into_iter().map(|s| (s, Faults::default(), 1)));
}

fn play_each(scenarios: Vec<Scenario>) {
    play_all(
        scenarios.into_iter().filter(|s| std::env::var("ONLY").map_or(true, |o| s.name.contains(&o))).map(|s| (s, Faults::default(), 1)),
    );
}

#[test]
fn every_scenario_by_pods() {
    play_each(scenarios::pods::all());
}

#[test]
fn every_deletion() {
    play_each(scenarios::deletions::all());
}

#[test]
fn every_edit() {
    play_each(scenarios::edits::all());
}

#[test]
fn every_supersede() {
    play_each(scenarios::supersede::all());
}

#[test]
fn every_adoption() {
    play_each(scenarios::adoption::all());
}

#[test]
fn every_interference() {
    play_each(scenarios::interference::all());
}

#[test]
fn every_size() {
    play_each(scenarios::sizing::all());
}

#[test]
fn every_shared_route() {
    play_each(scenarios::shared::all());
}

#[test]
fn every_gateway() {
    play_each(scenarios::gateways::all());
}

#[test]
fn every_verdict() {
    play_each(scenarios::health::all());
}

/// The faults after which the operator does not know what it has done.
const DEAF: [Fault; 4] = [Fault::CrashBefore, Fault::CrashAfter, Fault::ReplyLost, Fault::Frozen];

/// Every write of a scenario goes wrong once, in each of these ways.
fn at_every_write(scenario: &Scenario, faults: &[Fault], stale: u64) {
    let writes = play(scenario, &Faults::default(), 1).writes;
    let each = |fault| (0..writes).map(move |write| (Faults { stale, ..Faults::one(write, fault) }, write as u64 + 1));
    play_all(faults.iter().flat_map(|fault| each(*fault)).map(|(faults, seed)| (scenario.clone(), faults, seed)));
}

#[test]
fn every_write_of_a_promotion_goes_wrong() {
    at_every_write(&Scenario::new("promotion"), &FAULTS, 0);
}

#[test]
fn every_write_of_a_rollback_goes_wrong() {
    at_every_write(&scenarios::rollback_when("rollback", When::Routing("1:1", 1500)), &DEAF, 0);
}

/// What was held up arrives when all is over, or when the next version comes out.
#[test]
fn every_write_before_an_early_rollback_goes_wrong() {
    at_every_write(&scenarios::rollback_when("early rollback", When::State(State::Deploying, 4000)), &DEAF, 0);
    at_every_write(&scenarios::supersede::superseded(State::Deploying, 4000), &DEAF, 0);
    at_every_write(&scenarios::rollback_when("rollback at the flip", When::State(State::Completing, 0)), &DEAF, 0);
}

#[test]
fn every_write_of_a_late_rollback_goes_wrong() {
    at_every_write(&scenarios::rollback_when("late rollback", When::State(State::Completing, 3500)), &DEAF, 0);
}

#[test]
fn every_write_of_a_promotion_by_pods_goes_wrong() {
    at_every_write(&scenarios::pods::by_pods("promotion"), &FAULTS, 0);
}

#[test]
fn every_write_of_a_rollback_by_pods_goes_wrong() {
    at_every_write(&scenarios::pods::rollback_when("rollback", When::Routing("1:1", 1500)), &DEAF, 0);
}

#[test]
fn every_write_of_a_breach_goes_wrong() {
    at_every_write(&scenarios::health::breach(), &DEAF, 0);
}

/// Another process takes over, which knows the cluster as it was a while ago; and the write of the first one goes out later.
#[test]
fn two_leaders() {
    let superseded = scenarios::supersede::superseded(State::Routing, 9000);
    for scenario in [Scenario::new("promotion"), scenarios::pods::by_pods("promotion"), superseded] {
        at_every_write(&scenario, &[Fault::Frozen], 9000);
    }
}

/// Another process takes over when the update goes back already, and knows the cluster as it was before anything was made.
#[test]
fn a_rollback_by_a_process_that_knows_little() {
    let before = |scenario: Scenario, act| scenario.when(When::State(State::Deploying, 1500), act);
    let back = || Act::Spec(json!({"control": {"version": "2.0.0", "outcome": "Rollback"}}));
    for by in [Scenario::new as fn(&str) -> Scenario, scenarios::pods::by_pods] {
        for stale in [3000, 6000, 12_000] {
            at_every_write(&before(by("rolled back at once"), back()).rolled_back(), &DEAF, stale);
            at_every_write(&before(by("deleted at once"), Act::Delete).ends(Goal::Gone, "1.0.0"), &DEAF, stale);
        }
    }
}

/// The same wish leads to the same cluster, whatever was wished before.
#[test]
fn every_path_leads_to_the_same() {
    for paths in scenarios::paths::all() {
        let mut ends = paths.iter().map(|scenario| (&scenario.name, normal::form(&play(scenario, &Faults::default(), 1).world.objects)));
        let (name, first) = ends.next().unwrap();
        for (other, end) in ends {
            let differ: Vec<_> = first.keys().chain(end.keys()).filter(|key| first.get(*key) != end.get(*key)).collect();
            let (key, here) = differ.first().map_or(("", None), |key| (key.as_str(), first.get(*key)));
            assert!(differ.is_empty(), "{other} ends otherwise than {name}: {key}\n{here:?}\n{:?}", end.get(key));
        }
    }
}

/// `AETHER_MODEL_RUNS` says how many, `AETHER_MODEL_SEED` where to begin, `AETHER_MODEL_STORY` how long the story is.
#[test]
fn random_worlds() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let first: u64 = number("AETHER_MODEL_SEED", 1);
    let seeds = first..first + number("AETHER_MODEL_RUNS", 200);
    play_all(seeds.map(|seed| {
        let (scenario, faults) = random::random(seed);
        (scenario, faults, seed)
    }));
}

/// Every planted bug is caught by the invariant that is there for it; without it the same run is fine.
#[test]
fn every_planted_bug_is_caught() {
    let wrong: Vec<String> = bugs::TABLE
        .iter()
        .filter_map(|(bug, invariant, scenario)| {
            let (scenario, faults) = (scenario(), bug.faults());
            play(&scenario, &faults, 1);
            match run(&scenario, &faults, Some(*bug), 1) {
                Ok(_) => Some(format!("{bug:?}: nobody noticed")),
                Err(failure) if failure.violation.0 != *invariant => {
                    Some(format!("{bug:?}: {invariant} was to catch it\n{}", failure.story))
                }
                Err(_) => None,
            }
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_release_after_manual() {
    play(&scenarios::after_manual(), &Faults::default(), 1);
}
