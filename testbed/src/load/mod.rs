//! The load generator: an open loop of HTTP requests, every one of them accounted for.
//!
//! Open loop: a request begins when its time has come, whatever became of those before it, and is counted at that time. A
//! stalled server so gets the full rate of requests, all of which show the stall; a client that waits for answers would
//! send fewer just when it matters.
//!
//! Latency runs from the sending of a request; how far the generator itself was behind is [`Report::late`].

mod client;
mod endpoints;
mod report;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use client::{Client, Dial, Trace};
use endpoints::Endpoints;
use report::Ended;
pub use report::{Failure, Outcome, Report};

/// How many requests a load makes at most, whatever the plan says: 160 MB of records.
const MOST_REQUESTS: u64 = 10_000_000;
/// How long a load waits for the first list of a Service's endpoints.
const FIRST_LIST: Duration = Duration::from_secs(30);

/// Whom the load calls.
#[derive(Clone)]
pub enum Target {
    /// A gateway, or any other HTTP server.
    Gateway {
        /// Where it listens.
        addr: SocketAddr,
        /// The header `Host`.
        host: String,
        /// Further headers.
        headers: Vec<(String, String)>,
    },
    /// The pods behind a Service, as through kube-proxy: every new connection goes to a ready endpoint, if there is none
    /// to one that is ending but serves, each in its turn; a connection once made stays with its pod.
    Service {
        /// Client that may read the Service and its endpoint slices.
        client: kube::Client,
        /// Namespace of the Service.
        namespace: String,
        /// Name of the Service.
        service: String,
        /// Port of the Service (not of its pods).
        port: u16,
        /// How much later than the slices this proxy changes. The first list counts at once.
        lag: Duration,
    },
}

/// What load to make. [`Plan::new`] has the defaults.
#[derive(Clone)]
pub struct Plan {
    /// Whom to call.
    pub target: Target,
    /// Requests per second.
    pub rate: f64,
    /// Share of the requests, from 0 to 1, that each use a new connection; the others use kept ones.
    pub fresh_share: f64,
    /// How many connections are kept.
    pub keep: usize,
    /// One in so many requests asks for an answer that takes this long.
    pub slow_every: Option<(u32, Duration)>,
    /// How long a request may take before it counts as failed.
    pub timeout: Duration,
    /// The load ends after so many requests.
    pub max_requests: Option<u64>,
    /// The load ends after this time.
    pub max_duration: Option<Duration>,
}

impl Plan {
    /// A load of so many requests per second: half of them on new connections, the others on 8 kept ones, 5 s timeout,
    /// no slow answers, without end.
    pub fn new(target: Target, rate: f64) -> Self {
        Self {
            target,
            rate,
            fresh_share: 0.5,
            keep: 8,
            slow_every: None,
            timeout: Duration::from_secs(5),
            max_requests: None,
            max_duration: None,
        }
    }
}

/// A load that runs in tasks of its own. Dropping it ends it; [`Load::stop`] does so and tells what it saw.
#[derive(Debug)]
pub struct Load {
    report: Arc<Mutex<Report>>,
    stop: CancellationToken,
    requests: TaskTracker,
    schedule: AbortOnDropHandle<()>,
}

impl Load {
    /// Starts a load. A load on a Service sends its first request once it has the first list of endpoints. Fails if the
    /// plan makes no sense: a rate that is not above 0, a header that is none.
    pub fn start(plan: Plan) -> anyhow::Result<Self> {
        anyhow::ensure!(plan.rate > 0.0 && plan.rate <= 100_000.0, "{} is no rate of requests per second", plan.rate);
        let (dial, host, headers) = match &plan.target {
            Target::Gateway { addr, host, headers } => (Dial::Fixed(*addr), host.clone(), headers.clone()),
            Target::Service { namespace, service, .. } => {
                (Dial::Service(Arc::new(Endpoints::default())), format!("{service}.{namespace}"), Vec::new())
            }
        };
        let endpoints = match &dial {
            Dial::Service(endpoints) => Some(endpoints.clone()),
            Dial::Fixed(_) => None,
        };
        let client = Arc::new(Client::new(dial, &host, &headers, plan.keep)?);
        let report = Arc::new(Mutex::new(Report::new(now())));
        let (stop, requests) = (CancellationToken::new(), TaskTracker::new());
        let schedule = Schedule { plan, client, report: report.clone(), stop: stop.clone(), requests: requests.clone() };
        let schedule = AbortOnDropHandle::new(tokio::spawn(schedule.run(endpoints)));
        Ok(Self { report, stop, requests, schedule })
    }

    /// What was seen so far.
    pub fn snapshot(&self) -> Report {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner).clone();
        report.unanswered = self.requests.len();
        report
    }

    /// Ends the load, waits for the answers that are still to come, and tells what was seen.
    pub async fn stop(self) -> Report {
        self.stop.cancel();
        self.finished().await
    }

    /// Waits until a load with a bound has come to its end, and tells what was seen.
    pub async fn finished(self) -> Report {
        // An error could only be a panic: what was counted before still counts.
        let _ = self.schedule.await;
        self.requests.close();
        self.requests.wait().await;
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn now() -> DateTime<Utc> {
    Utc::now()
}

struct Schedule {
    plan: Plan,
    client: Arc<Client>,
    report: Arc<Mutex<Report>>,
    stop: CancellationToken,
    requests: TaskTracker,
}

impl Schedule {
    async fn run(self, endpoints: Option<Arc<Endpoints>>) {
        let _follow = match (&self.plan.target, endpoints) {
            (Target::Service { client, namespace, service, port, lag }, Some(endpoints)) => {
                let (sender, mut ready) = watch::channel(false);
                let service = (namespace.clone(), service.clone(), *port);
                let follow = endpoints::follow(client.clone(), service, *lag, endpoints, sender);
                let follow = AbortOnDropHandle::new(tokio::spawn(follow));
                // Without a list in time the load begins all the same, and says so by its failures.
                tokio::select! {
                    _ = timeout(FIRST_LIST, ready.wait_for(|ready| *ready)) => {}
                    () = self.stop.cancelled() => return,
                }
                Some(follow)
            }
            _ => None,
        };
        self.send().await;
        // The endpoints are followed as long as a request may need them.
        self.requests.close();
        self.requests.wait().await;
    }

    async fn send(&self) {
        let start = Instant::now();
        *self.lock() = Report::new(now());
        let most = self.plan.max_requests.unwrap_or(u64::MAX).min(MOST_REQUESTS);
        for number in 0..most {
            #[expect(clippy::cast_precision_loss, reason = "at most ten million")]
            let due = Duration::from_secs_f64(number as f64 / self.plan.rate);
            if self.plan.max_duration.is_some_and(|most| due >= most) {
                return;
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = sleep_until(start + due) => {}
            }
            let late = start.elapsed().saturating_sub(due);
            {
                let mut report = self.lock();
                report.late = report.late.max(late);
            }
            self.send_one(number, due);
        }
    }

    fn send_one(&self, number: u64, due: Duration) {
        let fresh = is_fresh(number, self.plan.fresh_share);
        let slow = self.plan.slow_every.filter(|(every, _)| is_slow(number, *every)).map(|(_, slow)| slow);
        let (client, report, longest) = (self.client.clone(), self.report.clone(), self.plan.timeout);
        self.requests.spawn(async move {
            let begun = Instant::now();
            let mut trace = Trace::default();
            let outcome = timeout(longest, client.ask(fresh, slow, &mut trace)).await.unwrap_or(Outcome::Timeout);
            let Trace { with, kept } = trace;
            let crossed = client.crossed();
            let ended = Ended { due, took: begun.elapsed(), outcome, with, fresh, kept, slow: slow.is_some() };
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.crossed = report.crossed.max(crossed);
            report.add(ended);
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the request with this number (from 0) uses a new connection: a fixed pattern with the exact share.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a million")]
fn is_fresh(number: u64, share: f64) -> bool {
    let millionths = (share.clamp(0.0, 1.0) * 1e6).round() as u64;
    (number + 1) * millionths / 1_000_000 > number * millionths / 1_000_000
}

/// Whether the request with this number (from 0) is the slow one of its `every`: one place earlier each time, so that the
/// slow ones do not always meet the same kind of connection.
fn is_slow(number: u64, every: u32) -> bool {
    let every = u64::from(every.max(1));
    (number + number / every).is_multiple_of(every)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn shares_of_requests_are_exact() {
        for (share, wanted) in [(0.0, 0), (0.29, 2900), (0.5, 5000), (1.0, 10_000), (7.0, 10_000)] {
            assert_eq!((0..10_000).filter(|n| is_fresh(*n, share)).count(), wanted);
        }
        assert_eq!((0..4000).filter(|n| is_slow(*n, 40)).count(), 100);
        assert_eq!((0..4000).filter(|n| is_slow(*n, 40) && is_fresh(*n, 0.5)).count(), 50);
        assert!((0..10).all(|n| is_slow(n, 1) && is_slow(n, 0)));
    }

    /// A server that answers each connection's first request and closes at the second without an answer, which its
    /// application has read or not. Beside its address, how often it closed so.
    async fn server(reads: bool) -> (SocketAddr, Arc<AtomicUsize>) {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, met) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let counted = met.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let seen = counted.clone();
                tokio::spawn(async move {
                    let mut part = [0; 4096];
                    let _ = stream.read(&mut part).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-version: 1\r\ncontent-length: 0\r\n\r\n").await;
                    let length = stream.read(&mut part).await.unwrap_or_default();
                    seen.fetch_add(usize::from(length > 0), Ordering::Relaxed);
                    let text = String::from_utf8_lossy(&part[..length]).into_owned();
                    let number = text.lines().find_map(|line| line.strip_prefix("x-request-number: "));
                    if let Some(number) = number.filter(|_| reads) {
                        let headers = [("x-request-number".parse().unwrap(), number.parse().unwrap())];
                        crate::received::note(&headers.into_iter().collect());
                    }
                });
            }
        });
        (addr, met)
    }

    fn plan(addr: SocketAddr) -> Plan {
        let target = Target::Gateway { addr, host: "shop.example".into(), headers: Vec::new() };
        Plan { max_requests: Some(20), keep: 1, ..Plan::new(target, 200.0) }
    }

    #[tokio::test]
    async fn every_request_is_counted() {
        let (addr, met) = server(false).await;
        let report = Load::start(Plan { fresh_share: 1.0, ..plan(addr) }).unwrap().finished().await;
        assert_eq!((report.requests(), report.failed()), (20, 0), "{report}");
        let report = Load::start(Plan { fresh_share: 0.0, ..plan(addr) }).unwrap().finished().await;
        // Every second one meets a close, or fewer where a slow machine has several under way at once; none is lost.
        assert_eq!((report.requests(), report.failed()), (20, 0), "{report}");
        assert!(report.crossed() > 0 && report.crossed() == met.load(Ordering::Relaxed), "{report}, and the server met {met:?}");
        let (cuts, _) = server(true).await;
        let report = Load::start(Plan { fresh_share: 0.0, ..plan(cuts) }).unwrap().finished().await;
        assert!(report.crossed() == 0 && report.failures().contains_key("closed while kept"), "{report}");
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let report = Load::start(plan(nobody)).unwrap().finished().await;
        assert_eq!(report.failures(), [("connect: refused".to_owned(), 20)].into(), "{report}");
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Load::start(Plan { rate, ..plan(addr) }).is_err());
        }
    }
}
