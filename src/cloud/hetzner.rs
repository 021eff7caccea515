//! Hetzner Cloud servers, API v1. Names are unique in a project, so a repeated create is refused and the first one's server taken.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::Client;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

use super::answer::{Dialect, Reset, Rule};
use super::http::{Api, Credential, Page, Query, fits_user_data, named};
use super::limiter::Budget;
use super::marks::{self, NONCE, POOL};
use super::{Capabilities, Class, Cloud, Error, Marks, Order, Phase, Rate, Vm, address, time};

/// Where the API is.
pub const BASE: &str = "https://api.hetzner.cloud/v1/";
/// 3600, of which one comes back in a second; people use the project too.
pub const BUDGET: Budget = Budget { burst: 600.0, per_second: 1.0, page: 50 };
const USER_DATA: usize = 32 << 10;
const PER_PAGE: &str = "50";

/// How it says things.
pub const DIALECT: Dialect = Dialect {
    name: "Hetzner Cloud",
    code: Some("/error/code"),
    message: "/error/message",
    rules: &[
        Rule { status: 0, code: "rate_limit_exceeded", says: "", class: Class::Throttled(None) },
        Rule { status: 0, code: "resource_limit_exceeded", says: "", class: Class::Quota },
        Rule { status: 0, code: "server_limit_exceeded", says: "", class: Class::Quota },
        Rule { status: 0, code: "resource_unavailable", says: "", class: Class::Capacity },
        Rule { status: 0, code: "placement_error", says: "", class: Class::Capacity },
        Rule { status: 0, code: "no_space_left_in_location", says: "", class: Class::Capacity },
        Rule { status: 0, code: "token_readonly", says: "", class: Class::Auth },
        // A name that is taken stays taken.
        Rule { status: 0, code: "uniqueness_error", says: "", class: Class::Invalid },
        Rule { status: 0, code: "protected", says: "", class: Class::Invalid },
    ],
    reset: Reset::Full,
};

/// What a pool's servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As in `fsn1`.
    pub location: String,
    /// As in `cx23`.
    pub server_type: String,
    /// Name or number of an image, as in `ubuntu-24.04`.
    pub image: String,
}

/// One project and one kind of server.
#[derive(Debug)]
pub struct Hetzner {
    api: Api,
    place: Place,
}

impl Hetzner {
    /// `base`: another address than [`BASE`].
    pub fn new(client: Client, base: Option<&str>, token: SecretString, place: Place) -> Result<Self, Error> {
        Ok(Self { api: Api::new(client, base, BASE, Credential::Token(token), &DIALECT)?, place })
    }

    async fn servers(&self, pool: &str, filter: (&str, &str)) -> Result<Vec<Vm>, Error> {
        let query: Query<'_> = &[filter, ("per_page", PER_PAGE)];
        let servers = self.api.all(&["servers"], query, "page", List::page, |server| server.id.to_string()).await?;
        Ok(servers.into_iter().filter_map(|server| server.vm(pool)).collect())
    }

    fn body(&self, order: &Order) -> Result<Value, Error> {
        fits_user_data(order, USER_DATA)?;
        let labels: Map<_, _> = marks::write(&order.marks)?.into_iter().map(|(mark, value)| (mark.to_owned(), json!(value))).collect();
        Ok(json!({
            "name": order.name, "location": self.place.location, "server_type": self.place.server_type, "image": self.place.image,
            "labels": labels, "user_data": order.user_data, "start_after_create": true,
            "public_net": {"enable_ipv4": true, "enable_ipv6": false},
        }))
    }

    /// The server that has the order's name already, if it is the pool's for the same slot and epoch.
    async fn namesake(&self, order: &Order) -> Result<Option<Vm>, Error> {
        let found = self.servers(&order.marks.pool, ("name", &order.name)).await?;
        Ok(marks::of_place(found, &order.marks))
    }
}

impl Cloud for Hetzner {
    fn list<'a>(&'a self, pool: &'a str) -> BoxFuture<'a, Result<Vec<Vm>, Error>> {
        async move { self.servers(pool, ("label_selector", &format!("{POOL}=={pool}"))).await }.boxed()
    }

    fn find<'a>(&'a self, marks: &'a Marks) -> BoxFuture<'a, Result<Option<Vm>, Error>> {
        let selector = format!("{POOL}=={},{NONCE}=={}", marks.pool, marks.nonce);
        async move { Ok(marks::of_attempt(self.servers(&marks.pool, ("label_selector", &selector)).await?, marks)) }.boxed()
    }

    fn create<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Vm, Error>> {
        async {
            let made: Result<Made, Error> = self.api.post(&["servers"], &[], &self.body(order)?, &[&order.user_data]).await;
            match made {
                Ok(made) => named(&DIALECT, made.server.vm_of(order.marks.clone())),
                // Perhaps for its name, and that by our own earlier attempt.
                Err(error) if error.class == Class::Invalid => self.namesake(order).await?.ok_or(error),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        self.api.delete(&["servers"], id, &[]).boxed()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { idempotent_create: false, unique_names: true, settle_seconds: 30 }
    }

    fn rate(&self) -> Rate {
        self.api.rate()
    }
}

#[derive(Deserialize)]
struct List {
    servers: Vec<Server>,
    meta: Meta,
}

#[derive(Deserialize)]
struct Meta {
    pagination: Pagination,
}

#[derive(Deserialize)]
struct Pagination {
    next_page: Option<u32>,
    total_entries: Option<usize>,
}

impl List {
    fn page(self) -> Page<Server> {
        let Pagination { next_page, total_entries } = self.meta.pagination;
        Page { items: self.servers, total: total_entries, next: next_page.map(|page| page.to_string()) }
    }
}

#[derive(Deserialize)]
struct Made {
    server: Server,
}

#[derive(Deserialize)]
struct Server {
    id: u64,
    #[serde(default)]
    status: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    created: Option<String>,
    #[serde(default)]
    public_net: PublicNet,
}

#[derive(Deserialize, Default)]
struct PublicNet {
    ipv4: Option<Ipv4>,
}

#[derive(Deserialize)]
struct Ipv4 {
    ip: String,
}

impl Server {
    fn vm(self, pool: &str) -> Option<Vm> {
        let marks = marks::read(pool, self.labels.iter().map(|(mark, value)| (&**mark, &**value)), time(self.created.as_deref()))?;
        Some(self.vm_of(marks))
    }

    fn vm_of(self, marks: Marks) -> Vm {
        let phase = match &*self.status {
            "initializing" | "starting" | "rebuilding" => Phase::Starting,
            "off" | "stopping" => Phase::Stopped,
            "deleting" => Phase::Deleting,
            // "running", "migrating", "unknown": what is true shows when the proxy is asked.
            _ => Phase::Running,
        };
        Vm { id: self.id.to_string(), marks, phase, address: self.public_net.ipv4.and_then(|net| address(&net.ip)) }
    }
}
