//! The application of one pod: a small HTTP/1.1 server that answers, is slow or errs as it is told.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use chrono::Utc;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::received;

use super::addresses::Lease;
use super::behaviour::Behaviour;
use super::logs::Log;
use super::metrics::Metrics;

/// Longest delay that a request may ask for.
const LONGEST_DELAY: Duration = Duration::from_mins(1);
/// What may change while the application runs.
#[derive(Debug)]
struct Knobs {
    version: HeaderValue,
    body: Bytes,
    latency: Duration,
    latency_p99: Option<Duration>,
    error_ppm: u64,
    errs_from: Option<Instant>,
    last_call: Duration,
    more_series: u32,
    counts_everything: bool,
}

/// What all connections of one application share.
#[derive(Debug)]
struct Shared {
    pod: HeaderValue,
    started: Instant,
    knobs: RwLock<Knobs>,
    answered: AtomicU64,
    metrics: Mutex<Metrics>,
    drain: CancellationToken,
    log: Arc<Log>,
}

/// A running application. Dropping it closes its listeners and cuts its connections, as the end of a process does.
#[derive(Debug)]
pub struct App {
    shared: Arc<Shared>,
    listeners: JoinSet<()>,
}

impl App {
    /// Listens on the address of the lease. `age` is how long ago the container was started. The address is given back
    /// only when the last listener and the last connection are closed.
    pub async fn start(
        pod: &str,
        lease: &Arc<Lease>,
        ports: &[u16],
        behaviour: &Behaviour,
        age: Duration,
        log: &Arc<Log>,
    ) -> io::Result<Self> {
        let now = Instant::now();
        let started = now.checked_sub(age).unwrap_or(now);
        let shared = Arc::new(Shared {
            pod: HeaderValue::from_str(pod).map_err(io::Error::other)?,
            started,
            knobs: RwLock::new(Knobs::of(pod, behaviour, started)?),
            answered: AtomicU64::new(0),
            metrics: Mutex::default(),
            drain: CancellationToken::new(),
            log: log.clone(),
        });
        let mut listeners = JoinSet::new();
        for port in ports {
            let listener = bind(lease.ip(), *port).await?;
            listeners.spawn(listen(listener, shared.clone(), lease.clone()));
        }
        Ok(Self { shared, listeners })
    }

    /// Takes on another behaviour. Requests that have begun keep the old one.
    pub fn set(&self, pod: &str, behaviour: &Behaviour) -> io::Result<()> {
        let knobs = Knobs::of(pod, behaviour, self.shared.started)?;
        *self.shared.knobs.write().unwrap_or_else(PoisonError::into_inner) = knobs;
        Ok(())
    }

    /// Asks the application to end: every answer closes its connection, after the last call the listeners and the idle
    /// connections are closed too, and what is then in flight is still answered.
    pub fn drain(&self) {
        self.shared.drain.cancel();
    }

    /// Waits until the last listener is closed.
    pub async fn closed(&mut self) {
        while self.listeners.join_next().await.is_some() {}
    }
}

impl Knobs {
    fn of(pod: &str, behaviour: &Behaviour, started: Instant) -> io::Result<Self> {
        let body = serde_json::json!({"version": behaviour.version, "pod": pod}).to_string();
        Ok(Self {
            version: HeaderValue::from_str(&behaviour.version).map_err(io::Error::other)?,
            body: Bytes::from(body + "\n"),
            latency: behaviour.latency,
            latency_p99: behaviour.latency_p99,
            error_ppm: behaviour.error_ppm,
            errs_from: started.checked_add(behaviour.error_after),
            last_call: behaviour.last_call(),
            more_series: behaviour.more_series,
            counts_everything: behaviour.counts_everything,
        })
    }
}

/// Listens, and tries for a while if the address is still in use: its last owner may be closing it.
async fn bind(ip: Ipv4Addr, port: u16) -> io::Result<TcpListener> {
    let mut tries = 20;
    loop {
        match TcpListener::bind(SocketAddr::from((ip, port))).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => tries -= 1,
            result => return result,
        }
        sleep(Duration::from_millis(50)).await;
    }
}

impl Shared {
    /// Waits until the application was asked to end and its last call is over.
    async fn last_call(&self) {
        self.drain.cancelled().await;
        let last_call = self.knobs.read().unwrap_or_else(PoisonError::into_inner).last_call;
        sleep(last_call).await;
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>, _lease: Arc<Lease>) {
    let mut connections = JoinSet::new();
    let mut closing = pin!(shared.last_call());
    loop {
        // In this order: who is already connected is served before the listener is given up.
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, shared.clone()));
                }
                // Out of file descriptors, or the client is gone: the next may do better.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
            () = &mut closing => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Answers are small: waiting for more to send would cost 40 ms.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| answer(shared.clone(), request));
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    // An error here is the client's going away: it has nobody left to be told to.
    let ended = tokio::select! {
        _ = connection.as_mut() => true,
        () = shared.last_call() => false,
    };
    if !ended {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let begun = Instant::now();
    received::note(request.headers());
    if request.uri().path() == "/metrics" {
        let (more_series, counts) = {
            let knobs = shared.knobs.read().unwrap_or_else(PoisonError::into_inner);
            (knobs.more_series, knobs.counts_everything)
        };
        let mut metrics = shared.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        let text = metrics.text(more_series);
        if counts {
            metrics.count(200, method_name(request.method()), request.uri().path(), begun.elapsed());
        }
        drop(metrics);
        let mut response = Response::new(Full::from(text));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        return Ok(response);
    }
    let number = shared.answered.fetch_add(1, Ordering::Relaxed);
    let (delay, errs, version, body, path) = {
        let knobs = shared.knobs.read().unwrap_or_else(PoisonError::into_inner);
        let delay = Behaviour::latency_of(knobs.latency, knobs.latency_p99, number);
        let errs = knobs.errs_from.is_some_and(|from| begun >= from) && Behaviour::errs(knobs.error_ppm, number);
        let path = if knobs.counts_everything { request.uri().path() } else { "" };
        (delay, errs, knobs.version.clone(), knobs.body.clone(), path)
    };
    let delay = asked_delay(&request).unwrap_or(delay);
    if !delay.is_zero() {
        sleep(delay.min(LONGEST_DELAY)).await;
    }
    let code = if errs { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-version", version);
    headers.insert("x-pod", shared.pod.clone());
    if shared.drain.is_cancelled() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let method = method_name(request.method());
    if errs {
        // Only failures: a line per request would be most of what a busy pod does.
        shared.log.say(Utc::now(), &format!("{method} {} {}", request.uri().path(), code.as_u16()));
    }
    shared.metrics.lock().unwrap_or_else(PoisonError::into_inner).count(code.as_u16(), method, path, begun.elapsed());
    Ok(response)
}

/// The delay a request asks for: `/slow?ms=1000` or the header `x-delay-ms: 1000`.
fn asked_delay<B>(request: &Request<B>) -> Option<Duration> {
    let header = || request.headers().get("x-delay-ms")?.to_str().ok();
    let query = || request.uri().query()?.split('&').find_map(|pair| pair.strip_prefix("ms="));
    let text = header().or_else(|| query().filter(|_| request.uri().path() == "/slow"))?;
    text.parse().ok().map(Duration::from_millis)
}

/// The method as a label; methods nobody knows share one, so that clients cannot make the labels grow.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::super::Options;
    use super::super::addresses::Addresses;
    use super::*;

    fn behaviour(pairs: &[(&str, &str)]) -> Behaviour {
        let annotations: BTreeMap<_, _> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Behaviour::parse(&annotations, "web:1", &Options::default()).unwrap()
    }

    /// An application on a loopback address of its own (Linux answers for all of 127.0.0.0/8).
    async fn app(third: u8, pairs: &[(&str, &str)]) -> (App, SocketAddr) {
        let addresses = Addresses::new((Ipv4Addr::new(127, 99, third, 0), 24));
        let lease = Arc::new(addresses.take().unwrap());
        let app = App::start("web-1", &lease, &[18_080], &behaviour(pairs), Duration::ZERO, &Arc::default()).await.unwrap();
        (app, SocketAddr::from((lease.ip(), 18_080)))
    }

    async fn ask(stream: &mut TcpStream, path: &str) -> String {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = Vec::new();
        let mut part = [0; 4096];
        while !text.ends_with(b"\n") {
            let read = stream.read(&mut part).await.unwrap();
            assert_ne!(read, 0, "closed");
            text.extend_from_slice(&part[..read]);
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn answers_errs_and_counts() {
        let (app, address) = app(1, &[("error-rate", "0.5")]).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let text = ask(&mut stream, "/any").await;
        assert!(text.starts_with("HTTP/1.1 200") && text.contains("x-version: 1") && text.contains("x-pod: web-1"), "{text}");
        assert!(ask(&mut stream, "/any").await.starts_with("HTTP/1.1 500"));
        app.set("web-1", &behaviour(&[("version", "2")])).unwrap();
        let begun = Instant::now();
        assert!(ask(&mut stream, "/slow?ms=30").await.contains("x-version: 2"));
        assert!(begun.elapsed() >= Duration::from_millis(30));
        let metrics = ask(&mut stream, "/metrics").await;
        assert!(metrics.contains("http_requests_total{code=\"200\",method=\"GET\"} 2"), "{metrics}");
        assert!(metrics.contains("http_requests_total{code=\"500\",method=\"GET\"} 1"), "{metrics}");
    }

    #[tokio::test]
    async fn counts_everything_where_that_is_wanted() {
        let (_app, address) = app(5, &[("counts-everything", "true")]).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        ask(&mut stream, "/ready?x=1").await;
        ask(&mut stream, "/metrics").await;
        let metrics = ask(&mut stream, "/metrics").await;
        for path in ["/ready", "/metrics"] {
            let line = format!("http_requests_total{{code=\"200\",method=\"GET\",path=\"{path}\"}} 1\n");
            assert!(metrics.contains(&line), "{line} not in {metrics}");
        }
    }

    #[tokio::test]
    async fn drains_without_cutting_anybody() {
        let (mut app, address) = app(2, &[]).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        ask(&mut idle, "/").await;
        let mut used = TcpStream::connect(address).await.unwrap();
        ask(&mut used, "/").await;
        let mut busy = TcpStream::connect(address).await.unwrap();
        let slow = tokio::spawn(async move { ask(&mut busy, "/slow?ms=200").await });
        let mut fresh = TcpStream::connect(address).await.unwrap();
        sleep(Duration::from_millis(50)).await;
        app.drain();
        // Connected before and asked after, connected after, and in use all the time.
        assert!(ask(&mut fresh, "/").await.contains("connection: close"));
        let mut late = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut late, "/").await.contains("connection: close"));
        assert!(ask(&mut used, "/").await.contains("connection: close"));
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(slow.await.unwrap().contains("connection: close"));
        app.closed().await;
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_busy_application_drains_too() {
        let (mut app, address) = app(4, &[]).await;
        let mut busy = TcpStream::connect(address).await.unwrap();
        let slow = tokio::spawn(async move { ask(&mut busy, "/slow?ms=1000").await });
        sleep(Duration::from_millis(50)).await;
        app.drain();
        assert!(TcpStream::connect(address).await.is_ok());
        sleep(Duration::from_millis(600)).await;
        assert!(TcpStream::connect(address).await.is_err());
        assert!(slow.await.unwrap().contains("connection: close"));
        app.closed().await;
    }

    #[tokio::test]
    async fn dropping_cuts() {
        let (app, address) = app(3, &[]).await;
        let mut busy = TcpStream::connect(address).await.unwrap();
        busy.write_all(b"GET /slow?ms=9000 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        sleep(Duration::from_millis(50)).await;
        drop(app);
        assert!(matches!(timeout(Duration::from_secs(2), busy.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_))));
        sleep(Duration::from_millis(50)).await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
