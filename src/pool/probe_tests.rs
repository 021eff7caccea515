use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use rstest::rstest;
use tokio::net::TcpListener;

use super::*;

const LONG: Duration = Duration::from_secs(20);

fn login(password: &str) -> Option<Login> {
    Login::new("me", password).ok()
}

fn how() -> Probing {
    Probing { login: login("right-right"), timeout: LONG, targets: vec![], at_once: 8 }
}

const PAGE: &str =
    "HTTP/1.0 200 OK\r\nServer: tinyproxy/1.11.1\r\nContent-type: text/html\r\n\r\n<p>\nNumber of open connections: 3<br />\n";

/// A proxy that does what tinyproxy was seen to do: `answer` makes of a request what is written, then it hangs up.
async fn proxy(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                while !has_head(&bytes) {
                    let mut chunk = [0; 512];
                    let n = socket.read(&mut chunk).await.unwrap();
                    bytes.extend_from_slice(&chunk[..n]);
                }
                let text = answer(&String::from_utf8(bytes).unwrap());
                socket.write_all(text.as_bytes()).await.unwrap();
                if text.contains("Established") {
                    // A tunnel: nothing is sent until the client does, and it stays open.
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    address
}

/// Lets in who knows the password; reaches `up.example` only.
fn like_tinyproxy(request: &str) -> String {
    let with_login = request.contains("Proxy-Authorization: Basic bWU6cmlnaHQtcmlnaHQ=\r\n");
    let unable = "HTTP/1.1 500 Unable to connect\r\nServer: tinyproxy/1.11.1\r\n\r\n";
    match request.split(' ').nth(1).unwrap() {
        "http://tinyproxy.stats/" if with_login => PAGE.into(),
        "http://tinyproxy.stats/" => "HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"Tinyproxy\"\r\n\r\n".into(),
        "up.example:443" if with_login => "HTTP/1.0 200 Connection Established\r\n\r\n".into(),
        "http://up.example/page" if with_login => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        _ => unable.into(),
    }
}

#[tokio::test]
async fn its_own_page_tells_that_it_lives_and_knows_us() {
    let address = proxy(like_tinyproxy).await;
    assert_eq!(probe(address, &how()).await, Finding::Alive { connections: Some(2) });
    for wrong in [login("wrong-wrong"), None] {
        assert_eq!(probe(address, &Probing { login: wrong, ..how() }).await, Finding::WrongLogin);
    }
}

#[rstest]
#[case("HTTP/1.0 403 Access denied\r\n\r\n", Finding::Denied)]
#[case("HTTP/1.0 407 Proxy Authentication Required\r\n\r\n", Finding::WrongLogin)]
#[case("HTTP/1.1 503 Full\r\n\r\n", Finding::Odd(503))]
#[case("HTTP/1.1 200 OK\r\n\r\nanother page", Finding::Alive { connections: None })]
#[case("SSH-2.0-OpenSSH_9.9\r\n", Finding::Silent)]
#[case("HTTP/1.1 \u{e9}\u{e9}\u{e9}", Finding::Silent)]
#[case("", Finding::Silent)]
#[tokio::test]
async fn what_else_may_listen_there(#[case] says: &'static str, #[case] finding: Finding) {
    let address = proxy(|_| says.to_owned()).await;
    assert_eq!(probe(address, &how()).await, finding);
}

#[rstest]
#[case(Finding::Alive { connections: None }, true, true)]
#[case(Finding::WrongLogin, false, true)]
#[case(Finding::Denied, false, true)]
#[case(Finding::NoEgress { reached: 0 }, false, true)]
#[case(Finding::Refused, false, false)]
#[case(Finding::Unreachable, false, false)]
#[case(Finding::Silent, false, false)]
#[case(Finding::Odd(500), false, false)]
fn an_outdated_proxy_is_not_dead_for_what_it_was_not_made_for(#[case] finding: Finding, #[case] new: bool, #[case] outdated: bool) {
    assert_eq!((finding.shows_life(false), finding.shows_life(true)), (new, outdated));
}

#[tokio::test]
async fn nobody_there_and_nobody_answering() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert_eq!(probe(closed, &how()).await, Finding::Refused);
    // It accepts by the kernel alone.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let short = Probing { timeout: Duration::from_millis(200), ..how() };
    assert_eq!(probe(mute.local_addr().unwrap(), &short).await, Finding::Silent);
}

#[rstest]
#[case(&["https://up.example", "http://up.example/page", "https://down.example"], None)]
#[case(&["https://up.example", "https://down.example"], Some(1))]
#[case(&["https://down.example"], Some(0))]
#[tokio::test]
async fn more_than_half_of_the_targets_is_enough(#[case] targets: &[&str], #[case] too_few: Option<usize>) {
    let address = proxy(like_tinyproxy).await;
    let targets = targets.iter().map(|text| Target::parse(text).unwrap()).collect();
    let expected = too_few.map_or(Finding::Alive { connections: Some(2) }, |reached| Finding::NoEgress { reached });
    assert_eq!(probe(address, &Probing { targets, ..how() }).await, expected);
}

#[tokio::test]
async fn all_are_asked_and_not_at_once() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (counted, highest) = (Arc::clone(&now), Arc::clone(&most));
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            highest.fetch_max(counted.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut chunk = [0; 512];
                let _ = socket.read(&mut chunk).await.unwrap();
                // Gone from the count before the asker can know that it is done.
                counted.fetch_sub(1, Ordering::SeqCst);
                socket.write_all(PAGE.as_bytes()).await.unwrap();
            });
        }
    });
    let proxies = (0..40).map(|n| (n, SocketAddr::from(([127, 0, 0, 1], port))));
    let mut found = probe_all(proxies, &Probing { at_once: 5, ..how() }).await;
    found.sort_by_key(|(n, _)| *n);
    assert!(found.iter().map(|(n, _)| *n).eq(0..40));
    assert!(found.iter().all(|(_, finding)| *finding == Finding::Alive { connections: Some(2) }), "{found:?}");
    assert!((1..=5).contains(&most.load(Ordering::SeqCst)), "{most:?}");
}

#[tokio::test]
async fn what_is_down_for_us_too_is_no_proxys_fault() {
    let up = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = |port: u16| Target::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
    assert!(reached_directly(&target(up.local_addr().unwrap().port()), LONG).await);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert!(!reached_directly(&target(closed.port()), LONG).await);
}

#[rstest]
#[case("https://up.example", "CONNECT up.example:443 HTTP/1.1\r\nHost: up.example:443\r\n")]
#[case("https://[2001:db8::1]:8443/x", "CONNECT [2001:db8::1]:8443 HTTP/1.1\r\nHost: [2001:db8::1]:8443\r\n")]
#[case("http://up.example/a b?c#d", "GET http://up.example/a%20b?c HTTP/1.1\r\nHost: up.example:80\r\n")]
fn targets_are_asked_for(#[case] text: &str, #[case] starts: &str) {
    let request = Target::parse(text).unwrap().request(None);
    assert!(request.starts_with(starts), "{request}");
    assert!(!request.contains("Authorization"));
}

#[rstest]
#[case("up.example:443")]
#[case("ftp://up.example")]
#[case("https://me:secret@up.example")]
#[case("https://")]
fn what_is_no_target(#[case] text: &str) {
    assert_eq!(Target::parse(text), None);
}

proptest! {
    #[test]
    fn a_target_makes_one_request_or_none(text in "https?://\\PC{1,30}|https?://[a-z\r\n /:@]{1,20}") {
        if let Some(target) = Target::parse(&text) {
            let request = target.request(None);
            prop_assert_eq!(request.matches("\r\n").count(), 4, "{}", request);
            prop_assert_eq!(request.lines().next().unwrap().split(' ').count(), 3, "{}", request);
        }
    }
}
