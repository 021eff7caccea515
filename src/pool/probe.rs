//! Whether proxies do their work, told by asking them.
//!
//! A proxy is asked for its own page ([`STAT_HOST`]): that takes a connection and the right login and nobody
//! else's server, so no third party's outage looks like ours. Only where the user names targets on the
//! internet are some of those asked for through it as well.
//!
//! Nothing here decides: a finding is data, and one alone never deletes anything (rule I9).

use std::net::SocketAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt as _, stream};
use reqwest::Url;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::bootstrap::{Login, STAT_HOST};

/// Bytes of an answer that are read: the head and tinyproxy's own page.
const LONGEST_ANSWER: usize = 16 << 10;
/// How the page says how many connections there are; this one is among them.
const OPEN_CONNECTIONS: &str = "Number of open connections: ";

/// Somewhere on the internet that a proxy must reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: String,
    port: u16,
    /// For plain http what to ask for; else a tunnel is asked for.
    page: Option<String>,
}

impl Target {
    /// From `https://host`, with a port if it is another, or `http://host/page`.
    pub fn parse(text: &str) -> Option<Self> {
        let url = Url::parse(text).ok()?;
        let page = match url.scheme() {
            "http" => Some(url.as_str().split('#').next().unwrap_or_default().to_owned()),
            "https" => None,
            _ => return None,
        };
        let plain = url.username().is_empty() && url.password().is_none();
        Some(Self { host: url.host_str().filter(|_| plain)?.to_owned(), port: url.port_or_known_default()?, page })
    }

    fn request(&self, login: Option<&Login>) -> String {
        let authority = format!("{}:{}", self.host, self.port);
        match &self.page {
            Some(page) => request(&format!("GET {page}"), &authority, login),
            None => request(&format!("CONNECT {authority}"), &authority, login),
        }
    }
}

/// How to ask.
#[derive(Clone, Debug)]
pub struct Probing {
    /// As whom.
    pub login: Option<Login>,
    /// For each of the steps: a connection and an answer.
    pub timeout: Duration,
    /// What a proxy must reach; more than half of it is enough. None: its own page is.
    pub targets: Vec<Target>,
    /// Proxies asked at a time.
    pub at_once: usize,
}

/// What asking found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finding {
    /// It works.
    Alive {
        /// Connections of others that it has open, if it says so: 0 is drained.
        connections: Option<u32>,
    },
    /// The machine is there and nobody listens.
    Refused,
    /// No connection for another reason, or none in time.
    Unreachable,
    /// Something listens and gives no answer in time, or none of HTTP.
    Silent,
    /// It takes the login for a wrong one: it runs, with other credentials.
    WrongLogin,
    /// It does not let our address in.
    Denied,
    /// Another answer than any of those.
    Odd(u16),
    /// It works and reaches too little of what was named.
    NoEgress {
        /// How many of the targets it reached.
        reached: usize,
    },
}

impl Finding {
    /// Whether that proxy lives. `outdated`: it was made with other settings, so another login, another allow list or other
    /// ports for tunnels are no fault of its own: it is renewed in its turn.
    pub fn shows_life(self, outdated: bool) -> bool {
        match self {
            Self::Alive { .. } => true,
            Self::WrongLogin | Self::Denied | Self::NoEgress { .. } => outdated,
            Self::Refused | Self::Unreachable | Self::Silent | Self::Odd(_) => false,
        }
    }
}

/// Asks each proxy once, some at a time; the findings come in no order.
pub async fn probe_all<K>(proxies: impl IntoIterator<Item = (K, SocketAddr)>, how: &Probing) -> Vec<(K, Finding)> {
    let one = async |(key, proxy): (K, SocketAddr)| (key, probe(proxy, how).await);
    stream::iter(proxies).map(one).buffer_unordered(how.at_once.max(1)).collect().await
}

/// Asks one proxy.
pub async fn probe(proxy: SocketAddr, how: &Probing) -> Finding {
    let login = how.login.as_ref();
    let page = request(&format!("GET http://{STAT_HOST}/"), STAT_HOST, login);
    let own = match ask(proxy, &page, how.timeout).await {
        Ok(answer) => of_own_page(&answer),
        Err(finding) => finding,
    };
    if how.targets.is_empty() || !matches!(own, Finding::Alive { .. }) {
        return own;
    }
    let mut reached = 0;
    for target in &how.targets {
        let answer = ask(proxy, &target.request(login), how.timeout).await;
        reached += usize::from(answer.is_ok_and(|answer| matches!(answer.status, 200..=399)));
    }
    if reached * 2 > how.targets.len() { own } else { Finding::NoEgress { reached } }
}

/// Whether a target can be reached without any proxy: if it cannot, no proxy is to blame (rule I9).
pub async fn reached_directly(target: &Target, timeout: Duration) -> bool {
    let host = target.host.trim_start_matches('[').trim_end_matches(']');
    matches!(tokio::time::timeout(timeout, TcpStream::connect((host, target.port))).await, Ok(Ok(_)))
}

struct Answer {
    status: u16,
    text: String,
}

fn of_own_page(answer: &Answer) -> Finding {
    match answer.status {
        200 => {
            let number = answer.text.split_once(OPEN_CONNECTIONS).and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
            Finding::Alive { connections: number.and_then(|n| n.parse::<u32>().ok()).map(|n| n.saturating_sub(1)) }
        }
        // tinyproxy guards its own page with the one and the way to others with the other.
        401 | 407 => Finding::WrongLogin,
        403 => Finding::Denied,
        other => Finding::Odd(other),
    }
}

fn request(what: &str, host: &str, login: Option<&Login>) -> String {
    let authorization = login.map_or_else(String::new, |login| {
        format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(format!("{}:{}", login.user(), login.password())))
    });
    format!("{what} HTTP/1.1\r\nHost: {host}\r\n{authorization}Connection: close\r\n\r\n")
}

/// One request on a connection of its own.
async fn ask(proxy: SocketAddr, request: &str, timeout: Duration) -> Result<Answer, Finding> {
    let mut socket = match tokio::time::timeout(timeout, TcpStream::connect(proxy)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Err(Finding::Refused),
        Ok(Err(_)) | Err(_) => return Err(Finding::Unreachable),
    };
    // A tunnel stays open, and a proxy may close before it has read all: what has come by then is the answer.
    let mut bytes = Vec::new();
    let whole = async {
        socket.write_all(request.as_bytes()).await?;
        let mut chunk = [0; 2048];
        while bytes.len() < LONGEST_ANSWER && !(request.starts_with("CONNECT") && has_head(&bytes)) {
            match socket.read(&mut chunk).await? {
                0 => break,
                n => bytes.extend(chunk.iter().take(n)),
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let _ = tokio::time::timeout(timeout, whole).await;
    read(&bytes).ok_or(Finding::Silent)
}

fn has_head(bytes: &[u8]) -> bool {
    bytes.windows(4).any(|four| four == b"\r\n\r\n")
}

fn read(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut words = text.strip_prefix("HTTP/1.")?.split(' ');
    let status = words.nth(1)?.get(..3)?.parse().ok()?;
    Some(Answer { status, text })
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
