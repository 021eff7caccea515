//! A thin HTTP client for the clouds that speak JSON.
//!
//! It tries nothing twice (the planner decides what follows an error), follows no redirect and keeps no
//! connection: on one that the other side has just closed, an order's outcome would be unknown for nothing.
//! A page's follower is asked for by a parameter and never by an address from an answer, so that the token
//! goes to nobody but the base address.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::BoxFuture;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Method, RequestBuilder, Url, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::answer::{self, Dialect, Verb};
use super::{Class, Error, Order, Rate, Vm};
use crate::runtime::clock;

/// For a connection, its TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// For all of a request. Clouds take their time to take an order.
const TOTAL: Duration = Duration::from_secs(30);
/// Bytes of one answer.
pub(super) const LONGEST_ANSWER: usize = 16 << 20;
/// Pages of one list: more is a cloud that goes round in circles.
pub(super) const MOST_PAGES: usize = 1000;

/// The client that all clouds of the process share.
pub fn client() -> Result<Client, Error> {
    let none = |()| Error { class: Class::Invalid, message: "no HTTP client can be made".into() };
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|_| none(()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(CONNECT)
        .timeout(TOTAL)
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .pool_max_idle_per_host(0)
        .user_agent(concat!("aether/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|_| none(()))
}

/// Where tokens come from that do not last.
pub trait Tokens: Send + Sync {
    /// One that is good now.
    fn token(&self) -> BoxFuture<'_, Result<SecretString, Error>>;
}

/// What a cloud knows us by.
#[derive(Clone)]
pub enum Credential {
    /// One that lasts.
    Token(SecretString),
    /// Ones that do not.
    Tokens(Arc<dyn Tokens>),
}

impl Credential {
    async fn token(&self) -> Result<SecretString, Error> {
        match self {
            Self::Token(token) => Ok(token.clone()),
            Self::Tokens(tokens) => tokens.token().await,
        }
    }
}

/// One cloud's API as one account sees it.
pub struct Api {
    client: Client,
    base: Url,
    credential: Credential,
    dialect: &'static Dialect,
    rate: Mutex<Rate>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("cloud", &self.dialect.name).field("rate", &self.rate()).finish_non_exhaustive()
    }
}

/// One page of a list.
#[derive(Debug)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// How many there are on all pages, if the cloud says that.
    pub total: Option<usize>,
    /// What its paging parameter is for the next page; `None`: this is the last.
    pub next: Option<String>,
}

/// Parameters of a query.
pub type Query<'a> = &'a [(&'a str, &'a str)];

impl Api {
    /// `base` is an address of the cloud, also one with a path; `standard` if there is none.
    pub fn new(
        client: Client,
        base: Option<&str>,
        standard: &str,
        credential: Credential,
        dialect: &'static Dialect,
    ) -> Result<Self, Error> {
        let base = Url::parse(base.unwrap_or(standard)).ok().filter(|base| matches!(base.scheme(), "http" | "https") && base.has_host());
        let base = base.ok_or_else(|| Error { class: Class::Invalid, message: format!("no address of {}", dialect.name) })?;
        Ok(Self { client, base, credential, dialect, rate: Mutex::default() })
    }

    /// What the last answer said about the limit.
    pub fn rate(&self) -> Rate {
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one thing.
    pub async fn get<T: DeserializeOwned>(&self, path: &[&str], query: Query<'_>) -> Result<T, Error> {
        let request = self.request(Method::GET, path, query)?;
        let body = self.send(Verb::Read, request, &[]).await?;
        self.parse(Verb::Read, &body)
    }

    /// Asks for a change. `secrets`: parts of the body that no message may repeat.
    pub async fn post<T: DeserializeOwned>(&self, path: &[&str], query: Query<'_>, body: &Value, secrets: &[&str]) -> Result<T, Error> {
        let request = self.request(Method::POST, path, query)?.header(CONTENT_TYPE, "application/json").body(body.to_string());
        // Some clouds take and keep them in base64.
        let encoded: Vec<_> = secrets.iter().map(|secret| STANDARD.encode(secret)).collect();
        let secrets: Vec<_> = secrets.iter().copied().chain(encoded.iter().map(|secret| &**secret)).collect();
        let body = self.send(Verb::Change, request, &secrets).await?;
        self.parse(Verb::Change, &body)
    }

    /// Deletes; what is gone already is as good as deleted. `id` is the last part of the path.
    pub async fn delete(&self, path: &[&str], id: &str, query: Query<'_>) -> Result<(), Error> {
        // Without an id this would be an order to delete whatever the collection's address means.
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            return Err(Error { class: Class::Invalid, message: format!("no id of {}", self.dialect.name) });
        }
        let path = [path, &[id]].concat();
        match self.send(Verb::Change, self.request(Method::DELETE, &path, query)?, &[]).await {
            Ok(_) => Ok(()),
            Err(error) if error.class == Class::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Every item of every page, or an error (rule I4). `paging` is the parameter that names a page, `read` reads one,
    /// `id` tells items apart: a list that changed while it was read shows in their number.
    pub async fn all<P: DeserializeOwned, T>(
        &self,
        path: &[&str],
        query: Query<'_>,
        paging: &str,
        read: impl Fn(P) -> Page<T>,
        id: impl Fn(&T) -> String,
    ) -> Result<Vec<T>, Error> {
        let mut items = Vec::new();
        let mut ids = HashSet::new();
        let mut pages = HashSet::new();
        let mut next: Option<String> = None;
        // A page that points back ends this as well as one that is missing.
        while pages.len() < MOST_PAGES {
            let at = next.as_deref().map(|page| (paging, page));
            let whole: Vec<_> = query.iter().copied().chain(at).collect();
            let page = read(self.get(path, &whole).await?);
            items.extend(page.items.into_iter().filter(|item| ids.insert(id(item))));
            match page.next.filter(|page| !page.is_empty()) {
                Some(page) if pages.insert(page.clone()) => next = Some(page),
                None if page.total.is_none_or(|total| total == items.len()) => return Ok(items),
                Some(_) | None => break,
            }
        }
        Err(answer::malformed(self.dialect, Verb::Read, "the list changed while it was read"))
    }

    fn request(&self, method: Method, path: &[&str], query: Query<'_>) -> Result<RequestBuilder, Error> {
        let mut url = self.base.clone();
        let wrong = |()| Error { class: Class::Invalid, message: format!("no address of {}", self.dialect.name) };
        url.path_segments_mut().map_err(wrong)?.pop_if_empty().extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(self.client.request(method, url).header(ACCEPT, "application/json"))
    }

    /// The body of a success.
    async fn send(&self, verb: Verb, request: RequestBuilder, secrets: &[&str]) -> Result<Vec<u8>, Error> {
        let token = self.credential.token().await?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret().trim()))
            .map_err(|_| Error { class: Class::Auth, message: "the token has characters that no header can have".into() })?;
        bearer.set_sensitive(true);
        let lost = |error: reqwest::Error| self.lost(verb, &error);
        // What an earlier answer said is no news once this request is lost.
        self.keep(Rate::default());
        let mut response = request.header(AUTHORIZATION, bearer).send().await.map_err(lost)?;
        let status = response.status();
        let throttled = self.note(status.as_u16(), response.headers());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if body.len() + chunk.len() > LONGEST_ANSWER {
                return Err(answer::malformed(self.dialect, verb, "the answer is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(body);
        }
        let secrets: Vec<_> = secrets.iter().copied().chain([token.expose_secret()]).collect();
        let error = answer::error(self.dialect, verb, status.as_u16(), response.headers(), &body, &secrets, clock::now());
        if matches!(error.class, Class::Throttled(_)) && !throttled {
            // Some clouds say it in the body only.
            self.keep(answer::rate(self.dialect, true, response.headers(), clock::now()));
        }
        Err(error)
    }

    fn note(&self, status: u16, headers: &HeaderMap) -> bool {
        let throttled = status == 429;
        self.keep(answer::rate(self.dialect, throttled, headers, clock::now()));
        throttled
    }

    fn keep(&self, rate: Rate) {
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner) = rate;
    }

    fn parse<T: DeserializeOwned>(&self, verb: Verb, body: &[u8]) -> Result<T, Error> {
        // The reader's own message may quote the body.
        serde_json::from_slice(body).map_err(|error| {
            let place = format!("the answer cannot be read (line {}, column {})", error.line(), error.column());
            answer::malformed(self.dialect, verb, &place)
        })
    }

    /// Without an answer: nothing was done if there was no connection.
    fn lost(&self, verb: Verb, error: &reqwest::Error) -> Error {
        let why = if error.is_connect() {
            "no connection"
        } else if error.is_builder() {
            "no request can be made"
        } else if error.is_timeout() {
            "no answer in time"
        } else {
            "the connection broke off"
        };
        let class = match verb {
            _ if error.is_builder() => Class::Invalid,
            Verb::Change if !error.is_connect() => Class::Unknown,
            Verb::Read | Verb::Change => Class::Transient,
        };
        Error { class, message: format!("{}: {why}", self.dialect.name) }
    }
}

/// The VM of an answer to a create: without an id nobody knows what was made.
pub fn named(dialect: &Dialect, vm: Vm) -> Result<Vm, Error> {
    if vm.id.is_empty() { Err(answer::malformed(dialect, Verb::Change, "the answer to an order has no id")) } else { Ok(vm) }
}

/// Refuses what the cloud will not boot with.
pub fn fits_user_data(order: &Order, most: usize) -> Result<(), Error> {
    let length = order.user_data.len();
    let error = || Error { class: Class::Invalid, message: format!("{length} bytes of user data, at most {most} are taken") };
    if length <= most { Ok(()) } else { Err(error()) }
}
