//! One request that has been let in. Only [`admit`] makes a [`Call`], and without one no handler runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::api::ProxyPool;
use crate::orders::desk::Manner;
use crate::orders::view::Metadata;
use crate::orders::{Desk, Refusal};
use crate::pool::keep::CONFIG;
use crate::runtime::clock;
use kube::ResourceExt as _;

use super::auth::{Access, Caller, Gate};
use super::query::Query;
use super::routes::Needs;

/// What a handler gets.
pub struct Call {
    context: Arc<Context>,
    target: Target,
}

/// What is known of a request before it is let in.
pub struct Context {
    /// Where orders are taken.
    pub desk: Desk,
    /// Who decides.
    pub gate: Gate,
    /// Who asks.
    pub caller: Caller,
    /// Names this request in the audit log.
    pub request_id: String,
    /// The namespace asked for.
    pub namespace: String,
    /// What stands where the path has names.
    pub path: BTreeMap<String, String>,
    /// What stands behind the question mark.
    pub query: Query,
    /// The server ends.
    pub ending: CancellationToken,
}

/// The one thing that a request is about, if it is about one.
#[derive(Default)]
enum Target {
    #[default]
    Namespace,
    Update(String),
    Pool(Box<ProxyPool>),
}

impl Context {
    async fn may(&self, verb: &str, resource: &str, name: Option<&str>) -> Result<(), Refusal> {
        let access = Access { verb, group: "aether.dev", resource, namespace: &self.namespace, name };
        self.gate.may(&self.caller, access).await
    }
}

/// Lets a request in that has what the route needs. `told` hears the name of what it is about, also when it is not let in.
pub async fn admit(context: Context, needs: Needs, told: &mut Option<String>) -> Result<Call, Refusal> {
    let context = Arc::new(context);
    let target = match needs {
        Needs::Public => Target::Namespace,
        Needs::Updates(verb) | Needs::UpdatesAnd(verb, _) => {
            context.may(verb, "rollingupdates", None).await?;
            Target::Namespace
        }
        Needs::Update(verb) => {
            let id = context.path.get("id").map_or("", String::as_str);
            *told = Some(id.to_owned());
            if id == "current" {
                // Which one it is only those learn who may look.
                context.may("list", "rollingupdates", None).await?;
            }
            let id = context.desk.resolve(&context.namespace, id).await?;
            *told = Some(id.clone());
            context.may(verb, "rollingupdates", Some(&id)).await?;
            Target::Update(id)
        }
        Needs::Pools(verb) => {
            context.may(verb, "proxypools", None).await?;
            Target::Namespace
        }
        Needs::Pool(verb) => {
            context.may("list", "proxypools", None).await?;
            let address = context.query.ip_address.ok_or_else(|| Refusal::invalid("ip_address: is missing"))?;
            let pools = context.desk.pools(Some(&context.namespace)).await?;
            let pool = context.desk.pool_with(pools, address).await?;
            *told = Some(pool.name_any());
            context.may(verb, "proxypools", Some(&pool.name_any())).await?;
            Target::Pool(Box::new(pool))
        }
        Needs::Config(verb) => {
            *told = Some(CONFIG.to_owned());
            let access = Access { verb, group: "", resource: "configmaps", namespace: context.desk.operator(), name: Some(CONFIG) };
            context.gate.may(&context.caller, access).await?;
            Target::Namespace
        }
    };
    Ok(Call { context, target })
}

impl Call {
    /// Where orders are taken.
    pub fn desk(&self) -> &Desk {
        &self.context.desk
    }

    /// The namespace asked for.
    pub fn namespace(&self) -> &str {
        &self.context.namespace
    }

    /// What stands behind the question mark.
    pub fn query(&self) -> &Query {
        &self.context.query
    }

    /// What stands where the path has that name.
    pub fn path(&self, name: &str) -> Option<&str> {
        self.context.path.get(name).map(String::as_str)
    }

    /// How what it asks for is written.
    pub fn manner(&self) -> Manner<'_> {
        Manner { by: self.context.caller.name(), dry_run: self.context.query.dry_run }
    }

    /// Id of the update that it is about; never `current`.
    pub fn update(&self) -> &str {
        match &self.target {
            Target::Update(id) => id,
            Target::Namespace | Target::Pool(_) => "",
        }
    }

    /// The pool that it is about.
    pub fn pool(&self) -> Option<&ProxyPool> {
        match &self.target {
            Target::Pool(pool) => Some(pool),
            Target::Namespace | Target::Update(_) => None,
        }
    }

    /// Whether whoever asks may also do this to that RollingUpdate.
    pub fn may_also(
        &self,
    ) -> impl Fn(String, &'static str) -> futures::future::BoxFuture<'static, Result<(), Refusal>> + Send + Sync + use<> {
        let context = self.context.clone();
        move |name, verb| {
            let context = context.clone();
            Box::pin(async move { context.may(verb, "rollingupdates", Some(&name)).await })
        }
    }

    /// The server ends: who waits is answered now.
    pub async fn ends(&self) {
        self.context.ending.cancelled().await;
    }

    /// About this answer.
    pub fn metadata(&self) -> Metadata {
        Metadata { request_id: self.context.request_id.clone(), timestamp: clock::now() }
    }
}

/// A body as what a handler takes; nothing is as good as `{}`, so that the missing fields are named.
pub fn parse<B: DeserializeOwned>(bytes: &[u8]) -> Result<B, Refusal> {
    let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
    // A list of values would be read as the fields in their order.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Refusal::invalid("the body is a list; write an object, {\"field\": value}"));
    }
    match Json::<B>::from_bytes(bytes) {
        Ok(Json(body)) => Ok(body),
        Err(JsonRejection::JsonDataError(error)) => {
            let said = error.body_text();
            let said = said.split_once("target type: ").map_or(&*said, |(_, why)| why);
            // Where in the text it is helps nobody who wrote it with a program; the field is named.
            let said = said.rsplit_once(" at line ").map_or(said, |(why, _)| why);
            // Types as people call them.
            let names = [("i32", "a whole number"), ("f64", "a number"), ("a boolean", "true or false")];
            let said = names
                .iter()
                .fold(said.to_owned(), |said, (ours, theirs)| said.replace(&format!("expected {ours}"), &format!("expected {theirs}")));
            Err(Refusal::invalid(said.split_once("expected struct ").map_or(said.clone(), |(what, _)| format!("{what}expected an object"))))
        }
        Err(error) => {
            let said = error.body_text();
            Err(Refusal::invalid(format!("the body is no JSON: {}", said.split_once("as JSON: ").map_or(&*said, |(_, why)| why))))
        }
    }
}
