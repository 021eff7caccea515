//! The HTTP client of the load generator: one request at a time, nothing hidden.

use std::collections::VecDeque;
use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::endpoints::Endpoints;
use super::report::Outcome;
use crate::received::Numbered;

type Body = Empty<Bytes>;

/// Where connections go.
#[derive(Debug)]
pub enum Dial {
    /// Always there.
    Fixed(SocketAddr),
    /// To an endpoint of a Service.
    Service(Arc<Endpoints>),
}

/// A client with a pool of kept connections.
#[derive(Debug)]
pub struct Client {
    dial: Dial,
    headers: HeaderMap,
    keep: usize,
    idle: Mutex<VecDeque<Connection>>,
    open: Arc<AtomicUsize>,
    crossed: AtomicUsize,
}

/// Where a request went; true also of one that was given up on the way.
#[derive(Debug, Default)]
pub struct Trace {
    /// The pod that answered, or the address that was called.
    pub with: String,
    /// It went over a connection used before.
    pub kept: bool,
}

/// An open connection.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Body>,
    peer: SocketAddr,
    /// If it is to be kept: the number of such connections that are open.
    kept: Option<Arc<AtomicUsize>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(open) = &self.kept {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Client {
    /// A client that keeps up to `keep` idle connections, and uses that many before it uses one again.
    pub fn new(dial: Dial, host: &str, headers: &[(String, String)], keep: usize) -> anyhow::Result<Self> {
        let mut map = HeaderMap::new();
        map.insert(HOST, HeaderValue::from_str(host).context("host")?);
        for (name, value) in headers {
            let name: HeaderName = name.parse().with_context(|| format!("header {name}"))?;
            map.append(name, HeaderValue::from_str(value)?);
        }
        Ok(Self { dial, headers: map, keep: keep.max(1), idle: Mutex::default(), open: Arc::default(), crossed: <_>::default() })
    }

    /// How many kept connections were closed just as a request was written to them.
    pub fn crossed(&self) -> usize {
        self.crossed.load(Ordering::Relaxed)
    }

    /// Sends one request, on a new connection or on a kept one.
    ///
    /// A kept connection that the server had closed before anything of the request was written is replaced by another
    /// one: that is no loss, every client does it. So is one that ends without a byte of an answer while no application
    /// has read the request: the server closed it while it was idle, and the two crossed on the way. Those are counted.
    /// Nothing else is tried twice.
    pub async fn ask(&self, fresh: bool, slow: Option<Duration>, trace: &mut Trace) -> Outcome {
        let mut request = Request::new(Body::new());
        *request.headers_mut() = self.headers.clone();
        *request.uri_mut() =
            slow.and_then(|slow| format!("/slow?ms={}", slow.as_millis()).parse().ok()).unwrap_or_else(|| Uri::from_static("/"));
        let numbered = Numbered::new(request.headers_mut());
        if fresh {
            request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        } else {
            while let Some(mut connection) = self.take_idle() {
                *trace = Trace { with: connection.peer.to_string(), kept: true };
                // Not ready means closed: the answer before this one was read to its end.
                if connection.sender.ready().await.is_err() {
                    continue;
                }
                let copy = request.clone();
                match connection.sender.try_send_request(request).await {
                    Ok(response) => return self.read(response, connection, trace).await,
                    Err(mut error) => match error.take_message() {
                        Some(unsent) => request = unsent,
                        None if broken(error.error(), true) == Outcome::ClosedKept && !numbered.is_received() => {
                            self.crossed.fetch_add(1, Ordering::Relaxed);
                            request = copy;
                        }
                        None => return broken(error.error(), true),
                    },
                }
            }
        }
        self.ask_anew(request, fresh, trace).await
    }

    async fn ask_anew(&self, request: Request<Body>, fresh: bool, trace: &mut Trace) -> Outcome {
        let peer = match &self.dial {
            Dial::Fixed(peer) => Some(*peer),
            Dial::Service(endpoints) => endpoints.pick(),
        };
        *trace = Trace::default();
        let Some(peer) = peer else { return Outcome::NoEndpoints };
        trace.with = peer.to_string();
        let stream = match TcpStream::connect(peer).await {
            Ok(stream) => stream,
            Err(error) => return Outcome::Connect(connect_kind(&error)),
        };
        // Requests are small: waiting for more to send would cost 40 ms.
        let _ = stream.set_nodelay(true);
        let (sender, driver) = match http1::handshake(TokioIo::new(stream)).await {
            Ok(pair) => pair,
            Err(error) => return broken(&error, false),
        };
        // Its errors are told to the sender too.
        tokio::spawn(driver);
        let kept = (!fresh).then(|| self.open.clone());
        if let Some(open) = &kept {
            open.fetch_add(1, Ordering::Relaxed);
        }
        let mut connection = Connection { sender, peer, kept };
        match connection.sender.send_request(request).await {
            Ok(response) => self.read(response, connection, trace).await,
            Err(error) => broken(&error, false),
        }
    }

    /// Reads an answer to its end and keeps the connection, if it is to be kept.
    async fn read(&self, response: Response<Incoming>, connection: Connection, trace: &mut Trace) -> Outcome {
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        if let Some(pod) = header("x-pod") {
            trace.with = pod;
        }
        let version = header("x-version").unwrap_or_default();
        let status = response.status();
        if let Err(error) = response.into_body().collect().await {
            return broken(&error, false);
        }
        if connection.kept.is_some() {
            self.give_back(connection);
        }
        if status.is_success() || status.is_redirection() {
            Outcome::Ok { version }
        } else {
            Outcome::Status { code: status.as_u16(), version }
        }
    }

    /// The connection that was idle longest; none as long as fewer are open than are to be kept.
    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.sender.is_closed());
        if self.open.load(Ordering::Relaxed) < self.keep {
            return None;
        }
        idle.pop_front()
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.keep {
            idle.push_back(connection);
        }
    }
}

fn connect_kind(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::ConnectionReset => "reset",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
        io::ErrorKind::TimedOut => "timed out",
        io::ErrorKind::AddrNotAvailable => "no local port left",
        _ => "other",
    }
}

/// What it means that a connection broke before the answer was whole.
fn broken(error: &hyper::Error, kept: bool) -> Outcome {
    let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
    match cause {
        _ if kept && (cause.is_some() || error.is_incomplete_message()) => Outcome::ClosedKept,
        Some(io::ErrorKind::ConnectionReset) => Outcome::Reset,
        Some(_) => Outcome::Closed,
        None if error.is_incomplete_message() || error.is_canceled() || error.is_closed() => Outcome::Closed,
        None => Outcome::Other(error.to_string()),
    }
}
