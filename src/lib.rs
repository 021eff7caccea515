//! Aether for Kubernetes: rolling updates that lose no request.
//!
//! ```text
//! API server --watch--> cluster::watch --> cluster::index --key--> cluster::drive
//!    ^                                                                  |
//!    |     rollout::observe (index -> Observation)    <-----------------+
//!    |     rollout::decide  (Observation -> Plan)   PURE
//!    +---- rollout::apply   (Plan -> cluster::write), status last
//! ```
//! `api` is the contract with the user, `traffic` the pure edits that move requests, `install` what
//! a cluster needs before the operator runs, `runtime` what any operator needs around its logic.

pub mod api;
pub mod cli;
pub mod cloud;
pub mod cluster;
pub mod install;
pub mod metrics_source;
pub mod orders;
pub mod pool;
pub mod rest;
pub mod rollout;
pub mod runtime;
pub mod traffic;
