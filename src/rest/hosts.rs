//! Under which names this server is spoken to. A page that a browser has loaded under a name of an attacker's, which resolves to
//! us, comes under that name, and is turned away.

use std::net::IpAddr;

use axum::http::header::{HOST, HeaderMap, ORIGIN};
use axum::http::{StatusCode, Uri};

use super::fault::Fault;

/// Name of the operator's Service.
const SERVICE: &str = "aether-operator";
/// How names of Services end.
const SUFFIXES: [&str; 2] = [".svc", ".svc.cluster.local"];

/// The names that count.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    configured: Vec<String>,
}

impl Hosts {
    /// Besides addresses, localhost and Services, these names.
    pub fn new(configured: &[String]) -> Self {
        Self { configured: configured.iter().map(|h| h.trim_end_matches('.').to_ascii_lowercase()).collect() }
    }

    /// Whether a request is to us, and comes from no browser's page.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Fault> {
        let misdirected = |why: String| Fault::new(StatusCode::MISDIRECTED_REQUEST, why);
        let mut named = headers.get_all(HOST).iter();
        let (Some(host), None) = (named.next(), named.next()) else {
            return Err(misdirected("exactly one Host header is needed".into()));
        };
        let host = host.to_str().unwrap_or_default();
        for host in [Some(host), uri.authority().map(axum::http::uri::Authority::as_str)].into_iter().flatten() {
            if !self.know(host) {
                return Err(misdirected(format!(
                    "host {host:.80?} is not served here; the operator is told of more names with --api-host"
                )));
            }
        }
        let same = |site: &axum::http::HeaderValue| matches!(site.as_bytes(), b"none" | b"same-origin");
        if headers.contains_key(ORIGIN) || headers.get("sec-fetch-site").is_some_and(|site| !same(site)) {
            return Err(Fault::new(StatusCode::FORBIDDEN, "requests of web pages are not taken (the Origin header)"));
        }
        Ok(())
    }

    fn know(&self, host: &str) -> bool {
        let Some(name) = name_of(host) else { return false };
        let name = match name {
            Name::Address => return true,
            Name::Dns(name) => name,
        };
        name == "localhost"
            || name == SERVICE
            || name.strip_prefix(SERVICE).and_then(|rest| rest.strip_prefix('.')).is_some_and(|namespace| !namespace.contains('.'))
            || SUFFIXES.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|service| !service.is_empty()))
            || self.configured.contains(&name)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Name {
    Address,
    Dns(String),
}

/// The host of `host`, `host:port` or `[address]:port`.
fn name_of(host: &str) -> Option<Name> {
    let (name, port) = if let Some(rest) = host.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        address.parse::<std::net::Ipv6Addr>().ok()?;
        (address, rest.strip_prefix(':').or(rest.is_empty().then_some("0"))?)
    } else {
        host.split_once(':').unwrap_or((host, "0"))
    };
    if !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err() {
        return None;
    }
    if name.parse::<IpAddr>().is_ok() {
        return Some(Name::Address);
    }
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.' || b == b'_';
    let name = name.strip_suffix('.').unwrap_or(name);
    (!name.is_empty() && name.bytes().all(fits)).then(|| Name::Dns(name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("127.0.0.1:8080")]
    #[case("10.1.2.3")]
    #[case("[::1]:8080")]
    #[case("[2001:db8::1]")]
    #[case("localhost")]
    #[case("LOCALHOST:8080")]
    #[case("aether-operator")]
    #[case("aether-operator:8000")]
    #[case("aether-operator.aether-system")]
    #[case("aether-operator.aether-system.svc:8080")]
    #[case("any.ns.svc.cluster.local.")]
    #[case("aether.example.com")]
    #[case("Aether.Example.com.:443")]
    fn these_names_are_ours(#[case] host: &str) {
        assert!(Hosts::new(&["aether.example.com.".into()]).know(host), "{host}");
    }

    #[rstest]
    #[case("")]
    #[case("evil.example")]
    #[case("localhost.evil.example")]
    #[case("127.0.0.1.evil.example")]
    #[case("aether-operator.evil.example")]
    #[case("aether-operatorx")]
    #[case("aether.example.com.evil")]
    #[case(".svc")]
    #[case("evilsvc")]
    #[case("localhost:http")]
    #[case("localhost:99999")]
    #[case("localhost:")]
    #[case("[::1")]
    #[case("[localhost]:80")]
    #[case("::1")]
    #[case("user@localhost")]
    #[case("localhost/..")]
    fn these_are_not(#[case] host: &str) {
        assert!(!Hosts::new(&["aether.example.com".into()]).know(host), "{host}");
    }
}
