//! Keeping a pool of proxies.
//!
//! ```text
//! observe (list, probes, status -> Observation) -> plan (PURE) -> Plan -> apply (status FIRST, then calls to the cloud)
//! ```
//! The cloud is the record of what exists; the status holds intents only, and each is written before it is acted on. So
//! after any crash the pool goes on from one full list. `wish` parses the spec, `budget` says how many may go, `census`
//! sorts what is listed, `plan` has the order of steps and what all of them need. The steps: `slots` (what is in flight,
//! what a crash left, what is there twice), `sizing` (the dead, empty places, too many), `renewal` (recycling) and
//! `leaving` (the pool is deleted). `status` says what is going on.

pub mod bootstrap;
pub mod budget;
pub mod census;
pub mod keep;
mod leaving;
pub mod ledger;
pub mod model;
pub mod plan;
pub mod probe;
pub mod publication;
mod renewal;
mod sizing;
mod slots;
mod status;
pub mod windows;
pub mod wish;
