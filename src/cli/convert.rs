//! From CloudProxy's environment to `ProxyPool`s: what `aether pool convert` prints.
//!
//! CloudProxy takes all its settings from variables; [`CLOUDS`] says where each of a provider's goes. What has no place here is
//! named in a note, and what would change its meaning in silence is an error. Values are in the Secrets only, never in
//! a note or an error.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use serde_json::{Map, Value, json};

use crate::api::{ProxyPool, duration};
use crate::pool::bootstrap::{Login, Refused};
use crate::pool::wish::{Defaults, Wish};

mod clouds;
mod env;

use clouds::{CLOUDS, Cloud, Place, Setting};

/// The Secret with the login of all proxies.
const LOGIN_SECRET: &str = "proxy-auth";
/// The largest pool that the schema allows.
const MOST_PROXIES: u32 = 5000;
/// Longest name of a pool: its Service has the same one.
const LONGEST_NAME: usize = 63;
/// `health.startupTimeout` of a pool that names none.
const STARTUP: u32 = 600;
/// The shortest `AGE_LIMIT`: half of it is what a VM has to come up.
const SHORTEST_AGE: u32 = 120;

/// Manifests, and what is to be known about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Secrets and `ProxyPool`s, for `kubectl apply -f -`. Holds the credentials.
    pub yaml: String,
    /// What was not carried over or means something else here, one sentence each. Holds no values.
    pub notes: Vec<String>,
}

/// Why there is no conversion. Holds no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}: {message}")]
pub struct ConvertError {
    /// Name of the variable, or the line where there is none.
    pub variable: String,
    /// What is wrong, and what to do about it.
    pub message: String,
}

fn error<T>(variable: &str, message: impl Into<String>) -> Result<T, ConvertError> {
    Err(ConvertError { variable: variable.into(), message: message.into() })
}

/// Turns the text of an environment (an `.env` file, or a `docker run` with `-e`) into manifests. Without a namespace they
/// name none.
pub fn convert(env: &str, namespace: Option<&str>) -> Result<Converted, ConvertError> {
    let mut vars = Vars::of(env::parse(env)?);
    let common = Common::read(&mut vars)?;
    let mut secrets = Vec::new();
    let mut pools = Vec::new();
    for cloud in CLOUDS {
        for instance in cloud.instances(&mut vars)? {
            let (pool, secret) = read_pool(cloud, &instance, &common, namespace, &mut vars)?;
            pools.push(pool);
            secrets.extend(secret);
        }
    }
    if pools.is_empty() {
        let switches: Vec<_> = CLOUDS.iter().map(|cloud| format!("{}_ENABLED", cloud.prefix)).collect();
        return error(&switches.join(", "), "none is True, so there is nothing to convert; set the one whose proxies you want");
    }
    secrets.insert(0, secret(LOGIN_SECRET, namespace, &login(&mut vars)?)?);
    if vars.flag("ONLY_HOST_IP")? == Some(true) {
        vars.note("ONLY_HOST_IP is not carried over, and who has the login may come from anywhere: add to each pool's proxy.allowFrom the networks of the users and of the operator");
    }
    vars.note_the_rest();
    let documents = secrets.iter().map(serde_yaml::to_string).chain(pools.iter().map(serde_yaml::to_string));
    let documents: Result<Vec<String>, _> = documents.collect();
    let yaml = documents.map_err(|e| ConvertError { variable: "output".into(), message: e.to_string() })?.join("---\n");
    Ok(Converted { yaml, notes: vars.notes })
}

/// The variables, which of them were looked at, and what there is to say.
struct Vars {
    /// All that are set.
    all: BTreeMap<String, String>,
    /// Those that nobody has looked at.
    given: BTreeMap<String, String>,
    notes: Vec<String>,
}

impl Vars {
    fn of(mut given: BTreeMap<String, String>) -> Self {
        let empty: Vec<String> = given.extract_if(.., |_, value| value.trim().is_empty()).map(|(name, _)| name).collect();
        let notes = if empty.is_empty() { Vec::new() } else { vec![format!("empty, as if not set: {}", empty.join(", "))] };
        Self { all: given.clone(), given, notes }
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// A variable, which then counts as carried over.
    fn take(&mut self, name: &str) -> Option<String> {
        self.given.remove(name).map(|value| value.trim().to_owned())
    }

    /// A variable that may count for several pools.
    fn share(&mut self, name: &str) -> Option<String> {
        self.take(name).or_else(|| self.all.get(name).map(|value| value.trim().to_owned()))
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>, ConvertError> {
        let value = self.take(name).map(|value| value.to_ascii_lowercase());
        match value.as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => error(name, "must be True or False"),
        }
    }

    fn number(&mut self, name: &str, least: u32, most: u32) -> Result<Option<u32>, ConvertError> {
        match self.take(name).map(|value| value.parse()) {
            None => Ok(None),
            Some(Ok(number)) if (least..=most).contains(&number) => Ok(Some(number)),
            Some(_) => error(name, format!("must be a whole number from {least} to {most}")),
        }
    }

    /// Names what is left: of providers that are off, and what nothing here is called like.
    fn note_the_rest(&mut self) {
        let mut left: Vec<String> = std::mem::take(&mut self.given).into_keys().collect();
        for cloud in CLOUDS {
            let ours: Vec<String> = left.extract_if(.., |name| cloud.owns(name)).collect();
            if !ours.is_empty() {
                self.note(format!(
                    "not carried over, for no pool that is enabled has such a setting: {} (another account or place of {} is {}_INSTANCE_<NAME>_ENABLED=True and so on)",
                    ours.join(", "),
                    cloud.name,
                    cloud.prefix,
                ));
            }
        }
        if !left.is_empty() {
            self.note(format!("not carried over, no setting of a pool: {}", left.join(", ")));
        }
    }
}

/// What all pools have in common.
struct Common {
    rolling: Value,
    min_available: u32,
    age_limit: String,
    startup_timeout: Option<String>,
}

impl Common {
    fn read(vars: &mut Vars) -> Result<Self, ConvertError> {
        let enabled = vars.flag("ROLLING_DEPLOYMENT")?.unwrap_or(false);
        let min_available = vars.number("ROLLING_MIN_AVAILABLE", 0, MOST_PROXIES)?.unwrap_or(3);
        let batch_size = vars.number("ROLLING_BATCH_SIZE", 1, MOST_PROXIES)?.unwrap_or(2);
        let seconds = vars.number("AGE_LIMIT", 0, u32::MAX)?.unwrap_or(0);
        let age_limit = duration::print(Duration::from_secs(seconds.into()));
        let startup_timeout = match seconds {
            0 => None,
            1..SHORTEST_AGE => {
                let way_out = format!("write at least {SHORTEST_AGE} seconds, or 0 for never");
                return error("AGE_LIMIT", format!("no VM comes up in half of that time; {way_out}"));
            }
            _ if seconds / 2 < STARTUP => {
                let half = duration::print(Duration::from_secs((seconds / 2).into()));
                vars.note(format!(
                    "AGE_LIMIT is short: health.startupTimeout is {half} instead of 10m, and a proxy that is not healthy by then is replaced"
                ));
                Some(half)
            }
            _ => None,
        };
        // All three, whatever the operator's own ConfigMap says.
        let rolling = json!({"enabled": enabled, "minAvailable": min_available, "batchSize": batch_size});
        Ok(Self { rolling, min_available: if enabled { min_available } else { 0 }, age_limit, startup_timeout })
    }
}

/// Without a login of one's own CloudProxy's proxies are open to everybody.
fn login(vars: &mut Vars) -> Result<BTreeMap<String, String>, ConvertError> {
    let mut of = |name: &str, key: &str, check: fn(&str) -> Result<Login, Refused>| {
        let value = vars.take(name).filter(|value| value != "changeme").ok_or_else(|| ConvertError {
            variable: name.into(),
            message:
                "is not set, or the changeme that everybody knows, and without a login the proxies would be open to everybody; choose one"
                    .into(),
        })?;
        match check(&value) {
            Ok(_) => Ok((key.to_owned(), value)),
            Err(refused) => error(name, format!("cannot be a login here: {refused}")),
        }
    };
    let username = of("PROXY_USERNAME", "username", |user| Login::new(user, "long-enough"))?;
    let password = of("PROXY_PASSWORD", "password", |password| Login::new("user", password))?;
    Ok(BTreeMap::from([username, password]))
}

/// One pool to read: the provider's own, or one of its `_INSTANCE_`s.
struct Instance {
    /// What its variables begin with.
    prefix: String,
    /// Second half of the pool's documented name.
    name: String,
    default: bool,
}

impl Cloud {
    fn owns(&self, variable: &str) -> bool {
        variable.strip_prefix(self.prefix).is_some_and(|rest| rest.starts_with('_'))
    }

    /// The enabled ones. The variables of the others stay where they are, to be named in a note.
    fn instances(&self, vars: &mut Vars) -> Result<Vec<Instance>, ConvertError> {
        let extra = format!("{}_INSTANCE_", self.prefix);
        let names = vars.given.keys().filter_map(|name| name.strip_prefix(&extra)?.strip_suffix("_ENABLED").map(str::to_owned));
        let extra: Vec<Instance> = names
            .map(|name| Instance { prefix: format!("{extra}{name}_"), name: name.to_ascii_lowercase().replace('_', "-"), default: false })
            .collect();
        let own = Instance { prefix: format!("{}_", self.prefix), name: "default".into(), default: true };
        let mut enabled: Vec<Instance> = Vec::new();
        for instance in std::iter::once(own).chain(extra) {
            let switch = format!("{}ENABLED", instance.prefix);
            match vars.flag(&switch)? {
                Some(true) if enabled.iter().any(|other| other.name == instance.name) => {
                    return error(&switch, "another instance of the provider has this name; rename one");
                }
                Some(true) => enabled.push(instance),
                Some(false) => vars.note(format!("{switch} is False: no pool for it")),
                None => {}
            }
        }
        Ok(enabled)
    }
}

type PoolAndSecret = (ProxyPool, Option<Secret>);

fn read_pool(
    cloud: &Cloud,
    instance: &Instance,
    common: &Common,
    namespace: Option<&str>,
    vars: &mut Vars,
) -> Result<PoolAndSecret, ConvertError> {
    let Instance { prefix, name, default } = instance;
    let switch = format!("{prefix}ENABLED");
    let pool = if *default { cloud.name.to_owned() } else { format!("{}-{name}", cloud.name) };
    let fits = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && !name.ends_with('-') && pool.len() <= LONGEST_NAME;
    if !fits || (!default && name == "default") {
        let rule =
            format!("the name of the pool would be {pool}: at most {LONGEST_NAME} characters, without _ at either end, and not DEFAULT");
        return error(&switch, format!("{rule}; rename the instance"));
    }
    if name.contains('-') {
        vars.note(format!("{switch}: the pool is called {}/{name} here, for no name in Kubernetes has underscores", cloud.name));
    }
    let (block, keys) = cloud.read(instance, vars)?;
    let missing = cloud.settings.iter().find(|s| matches!(s.place, Place::Secret { needed: true, .. } if keys.is_empty()));
    if let Some(Setting { names: [token, ..], .. }) = missing {
        return error(&format!("{prefix}{token}"), format!("is not set; {} needs it", cloud.name));
    }

    // An extra instance begins with none in CloudProxy.
    let min = vars.number(&format!("{prefix}MIN_SCALING"), 0, MOST_PROXIES)?.unwrap_or(if *default { 2 } else { 0 });
    let max_name = format!("{prefix}MAX_SCALING");
    let max = vars.number(&max_name, 0, MOST_PROXIES)?;
    match max {
        Some(max) if max < min => vars.note(format!("{max_name} is below the minimum and not carried over")),
        Some(max) if max > min => {
            vars.note(format!("{max_name} did nothing in CloudProxy; here it is room for replacements that come before the old ones go"));
        }
        _ => {}
    }
    if min > 0 && common.min_available >= min && max.is_none_or(|max| max <= min) {
        vars.note(format!("ROLLING_MIN_AVAILABLE is not below the size of {}/{name}: that pool keeps one less than its size", cloud.name));
    }

    let secret_name = format!("{pool}-credentials");
    let mut spec = json!({
        "instance": name, "minScaling": min, "maxScaling": max.filter(|max| *max >= min),
        "ageLimit": common.age_limit, "rolling": common.rolling, (cloud.name): block,
        "proxy": {"authSecretRef": {"name": LOGIN_SECRET}},
    });
    if let (Some(spec), Some(timeout)) = (spec.as_object_mut(), &common.startup_timeout) {
        spec.insert("health".into(), json!({"startupTimeout": timeout}));
    }
    if let (Some(spec), false) = (spec.as_object_mut(), keys.is_empty()) {
        spec.insert("credentialsSecretRef".into(), json!({"name": secret_name}));
    }
    let wrong = |message: String| ConvertError { variable: switch.clone(), message };
    let spec = serde_json::from_value(spec).map_err(|e| wrong(e.to_string()))?;
    Wish::parse(&pool, &spec, &Defaults::default()).map_err(|e| wrong(e.to_string()))?;
    let mut made = ProxyPool::new(&pool, spec);
    made.metadata.namespace = namespace.map(str::to_owned);
    // A key without a value is in a file that only its owner can read.
    let known: BTreeMap<String, String> = keys.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    let secret = if known.is_empty() { None } else { Some(secret(&secret_name, namespace, &known)?) };
    Ok((made, secret))
}

/// The keys of a Secret, and their values where they are known.
type Keys = BTreeMap<String, Option<String>>;

impl Cloud {
    /// The provider block, and what goes into the Secret.
    fn read(&self, instance: &Instance, vars: &mut Vars) -> Result<(Value, Keys), ConvertError> {
        let (mut block, mut keys) = (Map::new(), Keys::new());
        let mut unset_keys = Vec::new();
        for setting in self.settings {
            let own: Vec<String> = setting.names.iter().map(|name| format!("{}{name}", instance.prefix)).collect();
            let mut given = own.iter().filter(|name| vars.given.contains_key(*name));
            let first = given.next().cloned();
            let others: Vec<&str> = given.map(String::as_str).collect();
            if !others.is_empty() {
                return error(&others.join(", "), "means the same as another variable that is set; keep one");
            }
            let variable = first.or_else(|| own.into_iter().next()).unwrap_or_default();
            let mut value = vars.take(&variable);
            if value.is_none() && !instance.default && setting.is_inherited() {
                value = setting.names.iter().find_map(|name| vars.share(&format!("{}_{name}", self.prefix)));
            }
            match (setting.place, value) {
                (Place::Secret { key, .. }, Some(value)) => {
                    clouds::check_secret(key, &variable, &value)?;
                    keys.insert(key.into(), Some(value));
                }
                (Place::Secret { key, .. }, None) => unset_keys.push((key, variable)),
                (Place::KeyFile { key }, Some(_)) if keys.contains_key(key) => {
                    vars.note(format!("{variable} is not carried over: the key itself is set as well"));
                }
                (Place::KeyFile { key }, Some(_)) => {
                    let secret = if instance.default { self.name.to_owned() } else { format!("{}-{}", self.name, instance.name) };
                    vars.note(format!(
                        "{variable} names a file that is not read here: kubectl create secret generic {secret}-credentials --from-file={key}=<file>"
                    ));
                    keys.insert(key.into(), None);
                }
                (Place::Nowhere { why }, Some(_)) => vars.note(format!("{variable} is not carried over: {why}")),
                (Place::KeyFile { .. } | Place::Nowhere { .. }, None) => {}
                (place, value) => clouds::fill(&mut block, place, &variable, value, vars)?,
            }
        }
        // One half of a pair of keys is of no use.
        if let Some((_, variable)) = unset_keys.iter().find(|(key, _)| !keys.is_empty() && !keys.contains_key(*key)) {
            return error(variable, "is not set, and its other half is; set both or none");
        }
        for (field, note) in self.without {
            let has = if *field == "credentials" { !keys.is_empty() } else { block.contains_key(*field) };
            if !has {
                vars.note(format!("{}/{}: {note}", self.name, instance.name));
            }
        }
        Ok((Value::Object(block), keys))
    }
}

fn secret(name: &str, namespace: Option<&str>, data: &BTreeMap<String, String>) -> Result<Secret, ConvertError> {
    let made = json!({"metadata": {"name": name, "namespace": namespace}, "stringData": data});
    serde_json::from_value(made).map_err(|_| ConvertError { variable: name.into(), message: "is no Secret".into() })
}

#[cfg(test)]
#[path = "convert/tests.rs"]
mod tests;
