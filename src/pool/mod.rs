//! Pools of proxies.

pub mod bootstrap;
pub mod probe;
