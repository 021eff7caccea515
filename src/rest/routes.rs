//! Every route there is, as data.

use std::any::TypeId;
use std::future::Future;
use std::sync::LazyLock;

use axum::http::{Method, StatusCode};
use futures::future::{BoxFuture, FutureExt as _};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::orders::Refusal;

use super::call::{self, Call};
use super::query::{ALL, DRY_RUN, IP_ADDRESS, LIMIT, NAMESPACE, OFFSET, Parameter, SUPERSEDE, WAIT};
use super::{openapi, pools, updates};

/// One route.
pub struct Route {
    /// GET, POST, PATCH or DELETE.
    pub method: Method,
    /// Its path, with `{id}` and the like where a name goes.
    pub path: &'static str,
    /// What whoever asks must be allowed.
    pub needs: Needs,
    /// How its errors look.
    pub group: Group,
    /// What it does, in one sentence.
    pub summary: &'static str,
    /// What may stand behind the question mark.
    pub query: &'static [Parameter],
    /// What goes in, what comes out, and how.
    pub handler: Handler,
}

/// What whoever asks must be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing; who asks is not looked at.
    Public,
    /// A verb on all RollingUpdates of the namespace.
    Updates(&'static str),
    /// A verb on all RollingUpdates of the namespace, and another one on the RollingUpdate that is there already.
    UpdatesAnd(&'static str, &'static str),
    /// A verb on the RollingUpdate of the path; for `current` also `list`, with which it is found.
    Update(&'static str),
    /// A verb on all ProxyPools of the namespace.
    Pools(&'static str),
    /// `list` on ProxyPools, with which the one that has the address is found, and a verb on it.
    Pool(&'static str),
    /// A verb on the ConfigMap `aether-rolling` in the operator's namespace.
    Config(&'static str),
}

/// How a route's errors look: each guide has its own way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// `{"error": "..."}`, and 400 for what makes no sense.
    Updates,
    /// `{"detail": "..."}`, and 422 for what makes no sense.
    Pools,
    /// About the server itself; as the first.
    Server,
}

impl Needs {
    /// The verb, and the plural of what it is on; nothing for public routes.
    pub fn access(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Public => None,
            Self::Updates(verb) | Self::UpdatesAnd(verb, _) | Self::Update(verb) => Some((verb, "rollingupdates")),
            Self::Pools(verb) | Self::Pool(verb) => Some((verb, "proxypools")),
            Self::Config(verb) => Some((verb, "configmaps")),
        }
    }

    /// As a sentence.
    pub fn sentence(self) -> String {
        match self {
            Self::Public => "Open to everybody.".into(),
            Self::Updates(verb) => format!("Needs {verb} on rollingupdates in the namespace."),
            Self::UpdatesAnd(verb, other) => {
                format!(
                    "Needs {verb} on rollingupdates in the namespace, and {other} on the RollingUpdate where it is there already; approve too where that takes requireManualApproval away."
                )
            }
            Self::Update(verb) => format!("Needs {verb} on the RollingUpdate; for the id `current` also list in the namespace."),
            Self::Pools(verb) => format!("Needs {verb} on proxypools in the namespace."),
            Self::Pool(verb) => format!("Needs list on proxypools in the namespace, and {verb} on the pool that has the address."),
            Self::Config(verb) => format!("Needs {verb} on the ConfigMap aether-rolling in the operator's namespace."),
        }
    }
}

impl Group {
    /// Key of the sentence in an error.
    pub fn error_key(self) -> &'static str {
        match self {
            Self::Updates | Self::Server => "error",
            Self::Pools => "detail",
        }
    }

    /// Code for what makes no sense.
    pub fn invalid(self) -> StatusCode {
        match self {
            Self::Updates | Self::Server => StatusCode::BAD_REQUEST,
            Self::Pools => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }

    /// Its name in the OpenAPI document.
    pub fn tag(self) -> &'static str {
        match self {
            Self::Updates => "Rolling updates",
            Self::Pools => "Proxy pools",
            Self::Server => "Server",
        }
    }
}

/// Body of a route that takes none; `{}` is as good as nothing.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;
type Run = Box<dyn Fn(Call, &[u8]) -> Result<BoxFuture<'static, Result<Value, Refusal>>, Refusal> + Send + Sync>;

/// A handler with its types taken off: its schemas are those of what it really reads and answers.
pub struct Handler {
    /// Schema of the body, if it takes one.
    pub body: Option<SchemaOf>,
    /// It cannot do without one.
    pub needs_body: bool,
    /// Schema of the answer.
    pub answer: SchemaOf,
    pub(super) run: Run,
}

impl Handler {
    fn new<B, A, F>(run: fn(Call, B) -> F) -> Self
    where
        B: DeserializeOwned + JsonSchema + 'static,
        A: Serialize + JsonSchema,
        F: Future<Output = Result<A, Refusal>> + Send + 'static,
    {
        let takes_one = TypeId::of::<B>() != TypeId::of::<Nothing>();
        Self {
            body: takes_one.then_some(SchemaGenerator::subschema_for::<B>),
            needs_body: call::parse::<B>(b"").is_err(),
            answer: SchemaGenerator::subschema_for::<A>,
            run: Box::new(move |call, bytes| {
                let answer = run(call, call::parse(bytes)?);
                let plain = answer.map(|done| {
                    let unfit = |_| Refusal { class: crate::orders::Class::Unavailable, message: "the answer is no JSON".into() };
                    serde_json::to_value(done?).map_err(unfit)
                });
                Ok(plain.boxed())
            }),
        }
    }
}

/// Every route, in the order of the documents.
pub fn table() -> &'static [Route] {
    static TABLE: LazyLock<Vec<Route>> = LazyLock::new(build);
    &TABLE
}

fn build() -> Vec<Route> {
    use Group::{Pools, Server, Updates};
    vec![
        Route {
            method: Method::POST,
            path: "/rolling-update/start",
            needs: Needs::UpdatesAnd("create", "patch"),
            group: Updates,
            summary: "Starts an update: deploys the version at 0 % traffic.",
            query: &[NAMESPACE, WAIT, SUPERSEDE, DRY_RUN],
            handler: Handler::new(updates::start),
        },
        Route {
            method: Method::GET,
            path: "/rolling-updates",
            needs: Needs::Updates("list"),
            group: Updates,
            summary: "The active updates.",
            query: &[NAMESPACE, ALL],
            handler: Handler::new(updates::list),
        },
        Route {
            method: Method::GET,
            path: "/rolling-update/{id}",
            needs: Needs::Update("get"),
            group: Updates,
            summary: "One update.",
            query: &[NAMESPACE],
            handler: Handler::new(updates::get),
        },
        Route {
            method: Method::GET,
            path: "/rolling-update/{id}/health",
            needs: Needs::Update("get"),
            group: Updates,
            summary: "How both versions are doing, and what is made of it.",
            query: &[NAMESPACE],
            handler: Handler::new(updates::health),
        },
        Route {
            method: Method::POST,
            path: "/rolling-update/{id}/routing",
            needs: Needs::Update("route"),
            group: Updates,
            summary: "Holds a ratio new:old.",
            query: &[NAMESPACE, WAIT],
            handler: Handler::new(updates::routing),
        },
        Route {
            method: Method::POST,
            path: "/rolling-update/{id}/approve",
            needs: Needs::Update("approve"),
            group: Updates,
            summary: "Lets the next step be taken, or all steps up to a ratio.",
            query: &[NAMESPACE, WAIT],
            handler: Handler::new(updates::approve),
        },
        Route {
            method: Method::POST,
            path: "/rolling-update/{id}/pause",
            needs: Needs::Update("route"),
            group: Updates,
            summary: "Holds everything where it is.",
            query: &[NAMESPACE, WAIT],
            handler: Handler::new(updates::pause),
        },
        Route {
            method: Method::POST,
            path: "/rolling-update/{id}/resume",
            needs: Needs::Update("route"),
            group: Updates,
            summary: "Goes on after a pause.",
            query: &[NAMESPACE, WAIT],
            handler: Handler::new(updates::resume),
        },
        Route {
            method: Method::POST,
            path: "/rolling-update/{id}/complete",
            needs: Needs::Update("complete"),
            group: Updates,
            summary: "Retires the old version, once all traffic is on the new one.",
            query: &[NAMESPACE, WAIT],
            handler: Handler::new(updates::complete),
        },
        Route {
            method: Method::POST,
            path: "/rolling-update/{id}/rollback",
            needs: Needs::Update("rollback"),
            group: Updates,
            summary: "All traffic back to the old version.",
            query: &[NAMESPACE, WAIT],
            handler: Handler::new(updates::rollback),
        },
        Route {
            method: Method::GET,
            path: "/rolling",
            needs: Needs::Pools("list"),
            group: Pools,
            summary: "How all pools are rolling.",
            query: &[NAMESPACE],
            handler: Handler::new(pools::rolling),
        },
        Route {
            method: Method::GET,
            path: "/rolling/{provider}",
            needs: Needs::Pools("list"),
            group: Pools,
            summary: "How the pools of one provider are rolling.",
            query: &[NAMESPACE],
            handler: Handler::new(pools::rolling),
        },
        Route {
            method: Method::GET,
            path: "/rolling/{provider}/{instance}",
            needs: Needs::Pools("list"),
            group: Pools,
            summary: "How one pool is rolling, with the configuration in force there.",
            query: &[NAMESPACE],
            handler: Handler::new(pools::rolling),
        },
        Route {
            method: Method::PATCH,
            path: "/rolling",
            needs: Needs::Config("patch"),
            group: Pools,
            summary: "Changes the operator-wide rolling configuration, which pools follow that do not say.",
            query: &[NAMESPACE],
            handler: Handler::new(pools::configure),
        },
        Route {
            method: Method::DELETE,
            path: "/destroy",
            needs: Needs::Pool("destroy"),
            group: Pools,
            summary: "Has the proxy of an address replaced at once, floor and batch or not.",
            query: &[NAMESPACE, IP_ADDRESS],
            handler: Handler::new(pools::destroy),
        },
        Route {
            method: Method::GET,
            path: "/",
            needs: Needs::Pools("list"),
            group: Pools,
            summary: "The healthy proxies, page by page.",
            query: &[NAMESPACE, OFFSET, LIMIT],
            handler: Handler::new(pools::page),
        },
        Route {
            method: Method::GET,
            path: "/random",
            needs: Needs::Pools("list"),
            group: Pools,
            summary: "One healthy proxy.",
            query: &[NAMESPACE],
            handler: Handler::new(pools::random),
        },
        Route {
            method: Method::GET,
            path: "/openapi.json",
            needs: Needs::Public,
            group: Server,
            summary: "This document.",
            query: &[NAMESPACE],
            handler: Handler::new(openapi::answer),
        },
        Route {
            method: Method::GET,
            path: "/healthz",
            needs: Needs::Public,
            group: Server,
            summary: "Whether the server answers.",
            query: &[NAMESPACE],
            handler: Handler::new(updates::healthz),
        },
    ]
}
