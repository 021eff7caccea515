//! Prints what the judge does to thousands of made-up updates, next to the checks it replaces: `make verdict-table`.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use aether_operator::rollout::verdict::simulation::{late_table, print, shared_table, table};

/// Updates per row.
const RUNS: u32 = 2000;

fn main() {
    println!("{}", print(&table(RUNS), &late_table(RUNS), &shared_table(RUNS)));
}
