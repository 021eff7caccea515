//! What a JSON cloud's answer means: a table per cloud, and one way to read it.
//!
//! The table has what is special. What follows from HTTP alone is in [`by_status`], where it matters
//! most whether the request could have changed something: whatever is not clearly a refusal of a
//! change has an unknown outcome, and the planner looks before it tries again (rule I7).

use chrono::{DateTime, TimeDelta};
use reqwest::header::HeaderMap;
use serde_json::Value;

use super::{Class, Error, Rate};
use crate::api::Time;

/// Longest message kept of an answer, in characters.
const LONGEST_MESSAGE: usize = 300;
/// Longest time a cloud's header may keep us away.
const LONGEST_BACKOFF: TimeDelta = TimeDelta::hours(1);
/// Words of an answer shorter than this are not compared with secrets.
const SHORTEST_SECRET: usize = 6;

/// What a request does, hence what its loss means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Changes nothing: its loss costs nothing.
    Read,
    /// Its loss may mean that it was carried out.
    Change,
}

/// How one cloud says things.
#[derive(Debug)]
pub struct Dialect {
    /// The cloud's name in messages.
    pub name: &'static str,
    /// JSON pointers to the error's word (none: the cloud has none) and text.
    pub code: Option<&'static str>,
    /// JSON pointer to the error's text.
    pub message: &'static str,
    /// First that fits decides; then HTTP does.
    pub rules: &'static [Rule],
    /// What its `ratelimit-reset` header means.
    pub reset: Reset,
}

/// One line of a cloud's table of errors.
#[derive(Debug)]
pub struct Rule {
    /// Status; 0 for any.
    pub status: u16,
    /// The error's word, exactly; empty for any.
    pub code: &'static str,
    /// Part of its text in lower case; empty for any.
    pub says: &'static str,
    /// What it means.
    pub class: Class,
}

/// What `ratelimit-reset`, seconds since 1970, is the time of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The header is not sent.
    Never,
    /// The first request is free again then: worth waiting for.
    Next,
    /// All requests are free again then; they come back one by one until then.
    Full,
}

/// The error that an answer without success means. `secrets` are what was sent and must not come back in its text.
pub fn error(dialect: &Dialect, verb: Verb, status: u16, headers: &HeaderMap, body: &[u8], secrets: &[&str], now: Time) -> Error {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let part = |pointer| json.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let code = dialect.code.map(part).unwrap_or_default();
    let text = part(dialect.message);
    let lower = text.to_lowercase();
    let fits = |r: &&Rule| {
        (r.status == 0 || r.status == status) && (r.code.is_empty() || r.code == code) && (r.says.is_empty() || lower.contains(r.says))
    };
    let class = match dialect.rules.iter().find(fits).map_or_else(|| by_status(verb, status), |rule| rule.class) {
        Class::Throttled(None) => Class::Throttled(pause(dialect.reset, headers, now).and_then(|pause| pause.to_std().ok())),
        class => class,
    };
    let said = [code, text].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    Error { class, message: clean(&format!("{} answered {status} {said}", dialect.name), secrets) }
}

/// What HTTP alone says.
fn by_status(verb: Verb, status: u16) -> Class {
    match (status, verb) {
        (401 | 403, _) => Class::Auth,
        (404, _) => Class::NotFound,
        (409 | 423, _) => Class::Transient,
        (429, _) => Class::Throttled(None),
        (400..=499, _) if status != 408 => Class::Invalid,
        (_, Verb::Read) => Class::Transient,
        (_, Verb::Change) => Class::Unknown,
    }
}

/// What the headers say about the limit; `throttled`: the answer was a refusal for it.
pub fn rate(dialect: &Dialect, throttled: bool, headers: &HeaderMap, now: Time) -> Rate {
    let remaining = number(headers, "ratelimit-remaining").and_then(|n| u32::try_from(n).ok());
    let spent = throttled || remaining == Some(0);
    Rate { remaining, backoff_until: spent.then(|| pause(dialect.reset, headers, now)).flatten().map(|pause| now + pause) }
}

/// How long to keep away, as the headers say.
fn pause(reset: Reset, headers: &HeaderMap, now: Time) -> Option<TimeDelta> {
    let text = headers.get("retry-after").and_then(|value| value.to_str().ok()).map(str::trim);
    let retry_after = text.and_then(|text| match text.parse::<u32>() {
        Ok(seconds) => Some(TimeDelta::seconds(seconds.into())),
        // Dates of HTTP are those of mail.
        Err(_) => DateTime::parse_from_rfc2822(text).ok().map(|at| at.to_utc() - now),
    });
    let at_reset = || match reset {
        Reset::Next => number(headers, "ratelimit-reset").and_then(|at| DateTime::from_timestamp(at, 0)).map(|at| at - now),
        Reset::Never | Reset::Full => None,
    };
    retry_after.or_else(at_reset).map(|pause| pause.clamp(TimeDelta::zero(), LONGEST_BACKOFF))
}

fn number(headers: &HeaderMap, name: &str) -> Option<i64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// An error about what a success had in its body: of a change nobody knows then what it did.
pub fn malformed(dialect: &Dialect, verb: Verb, why: &str) -> Error {
    let class = if verb == Verb::Read { Class::Transient } else { Class::Unknown };
    Error { class, message: clean(&format!("{}: {why}", dialect.name), &[]) }
}

/// One line of at most 300 characters, in which no word of the secrets is left.
fn clean(text: &str, secrets: &[&str]) -> String {
    let in_word = |c: char| c.is_alphanumeric() || "-_.+/=$!#%&*@^~".contains(c);
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let same = |c: char| in_word(c) == in_word(first);
        let (part, after) = rest.split_at(rest.find(|c| !same(c)).unwrap_or(rest.len()));
        rest = after;
        let secret = in_word(first) && part.len() >= SHORTEST_SECRET && secrets.iter().any(|s| s.contains(part) || holds(part, s));
        out.push_str(if secret { "***" } else { part });
    }
    out.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_MESSAGE).collect()
}

fn holds(word: &str, secret: &str) -> bool {
    secret.len() >= SHORTEST_SECRET && word.contains(secret)
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
