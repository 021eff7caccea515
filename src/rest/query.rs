//! What may be written behind the question mark, as data: parsed, and documented, from the same lines.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::duration;
use crate::orders::Refusal;
use crate::orders::desk::is_namespace;

/// Longest wait that may be asked for.
pub const LONGEST_WAIT: Duration = Duration::from_mins(10);
/// Proxies on a page that does not say.
const PAGE: usize = 10;
/// Most proxies on a page.
const LARGEST_PAGE: usize = 100;

/// One parameter.
pub struct Parameter {
    /// As it is written.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// It must be there.
    pub is_needed: bool,
    /// Its JSON schema.
    pub schema: fn() -> Value,
    read: fn(&str, &mut Query) -> Result<(), String>,
}

/// All of them, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Namespace asked for.
    pub namespace: Option<String>,
    /// How long to wait until the order is followed.
    pub wait: Option<Duration>,
    /// Move an active update to another version.
    pub supersede: bool,
    /// Only check.
    pub dry_run: bool,
    /// Finished ones too.
    pub all: bool,
    /// Proxies to skip.
    pub offset: usize,
    /// Proxies to answer.
    pub limit: usize,
    /// Which proxy.
    pub ip_address: Option<IpAddr>,
}

impl Default for Query {
    fn default() -> Self {
        Self { namespace: None, wait: None, supersede: false, dry_run: false, all: false, offset: 0, limit: PAGE, ip_address: None }
    }
}

/// `?namespace=`, of every route.
pub const NAMESPACE: Parameter = Parameter {
    name: "namespace",
    about: "Namespace of what it is about. Default: the server's.",
    is_needed: false,
    schema: || json!({"type": "string", "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"}),
    read: |text, query| {
        if !is_namespace(text) {
            return Err("is no name of a namespace".into());
        }
        query.namespace = Some(text.to_owned());
        Ok(())
    },
};
/// `?wait=30s`.
pub const WAIT: Parameter = Parameter {
    name: "wait",
    about: "Answer when the operator has followed, or after this long as it is then; as in 30s, at most 10m. Default: at once.",
    is_needed: false,
    schema: || json!({"type": "string", "pattern": duration::PATTERN}),
    read: |text, query| {
        let wait = duration::parse(text).map_err(|e| e.to_string())?;
        if wait > LONGEST_WAIT {
            return Err(format!("must be at most {}; ask again for more", duration::print(LONGEST_WAIT)));
        }
        query.wait = Some(wait);
        Ok(())
    },
};
/// `?supersede=true`.
pub const SUPERSEDE: Parameter = Parameter {
    name: "supersede",
    about: "Take the place of the active update. Default false.",
    is_needed: false,
    schema: boolean,
    read: |text, query| flag(text).map(|yes| query.supersede = yes),
};
/// `?dryRun=true`.
pub const DRY_RUN: Parameter = Parameter {
    name: "dryRun",
    about: "Check everything and write nothing. Default false.",
    is_needed: false,
    schema: boolean,
    read: |text, query| flag(text).map(|yes| query.dry_run = yes),
};
/// `?all=true`.
pub const ALL: Parameter = Parameter {
    name: "all",
    about: "Finished updates as well. Default false.",
    is_needed: false,
    schema: boolean,
    read: |text, query| flag(text).map(|yes| query.all = yes),
};
/// `?offset=`.
pub const OFFSET: Parameter = Parameter {
    name: "offset",
    about: "How many proxies to skip. Default 0.",
    is_needed: false,
    schema: || json!({"type": "integer", "minimum": 0, "default": 0}),
    read: |text, query| whole(text, 0, usize::MAX).map(|n| query.offset = n),
};
/// `?limit=`.
pub const LIMIT: Parameter = Parameter {
    name: "limit",
    about: "How many proxies to answer, 1 to 100. Default 10.",
    is_needed: false,
    schema: || json!({"type": "integer", "minimum": 1, "maximum": LARGEST_PAGE, "default": PAGE}),
    read: |text, query| whole(text, 1, LARGEST_PAGE).map(|n| query.limit = n),
};
/// `?ip_address=`.
pub const IP_ADDRESS: Parameter = Parameter {
    name: "ip_address",
    about: "Address of the proxy.",
    is_needed: true,
    schema: || json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}),
    read: |text, query| {
        query.ip_address = Some(text.parse().map_err(|_| format!("{text:.80?} is no IP address"))?);
        Ok(())
    },
};

fn boolean() -> Value {
    json!({"type": "boolean", "default": false})
}

/// `?dryRun` alone is a yes.
fn flag(text: &str) -> Result<bool, String> {
    match text {
        "" | "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("write true or false".into()),
    }
}

fn whole(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| if most == usize::MAX { format!("must be {least} or more") } else { format!("must be from {least} to {most}") })
}

impl Query {
    /// Reads what a route knows; anything else, and anything twice, is refused by name.
    pub fn read(known: &[Parameter], text: &str) -> Result<Self, Refusal> {
        let mut query = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            let Some(parameter) = known.iter().find(|p| p.name == name) else {
                let names: Vec<&str> = known.iter().map(|p| p.name).collect();
                return Err(Refusal::invalid(format!("unknown parameter {name:.80?}; this route knows {}", names.join(", "))));
            };
            if seen.contains(&parameter.name) {
                return Err(Refusal::invalid(format!("{name}: is there twice")));
            }
            seen.push(parameter.name);
            (parameter.read)(&value, &mut query).map_err(|why| Refusal::invalid(format!("{name}: {why}")))?;
        }
        match known.iter().find(|p| p.is_needed && !seen.contains(&p.name)) {
            Some(missing) => Err(Refusal::invalid(format!("{}: is missing", missing.name))),
            None => Ok(query),
        }
    }
}
