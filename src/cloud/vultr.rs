//! Vultr instances, API v2. No idempotency key, no unique names: an attempt is found by its nonce's tag. A locked instance answers
//! a delete with status 500, which means later.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::Client;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use super::answer::{Dialect, Reset, Rule};
use super::http::{Api, Credential, Page, fits_user_data, named};
use super::limiter::Budget;
use super::marks::{self, NONCE, POOL};
use super::{Capabilities, Class, Cloud, Error, Marks, Order, Phase, Rate, Vm, address, time};

/// Where the API is.
pub const BASE: &str = "https://api.vultr.com/v2/";
/// 30 in a second, and that per address, not per account.
pub const BUDGET: Budget = Budget { burst: 15.0, per_second: 10.0, page: 500 };
/// Before base64. Nothing is documented; this is what the strictest cloud takes but one.
const USER_DATA: usize = 32 << 10;
const PER_PAGE: &str = "500";

/// How it says things.
pub const DIALECT: Dialect = Dialect {
    name: "Vultr",
    code: None,
    message: "/error",
    rules: &[
        Rule { status: 0, code: "", says: "rate limit", class: Class::Throttled(None) },
        Rule { status: 500, code: "", says: "locked", class: Class::Transient },
        Rule { status: 0, code: "", says: "maximum monthly fee limit", class: Class::Quota },
        Rule { status: 0, code: "", says: "maximum number of", class: Class::Quota },
        Rule { status: 0, code: "", says: "limit reached", class: Class::Quota },
        Rule { status: 0, code: "", says: "not available in the selected region", class: Class::Capacity },
        Rule { status: 0, code: "", says: "out of stock", class: Class::Capacity },
        Rule { status: 0, code: "", says: "sold out", class: Class::Capacity },
    ],
    reset: Reset::Never,
};

/// What a pool's instances are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As in `ewr`.
    pub region: String,
    /// As in `vc2-1c-1gb`.
    pub plan: String,
    /// Number of an operating system, as in 2284.
    pub os_id: u32,
}

/// One account and one kind of instance.
#[derive(Debug)]
pub struct Vultr {
    api: Api,
    place: Place,
}

impl Vultr {
    /// `base`: another address than [`BASE`].
    pub fn new(client: Client, base: Option<&str>, token: SecretString, place: Place) -> Result<Self, Error> {
        Ok(Self { api: Api::new(client, base, BASE, Credential::Token(token), &DIALECT)?, place })
    }

    async fn tagged(&self, pool: &str, mark: &str, value: &str) -> Result<Vec<Vm>, Error> {
        let tag = marks::flat(mark, value);
        let query = [("tag", &*tag), ("per_page", PER_PAGE)];
        let instances = self.api.all(&["instances"], &query, "cursor", List::page, |instance| instance.id.clone()).await?;
        Ok(instances.into_iter().filter_map(|instance| instance.vm(pool)).collect())
    }
}

impl Cloud for Vultr {
    fn list<'a>(&'a self, pool: &'a str) -> BoxFuture<'a, Result<Vec<Vm>, Error>> {
        self.tagged(pool, POOL, pool).boxed()
    }

    fn find<'a>(&'a self, marks: &'a Marks) -> BoxFuture<'a, Result<Option<Vm>, Error>> {
        async { Ok(marks::of_attempt(self.tagged(&marks.pool, NONCE, &marks.nonce).await?, marks)) }.boxed()
    }

    fn create<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Vm, Error>> {
        async {
            fits_user_data(order, USER_DATA)?;
            let tags: Vec<_> = marks::write(&order.marks)?.iter().map(|(mark, value)| marks::flat(mark, value)).collect();
            let body = json!({
                "region": self.place.region, "plan": self.place.plan, "os_id": self.place.os_id,
                "label": order.name, "hostname": order.name, "tags": tags, "user_data": STANDARD.encode(&order.user_data),
                "backups": "disabled", "enable_ipv6": false, "activation_email": false,
            });
            let made: Made = self.api.post(&["instances"], &[], &body, &[&order.user_data]).await?;
            named(&DIALECT, made.instance.vm_of(order.marks.clone()))
        }
        .boxed()
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        self.api.delete(&["instances"], id, &[]).boxed()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { idempotent_create: false, unique_names: false, settle_seconds: 60 }
    }

    fn rate(&self) -> Rate {
        self.api.rate()
    }
}

#[derive(Deserialize)]
struct List {
    instances: Vec<Instance>,
    meta: Meta,
}

#[derive(Deserialize)]
struct Meta {
    links: Option<Links>,
}

#[derive(Deserialize)]
struct Links {
    next: Option<String>,
}

impl List {
    fn page(self) -> Page<Instance> {
        // Whether `meta.total` counts before or after the filter is not documented; a cursor needs no count.
        Page { items: self.instances, total: None, next: self.meta.links.and_then(|links| links.next) }
    }
}

#[derive(Deserialize)]
struct Made {
    instance: Instance,
}

#[derive(Deserialize)]
struct Instance {
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    power_status: String,
    #[serde(default)]
    server_status: String,
    #[serde(default)]
    tags: Vec<String>,
    date_created: Option<String>,
    #[serde(default)]
    main_ip: String,
}

impl Instance {
    fn vm(self, pool: &str) -> Option<Vm> {
        let marks = marks::read(pool, self.tags.iter().filter_map(|tag| marks::unflat(tag)), time(self.date_created.as_deref()))?;
        Some(self.vm_of(marks))
    }

    fn vm_of(self, marks: Marks) -> Vm {
        let phase = match (&*self.status, &*self.power_status, &*self.server_status) {
            ("pending", ..) | (_, _, "none" | "installingbooting") => Phase::Starting,
            ("suspended", ..) | (_, "stopped", _) => Phase::Stopped,
            // Locked ones run; what a new word means shows when the proxy is asked.
            _ => Phase::Running,
        };
        Vm { id: self.id, marks, phase, address: address(&self.main_ip) }
    }
}
