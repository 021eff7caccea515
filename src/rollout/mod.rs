//! Bringing out a new version.
//!
//! ```text
//! observe (index -> Observation) -> decide (PURE) -> Plan -> apply (writes in order, status last)
//! ```
//! `wish` parses the spec, `decide` picks the room for the state (`states`),
//! `build` makes objects, `status` says what is going on, `transitions` holds the legal moves.

pub mod apply;
pub mod build;
pub mod decide;
pub mod model;
pub mod observe;
mod states;
mod status;
pub mod transitions;
pub mod verdict;
pub mod wish;
