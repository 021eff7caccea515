//! From a pool's provider block and its credentials to the cloud it lives in.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::Client;
use reqwest::Client as Http;
use secrecy::SecretString;

#[cfg(feature = "aws")]
use super::aws;
use super::limiter::{Budget, Limited, Limiters};
use super::{Class, Cloud, Error, digitalocean, gcp, google, hetzner, http, kubernetes, vultr};
use crate::pool::wish::Provider;

/// Keys and values of a Secret.
pub type Secret = BTreeMap<String, Vec<u8>>;

/// What all pools of the process share on their way to the clouds.
pub struct Accounts {
    http: Http,
    kubernetes: Client,
    limiters: Limiters,
    /// Provider name -> address to use instead of the cloud's own, for tests and private endpoints.
    addresses: BTreeMap<String, String>,
    /// For how many seconds a list may not show what was done, if it is known better than the providers' own guess.
    settle: Option<u32>,
}

impl Accounts {
    /// `addresses`: provider name -> address to use instead of the cloud's own. `settle`: for how many seconds a list may
    /// not show what was done; default: what each provider's module says.
    pub fn new(kubernetes: Client, addresses: BTreeMap<String, String>, settle: Option<u32>) -> Result<Self, Error> {
        Ok(Self { http: http::client()?, kubernetes, limiters: Limiters::default(), addresses, settle })
    }

    /// The cloud of that provider block. `home` is where pods would go, `secret` the one that the pool names.
    pub async fn open(&self, provider: &Provider, secret: Option<&Secret>, home: Home) -> Result<Arc<dyn Cloud>, Error> {
        let base = self.addresses.get(provider.name()).map(String::as_str);
        let http = self.http.clone();
        let (cloud, budget, credential): (Arc<dyn Cloud>, Budget, String) = match provider {
            Provider::DigitalOcean(spec) => {
                let token = word(secret, "token")?;
                let place = digitalocean::Place {
                    region: spec.region.clone(),
                    size: or(spec.size.as_ref(), "s-1vcpu-1gb"),
                    image: or(spec.image.as_ref(), "ubuntu-24-04-x64"),
                };
                (
                    Arc::new(digitalocean::DigitalOcean::new(http, base, SecretString::from(token.clone()), place)?),
                    digitalocean::BUDGET,
                    token,
                )
            }
            Provider::Hetzner(spec) => {
                let token = word(secret, "token")?;
                let place = hetzner::Place {
                    location: spec.location.clone(),
                    server_type: or(spec.server_type.as_ref(), "cx23"),
                    image: or(spec.image.as_ref(), "ubuntu-24.04"),
                };
                (Arc::new(hetzner::Hetzner::new(http, base, SecretString::from(token.clone()), place)?), hetzner::BUDGET, token)
            }
            Provider::Vultr(spec) => {
                let token = word(secret, "token")?;
                let place = vultr::Place {
                    region: spec.region.clone(),
                    plan: or(spec.plan.as_ref(), "vc2-1c-1gb"),
                    os_id: spec.os_id.and_then(|id| u32::try_from(id).ok()).unwrap_or(2284),
                };
                (Arc::new(vultr::Vultr::new(http, base, SecretString::from(token.clone()), place)?), vultr::BUDGET, token)
            }
            Provider::Gcp(spec) => {
                let key = secret.map(|_| word(secret, "serviceAccountKey")).transpose()?;
                let credential = match &key {
                    Some(key) => google::Google::of_key(key)?,
                    None => google::Google::of_environment().await?,
                };
                let place = gcp::Place {
                    project: spec.project.clone(),
                    zone: spec.zone.clone(),
                    machine_type: or(spec.machine_type.as_ref(), "e2-micro"),
                    image_project: or(spec.image_project.as_ref(), "ubuntu-os-cloud"),
                    image_family: or(spec.image_family.as_ref(), "ubuntu-2404-lts-amd64"),
                    spot: spec.spot.is_some(),
                };
                (Arc::new(gcp::Gcp::new(http, base, credential, place)?), gcp::BUDGET, key.unwrap_or_default())
            }
            Provider::Kubernetes(spec) => {
                let place = kubernetes::Place {
                    namespace: home.namespace,
                    image: spec.image.clone(),
                    resources: spec.resources.as_ref().and_then(|r| serde_json::from_value(serde_json::to_value(r).ok()?).ok()),
                    port: home.port,
                    owner: home.owner,
                };
                (Arc::new(kubernetes::Kubernetes::new(&self.kubernetes, place)), kubernetes::BUDGET, String::new())
            }
            #[cfg(feature = "aws")]
            Provider::Aws(spec) => {
                let keys = secret.map(|_| aws_keys(secret)).transpose()?;
                let id = keys.as_ref().map(|keys| keys.id.clone()).unwrap_or_default();
                let place = aws::Place {
                    region: spec.region.clone(),
                    ami: spec.ami.clone(),
                    instance_type: or(spec.instance_type.as_ref(), "t3.micro"),
                    subnet: spec.subnet_id.clone(),
                    security_groups: spec.security_group_ids.clone(),
                    market: match &spec.spot {
                        None => aws::Market::OnDemand,
                        Some(spot) if spot.on_demand_fallback == Some(true) => aws::Market::SpotElseOnDemand,
                        Some(_) => aws::Market::Spot,
                    },
                };
                // Limits are counted by account and region.
                (Arc::new(aws::Aws::new(http, base, keys, place).await?), aws::BUDGET, format!("{id} {}", spec.region))
            }
            #[cfg(not(feature = "aws"))]
            Provider::Aws(_) => {
                return Err(Error { class: Class::Invalid, message: "this operator was built without the cargo feature aws".into() });
            }
        };
        Ok(Arc::new(Limited::new(cloud, self.limiters.of(provider.name(), &credential, budget), self.settle)))
    }
}

/// Where a pool of pods lives.
#[derive(Clone, Debug)]
pub struct Home {
    /// The pool's namespace.
    pub namespace: String,
    /// Where each proxy listens.
    pub port: u16,
    /// The pool; `None` if its pods are to outlive it.
    pub owner: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>,
}

/// A text of a Secret, without the line end that editors leave.
pub fn word(secret: Option<&Secret>, key: &str) -> Result<String, Error> {
    let auth = |message: String| Error { class: Class::Auth, message };
    let value = secret.and_then(|s| s.get(key)).ok_or_else(|| auth(format!("the Secret has no key {key}")))?;
    let text = std::str::from_utf8(value).map_err(|_| auth(format!("key {key} of the Secret is no text")))?.trim();
    if text.is_empty() { Err(auth(format!("key {key} of the Secret is empty"))) } else { Ok(text.to_owned()) }
}

#[cfg(feature = "aws")]
fn aws_keys(secret: Option<&Secret>) -> Result<aws::Keys, Error> {
    let session = match word(secret, "sessionToken") {
        Err(_) if secret.is_none_or(|s| !s.contains_key("sessionToken")) => None,
        word => Some(SecretString::from(word?)),
    };
    Ok(aws::Keys { id: word(secret, "accessKeyId")?, secret: word(secret, "secretAccessKey")?.into(), session })
}

fn or(given: Option<&String>, default: &str) -> String {
    given.cloned().unwrap_or_else(|| default.to_owned())
}
