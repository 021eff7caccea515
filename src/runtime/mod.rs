//! What any operator needs around its logic: leadership, probes, metrics, logs, clock, shutdown.

pub mod admin;
pub mod clock;
pub mod lease;
pub mod logging;
pub mod metrics;
pub mod run;
