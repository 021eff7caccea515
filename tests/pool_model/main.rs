//! Tier 1: the real plan against a modelled cloud, with faults and crashes, judged on what really exists.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod bugs;
mod cloud;
mod large;
mod operator;
#[path = "../model/rng.rs"]
mod rng;
mod scenario;
mod single;
mod truth;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rstest::rstest;
use scenario::{Act, Scenario, elsewhere};
use serde_json::json;
use world::{World, run};

fn play(scenario: &Scenario) -> World {
    run(scenario, None, 1).unwrap_or_else(|failure| panic!("{}", failure.story))
}

/// Waves of that many deletions, told by the log: a new one begins when a replacement is reported healthy in between.
fn waves(notes: &[String]) -> Vec<usize> {
    let mut waves = vec![];
    let mut marks = false;
    for note in notes {
        if note.contains("Marked") {
            if !marks {
                waves.push(0);
            }
            *waves.last_mut().unwrap() += 1;
            marks = true;
        } else if note.contains("Completed") {
            marks = false;
        }
    }
    waves
}

/// The worked example of the guide, from five aged at once to five young ones.
#[test]
fn the_guides_example_goes_in_waves_of_two_two_and_one() {
    let world = play(&Scenario { calm: 3700, ..Scenario::new("the guide's example") });
    assert_eq!(waves(&world.notes), [2, 2, 1], "{:#?}", world.notes);
    assert_eq!(world.fewest, Some(3));
    let line = |start: &str| world.notes.iter().filter(|n| n.starts_with(start)).count();
    assert_eq!(line("Rolling deployment: Marked"), 5);
    assert_eq!(line("Rolling deployment: Completed recycling"), 5);
    assert!(world.notes.iter().any(|n| n.ends_with("in kubernetes/pool. Currently recycling 2/2 proxies")), "{:#?}", world.notes);
}

#[test]
fn with_room_for_surge_nobody_ever_misses_one() {
    let spec = json!({"maxScaling": 7, "rolling": {"minAvailable": 5}});
    let world = play(&Scenario { calm: 3700, ..Scenario::new("surge") }.with(&spec));
    assert_eq!(world.fewest, Some(5));
    assert_eq!(waves(&world.notes).iter().sum::<usize>(), 5);
}

#[test]
fn without_rolling_all_aged_go_at_once() {
    let world = play(&Scenario { calm: 3700, ..Scenario::new("not rolling") }.with(&json!({"rolling": {"enabled": false}})));
    assert_eq!(world.fewest, Some(0));
}

#[rstest]
#[case::a_pool_of_one(json!({"minScaling": 1}), 0)]
#[case::floor_lowered(json!({"minScaling": 3, "rolling": {"minAvailable": 3}}), 2)]
#[case::none(json!({"minScaling": 0}), 0)]
fn small_pools_rotate_too(#[case] spec: serde_json::Value, #[case] fewest: usize) {
    let world = play(&Scenario { calm: 3700, ..Scenario::new("small") }.with(&spec));
    assert_eq!(world.fewest, Some(fewest));
}

#[rstest]
#[case::larger(json!({"minScaling": 9, "maxScaling": 9}))]
#[case::smaller(json!({"minScaling": 2, "maxScaling": 2}))]
#[case::nothing(json!({"minScaling": 0, "maxScaling": 0}))]
#[case::orphaned(json!({"deletionPolicy": "Orphan"}))]
fn sizes_change(#[case] spec: serde_json::Value) {
    play(&Scenario { calm: 1000, ..Scenario::new("another size") }.then(600, Act::Spec(spec)));
}

/// The list of another account: nobody is made a second time or forgotten.
#[test]
fn with_another_accounts_secret_nothing_is_done_until_the_right_one_is_back() {
    let scenario = Scenario { calm: 2600, ..Scenario::new("another account") }.with(&elsewhere());
    let world = play(&scenario.then(900, Act::Switched(true)).then(2500, Act::Switched(false)));
    assert_eq!((world.status.epoch, world.status.known, world.status.duplicates_removed), (5, 5, 0));
    assert!(world.notes.iter().any(|n| n.starts_with("the cloud lists none of the 5 proxies that were there")), "{:#?}", world.notes);
}

/// All are gone indeed: nothing is made until a person has said so, and then all of them.
#[test]
fn what_has_really_vanished_is_made_again_when_a_person_says_so() {
    let scenario = Scenario { calm: 2600, ..Scenario::new("all vanish") }.with(&elsewhere());
    let world = play(&scenario.then(900, Act::AllVanish));
    let made = world.cloud.of("uid").map(|r| r.made).min().unwrap();
    assert!(made - world.start >= chrono::TimeDelta::seconds(2600), "{made}");
    assert_eq!((world.status.epoch, world.status.known), (10, 5));
    // A cloud that the spec names needs nobody to say anything.
    let world = play(&Scenario { calm: 2600, ..Scenario::new("all vanish") }.then(900, Act::AllVanish));
    assert!(world.cloud.of("uid").map(|r| r.made).min().unwrap() - world.start < chrono::TimeDelta::seconds(1000));
}

#[test]
fn a_pool_of_broken_machines_says_so_and_is_mended_by_another_template() {
    let scenario = Scenario { calm: 2500, ..Scenario::new("broken") };
    let scenario = scenario.then(600, Act::Broken(true)).then(601, Act::Drift).then(2000, Act::Broken(false)).then(2001, Act::Drift);
    let world = play(&scenario);
    assert!(world.notes.iter().any(|n| n.contains("replacements are not healthy after 3m")), "{:#?}", world.notes);
    assert!(world.fewest >= Some(3), "{:?}", world.fewest);
}

/// Runs that all must go well, on all cores; says which did not, and the story of the first.
fn play_all(runs: &[(Scenario, u64)]) {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some((scenario, seed)) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(failure) = run(scenario, None, *seed) {
                        failed.lock().unwrap().push((*seed, failure));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_by_key(|(seed, _)| *seed);
    if let Some((_, first)) = failed.first() {
        let list = failed.iter().map(|(seed, f)| {
            format!("seed {seed}, {}, {}: {}", f.scenario, f.violation.0, f.violation.1.lines().next().unwrap_or_default())
        });
        panic!("{} of {} runs failed:\n{}\n\n{}", failed.len(), runs.len(), list.collect::<Vec<_>>().join("\n"), first.story);
    }
}

#[test]
fn every_scenario_goes_well_without_its_bug() {
    play_all(&bugs::scenarios().into_iter().map(|s| (s, 1)).collect::<Vec<_>>());
}

/// `AETHER_POOL_RUNS` worlds, from seed `AETHER_POOL_SEED`.
#[test]
fn random_worlds() {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let first = number("AETHER_POOL_SEED", 1);
    let seeds = first..first + number("AETHER_POOL_RUNS", 300);
    play_all(&seeds.map(|seed| (scenario::random(seed), seed)).collect::<Vec<_>>());
}

#[test]
fn every_planted_bug_is_caught_by_its_rule() {
    let mut missed = Vec::new();
    for (bug, rule, scenario) in bugs::TABLE {
        match (1..=5).find_map(|seed| run(&scenario(), Some(bug), seed).err()) {
            Some(failure) if failure.violation.0 == rule => {}
            Some(failure) => missed.push(format!("{bug:?}, by {}: {}", failure.violation.0, failure.story)),
            None => missed.push(format!("{bug:?}, by nobody")),
        }
    }
    assert!(missed.is_empty(), "not caught by the rule for it: {}", missed.join("\n\n"));
}
