//! What the operator may do, as one table: the roles, the chart, the page on it and the test that compares it with what is
//! done are all made of it.

use serde_json::{Map, Value, json};

use crate::pool::keep::CONFIG;
use crate::runtime::run::LEASE;

use super::orders;

/// Where a right counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// In every namespace that is watched.
    Work,
    /// Where pools may be: the only rights on Secrets.
    Pools,
    /// In the whole cluster, for the REST API.
    Reviews,
    /// In the operator's own namespace.
    Own,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Work, Self::Pools, Self::Reviews, Self::Own];

    /// Its key in the chart.
    pub fn key(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Pools => "pools",
            Self::Reviews => "reviews",
            Self::Own => "own",
        }
    }

    /// Where that is, for people.
    pub fn place(self) -> &'static str {
        match self {
            Self::Work => "every namespace that is watched",
            Self::Pools => "namespaces that may have pools",
            Self::Reviews => "the cluster, only with the REST API",
            Self::Own => "the operator's own namespace",
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Right {
    /// Where it counts.
    pub scope: Scope,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resource, or `resource/subresource`.
    pub resource: &'static str,
    /// The only object of it; `None`: any.
    pub name: Option<&'static str>,
    /// What may be done.
    pub verbs: Vec<&'static str>,
    /// What for.
    pub why: &'static str,
}

/// The table.
pub fn rights() -> Vec<Right> {
    use Scope::{Own, Pools, Reviews, Work};
    let right =
        |scope, group, resource, verbs: &[&'static str], why| Right { scope, group, resource, name: None, verbs: verbs.to_vec(), why };
    // What is to be made has no name yet as far as RBAC knows, so creating takes a line of its own.
    let only = |name, right: Right| Right { name: Some(name), ..right };
    let gateway = "gateway.networking.k8s.io";
    let order = |resource| orders::verbs(resource);
    vec![
        right(Work, "aether.dev", "rollingupdates", &["get", "list", "watch"], "what is wanted"),
        right(
            Work,
            "aether.dev",
            "rollingupdates",
            &["create", "patch"],
            "updates that people start and orders that they give over REST; the finalizer",
        ),
        right(Work, "aether.dev", "rollingupdates", &order("rollingupdates"), "those orders: admission asks for the verb of each"),
        right(Work, "aether.dev", "rollingupdates/status", &["patch"], "what is so"),
        right(
            Work,
            "apps",
            "deployments",
            &["get", "list", "watch", "create", "patch", "delete"],
            "the new version beside the user's own Deployment, which is paused and scaled",
        ),
        right(Work, "apps", "replicasets", &["get", "list", "watch", "patch"], "which pods are of which version; the live version is kept"),
        right(Work, "", "pods", &["list", "watch", "patch"], "readiness and addresses; the labels by which traffic is shifted"),
        right(
            Work,
            "",
            "services",
            &["get", "list", "watch", "create", "patch", "delete", "deletecollection"],
            "a Service for each version beside the user's own; a pool's headless Service",
        ),
        right(Work, "autoscaling", "horizontalpodautoscalers", &["list", "watch"], "whether an autoscaler sizes the workload"),
        right(
            Work,
            "discovery.k8s.io",
            "endpointslices",
            &["get", "list", "watch"],
            "that pods are served before traffic is shifted to them",
        ),
        right(Work, gateway, "httproutes", &["get", "list", "watch", "patch"], "the weights"),
        right(Work, "events.k8s.io", "events", &["create", "patch"], "what has happened"),
        right(
            Work,
            "aether.dev",
            "proxypools",
            &["list", "watch", "patch"],
            "what is wanted; the finalizer; configuration and evictions over REST",
        ),
        right(Work, "aether.dev", "proxypools", &order("proxypools"), "evictions that people ask for over REST"),
        right(Work, "aether.dev", "proxypools/status", &["patch"], "what is so"),
        right(
            Pools,
            "",
            "secrets",
            &["get", "create", "patch", "delete"],
            "the clouds' and the proxies' logins, by name; the published URLs; the script of proxies that are pods",
        ),
        right(Pools, "", "pods", &["create", "delete"], "proxies that are pods"),
        right(Pools, "discovery.k8s.io", "endpointslices", &["create", "patch", "delete"], "the published addresses"),
        right(Reviews, "authentication.k8s.io", "tokenreviews", &["create"], "who asks"),
        right(Reviews, "authorization.k8s.io", "subjectaccessreviews", &["create"], "whether they may"),
        only(LEASE, right(Own, "coordination.k8s.io", "leases", &["get", "update"], "one leads")),
        right(Own, "coordination.k8s.io", "leases", &["create"], "the first time"),
        only(CONFIG, right(Own, "", "configmaps", &["get", "patch"], "the rolling configuration that people change over REST")),
        right(Own, "", "configmaps", &["create"], "the first time"),
    ]
}

/// The RBAC rules of a scope: one for each resource, or object.
pub fn rules(scope: Scope) -> Vec<Value> {
    let mut rules: Vec<Right> = Vec::new();
    for right in rights().into_iter().filter(|r| r.scope == scope) {
        match rules.iter_mut().find(|r| (r.group, r.resource, r.name) == (right.group, right.resource, right.name)) {
            Some(rule) => rule.verbs.extend(right.verbs),
            None => rules.push(right),
        }
    }
    let rule = |r: &Right| {
        let mut rule = json!({"apiGroups": [r.group], "resources": [r.resource], "verbs": r.verbs});
        if let (Some(name), Some(fields)) = (r.name, rule.as_object_mut()) {
            fields.insert("resourceNames".into(), json!([name]));
        }
        rule
    };
    rules.iter().map(rule).collect()
}

/// The rules of every scope, by its key.
pub fn all_rules() -> Value {
    Value::Object(Scope::ALL.iter().map(|s| (s.key().to_owned(), Value::from(rules(*s)))).collect::<Map<_, _>>())
}

/// The table as a page for people.
pub fn page() -> String {
    let table = |scope: Scope| {
        let rows = rights().into_iter().filter(|r| r.scope == scope).map(|Right { group, resource, name, verbs, why, .. }| {
            let dot = if group.is_empty() { "" } else { "." };
            let name = name.map(|name| format!(" `{name}`")).unwrap_or_default();
            format!("| {resource}{dot}{group}{name} | {} | {why} |\n", verbs.join(", "))
        });
        format!("\n## In {}\n\n| resource | verbs | what for |\n|---|---|---|\n{}", scope.place(), rows.collect::<String>())
    };
    PAGE.to_owned() + &Scope::ALL.map(table).concat()
}

const PAGE: &str = "\
<!-- Generated; `make generate` writes it anew. -->
# What the operator may do

The roles in the chart and in `deploy/` are made of this table. A test compares it with every request that the operator
makes while all other tests run: it fails on one that is denied, and on a right that nobody uses.
";
