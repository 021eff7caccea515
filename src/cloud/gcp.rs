//! Compute Engine instances, API v1.
//!
//! Two things keep a repeated create from making a second instance: its name is unique in the zone, and its
//! `requestId` is made of the marks, so the same order is the same request. A create answers with an Operation;
//! quota and capacity often show only in that one's end, so it is waited for once, for as long as a request may
//! take. An instance whose Operation fails after that never appears in a list, and a look for its attempt
//! ([`Cloud::find`]) tells why.
//!
//! The network's firewall is the user's: instances carry the network tag [`NETWORK_TAG`] to write a rule for.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::Client;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::answer::{self, Dialect, Reset, Rule, Verb};
use super::http::{Api, Credential, Page, fits_user_data, named};
use super::limiter::Budget;
use super::marks::{self, NONCE, POOL};
use super::{Capabilities, Class, Cloud, Error, Marks, Order, Phase, Rate, Vm, address, time};
use crate::runtime::clock;

/// Where the API is.
pub const BASE: &str = "https://compute.googleapis.com/compute/v1/";
/// 1500 of a kind in a minute and project, and people use the project too.
pub const BUDGET: Budget = Budget { burst: 100.0, per_second: 10.0, page: 500 };
/// What a firewall rule of the network can name the instances by.
pub const NETWORK_TAG: &str = "aether-proxy";
const USER_DATA: usize = 256 << 10;
const PER_PAGE: &str = "500";

/// How it says things at once.
pub const DIALECT: Dialect = Dialect {
    name: "Compute Engine",
    code: Some("/error/errors/0/reason"),
    message: "/error/message",
    rules: &[
        Rule { status: 0, code: "rateLimitExceeded", says: "", class: Class::Throttled(None) },
        Rule { status: 0, code: "userRateLimitExceeded", says: "", class: Class::Throttled(None) },
        Rule { status: 0, code: "quotaExceeded", says: "", class: Class::Quota },
        Rule { status: 0, code: "resourceNotReady", says: "", class: Class::Transient },
        Rule { status: 0, code: "resourceInUseByAnotherResource", says: "", class: Class::Transient },
        // A name that is taken stays taken.
        Rule { status: 409, code: "alreadyExists", says: "", class: Class::Invalid },
    ],
    reset: Reset::Never,
};

/// How it says them in an Operation that has ended: nothing was made then.
const OPERATION: Dialect = Dialect {
    name: "Compute Engine",
    code: Some("/error/errors/0/code"),
    message: "/error/errors/0/message",
    rules: &[
        Rule { status: 0, code: "ZONE_RESOURCE_POOL_EXHAUSTED", says: "", class: Class::Capacity },
        Rule { status: 0, code: "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", says: "", class: Class::Capacity },
        Rule { status: 0, code: "UNSUPPORTED_OPERATION", says: "", class: Class::Invalid },
        Rule { status: 0, code: "QUOTA_EXCEEDED", says: "", class: Class::Quota },
        Rule { status: 0, code: "RATE_LIMIT_EXCEEDED", says: "", class: Class::Throttled(None) },
        Rule { status: 0, code: "RESOURCE_ALREADY_EXISTS", says: "", class: Class::Invalid },
        Rule { status: 0, code: "PERMISSIONS_ERROR", says: "", class: Class::Auth },
    ],
    reset: Reset::Never,
};

/// What a pool's instances are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Project id.
    pub project: String,
    /// As in `europe-west1-b`.
    pub zone: String,
    /// As in `e2-micro`.
    pub machine_type: String,
    /// Project of the image, as in `ubuntu-os-cloud`.
    pub image_project: String,
    /// As in `ubuntu-2404-lts-amd64`.
    pub image_family: String,
    /// Cheaper, and taken away at any moment; the instance is deleted then.
    pub spot: bool,
}

/// One project and zone and one kind of instance.
#[derive(Debug)]
pub struct Gcp {
    api: Api,
    place: Place,
}

impl Gcp {
    /// `base`: another address than [`BASE`].
    pub fn new(client: Client, base: Option<&str>, credential: Credential, place: Place) -> Result<Self, Error> {
        Ok(Self { api: Api::new(client, base, BASE, credential, &DIALECT)?, place })
    }

    /// `projects/p/zones/z` and what is in there.
    fn path<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        [&["projects", &self.place.project, "zones", &self.place.zone], rest].concat()
    }

    async fn instances(&self, pool: &str, filter: &str) -> Result<Vec<Vm>, Error> {
        let query = [("filter", filter), ("maxResults", PER_PAGE)];
        let path = self.path(&["instances"]);
        let instances = self.api.all(&path, &query, "pageToken", List::page, |instance| instance.id.clone()).await?;
        Ok(instances.into_iter().filter_map(|instance| instance.vm(pool)).collect())
    }

    fn body(&self, order: &Order) -> Result<Value, Error> {
        fits_user_data(order, USER_DATA)?;
        let Place { zone, machine_type, image_project, image_family, spot, .. } = &self.place;
        let labels: Map<_, _> = marks::write(&order.marks)?.into_iter().map(|(mark, value)| (mark.to_owned(), json!(value))).collect();
        let scheduling = if *spot {
            json!({"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE", "automaticRestart": false,
                   "onHostMaintenance": "TERMINATE"})
        } else {
            json!({})
        };
        Ok(json!({
            "name": order.name,
            "machineType": format!("zones/{zone}/machineTypes/{machine_type}"),
            "labels": labels,
            "tags": {"items": [NETWORK_TAG]},
            "disks": [{"boot": true, "autoDelete": true, "initializeParams": {
                "sourceImage": format!("projects/{image_project}/global/images/family/{image_family}")}}],
            "networkInterfaces": [{"network": "global/networks/default",
                "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}]}],
            "metadata": {"items": [{"key": "startup-script", "value": order.user_data}]},
            "scheduling": scheduling,
            // Whoever gets at the metadata server through the proxy finds no account there.
            "serviceAccounts": [],
        }))
    }

    /// The instance that has the order's name already, if it is the pool's for the same slot and epoch.
    async fn namesake(&self, order: &Order) -> Result<Option<Vm>, Error> {
        let found = self.instances(&order.marks.pool, &format!("name={}", order.name)).await?;
        Ok(marks::of_place(found, &order.marks))
    }

    async fn insert(&self, order: &Order, body: &Value) -> Result<Vm, Error> {
        let query = [("requestId", &*request_id(&order.marks))];
        let begun: Operation = self.api.post(&self.path(&["instances"]), &query, body, &[&order.user_data]).await?;
        let id = begun.target_id.clone().unwrap_or_default();
        let end = if begun.status == "DONE" { begun } else { self.wait(begun).await };
        match end.failure(&[&order.user_data]) {
            Some(error) => Err(error),
            None => named(&DIALECT, Vm { id, marks: order.marks.clone(), phase: Phase::Starting, address: None }),
        }
    }

    /// As it is at its end or after one request's time. What cannot be asked is as it was: the order is taken.
    async fn wait(&self, begun: Operation) -> Operation {
        self.api.post(&self.path(&["operations", &begun.name, "wait"]), &[], &json!({}), &[]).await.unwrap_or(begun)
    }

    /// How the attempt's Operation failed, if it did.
    async fn failure(&self, marks: &Marks) -> Result<Option<Error>, Error> {
        let filter = format!("clientOperationId={}", request_id(marks));
        let path = self.path(&["operations"]);
        let query = [("filter", &*filter), ("maxResults", PER_PAGE)];
        let operations = self.api.all(&path, &query, "pageToken", Operations::page, |operation| operation.name.clone()).await?;
        // A failure's text may have what was sent; the script is not at hand here to compare with.
        Ok(operations.iter().find_map(|operation| operation.failure(&[])).map(|error| Error { message: OPERATION.name.into(), ..error }))
    }
}

impl Cloud for Gcp {
    fn list<'a>(&'a self, pool: &'a str) -> BoxFuture<'a, Result<Vec<Vm>, Error>> {
        async move { self.instances(pool, &format!("labels.{POOL}={pool}")).await }.boxed()
    }

    fn find<'a>(&'a self, marks: &'a Marks) -> BoxFuture<'a, Result<Option<Vm>, Error>> {
        async {
            let found = self.instances(&marks.pool, &format!("labels.{NONCE}={}", marks.nonce)).await?;
            match marks::of_attempt(found, marks) {
                Some(vm) => Ok(Some(vm)),
                None => self.failure(marks).await?.map_or(Ok(None), Err),
            }
        }
        .boxed()
    }

    fn create<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Vm, Error>> {
        async {
            let body = self.body(order)?;
            match self.insert(order, &body).await {
                // Perhaps for its name, and that by our own earlier attempt.
                Err(error) if error.class == Class::Invalid => self.namesake(order).await?.ok_or(error),
                answer => answer,
            }
        }
        .boxed()
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async move { self.api.delete(&self.path(&["instances"]), id, &[]).await }.boxed()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { idempotent_create: true, unique_names: true, settle_seconds: 30 }
    }

    fn rate(&self) -> Rate {
        self.api.rate()
    }
}

/// The attempt as a UUID (its version and variant say that it is made of a name): the same marks, the same request.
fn request_id(marks: &Marks) -> String {
    let parts = [&*marks.pool, &marks.slot.to_string(), &marks.epoch.to_string(), &marks.nonce];
    let mut hash = Sha256::digest(parts.join("/"));
    if let Some(byte) = hash.get_mut(6) {
        *byte = (*byte & 0x0f) | 0x50;
    }
    if let Some(byte) = hash.get_mut(8) {
        *byte = (*byte & 0x3f) | 0x80;
    }
    let mut uuid = String::new();
    for (at, byte) in hash.iter().take(16).enumerate() {
        let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
        // Writing to a String does not fail.
        let _ = write!(uuid, "{dash}{byte:02x}");
    }
    uuid
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    #[serde(default)]
    items: Vec<Instance>,
    next_page_token: Option<String>,
    /// An empty list has no items; this is in every one.
    #[allow(dead_code, reason = "what is no list is not to be taken for an empty one")]
    kind: String,
}

impl List {
    fn page(self) -> Page<Instance> {
        Page { items: self.items, total: None, next: self.next_page_token }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Operations {
    #[serde(default)]
    items: Vec<Operation>,
    next_page_token: Option<String>,
}

impl Operations {
    fn page(self) -> Page<Operation> {
        Page { items: self.items, total: None, next: self.next_page_token }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Operation {
    name: String,
    status: String,
    target_id: Option<String>,
    error: Option<Value>,
    http_error_status_code: Option<u16>,
}

impl Operation {
    /// `None` also while it is under way.
    fn failure(&self, secrets: &[&str]) -> Option<Error> {
        let body = json!({"error": self.error.as_ref()?}).to_string();
        let status = self.http_error_status_code.unwrap_or(500);
        Some(answer::error(&OPERATION, Verb::Read, status, &HeaderMap::new(), body.as_bytes(), secrets, clock::now()))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    creation_timestamp: Option<String>,
    #[serde(default)]
    network_interfaces: Vec<Interface>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Interface {
    #[serde(default)]
    access_configs: Vec<Access>,
}

#[derive(Deserialize)]
struct Access {
    #[serde(rename = "natIP")]
    nat_ip: Option<String>,
}

impl Instance {
    fn vm(self, pool: &str) -> Option<Vm> {
        let made = time(self.creation_timestamp.as_deref());
        let marks = marks::read(pool, self.labels.iter().map(|(mark, value)| (&**mark, &**value)), made)?;
        let phase = match &*self.status {
            "PENDING" | "PROVISIONING" | "STAGING" => Phase::Starting,
            "PENDING_STOP" | "STOPPING" | "STOPPED" | "SUSPENDING" | "SUSPENDED" | "TERMINATED" => Phase::Stopped,
            "DEPROVISIONING" => Phase::Deleting,
            // What a new word means shows when the proxy is asked.
            _ => Phase::Running,
        };
        let public = self.network_interfaces.iter().flat_map(|net| &net.access_configs).find_map(|access| access.nat_ip.as_deref());
        Some(Vm { id: self.id, marks, phase, address: public.and_then(address) })
    }
}
