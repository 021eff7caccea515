//! What a Prometheus is asked: raw counters of one version, per series, as the scrapes left them.
//!
//! No `rate()` and no `increase()`: they extrapolate to fractions and miss the first sample of a new
//! series, which is exactly a new version's first errors. No `sum()` either: one restarted gateway pod
//! would make the sum fall and count the others' whole history again.
//!
//! A short range (`[2m]`) is asked for, not an instant: only then does each series come with the time it was really
//! scraped at, which tells a stale one and one of two replicas that lags behind. Two minutes cover scrape intervals
//! of up to one minute with one of them missed.
//!
//! The user's own queries keep to the same: one selector that ends in a range, which leaves no room for a function.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::recognise::{ENVOY, Family, ISTIO_MESH, LINKERD, TRAEFIK};
use super::snapshot::Unit;

/// Whose metric names to ask for.
#[derive(Clone, Copy, Debug)]
pub enum Preset<'a> {
    /// Traefik with the Gateway API.
    Traefik,
    /// Istio, the destination's side.
    Istio,
    /// Envoy's own names: Contour, kgateway, Cilium, Envoy Gateway with MergeBackends.
    Envoy,
    /// Linkerd, the callers' side.
    Linkerd,
    /// The user's own queries by name: see [`CUSTOM_QUERIES`].
    Custom(&'a BTreeMap<String, String>),
}

/// The names a custom query can have. `requests` is needed; without `errors` its series must carry a label
/// `code`, `status` or `status_code`; the histograms must carry `le`.
pub const CUSTOM_QUERIES: [&str; 4] = ["requests", "errors", "durationSeconds", "durationMilliseconds"];

/// One version, as data planes know it.
#[derive(Clone, Copy, Debug)]
pub struct Backend<'a> {
    /// Namespace of all of it.
    pub namespace: &'a str,
    /// The Service that selects only this version.
    pub service: &'a str,
    /// The Deployment that runs it.
    pub workload: &'a str,
    /// A regular expression for the names of its pods.
    pub pods: &'a str,
    /// The version.
    pub version: &'a str,
}

/// One query, and how its answer is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What it asks for.
    pub role: Role,
    /// The query.
    pub promql: String,
}

/// What a query asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A preset's counters and histogram, in one answer and so of one moment.
    Family(&'static Family),
    /// Custom: all requests.
    Requests {
        /// Failures are told by the code label, there is no query for them.
        by_code: bool,
    },
    /// Custom: the failed ones among them.
    Errors,
    /// Custom: buckets of durations.
    Durations(Unit),
}

impl Role {
    /// Which of the user's queries it is.
    pub fn query(self) -> Option<&'static str> {
        match self {
            Self::Family(_) => None,
            Self::Requests { .. } => Some("requests"),
            Self::Errors => Some("errors"),
            Self::Durations(Unit::Seconds) => Some("durationSeconds"),
            Self::Durations(Unit::Milliseconds) => Some("durationMilliseconds"),
        }
    }
}

/// Why custom queries cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// There is none for requests.
    #[error("spec.metrics.prometheus.queries needs a query named requests")]
    NoRequests,
    /// A name nobody reads.
    #[error("spec.metrics.prometheus.queries has {0}; it may have requests, errors, durationSeconds and durationMilliseconds")]
    UnknownName(String),
    /// Both units.
    #[error("spec.metrics.prometheus.queries has durationSeconds and durationMilliseconds; keep one")]
    TwoUnits,
    /// A placeholder that is not known.
    #[error("query {query} has {{{{{placeholder}}}}}; known are namespace, service, workload, pods and version")]
    UnknownPlaceholder {
        /// The query's name.
        query: String,
        /// The placeholder.
        placeholder: String,
    },
    /// A placeholder where no value can go.
    #[error("query {query} has {{{{{placeholder}}}}} outside of a quoted label value")]
    Unquoted {
        /// The query's name.
        query: String,
        /// The placeholder.
        placeholder: String,
    },
    /// The same query for both versions.
    #[error(
        "query {query} asks the same of both versions; tell them apart by {{{{service}}}}, {{{{workload}}}}, {{{{version}}}} or {{{{pods}}}}"
    )]
    NotOfOneVersion {
        /// The query's name.
        query: String,
    },
    /// The pods' expression compared for equality.
    #[error("query {query} must compare {{{{pods}}}} with =~")]
    PodsNeedRegex {
        /// The query's name.
        query: String,
    },
    /// A function or an aggregation: those lose first samples, and make one pod's end look like a restart of all.
    #[error("query {query} has {function}(); ask for the raw counters, like {RAW}: they are subtracted here, per series")]
    NotRaw {
        /// The query's name.
        query: String,
        /// What is called.
        function: String,
    },
    /// Not one selector that ends in a range.
    #[error("query {query} must be one selector of raw counters (no recording rule's) that ends in a range, like {RAW}, and nothing else")]
    NotASelector {
        /// The query's name.
        query: String,
    },
}

/// What a query looks like.
const RAW: &str = "http_requests_total{service=\"{{service}}\"}[2m]";

/// What to ask about one version.
pub fn questions(preset: Preset<'_>, backend: Backend<'_>) -> Result<Vec<Question>, QuestionError> {
    let Backend { namespace, service, workload, .. } = backend;
    let (family, labels) = match preset {
        Preset::Traefik => (&TRAEFIK, vec![("service", Match::Regex(traefik_service(namespace, service)))]),
        Preset::Istio => {
            let labels = vec![("destination_workload", Match::Is(workload)), ("destination_workload_namespace", Match::Is(namespace))];
            (&ISTIO_MESH, labels)
        }
        Preset::Envoy => (&ENVOY, vec![("envoy_cluster_name", Match::Regex(envoy_cluster(namespace, service)))]),
        Preset::Linkerd => (&LINKERD, vec![("backend_name", Match::Is(service)), ("backend_namespace", Match::Is(namespace))]),
        Preset::Custom(queries) => return custom(queries, backend),
    };
    Ok(vec![Question { role: Role::Family(family), promql: of_family(family, labels) }])
}

enum Match<'a> {
    Is(&'a str),
    Regex(String),
}

fn of_family(family: &'static Family, labels: Vec<(&'static str, Match<'_>)>) -> String {
    let mut names = family.requests.to_owned();
    for durations in family.durations {
        // Writing to a String cannot fail.
        let _ = write!(names, "|{}_(bucket|sum|count)", durations.name);
    }
    let mut promql = format!("{{__name__=~\"{}\"", in_string(&names));
    for (label, value) in family.only.map(|(l, v)| (l, Match::Is(v))).into_iter().chain(labels) {
        let (operator, value) = match &value {
            Match::Is(value) => ("=", in_string(value)),
            Match::Regex(regex) => ("=~", in_string(regex)),
        };
        let _ = write!(promql, ",{label}{operator}\"{value}\"");
    }
    promql.push_str("}[2m]");
    promql
}

/// Traefik 3.7 names the service of a backendRef
/// `httproute-<ns>-<route>-gw-<ns>-<gateway>-ep-<entrypoint>-<rule>-<hash>-svc-<ns>-<service>-<index>@kubernetesgateway`.
/// The first half has runs of other characters than letters and digits made one dash, the second has not.
fn traefik_service(namespace: &str, service: &str) -> String {
    let parts: Vec<_> = namespace.split(|c: char| !c.is_alphanumeric()).filter(|p| !p.is_empty()).collect();
    let prefix = regex_literal(&parts.join("-"));
    format!("httproute-{prefix}-.+-svc-{}-{}-[0-9]+@kubernetesgateway", regex_literal(namespace), regex_literal(service))
}

/// A cluster name that holds namespace and Service, bounded on both sides so that `shop-1` is not `shop-10`:
/// `service/ns/svc/port` (Envoy Gateway), `ns_svc_port` (Contour), `kube_ns_svc_port` (kgateway),
/// `ns:svc:port` (Cilium), `outbound|80||svc.ns.svc.cluster.local` (Istio).
fn envoy_cluster(namespace: &str, service: &str) -> String {
    let (namespace, service) = (regex_literal(namespace), regex_literal(service));
    format!("(.*[^a-z0-9-])?({namespace}[/_:]{service}|{service}[.]{namespace})([^a-z0-9-].*)?")
}

/// A text that a regular expression matches literally: what means something to RE2 gets a backslash, nothing else does.
pub fn regex_literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            literal.push('\\');
        }
        literal.push(c);
    }
    literal
}

/// A text as the inside of a double-quoted (or single-quoted) PromQL string.
pub fn in_string(text: &str) -> String {
    let mut inside = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '"' | '\'' => inside.extend(['\\', c]),
            '\n' => inside.push_str("\\n"),
            c if c.is_control() => {
                let _ = write!(inside, "\\u{:04x}", u32::from(c));
            }
            c => inside.push(c),
        }
    }
    inside
}

fn custom(queries: &BTreeMap<String, String>, backend: Backend<'_>) -> Result<Vec<Question>, QuestionError> {
    if let Some(name) = queries.keys().find(|name| !CUSTOM_QUERIES.contains(&name.as_str())) {
        return Err(QuestionError::UnknownName(name.clone()));
    }
    if !queries.contains_key("requests") {
        return Err(QuestionError::NoRequests);
    }
    if queries.contains_key("durationSeconds") && queries.contains_key("durationMilliseconds") {
        return Err(QuestionError::TwoUnits);
    }
    let by_code = !queries.contains_key("errors");
    let ask = |(name, text): (&String, &String)| {
        let role = match name.as_str() {
            "requests" => Role::Requests { by_code },
            "errors" => Role::Errors,
            "durationSeconds" => Role::Durations(Unit::Seconds),
            _ => Role::Durations(Unit::Milliseconds),
        };
        Ok(Question { role, promql: fill_in(name, text, backend)? })
    };
    queries.iter().map(ask).collect()
}

/// Puts the version's names where the placeholders are, each escaped for the string it stands in. Comments are left out.
fn fill_in(query: &str, text: &str, backend: Backend<'_>) -> Result<String, QuestionError> {
    let mut filled = String::with_capacity(text.len() + 64);
    // The same without what is inside of quotes.
    let mut bare = String::with_capacity(text.len());
    let mut quote: Option<Quote> = None;
    let mut tells_versions_apart = false;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if quote.is_none() && c == '#' {
            rest = rest.find('\n').and_then(|end| rest.get(end..)).unwrap_or_default();
            continue;
        }
        if let Some((placeholder, after)) = rest.strip_prefix("{{").and_then(|inside| inside.split_once("}}")) {
            let placeholder = placeholder.trim();
            let unquoted = || QuestionError::Unquoted { query: query.to_owned(), placeholder: placeholder.to_owned() };
            filled.push_str(&quote.as_ref().ok_or_else(unquoted)?.write(query, placeholder, backend)?);
            tells_versions_apart |= placeholder != "namespace";
            rest = after;
            continue;
        }
        let mut taken = c.len_utf8();
        match &quote {
            Some(open) if c == open.mark => quote = None,
            // What is escaped is of no meaning here; a back-quoted string has no escapes.
            Some(open) if c == '\\' && open.mark != '`' => taken += rest.chars().nth(1).map_or(0, char::len_utf8),
            None if matches!(c, '"' | '\'' | '`') => {
                quote = Some(Quote { mark: c, regex: filled.trim_end().ends_with('~') });
            }
            None => bare.push(c),
            Some(_) => {}
        }
        let (head, tail) = rest.split_at_checked(taken).unwrap_or((rest, ""));
        filled.push_str(head);
        rest = tail;
    }
    match selector(&bare) {
        Ok(()) if quote.is_none() && !tells_versions_apart => Err(QuestionError::NotOfOneVersion { query: query.to_owned() }),
        Ok(()) if quote.is_none() => Ok(filled),
        Err(Some(function)) => Err(QuestionError::NotRaw { query: query.to_owned(), function: function.to_owned() }),
        Ok(()) | Err(None) => Err(QuestionError::NotASelector { query: query.to_owned() }),
    }
}

/// Whether this, without what is inside of quotes, is one selector and a range: `name{matchers}[2m]`. Of something else,
/// what it calls. A name with a colon is a recording rule's, which is a calculation too.
fn selector(bare: &str) -> Result<(), Option<&str>> {
    let word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let (head, range) = bare.trim().strip_suffix(']').and_then(|b| b.rsplit_once('[')).unwrap_or((bare, ""));
    let (name, matchers) = match head.split_once('{') {
        Some((name, inside)) => (name, inside.trim_end().strip_suffix('}')),
        None => (head, Some("")),
    };
    let is_range = !range.trim().is_empty() && word(range.trim());
    let is_one = !head.trim().is_empty() && matchers.is_some_and(|m| !m.contains(['{', '}', '(', '[']));
    if word(name.trim()) && is_one && is_range {
        return Ok(());
    }
    // `sum by (code) (x)` is a call of sum.
    let before = bare.split_once('(').map_or("", |(before, _)| before);
    let mut words = before.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| !["", "by", "without"].contains(w));
    Err(words.next_back())
}

struct Quote {
    mark: char,
    regex: bool,
}

impl Quote {
    fn write(&self, query: &str, placeholder: &str, backend: Backend<'_>) -> Result<String, QuestionError> {
        let value = match placeholder {
            "namespace" => backend.namespace,
            "service" => backend.service,
            "workload" => backend.workload,
            "version" => backend.version,
            "pods" if self.regex => backend.pods,
            "pods" => return Err(QuestionError::PodsNeedRegex { query: query.to_owned() }),
            _ => return Err(QuestionError::UnknownPlaceholder { query: query.to_owned(), placeholder: placeholder.to_owned() }),
        };
        let literal = if self.regex && placeholder != "pods" { regex_literal(value) } else { value.to_owned() };
        // A back-quoted string cannot hold a back-quote, and no name of Kubernetes does.
        Ok(if self.mark == '`' { literal.replace('`', "") } else { in_string(&literal) })
    }
}

#[cfg(test)]
#[path = "promql_tests.rs"]
mod tests;
