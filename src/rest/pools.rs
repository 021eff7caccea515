//! Routes about proxy pools, with the documented texts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::api::ProxyPool;
use crate::orders::Refusal;
use crate::orders::pools::{RollingPatch, name, port, select};
use crate::orders::view::{ProxiesAnswer, Proxy, ProxyAnswer, RollingAnswer};

use super::call::Call;
use super::routes::Nothing;

pub(super) async fn rolling(call: Call, _: Nothing) -> Result<RollingAnswer, Refusal> {
    let (provider, instance) = (call.path("provider"), call.path("instance"));
    let pools = select(call.desk().pools(Some(call.namespace())).await?, provider, instance)?;
    let in_force = match &*pools {
        [one] if instance.is_some() => one.status.as_ref().and_then(|s| s.config),
        _ => None,
    };
    let config = match in_force {
        Some(config) => config,
        None => call.desk().config().await?,
    };
    let status = call.desk().statuses(pools).await?;
    Ok(RollingAnswer::of(call.metadata(), config, status))
}

/// The pools are not shown: whoever may configure need not be allowed to look at them.
pub(super) async fn configure(call: Call, patch: RollingPatch) -> Result<RollingAnswer, Refusal> {
    let config = call.desk().configure(patch, call.manner()).await?;
    let message = "Rolling deployment configuration updated successfully".into();
    Ok(RollingAnswer { metadata: call.metadata(), message, config, status: BTreeMap::new() })
}

pub(super) async fn destroy(call: Call, _: Nothing) -> Result<ProxyAnswer, Refusal> {
    let (Some(pool), Some(address)) = (call.pool(), call.query().ip_address) else {
        return Err(Refusal::invalid("ip_address: is missing"));
    };
    let healthy = call.desk().healthy(pool).await?;
    let port = healthy.iter().find(|(ip, _)| *ip == address).map_or_else(|| port(pool), |(_, port)| *port);
    call.desk().evict(pool, address, call.manner()).await?;
    let message = format!("Proxy {address} is to be destroyed; a replacement follows");
    Ok(ProxyAnswer { metadata: call.metadata(), message, proxy: proxy(pool, address, port) })
}

pub(super) async fn page(call: Call, _: Nothing) -> Result<ProxiesAnswer, Refusal> {
    let all = proxies(&call).await?;
    let (total, query) = (all.len(), call.query());
    let proxies = all.into_iter().skip(query.offset).take(query.limit).collect();
    Ok(ProxiesAnswer { metadata: call.metadata(), message: "Proxies retrieved successfully".into(), total, proxies })
}

pub(super) async fn random(call: Call, _: Nothing) -> Result<ProxyAnswer, Refusal> {
    let mut all = proxies(&call).await?;
    let count = u128::try_from(all.len()).unwrap_or(u128::MAX);
    let pick = uuid::Uuid::new_v4().as_u128().checked_rem(count).and_then(|n| usize::try_from(n).ok());
    let proxy = pick.filter(|n| *n < all.len()).map(|n| all.swap_remove(n));
    let proxy = proxy.ok_or_else(|| Refusal::not_found("No proxies available"))?;
    Ok(ProxyAnswer { metadata: call.metadata(), message: "Random proxy retrieved successfully".into(), proxy })
}

/// Every healthy proxy of the namespace, in the order of pools and addresses.
async fn proxies(call: &Call) -> Result<Vec<Proxy>, Refusal> {
    let pools = select(call.desk().pools(Some(call.namespace())).await?, None, None)?;
    let known = call.desk().with_healthy(pools).await?;
    Ok(known.iter().flat_map(|(pool, healthy)| healthy.iter().map(|(ip, port)| proxy(pool, *ip, *port))).collect())
}

fn proxy(pool: &ProxyPool, ip: IpAddr, port: u16) -> Proxy {
    Proxy {
        ip: ip.to_string(),
        port,
        auth_enabled: pool.spec.proxy.auth_secret_ref.is_some(),
        url: format!("http://{}", SocketAddr::new(ip, port)),
        pool: name(pool),
    }
}
