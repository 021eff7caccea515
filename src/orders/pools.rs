//! What to write for an order about a pool; pure.

use std::net::IpAddr;

use kube::ResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::api::proxy_pool::RollingConfig;
use crate::api::{ProxyPool, names};
use crate::pool::wish::{DEFAULT_PORT, Defaults};

use super::Refusal;

/// The body of `PATCH /rolling`: what is left out stays as it is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RollingPatch {
    /// Recycling keeps to floor and batch.
    pub enabled: Option<bool>,
    /// Proxies that must stay available; 0 or more.
    pub min_available: Option<i32>,
    /// Proxies in recycling at once; 1 or more.
    pub batch_size: Option<i32>,
}

/// The documented name of a pool, in its two halves: provider and instance.
pub fn title(pool: &ProxyPool) -> (&'static str, String) {
    let spec = &pool.spec;
    let providers = [
        ("digitalocean", spec.digitalocean.is_some()),
        ("aws", spec.aws.is_some()),
        ("gcp", spec.gcp.is_some()),
        ("hetzner", spec.hetzner.is_some()),
        ("vultr", spec.vultr.is_some()),
        ("kubernetes", spec.kubernetes.is_some()),
    ];
    let provider = providers.iter().find(|(_, is)| *is).map_or("", |(name, _)| name);
    (provider, spec.instance.clone().unwrap_or_else(|| pool.name_any()))
}

/// The documented name of a pool: `provider/instance`.
pub fn name(pool: &ProxyPool) -> String {
    let (provider, instance) = title(pool);
    format!("{provider}/{instance}")
}

/// The port that a pool's proxies listen on, as its spec has it.
pub fn port(pool: &ProxyPool) -> u16 {
    pool.spec.proxy.port.and_then(|p| u16::try_from(p).ok()).unwrap_or(DEFAULT_PORT)
}

/// The pools of a provider, of one instance, or all; in the order of their names. None: the documented 404.
pub fn select(pools: Vec<ProxyPool>, provider: Option<&str>, instance: Option<&str>) -> Result<Vec<ProxyPool>, Refusal> {
    let mut found: Vec<ProxyPool> = pools.into_iter().filter(|p| provider.is_none_or(|wanted| title(p).0 == wanted)).collect();
    if let Some(provider) = provider.filter(|_| found.is_empty()) {
        return Err(Refusal::not_found(format!("Provider '{provider:.63}' not found")));
    }
    if let (Some(provider), Some(instance)) = (provider, instance) {
        found.retain(|p| title(p).1 == instance);
        if found.is_empty() {
            return Err(Refusal::not_found(format!("Instance '{instance:.63}' not found for provider '{provider}'")));
        }
    }
    found.sort_by_cached_key(title);
    Ok(found)
}

/// Whether the pool has a proxy with that address, as far as its status shows.
pub fn has(pool: &ProxyPool, address: IpAddr) -> bool {
    let Some(status) = &pool.status else { return false };
    let lists = [&status.healthy_ips, &status.pending_recycle_ips, &status.recycling_ips];
    lists.into_iter().flatten().any(|ip| ip.parse() == Ok(address))
}

/// What an eviction needs to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum Eviction {
    /// Nothing: it is asked for already.
    Asked,
    /// The same address was evicted before, and the answer to that must go first: a merge patch that has it forgotten.
    Forget(Value),
    /// A merge patch with the address in it. What was answered goes with it.
    Ask(Value),
}

/// Decides how an address is evicted. An entry is answered once, so the same text is news only after it was gone.
pub fn evict(pool: &ProxyPool, address: IpAddr) -> Eviction {
    let address = address.to_string();
    let answered = |entry: &str| pool.status.iter().flat_map(|s| &s.evicted).any(|e| e.entry == entry);
    let text = pool.annotations().get(names::EVICT).map_or("", String::as_str);
    let entries = text.split(',').map(str::trim).filter(|e| !e.is_empty());
    let mut open: Vec<&str> = entries.filter(|e| !answered(e)).collect();
    if open.contains(&address.as_str()) {
        return Eviction::Asked;
    }
    let patch = |entries: &[&str]| json!({"metadata": {"annotations": {names::EVICT: entries.join(",")}}});
    if answered(&address) {
        return Eviction::Forget(patch(&open));
    }
    open.push(&address);
    Eviction::Ask(patch(&open))
}

/// The operator-wide configuration, as REST spells it.
pub fn config(defaults: &Defaults) -> RollingConfig {
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    RollingConfig { enabled: defaults.enabled, min_available: number(defaults.min_available), batch_size: number(defaults.batch_size) }
}

/// The operator-wide configuration with a patch on it. All three are kept, so that whoever reads them needs no flags.
pub fn configure(before: RollingConfig, patch: RollingPatch) -> Result<RollingConfig, Refusal> {
    if patch == RollingPatch::default() {
        return Err(Refusal::invalid("write at least one of enabled, min_available and batch_size"));
    }
    if patch.min_available.is_some_and(|n| n < 0) {
        return Err(Refusal::invalid("min_available: must be 0 or more"));
    }
    if patch.batch_size.is_some_and(|n| n < 1) {
        return Err(Refusal::invalid("batch_size: must be 1 or more; to recycle nothing pause the pools"));
    }
    Ok(RollingConfig {
        enabled: patch.enabled.unwrap_or(before.enabled),
        min_available: patch.min_available.unwrap_or(before.min_available),
        batch_size: patch.batch_size.unwrap_or(before.batch_size),
    })
}
