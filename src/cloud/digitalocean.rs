//! DigitalOcean droplets, API v2. There is no idempotency key and names are not unique, so an attempt is found by its nonce's tag.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::Client;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Dialect, Reset, Rule};
use super::http::{Api, Credential, Page, fits_user_data, named};
use super::limiter::Budget;
use super::marks::{self, NONCE, POOL};
use super::{Capabilities, Class, Cloud, Error, Marks, Order, Phase, Rate, Vm, address, time};

/// Where the API is.
pub const BASE: &str = "https://api.digitalocean.com/v2/";
/// 250 in a minute and 5000 in an hour, both sliding: 160 + 78 and 160 + 4680.
pub const BUDGET: Budget = Budget { burst: 160.0, per_second: 1.3, page: 200 };
const USER_DATA: usize = 64 << 10;
const PER_PAGE: &str = "200";

/// How it says things.
pub const DIALECT: Dialect = Dialect {
    name: "DigitalOcean",
    code: Some("/id"),
    message: "/message",
    rules: &[
        Rule { status: 422, code: "", says: "droplet limit", class: Class::Quota },
        Rule { status: 403, code: "", says: "droplet limit", class: Class::Quota },
        Rule { status: 422, code: "", says: "unavailable", class: Class::Capacity },
        Rule { status: 422, code: "", says: "not available", class: Class::Capacity },
        Rule { status: 422, code: "", says: "pending event", class: Class::Transient },
    ],
    reset: Reset::Next,
};

/// What a pool's droplets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// As in `lon1`.
    pub region: String,
    /// As in `s-1vcpu-1gb`.
    pub size: String,
    /// A slug as in `ubuntu-24-04-x64`, or the number of an image.
    pub image: String,
}

/// One account and one kind of droplet.
#[derive(Debug)]
pub struct DigitalOcean {
    api: Api,
    place: Place,
}

impl DigitalOcean {
    /// `base`: another address than [`BASE`].
    pub fn new(client: Client, base: Option<&str>, token: SecretString, place: Place) -> Result<Self, Error> {
        Ok(Self { api: Api::new(client, base, BASE, Credential::Token(token), &DIALECT)?, place })
    }

    async fn tagged(&self, pool: &str, mark: &str, value: &str) -> Result<Vec<Vm>, Error> {
        let tag = marks::flat(mark, value);
        let query = [("tag_name", &*tag), ("per_page", PER_PAGE)];
        let droplets = self.api.all(&["droplets"], &query, "page", List::page, |droplet| droplet.id.to_string()).await?;
        Ok(droplets.into_iter().filter_map(|droplet| droplet.vm(pool)).collect())
    }

    fn body(&self, order: &Order) -> Result<Value, Error> {
        fits_user_data(order, USER_DATA)?;
        let tags: Vec<_> = marks::write(&order.marks)?.iter().map(|(mark, value)| marks::flat(mark, value)).collect();
        let image = self.place.image.parse::<u64>().map_or_else(|_| json!(self.place.image), |number| json!(number));
        Ok(json!({
            "name": order.name, "region": self.place.region, "size": self.place.size, "image": image,
            "tags": tags, "user_data": order.user_data, "backups": false, "ipv6": false, "monitoring": false,
        }))
    }
}

impl Cloud for DigitalOcean {
    fn list<'a>(&'a self, pool: &'a str) -> BoxFuture<'a, Result<Vec<Vm>, Error>> {
        self.tagged(pool, POOL, pool).boxed()
    }

    fn find<'a>(&'a self, marks: &'a Marks) -> BoxFuture<'a, Result<Option<Vm>, Error>> {
        async { Ok(marks::of_attempt(self.tagged(&marks.pool, NONCE, &marks.nonce).await?, marks)) }.boxed()
    }

    fn create<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Vm, Error>> {
        async {
            let made: Made = self.api.post(&["droplets"], &[], &self.body(order)?, &[&order.user_data]).await?;
            named(&DIALECT, made.droplet.vm_of(order.marks.clone()))
        }
        .boxed()
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        self.api.delete(&["droplets"], id, &[]).boxed()
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
    droplets: Vec<Droplet>,
    #[serde(default)]
    links: Links,
    meta: Meta,
}

#[derive(Deserialize, Default)]
struct Links {
    pages: Option<Pages>,
}

#[derive(Deserialize)]
struct Pages {
    next: Option<String>,
}

#[derive(Deserialize)]
struct Meta {
    total: usize,
}

impl List {
    fn page(self) -> Page<Droplet> {
        let next = self.links.pages.and_then(|pages| pages.next);
        // The address of the next page may be anybody's; only the page's number is taken from it.
        let number = |url: String| {
            let query = reqwest::Url::parse(&url).ok()?;
            query.query_pairs().find(|(name, _)| name == "page").map(|(_, number)| number.into_owned())
        };
        Page { items: self.droplets, total: Some(self.meta.total), next: next.and_then(number) }
    }
}

#[derive(Deserialize)]
struct Made {
    droplet: Droplet,
}

#[derive(Deserialize)]
struct Droplet {
    id: u64,
    #[serde(default)]
    status: String,
    #[serde(default)]
    tags: Vec<String>,
    created_at: Option<String>,
    #[serde(default)]
    networks: Networks,
}

#[derive(Deserialize, Default)]
struct Networks {
    #[serde(default)]
    v4: Vec<Network>,
}

#[derive(Deserialize)]
struct Network {
    ip_address: String,
    r#type: String,
}

impl Droplet {
    fn vm(self, pool: &str) -> Option<Vm> {
        let marks = marks::read(pool, self.tags.iter().filter_map(|tag| marks::unflat(tag)), time(self.created_at.as_deref()))?;
        Some(self.vm_of(marks))
    }

    fn vm_of(self, marks: Marks) -> Vm {
        let phase = match &*self.status {
            "new" => Phase::Starting,
            "off" | "archive" => Phase::Stopped,
            // What a new word means shows when the proxy is asked.
            _ => Phase::Running,
        };
        let public = self.networks.v4.iter().find(|network| network.r#type == "public");
        Vm { id: self.id.to_string(), marks, phase, address: public.and_then(|network| address(&network.ip_address)) }
    }
}
