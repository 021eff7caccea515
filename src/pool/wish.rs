//! The spec of a pool, parsed once: what is wanted, with every default filled in and nothing left to check.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use crate::api::duration;
use crate::api::proxy_pool::{
    AwsSpec, DeletionPolicy, DigitalOceanSpec, GcpSpec, HealthSpec, HetznerSpec, KubernetesSpec, ProxyPoolSpec, ProxySpec, VultrSpec,
};
use crate::rollout::wish::SpecError;

use super::windows::Window;

/// The operator-wide configuration: what a pool gets that does not say (ROLLING_*, AGE_LIMIT, ConfigMap aether-rolling).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// `ROLLING_DEPLOYMENT`.
    pub enabled: bool,
    /// `ROLLING_MIN_AVAILABLE`.
    pub min_available: u32,
    /// `ROLLING_BATCH_SIZE`.
    pub batch_size: u32,
    /// `AGE_LIMIT`; zero: never.
    pub age_limit: Duration,
}

impl Default for Defaults {
    /// The documented defaults: false, 3, 2, 0.
    fn default() -> Self {
        Self { enabled: false, min_available: 3, batch_size: 2, age_limit: Duration::ZERO }
    }
}

impl Defaults {
    /// What the operator-wide ConfigMap says comes first; a value that cannot be read is as good as none.
    #[must_use]
    pub fn overlaid(self, config: &BTreeMap<String, String>) -> Self {
        let number = |key: &str, least: u32| config.get(key).and_then(|v| v.trim().parse().ok()).filter(|n| *n >= least);
        Self {
            // The guide writes True.
            enabled: config.get("enabled").and_then(|v| v.trim().to_ascii_lowercase().parse().ok()).unwrap_or(self.enabled),
            min_available: number("min_available", 0).unwrap_or(self.min_available),
            batch_size: number("batch_size", 1).unwrap_or(self.batch_size),
            ..self
        }
    }
}

/// Port of a proxy whose pool does not say.
pub const DEFAULT_PORT: u16 = 8899;

/// A validated spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// Where the proxies live and what they are made of.
    pub provider: Provider,
    /// Second half of the pool's documented name.
    pub instance: String,
    /// Proxies wanted.
    pub min_scaling: u32,
    /// Proxies that may exist at any moment.
    pub max_scaling: u32,
    /// Age at which a proxy is recycled.
    pub age_limit: Option<Duration>,
    /// By how much of it each proxy's limit may be shorter.
    pub jitter_percent: u32,
    /// How recycling keeps the pool serving.
    pub rolling: Rolling,
    /// When recycling may begin; none: always.
    pub windows: Vec<Window>,
    /// Create and delete nothing.
    pub paused: bool,
    /// Secret with the cloud's credentials.
    pub credentials: Option<String>,
    /// What each proxy does.
    pub proxy: Proxy,
    /// When it counts as healthy, and as dead.
    pub health: Probing,
    /// Publish a headless Service.
    pub publish_service: bool,
    /// Publish a Secret with the URLs.
    pub publish_secret: bool,
    /// What becomes of the proxies when the pool is deleted.
    pub deletion: DeletionPolicy,
}

/// Where the proxies live and what they are made of.
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    DigitalOcean(DigitalOceanSpec),
    Aws(AwsSpec),
    Gcp(GcpSpec),
    Hetzner(HetznerSpec),
    Vultr(VultrSpec),
    Kubernetes(KubernetesSpec),
}

impl Provider {
    /// As in the spec, the REST paths and the log lines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DigitalOcean(_) => "digitalocean",
            Self::Aws(_) => "aws",
            Self::Gcp(_) => "gcp",
            Self::Hetzner(_) => "hetzner",
            Self::Vultr(_) => "vultr",
            Self::Kubernetes(_) => "kubernetes",
        }
    }

    /// With another Secret the same calls succeed and show another account: nothing in the spec says which is meant.
    pub fn account_is_in_the_secret(&self) -> bool {
        match self {
            Self::DigitalOcean(_) | Self::Hetzner(_) | Self::Vultr(_) => true,
            // Spot instances may all be taken away at once, and that is no reason to wait for a person.
            Self::Aws(spec) => spec.spot.is_none(),
            Self::Gcp(_) | Self::Kubernetes(_) => false,
        }
    }

    /// What that cloud calls a VM; the log lines say it.
    pub fn noun(&self) -> &'static str {
        match self {
            Self::DigitalOcean(_) => "droplet",
            Self::Aws(_) | Self::Gcp(_) | Self::Vultr(_) => "instance",
            Self::Hetzner(_) => "server",
            Self::Kubernetes(_) => "pod",
        }
    }
}

/// How recycling keeps the pool serving, as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rolling {
    /// Keep to floor and batch at all.
    pub enabled: bool,
    /// Healthy proxies that must stay.
    pub min_available: u32,
    /// Proxies in flight at once; at least 1.
    pub batch_size: u32,
}

/// What each proxy does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Port it listens on.
    pub port: u16,
    /// Secret with username and password.
    pub auth: Option<String>,
    /// Networks that may use it; none: all.
    pub allow_from: Vec<IpNet>,
    /// Ports that CONNECT may reach.
    pub connect_ports: Vec<u16>,
}

/// When a proxy counts as healthy, and as dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probing {
    /// Time between two probes of one proxy.
    pub interval: Duration,
    /// Time one probe may take.
    pub timeout: Duration,
    /// Failures in a row that make it dead; at least 2.
    pub failure_threshold: u32,
    /// Time from its birth in which it must become healthy.
    pub startup_timeout: Duration,
    /// Share of dead ones above which probes are not believed.
    pub max_unhealthy_percent: u32,
    /// URLs fetched through it.
    pub egress_targets: Vec<String>,
}

impl Wish {
    /// Parses the spec of the pool of that name. The schema refuses most of what fails here; the rest it cannot see
    /// (cron, time zones, the operator-wide age limit).
    pub fn parse(name: &str, spec: &ProxyPoolSpec, defaults: &Defaults) -> Result<Self, SpecError> {
        let min_scaling = whole("minScaling", spec.min_scaling, 0)?;
        let max_scaling = spec.max_scaling.map_or(Ok(min_scaling), |n| whole("maxScaling", n, 0))?;
        if max_scaling < min_scaling {
            return error("maxScaling", format!("{max_scaling} is below minScaling {min_scaling}; raise it, or leave it out for no surge"));
        }
        let health = probing(&spec.health.clone().unwrap_or_default())?;
        let age_limit = match &spec.age_limit {
            Some(text) => span("ageLimit", Some(text), 0)?,
            None => defaults.age_limit,
        };
        if !age_limit.is_zero() && age_limit < health.startup_timeout * 2 {
            let from = if spec.age_limit.is_some() { "" } else { " (the operator's AGE_LIMIT)" };
            return error(
                "ageLimit",
                format!(
                    "{}{from} is less than twice health.startupTimeout {}; raise ageLimit, lower health.startupTimeout, or write 0s for never",
                    duration::print(age_limit),
                    duration::print(health.startup_timeout)
                ),
            );
        }
        let (rolling, windows) = rolling(spec, defaults)?;
        let provider = provider(spec)?;
        let credentials = spec.credentials_secret_ref.as_ref().map(|s| s.name.clone());
        let needs_them = matches!(provider, Provider::DigitalOcean(_) | Provider::Hetzner(_) | Provider::Vultr(_));
        if needs_them && credentials.is_none() {
            return error("credentialsSecretRef", format!("{} needs it: name the Secret that holds the API token", provider.name()));
        }
        let publish = spec.publish.clone().unwrap_or_default();
        Ok(Self {
            provider,
            instance: spec.instance.clone().unwrap_or_else(|| name.to_owned()),
            min_scaling,
            max_scaling,
            age_limit: Some(age_limit).filter(|a| !a.is_zero()),
            jitter_percent: whole("ageJitterPercent", spec.age_jitter_percent.unwrap_or(0), 0)?.min(50),
            rolling,
            windows,
            paused: spec.paused.unwrap_or_default(),
            credentials,
            proxy: proxy(&spec.proxy)?,
            health,
            publish_service: publish.service.unwrap_or(true),
            publish_secret: publish.secret.unwrap_or(true),
            deletion: spec.deletion_policy.unwrap_or_default(),
        })
    }

    /// The pool's documented name, `provider/instance`.
    pub fn title(&self) -> String {
        format!("{}/{}", self.provider.name(), self.instance)
    }
}

fn provider(spec: &ProxyPoolSpec) -> Result<Provider, SpecError> {
    let ProxyPoolSpec { digitalocean, aws, gcp, hetzner, vultr, kubernetes, .. } = spec.clone();
    let mut named = [
        digitalocean.map(Provider::DigitalOcean),
        aws.map(Provider::Aws),
        gcp.map(Provider::Gcp),
        hetzner.map(Provider::Hetzner),
        vultr.map(Provider::Vultr),
        kubernetes.map(Provider::Kubernetes),
    ]
    .into_iter()
    .flatten();
    match (named.next(), named.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            error("digitalocean", "no provider is named; write one of digitalocean, aws, gcp, hetzner, vultr and kubernetes".into())
        }
        (Some(one), Some(two)) => error(two.name(), format!("{} is named as well; keep one of them", one.name())),
    }
}

fn rolling(spec: &ProxyPoolSpec, defaults: &Defaults) -> Result<(Rolling, Vec<Window>), SpecError> {
    let Some(asked) = &spec.rolling else {
        let Defaults { enabled, min_available, batch_size, .. } = *defaults;
        return Ok((Rolling { enabled, min_available, batch_size: batch_size.max(1) }, Vec::new()));
    };
    let rolling = Rolling {
        // Who writes the block wants it.
        enabled: asked.enabled.unwrap_or(true),
        min_available: asked.min_available.map_or(Ok(defaults.min_available), |n| whole("rolling.minAvailable", n, 0))?,
        batch_size: asked.batch_size.map_or(Ok(defaults.batch_size.max(1)), |n| whole("rolling.batchSize", n, 1))?,
    };
    let windows = asked
        .windows
        .iter()
        .enumerate()
        .map(|(i, w)| Window::parse(w).map_err(|message| SpecError { field: format!("rolling.windows[{i}]"), message }));
    Ok((rolling, windows.collect::<Result<_, _>>()?))
}

fn proxy(spec: &ProxySpec) -> Result<Proxy, SpecError> {
    let port = |field: &str, n: i32| match u16::try_from(n) {
        Ok(port) if port > 0 => Ok(port),
        _ => error(field, format!("{n} is no port; write one from 1 to 65535")),
    };
    let networks = spec.allow_from.iter().enumerate().map(|(i, text)| {
        let message = || format!("{text:?} is no network; write for example 203.0.113.0/24");
        text.parse::<IpNet>().map_err(|_| SpecError { field: format!("proxy.allowFrom[{i}]"), message: message() })
    });
    let allow_from = networks.collect::<Result<Vec<_>, _>>()?;
    let auth = spec.auth_secret_ref.as_ref().map(|s| s.name.clone());
    if auth.is_none() && (allow_from.is_empty() || allow_from.iter().any(|n| n.prefix_len() == 0)) {
        return error("proxy", "would be open to everybody; set authSecretRef, or allowFrom with the networks that may use it".into());
    }
    Ok(Proxy {
        port: port("proxy.port", spec.port.unwrap_or_else(|| DEFAULT_PORT.into()))?,
        auth,
        allow_from,
        connect_ports: spec
            .connect_ports
            .clone()
            .unwrap_or_else(|| vec![443, 563])
            .into_iter()
            .map(|n| port("proxy.connectPorts", n))
            .collect::<Result<_, _>>()?,
    })
}

fn probing(spec: &HealthSpec) -> Result<Probing, SpecError> {
    Ok(Probing {
        interval: positive("health.interval", spec.interval.as_deref(), 30)?,
        timeout: positive("health.timeout", spec.timeout.as_deref(), 10)?,
        failure_threshold: whole("health.failureThreshold", spec.failure_threshold.unwrap_or(3), 2)?,
        startup_timeout: positive("health.startupTimeout", spec.startup_timeout.as_deref(), 600)?,
        max_unhealthy_percent: whole("health.maxUnhealthyPercent", spec.max_unhealthy_percent.unwrap_or(40), 0)?.min(100),
        egress_targets: spec.egress_targets.clone(),
    })
}

fn whole(field: &str, n: i32, least: u32) -> Result<u32, SpecError> {
    match u32::try_from(n) {
        Ok(n) if n >= least => Ok(n),
        _ => error(field, format!("{n} is too small; write {least} or more")),
    }
}

fn span(field: &str, text: Option<&str>, default_seconds: u64) -> Result<Duration, SpecError> {
    match text {
        None => Ok(Duration::from_secs(default_seconds)),
        Some(text) => duration::parse(text).map_err(|e| SpecError { field: field.into(), message: e.to_string() }),
    }
}

fn positive(field: &str, text: Option<&str>, default_seconds: u64) -> Result<Duration, SpecError> {
    match span(field, text, default_seconds)? {
        Duration::ZERO => error(field, "must be longer than 0s".into()),
        span => Ok(span),
    }
}

fn error<T>(field: &str, message: String) -> Result<T, SpecError> {
    Err(SpecError { field: field.into(), message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use serde_json::{Value, json};

    fn wish(change: &Value, defaults: &Defaults) -> Result<Wish, SpecError> {
        let mut spec = json!({
            "minScaling": 5, "digitalocean": {"region": "lon1"}, "credentialsSecretRef": {"name": "t"},
            "proxy": {"authSecretRef": {"name": "p"}},
        });
        json_patch::merge(&mut spec, change);
        Wish::parse("default", &serde_json::from_value(spec).unwrap(), defaults)
    }

    #[test]
    fn what_a_pool_does_not_say_is_the_operators() {
        let defaults = Defaults { enabled: true, min_available: 7, batch_size: 4, age_limit: Duration::from_hours(2) };
        let found = wish(&json!({}), &defaults).unwrap();
        assert_eq!(found.rolling, Rolling { enabled: true, min_available: 7, batch_size: 4 });
        assert_eq!((found.age_limit, found.max_scaling, found.title()), (Some(Duration::from_hours(2)), 5, "digitalocean/default".into()));
        let found = wish(&json!({"rolling": {"batchSize": 1}, "ageLimit": "0s"}), &Defaults::default()).unwrap();
        assert_eq!(found.rolling, Rolling { enabled: true, min_available: 3, batch_size: 1 });
        assert_eq!(found.age_limit, None);
        assert!(!wish(&json!({}), &Defaults::default()).unwrap().rolling.enabled);
    }

    #[rstest]
    #[case(json!({"digitalocean": null}), "digitalocean", "no provider")]
    #[case(json!({"kubernetes": {"image": "x"}}), "kubernetes", "keep one")]
    #[case(json!({"maxScaling": 4}), "maxScaling", "minScaling 5")]
    #[case(json!({"minScaling": -1}), "minScaling", "0 or more")]
    #[case(json!({"ageLimit": "19m"}), "ageLimit", "startupTimeout 10m")]
    #[case(json!({"ageLimit": "1d"}), "ageLimit", "no duration")]
    #[case(json!({"rolling": {"batchSize": 0}}), "rolling.batchSize", "1 or more")]
    #[case(json!({"rolling": {"windows": [{"schedule": "x y z a b", "duration": "1h"}]}}), "rolling.windows[0]", "cron")]
    #[case(json!({"proxy": {"authSecretRef": null}}), "proxy", "open to everybody")]
    #[case(json!({"proxy": {"authSecretRef": null, "allowFrom": ["::/0"]}}), "proxy", "open to everybody")]
    #[case(json!({"proxy": {"allowFrom": ["10.0.0.1/8", "x"]}}), "proxy.allowFrom[1]", "network")]
    #[case(json!({"proxy": {"port": 70000}}), "proxy.port", "65535")]
    #[case(json!({"credentialsSecretRef": null}), "credentialsSecretRef", "token")]
    #[case(json!({"health": {"failureThreshold": 1}}), "health.failureThreshold", "2 or more")]
    #[case(json!({"health": {"startupTimeout": "0s"}}), "health.startupTimeout", "longer")]
    fn a_field_that_fails_is_named_with_the_way_out(#[case] change: Value, #[case] field: &str, #[case] word: &str) {
        let error = wish(&change, &Defaults::default()).unwrap_err();
        assert_eq!(error.field, field);
        assert!(error.message.contains(word), "{error}");
    }

    #[test]
    fn an_age_limit_of_the_operators_that_is_too_short_is_told_as_such() {
        let defaults = Defaults { age_limit: Duration::from_mins(5), ..Defaults::default() };
        assert!(wish(&json!({}), &defaults).unwrap_err().message.contains("AGE_LIMIT"));
    }

    #[test]
    fn the_config_map_comes_before_the_flags() {
        let config = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let found = Defaults::default().overlaid(&config(&[("enabled", "True"), ("min_available", "5"), ("batch_size", "3")]));
        assert_eq!(found, Defaults { enabled: true, min_available: 5, batch_size: 3, ..Defaults::default() });
        assert_eq!(Defaults::default().overlaid(&config(&[("enabled", "maybe"), ("batch_size", "0")])), Defaults::default());
    }

    #[test]
    fn every_example_is_a_valid_pool() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let mut providers = Vec::new();
        for file in std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()) {
            if file.file_name().unwrap().to_str().unwrap().starts_with("pool-") {
                let pool: crate::api::ProxyPool = serde_yaml::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
                providers.push(Wish::parse("x", &pool.spec, &Defaults::default()).unwrap().provider.name());
            }
        }
        providers.sort_unstable();
        assert_eq!(providers, ["aws", "digitalocean", "gcp", "hetzner", "kubernetes", "vultr"]);
    }
}
