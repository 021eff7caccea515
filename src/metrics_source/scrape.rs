//! Fetches metrics pages and asks a Prometheus: bounded in time, size and number, and fair between updates.
//!
//! **Fairness.** A dead pod costs its whole timeout. If all updates drew from one pool, one update with
//! a thousand dead pods would hold every place for minutes. So each round of an update has
//! [`OWN_PLACES`] places that nobody else can take, and the process-wide pool only makes big updates
//! faster: whatever the others do, a place of one's own comes free within one timeout of one's own
//! targets. Memory is bounded likewise: a page of up to [`LIGHT`] bytes never waits for anybody, and
//! of heavier ones only [`HEAVY_PLACES`] are held at a time, each waiting within its own timeout.
//!
//! Each page is read (`read`) as it arrives and let go, so a round never holds all of them.
//!
//! **Connections** are not kept: a thousand pods would be a thousand idle sockets between scrapes.
//! Nothing is compressed (a small page could unfold to any size), nothing is redirected (the address
//! is the user's wish), and no proxy of the environment is used.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures::{StreamExt, stream};
use reqwest::header::{ACCEPT, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, TRANSFER_ENCODING};
use reqwest::{Client, Response, Url, redirect};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::exposition::Format;
use super::prometheus::{self, AnswerError, Demand};
use super::promql::Question;
use super::recognise::Recognised;
use crate::api::Time;

/// Places of its own that every round has.
pub const OWN_PLACES: usize = 4;
/// Places that all rounds share.
pub const SHARED_PLACES: usize = 64;
/// A page up to this size never waits for a heavy place.
pub const LIGHT: usize = 256 << 10;
/// Pages heavier than [`LIGHT`] that may be in memory at a time.
pub const HEAVY_PLACES: usize = 16;

/// The older format first: its names are what is looked for, and it is cheaper to write.
const PAGE: &str = "text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.5";
const JSON: &str = "application/json";

/// Bounds of one fetch.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a connection.
    pub connect: Duration,
    /// For all of it, the connection included.
    pub total: Duration,
    /// Bytes of a pod's page.
    pub page: usize,
    /// Bytes of a Prometheus' answer.
    pub answer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connect: Duration::from_secs(3), total: Duration::from_secs(3), page: 4 << 20, answer: 16 << 20 }
    }
}

/// Why a page could not be had. Short, and never with anything the other side said but its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Not an address to fetch.
    #[error("not an http address without credentials")]
    Address,
    /// Nobody listens.
    #[error("connection refused")]
    Refused,
    /// No connection for another reason, TLS included.
    #[error("cannot connect")]
    Unreachable,
    /// Took too long.
    #[error("timed out")]
    TimedOut,
    /// Another status than 200. Redirects are not followed.
    #[error("HTTP status {0}")]
    Status(u16),
    /// A bound was passed.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// Compressed, though that was not asked for.
    #[error("compressed, which was not asked for")]
    Compressed,
    /// Ended in the middle.
    #[error("the connection broke off")]
    BrokeOff,
    /// The client cannot be made.
    #[error("no HTTP client can be made")]
    NoClient,
}

impl FetchError {
    /// One word of a few, to count by.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Address | Self::NoClient => "address",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Status(_) => "status",
            Self::TooLong(_) => "too_long",
            Self::Compressed => "compressed",
            Self::BrokeOff => "broke_off",
        }
    }
}

impl AskError {
    /// One word of a few, to count by.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Address => FetchError::Address.word(),
            Self::Fetch(error) => error.word(),
            Self::Answer { .. } => "unreadable",
        }
    }
}

/// Why a Prometheus gave nothing to count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Nobody can be asked there.
    #[error("spec.metrics.prometheus.address: no http or https address without credentials, such as http://prometheus:9090")]
    Address,
    /// No answer.
    #[error("Prometheus: {0}")]
    Fetch(#[from] FetchError),
    /// No answer that can be used.
    #[error("Prometheus{}: {error}", .query.map(|name| format!(", query {name}")).unwrap_or_default())]
    Answer {
        /// The query, where there are several.
        query: Option<&'static str>,
        /// What is wrong with the answer.
        error: AnswerError,
    },
}

/// A page as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its format, by its content type.
    pub format: Format,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Fetches pages; one for the whole process.
#[derive(Clone, Debug)]
pub struct Scraper {
    client: Client,
    limits: Limits,
    shared: Arc<Semaphore>,
    heavy: Arc<Semaphore>,
}

impl Scraper {
    /// Reads the machine's root certificates; without any, https addresses fail and pods are read all the same.
    pub fn new(limits: Limits) -> Result<Self, FetchError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        // Named, not the process' default: without one reqwest would panic.
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| FetchError::NoClient)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(limits.connect)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("aether/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| FetchError::NoClient)?;
        let places = |n| Arc::new(Semaphore::new(n));
        Ok(Self { client, limits, shared: places(SHARED_PLACES), heavy: places(HEAVY_PLACES) })
    }

    /// One round of one update: every target once, at most `limit` at a time, in no order.
    /// `read` makes of each page what is to be kept of it.
    pub async fn scrape_all<T, R>(
        &self,
        targets: impl IntoIterator<Item = (T, String)>,
        limit: usize,
        read: impl Fn(&T, Page) -> R,
    ) -> Vec<(T, Result<R, FetchError>)> {
        let own = Semaphore::new(OWN_PLACES);
        let one = async |(target, url): (T, String)| {
            let _place = self.place(&own).await;
            let page = self.scrape(&url, |page| read(&target, page)).await;
            (target, page)
        };
        stream::iter(targets).map(one).buffer_unordered(limit.max(1)).collect().await
    }

    /// A place of one's own or of the shared ones, whichever is free first.
    async fn place<'a>(&'a self, own: &'a Semaphore) -> Option<SemaphorePermit<'a>> {
        // No semaphore here is ever closed.
        tokio::select! {
            biased;
            place = own.acquire() => place.ok(),
            place = self.shared.acquire() => place.ok(),
        }
    }

    /// One page of a pod.
    pub async fn scrape<R>(&self, url: &str, read: impl FnOnce(Page) -> R) -> Result<R, FetchError> {
        let url = address(url)?;
        let whole = self.fetch(url, PAGE, self.limits.page, |status, headers, bytes| {
            if status != 200 {
                return Err(FetchError::Status(status));
            }
            let of_unknown_length = !headers.contains_key(CONTENT_LENGTH) && !headers.contains_key(TRANSFER_ENCODING);
            if of_unknown_length && !bytes.ends_with(b"\n") {
                // Its end is just where the connection ended.
                return Err(FetchError::BrokeOff);
            }
            Ok(read(Page { format: Format::of_content_type(text(headers, CONTENT_TYPE)), bytes }))
        });
        whole.await?
    }

    /// Asks a Prometheus all of the questions as of one moment; one bad answer spoils them all.
    pub async fn ask(&self, server: &str, questions: &[Question], now: Time, max_age: TimeDelta) -> Result<Recognised, AskError> {
        let demand = Demand { now, max_age, most_series: 50_000 };
        let mut answers = Vec::with_capacity(questions.len());
        for question in questions {
            let url = query_url(server, &question.promql, now).map_err(|_| AskError::Address)?;
            let query = question.role.query();
            let answer = self.fetch(url, JSON, self.limits.answer, |status, _, bytes| match prometheus::read(&bytes, demand) {
                // Its own errors have other statuses and say why; what else has one is somebody else's.
                Err(AnswerError::Foreign) if status != 200 => Err(AskError::Fetch(FetchError::Status(status))),
                answer => answer.map_err(|error| AskError::Answer { query, error }),
            });
            answers.push((question.clone(), answer.await??));
        }
        Ok(prometheus::recognise(&answers, now))
    }

    /// Status, headers and body, in time and in size. `read` is called while the page's place is still held.
    async fn fetch<R>(
        &self,
        url: Url,
        accept: &str,
        most: usize,
        read: impl FnOnce(u16, &HeaderMap, Vec<u8>) -> R,
    ) -> Result<R, FetchError> {
        let whole = async {
            let mut response = self.client.get(url).header(ACCEPT, accept).send().await.map_err(|e| classify(&e))?;
            if !matches!(text(response.headers(), CONTENT_ENCODING), "" | "identity") {
                return Err(FetchError::Compressed);
            }
            let mut heavy = None;
            let bytes = self.body(&mut response, most, &mut heavy).await?;
            Ok(read(response.status().as_u16(), response.headers(), bytes))
        };
        tokio::time::timeout(self.limits.total, whole).await.unwrap_or(Err(FetchError::TimedOut))
    }

    /// Chunk by chunk, so that an endless body ends here.
    async fn body<'a>(
        &'a self,
        response: &mut Response,
        most: usize,
        heavy: &mut Option<SemaphorePermit<'a>>,
    ) -> Result<Vec<u8>, FetchError> {
        let too_long = |length: u64| usize::try_from(length).map_or(true, |length| length > most);
        if response.content_length().is_some_and(too_long) {
            return Err(FetchError::TooLong(most));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| classify(&e))? {
            if bytes.len() + chunk.len() > most {
                return Err(FetchError::TooLong(most));
            }
            if bytes.len() + chunk.len() > LIGHT && heavy.is_none() {
                *heavy = self.heavy.acquire().await.ok();
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
}

fn address(url: &str) -> Result<Url, FetchError> {
    let url = Url::parse(url).map_err(|_| FetchError::Address)?;
    let plain = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
    if plain && url.has_host() { Ok(url) } else { Err(FetchError::Address) }
}

/// `<server>/api/v1/query`, where the server may live under a path.
fn query_url(server: &str, promql: &str, at: Time) -> Result<Url, FetchError> {
    let mut url = address(server)?;
    url.set_fragment(None);
    url.path_segments_mut().map_err(|()| FetchError::Address)?.pop_if_empty().extend(["api", "v1", "query"]);
    let millis = at.timestamp_millis();
    let time = format!("{}.{:03}", millis.div_euclid(1000), millis.rem_euclid(1000));
    url.query_pairs_mut().append_pair("query", promql).append_pair("time", &time);
    Ok(url)
}

fn classify(error: &reqwest::Error) -> FetchError {
    if error.is_timeout() {
        return FetchError::TimedOut;
    }
    if !error.is_connect() {
        return if error.is_builder() { FetchError::Address } else { FetchError::BrokeOff };
    }
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
            return FetchError::Refused;
        }
        cause = error.source();
    }
    FetchError::Unreachable
}

#[cfg(test)]
#[path = "scrape_tests.rs"]
mod tests;
