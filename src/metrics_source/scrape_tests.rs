use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::get;
use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::metrics_source::exposition::{Keep, parse};
use crate::metrics_source::promql::{Backend, Preset, questions};

fn scraper() -> Scraper {
    let short = Duration::from_millis(400);
    Scraper::new(Limits { connect: short, total: short, page: 1 << 20, answer: 1 << 20 }).unwrap()
}

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

/// Answers every connection with these bytes, after reading the request; `hold`: leaves it open then.
async fn raw(answer: &'static [u8], hold: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await;
                let _ = socket.write_all(answer).await;
                if hold {
                    tokio::time::sleep(Duration::from_mins(1)).await;
                }
            });
        }
    });
    format!("http://{address}/metrics")
}

async fn page(url: &str) -> Result<Page, FetchError> {
    scraper().scrape(url, |page| page).await
}

#[tokio::test]
async fn a_page_comes_with_its_format() {
    let seen: &'static Mutex<HeaderMap> = Box::leak(Box::default());
    let open = move |headers: HeaderMap| async move {
        *seen.lock().unwrap() = headers;
        ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], "a_total 1\n# EOF\n")
    };
    let server = serve(Router::new().route("/open", get(open)).route("/plain", get(|| async { "a 1\n" }))).await;
    let found = page(&format!("{server}/open")).await.unwrap();
    assert_eq!(found.format, Format::OpenMetrics);
    assert_eq!(parse(&found.bytes, found.format, Keep::default()).unwrap().samples.len(), 1);
    assert_eq!(page(&format!("{server}/plain")).await.unwrap().format, Format::Text);
    let headers = seen.lock().unwrap();
    assert_eq!(headers["accept"], PAGE);
    assert_eq!(headers["user-agent"], "aether/0.1.0");
    assert!(!headers.contains_key("accept-encoding") && !headers.contains_key("authorization"), "{headers:?}");
}

#[tokio::test]
async fn every_failure_has_its_name() {
    let server = serve(
        Router::new()
            .route("/500", get(|| async { (StatusCode::INTERNAL_SERVER_ERROR, "secret") }))
            .route("/redirect", get(|| async { (StatusCode::FOUND, [("location", "/200")], "") }))
            .route("/gzip", get(|| async { ([("content-encoding", "gzip")], vec![0x1f_u8, 0x8b]) }))
            .route("/declared", get(|| async { Body::from(vec![b'a'; (1 << 20) + 1]) }))
            .route("/endless", get(|| async { Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'a'; 8192]))) }))
            .route(
                "/slow",
                get(|| async {
                    let drip = stream::iter(0..).then(|_| async {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Ok::<_, std::io::Error>(b"a 1\n".to_vec())
                    });
                    Body::from_stream(drip)
                }),
            )
            .route("/200", get(|| async { "a 1\n" })),
    )
    .await;
    let expected = [
        ("500", FetchError::Status(500)),
        ("redirect", FetchError::Status(302)),
        ("404", FetchError::Status(404)),
        ("gzip", FetchError::Compressed),
        ("declared", FetchError::TooLong(1 << 20)),
        ("endless", FetchError::TooLong(1 << 20)),
        ("slow", FetchError::TimedOut),
    ];
    for (path, error) in expected {
        assert_eq!(page(&format!("{server}/{path}")).await, Err(error), "{path}");
        assert!(!error.to_string().contains("secret"));
    }
}

#[tokio::test]
async fn what_is_no_http_is_told_apart_from_what_is_not_there() {
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    };
    assert_eq!(page(&closed).await, Err(FetchError::Refused));
    assert_eq!(page(&raw(b"SSH-2.0-OpenSSH_9.9\r\n", true).await).await, Err(FetchError::BrokeOff));
    assert_eq!(page(&raw(b"", true).await).await, Err(FetchError::TimedOut));
    assert_eq!(page(&raw(b"", false).await).await, Err(FetchError::BrokeOff));
    assert_eq!(page(&closed.replace("http", "https")).await, Err(FetchError::Refused));
    // TLS to something that speaks none.
    let plain = raw(b"HTTP/1.1 200 OK\r\n\r\n", false).await.replace("http", "https");
    assert_eq!(page(&plain).await, Err(FetchError::Unreachable));
    for address in ["", "pod", "ftp://x/", "file:///etc/passwd", "http://user:secret@127.0.0.1/", "http://"] {
        assert_eq!(page(address).await, Err(FetchError::Address), "{address}");
    }
}

#[tokio::test]
async fn a_body_that_was_cut_is_no_page() {
    let short = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\na 1\n", false).await;
    assert_eq!(page(&short).await, Err(FetchError::BrokeOff));
    let chunked = raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\na 1\n\r\n", false).await;
    assert_eq!(page(&chunked).await, Err(FetchError::BrokeOff));
    // Without a length only the last line's end tells.
    let cut = raw(b"HTTP/1.0 200 OK\r\n\r\na 12\nb 1", false).await;
    assert_eq!(page(&cut).await, Err(FetchError::BrokeOff));
    let whole = raw(b"HTTP/1.0 200 OK\r\n\r\na 12\nb 1\n", false).await;
    assert_eq!(page(&whole).await.unwrap().bytes, b"a 12\nb 1\n");
}

#[tokio::test]
async fn a_round_reads_every_target_and_no_more_at_a_time_than_allowed() {
    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let slow = || async {
        MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(10)).await;
        NOW.fetch_sub(1, Ordering::SeqCst);
        "a 1\n"
    };
    let server = serve(Router::new().route("/metrics", get(slow))).await;
    let mut targets: Vec<_> = (0..40).map(|n| (n, format!("{server}/metrics"))).collect();
    targets.push((40, "http://127.0.0.1:1/".to_owned()));
    let found: HashMap<_, _> = scraper().scrape_all(targets, 8, |n, page| (*n, page.bytes.len())).await.into_iter().collect();
    assert_eq!(found.len(), 41);
    assert!((0..40).all(|n| found[&n] == Ok((n, 4))));
    assert_eq!(found[&40], Err(FetchError::Refused));
    assert!(MOST.load(Ordering::SeqCst) <= 8 && MOST.load(Ordering::SeqCst) > 2);
}

/// Five updates with a hundred dead pods each hold every shared place, and a sixth is as quick as ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_targets_of_others_delay_nobody() {
    let dead = raw(b"", true).await;
    let server = serve(Router::new().route("/metrics", get(|| async { "a 1\n" }))).await;
    let scraper = scraper();
    let others: Vec<_> = (0..5)
        .map(|_| {
            let (scraper, dead) = (scraper.clone(), dead.clone());
            tokio::spawn(async move { scraper.scrape_all((0..100).map(|n| (n, dead.clone())), 32, |_, _| ()).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(scraper.shared.available_permits(), 0, "the others are to hold all of them");
    let found = scraper.scrape_all((0..20).map(|n| (n, format!("{server}/metrics"))), 32, |_, _| ()).await;
    assert!(found.iter().all(|(_, r)| r.is_ok()));
    assert!(others.iter().all(|o| !o.is_finished()), "it waited until the others were done");
    others.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Heavy pages wait for each other, light ones for nobody.
#[tokio::test]
async fn only_so_many_heavy_pages_are_held() {
    static HELD: AtomicUsize = AtomicUsize::new(0);
    let server =
        serve(Router::new().route("/heavy", get(|| async { vec![b'\n'; LIGHT + 1] })).route("/light", get(|| async { "a 1\n" }))).await;
    let scraper = Scraper::new(Limits::default()).unwrap();
    let all = scraper.heavy.clone().acquire_many_owned(u32::try_from(HEAVY_PLACES).unwrap()).await.unwrap();
    let (heavy, light) = (format!("{server}/heavy"), format!("{server}/light"));
    let waiting = {
        let scraper = scraper.clone();
        tokio::spawn(async move {
            let targets = (0..40).map(|n| (n, heavy.clone()));
            let read = |_: &i32, _| HELD.fetch_add(1, Ordering::SeqCst);
            scraper.scrape_all(targets, 40, read).await
        })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(HELD.load(Ordering::SeqCst), 0);
    assert!(scraper.scrape(&light, |_| ()).await.is_ok());
    drop(all);
    assert!(waiting.await.unwrap().iter().all(|(_, r)| r.is_ok()));
    assert_eq!(HELD.load(Ordering::SeqCst), 40);
}

#[tokio::test]
async fn a_prometheus_is_asked_as_of_one_moment() {
    static ASKED: OnceLock<String> = OnceLock::new();
    let api = |uri: axum::http::Uri| async move {
        let _ = ASKED.set(uri.to_string());
        let series =
            r#"{"metric":{"__name__":"istio_requests_total","reporter":"destination","response_code":"200"},"values":[[1700000000,"5"]]}"#;
        format!(r#"{{"status":"success","data":{{"resultType":"matrix","result":[{series}]}}}}"#)
    };
    let refused = || async { (StatusCode::BAD_REQUEST, r#"{"status":"error","errorType":"bad_data","error":"secret"}"#) };
    let server = serve(
        Router::new()
            .route("/base/api/v1/query", get(api))
            .route("/bad/api/v1/query", get(refused))
            .route("/login/api/v1/query", get(|| async { (StatusCode::UNAUTHORIZED, "secret") }))
            .route("/page/api/v1/query", get(|| async { "<html>secret" })),
    )
    .await;
    let backend = Backend { namespace: "shop", service: "cart-2", workload: "cart", pods: ".*", version: "2" };
    let questions = questions(Preset::Istio, backend).unwrap();
    let now = Time::from_timestamp_millis(1_700_000_007_050).unwrap();
    let ask = async |server: String| scraper().ask(&server, &questions, now, TimeDelta::seconds(30)).await;
    for base in ["base", "base/"] {
        let found = ask(format!("{server}/{base}")).await.unwrap();
        assert_eq!(found.snapshot.requests.series.unwrap()[0].value, 5);
        assert_eq!(found.snapshot.at.timestamp(), 1_700_000_000);
    }
    assert!(ASKED.get().unwrap().ends_with("&time=1700000007.050"), "{ASKED:?}");
    for (base, why) in [
        ("bad", "Prometheus: the query was refused as wrong (bad_data)"),
        ("login", "Prometheus: HTTP status 401"),
        ("page", "Prometheus: the answer is not that of a Prometheus API"),
        ("nowhere", "Prometheus: HTTP status 404"),
    ] {
        assert_eq!(ask(format!("{server}/{base}")).await.unwrap_err().to_string(), why);
    }
    assert_eq!(
        ask("http://a:b@127.0.0.1/".into()).await.unwrap_err().to_string(),
        "spec.metrics.prometheus.address: no http or https address without credentials, such as http://prometheus:9090"
    );
}
