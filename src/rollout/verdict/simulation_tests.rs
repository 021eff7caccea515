use super::*;
use rstest::rstest;

fn of(name: &str, runs: u32) -> Row {
    row(scenarios().iter().find(|s| s.name == name).unwrap(), runs)
}

/// The largest true chance, in per cent, with which so few would be seen once in twenty times (Clopper and Pearson).
fn at_most(percent: f64, runs: u32) -> f64 {
    let n = f64::from(runs);
    let seen = (percent * n / 100.0).round();
    let so_few = |chance: f64| {
        let (mut term, mut sum, mut k) = ((-chance).ln_1p() * n, 0.0, 0.0);
        while k <= seen {
            sum += f64::exp(term);
            term += ((n - k) / (k + 1.0)).ln() + chance.ln() - (-chance).ln_1p();
            k += 1.0;
        }
        sum
    };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if so_few(middle) > 0.05 { low = middle } else { high = middle }
    }
    100.0 * high
}

#[test]
fn bounds_are_those_of_the_tables() {
    let close = |percent, runs, wanted: f64| assert!((at_most(percent, runs) - wanted).abs() < 0.01, "{}", at_most(percent, runs));
    close(0.0, 600, 0.50);
    close(0.0, 20, 13.91);
    close(50.0, 10, 77.76);
}

/// The promise is kept by the true chance, not only by what was seen.
#[rstest]
#[case("half the limit", 0.5)]
#[case("half the limit, by windows", 0.5)]
#[case("exactly the limit", 5.0)]
#[case("exactly the limit, by windows", 5.0)]
#[case("exactly the limit, so is the old one", 5.0)]
fn within_the_limit_is_rarely_halted(#[case] name: &str, #[case] promised: f64) {
    let row = of(name, 600);
    assert!(at_most(row.halted, row.runs) <= promised, "{} {row:?}", at_most(row.halted, row.runs));
    assert!(promised > 1.0 || row.promoted >= 99.0, "{row:?}");
}

#[rstest]
#[case("twice the limit")]
#[case("twice the limit, by windows")]
fn twice_the_limit_is_never_promoted(#[case] name: &str) {
    let row = of(name, 600);
    assert!(at_most(row.promoted, row.runs) <= 0.5 && at_most(100.0 - row.halted, row.runs) < 5.0, "{row:?}");
}

/// Where the old version has as much of the traffic it speaks up in time; with a quarter of it not always.
#[rstest]
#[case(0.25, 100.0, 3.0)]
#[case(0.5, 100.0, 6.0)]
#[case(0.75, 100.0, 20.0)]
fn an_outage_that_both_share_rarely_convicts(#[case] share: f64, #[case] per_look: f64, #[case] most: f64) {
    let shared = shared_outage(share, per_look, 200);
    assert!(at_most(shared.halted, shared.runs) <= most, "{} {shared:?}", at_most(shared.halted, shared.runs));
}

#[test]
fn a_naive_check_halts_the_healthy_one() {
    let row = of("naive rate, half the limit", 500);
    assert!((54.0..=98.0).contains(&row.halted), "{row:?}");
}

#[test]
fn an_outage_of_both_halts_nobody() {
    let row = of("five times the limit, so is the old one", 50);
    assert!(row.halted == 0.0 && row.promoted == 0.0, "{row:?}");
}

#[test]
fn coarse_buckets_halt_nobody_and_an_edge_at_the_limit_lets_pass() {
    assert!((600.0..=800.0).contains(&interpolated_reading(350.0, &COARSE)));
    let coarse = of("p99 350 ms, coarse edges", 30);
    assert!(coarse.halted == 0.0 && coarse.held > 99.9, "{coarse:?}");
    let fine = of("p99 350 ms, edge at the limit", 30);
    assert!(fine.promoted > 95.0, "{fine:?}");
    assert!(of("interpolated p99, 350 ms, coarse edges", 30).halted > 95.0);
    assert!(of("p99 1000 ms, edge at the limit", 30).halted > 95.0);
}

/// Within 5 looks on average and in four of five updates, but only where the fault has a window of its own.
#[rstest]
#[case(Structure::Steps, 300, 85.0)]
#[case(Structure::Windows, 100, 65.0)]
#[case(Structure::EveryLook, 50, 65.0)]
fn a_late_fault_is_found(#[case] structure: Structure, #[case] runs: u32, #[case] at_least: f64) {
    let late = late_fault(structure, runs);
    assert!(late.within_5 >= at_least && late.mean_looks <= 5.0 && late.too_early == 0.0, "{late:?}");
}

#[test]
fn a_long_step_in_one_window_hides_it() {
    let late = late_fault(Structure::OneStep, 20);
    assert!(late.within_5 == 0.0 && late.mean_looks > 10.0, "{late:?}");
}

#[test]
fn so_many_errors_are_proof() {
    assert_eq!(proofs(), [(20, 4), (50, 5), (100, 6), (300, 11), (1000, 23)]);
}

#[test]
fn the_same_seed_gives_the_same_table() {
    assert_eq!(table(2), table(2));
    assert!(print(&table(1), &late_table(1), &[]).contains("| twice the limit | 1 |"));
}
