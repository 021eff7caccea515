//! What a look at a pool needs before it can begin: its cloud, and what its proxies are made of.

use std::sync::Arc;
use std::time::Duration;

use crate::cloud::account::{Home, Secret, word};
use crate::cloud::{Class, Cloud, Error};
use crate::cluster::facts::Meta;
use crate::install;
use crate::pool::bootstrap::{self, Login, Network, Proxy};
use crate::pool::model::template;
use crate::pool::probe::{Probing, Target};
use crate::pool::publication::owner;
use crate::pool::wish::{Provider, Wish};
use crate::rollout::build::short_hash;

use super::{AFTER_A_FAILURE, Keeper, Kept};

/// Proxies of one pool that are asked at the same time.
const PROBES_AT_ONCE: usize = 32;

/// A pool's cloud, for one look.
pub struct Open {
    pub provider: &'static str,
    pub cloud: Arc<dyn Cloud>,
    /// `None` while the pool is being deleted.
    pub made: Option<Made>,
}

impl Open {
    pub fn interval(&self) -> Duration {
        self.made.as_ref().map_or(AFTER_A_FAILURE, |made| made.interval)
    }
}

/// What a pool's proxies are. Holds credentials: never shown.
pub struct Made {
    pub template: String,
    pub script: String,
    pub probing: Probing,
    pub interval: Duration,
    pub port: u16,
    pub login: Option<Login>,
    /// A Service; a Secret.
    pub publish: [bool; 2],
}

impl Keeper {
    /// The pool's cloud and what its proxies are made of, from the Secrets as they are now. Nothing is made any more for a
    /// pool that is being deleted, so it needs no login, and the credentials that worked last are good enough.
    pub(super) async fn open(&self, meta: &Meta, wish: &Wish, kept: &mut Kept) -> Result<Open, Error> {
        let cloud = match (self.cloud(meta, wish, kept).await, &kept.cloud) {
            (Ok(cloud), _) => cloud,
            (Err(_), Some((_, last))) if meta.deleting => last.clone(),
            (Err(error), _) => return Err(error),
        };
        let made = if meta.deleting { None } else { Some(self.made(meta, wish).await?) };
        Ok(Open { provider: wish.provider.name(), cloud, made })
    }

    /// The same cloud as long as provider and credentials are the same: it knows what it was told of its limits.
    async fn cloud(&self, meta: &Meta, wish: &Wish, kept: &mut Kept) -> Result<Arc<dyn Cloud>, Error> {
        let credentials = self.secret(meta, wish.credentials.as_deref()).await?;
        let owned = wish.deletion == crate::api::proxy_pool::DeletionPolicy::Delete;
        let mark = short_hash(&format!("{:?} {credentials:?} {owned} {}", wish.provider, wish.proxy.port));
        if let Some((of, cloud)) = &kept.cloud
            && *of == mark
        {
            return Ok(cloud.clone());
        }
        let home = Home { namespace: meta.namespace.clone(), port: wish.proxy.port, owner: owned.then(|| owner(meta)) };
        let cloud = self.accounts.open(&wish.provider, credentials.as_ref(), home).await?;
        kept.cloud = Some((mark, cloud.clone()));
        // What another account has listed says nothing about this one.
        kept.list_again = None;
        Ok(cloud)
    }

    async fn made(&self, meta: &Meta, wish: &Wish) -> Result<Made, Error> {
        let auth = self.secret(meta, wish.proxy.auth.as_deref()).await?;
        let refused = |e: bootstrap::Refused| Error { class: Class::Invalid, message: format!("spec.proxy: {e}") };
        let login = match &auth {
            Some(auth) => Some(Login::new(&word(Some(auth), "username")?, &word(Some(auth), "password")?).map_err(refused)?),
            None => None,
        };
        let allow = wish.proxy.allow_from.iter().map(|n| Network::parse(&n.to_string())).collect::<Result<_, _>>().map_err(refused)?;
        let proxy = Proxy::new(wish.proxy.port, login.clone(), allow, wish.proxy.connect_ports.clone()).map_err(refused)?;
        let script = match wish.provider {
            Provider::Kubernetes(_) => bootstrap::pod_script(&proxy),
            _ => bootstrap::user_data(&proxy),
        };
        Ok(Made {
            template: template(&format!("{:?} {script}", wish.provider), wish.proxy.port),
            probing: Probing {
                login: login.clone(),
                timeout: wish.health.timeout,
                targets: wish.health.egress_targets.iter().filter_map(|t| Target::parse(t)).collect(),
                at_once: PROBES_AT_ONCE,
            },
            interval: wish.health.interval,
            port: wish.proxy.port,
            publish: [wish.publish_service, wish.publish_secret],
            login,
            script,
        })
    }

    /// What a person can do about a refusal for want of rights.
    pub(super) fn way_in(&self, namespace: &str, code: Option<u16>) -> String {
        let (role, own) = (install::pools_role(), &self.namespace);
        if code != Some(403) {
            return String::new();
        }
        format!(
            "; namespaces with pools are named at the installation (the chart's proxyPools.namespaces), or: kubectl -n {namespace} create \
             rolebinding aether-pools --clusterrole={role} --serviceaccount={own}:{}",
            install::NAME
        )
    }

    async fn secret(&self, meta: &Meta, name: Option<&str>) -> Result<Option<Secret>, Error> {
        let Some(name) = name else { return Ok(None) };
        let missing = || Error { class: Class::Auth, message: format!("there is no Secret {name} in namespace {}", meta.namespace) };
        match self.pools.secret(&meta.namespace, name).await {
            Ok(secret) => secret.ok_or_else(missing).map(Some),
            Err(error) => {
                let hint = self.way_in(&meta.namespace, error.code());
                let class = if hint.is_empty() { Class::Transient } else { Class::Auth };
                Err(Error { class, message: format!("Secret {name} cannot be read: {}{hint}", error.message()) })
            }
        }
    }
}
