//! What pods say, as `kubectl logs` asks for it.
//!
//! A log is a short tail in memory. It outlives the restarts of its container, and ends with the pod.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures::stream;
use serde::Deserialize;
use tokio::sync::watch;

use super::pod::PodKey;

/// Lines that a log keeps; older ones are forgotten.
const KEPT: usize = 200;
/// Characters of a line; what clients send may be in it.
const WIDTH: usize = 200;
/// Lines kept of a program that is really run.
const PRINTED: usize = 10_000;

type Time = DateTime<Utc>;

/// The log of one pod.
#[derive(Debug, Default)]
pub struct Log(watch::Sender<Lines>);

/// The last lines of a log.
#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<(Time, String)>,
    /// How many there were before those.
    forgotten: usize,
    ended: bool,
}

impl Log {
    /// Adds a line.
    pub fn say(&self, now: Time, line: &str) {
        self.add(now, line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WIDTH).collect(), KEPT);
    }

    /// Adds a line that a program has printed, as it is.
    pub fn print(&self, now: Time, line: &str) {
        self.add(now, line.to_owned(), PRINTED);
    }

    fn add(&self, now: Time, line: String, kept: usize) {
        self.0.send_modify(|lines| {
            if lines.kept.len() == kept {
                lines.kept.pop_front();
                lines.forgotten += 1;
            }
            lines.kept.push_back((now, line));
        });
    }

    /// There will be no more lines: who follows has seen all.
    pub fn end(&self) {
        self.0.send_modify(|lines| lines.ended = true);
    }
}

/// How much of a log is wanted, in the words of the API server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Asked {
    follow: bool,
    timestamps: bool,
    tail_lines: Option<usize>,
    since_seconds: Option<u32>,
    since_time: Option<Time>,
    previous: bool,
    limit_bytes: Option<u64>,
}

impl Asked {
    /// The number of the first line to show.
    fn first(&self, lines: &Lines, now: Time) -> usize {
        let ago = self.since_seconds.map(|seconds| now - TimeDelta::seconds(seconds.into()));
        let since = ago.into_iter().chain(self.since_time).max();
        let older = since.map_or(0, |since| lines.kept.iter().take_while(|(at, _)| *at < since).count());
        let before_tail = self.tail_lines.map_or(0, |tail| lines.kept.len().saturating_sub(tail));
        lines.forgotten + older.max(before_tail)
    }
}

impl Lines {
    /// All lines from that number on as text, and the number of the line that comes next.
    fn from(&self, number: usize, timestamps: bool) -> (String, usize) {
        let mut text = String::new();
        for (at, line) in self.kept.iter().skip(number.saturating_sub(self.forgotten)) {
            if timestamps {
                let _ = write!(text, "{} ", at.to_rfc3339_opts(SecondsFormat::Nanos, true));
            }
            text.push_str(line);
            text.push('\n');
        }
        (text, self.forgotten + self.kept.len())
    }
}

/// Namespace and name: the API server asks for no uid.
type Name = (String, String);

/// The logs of all pods.
#[derive(Clone, Debug, Default)]
pub struct Logs(Arc<Mutex<HashMap<Name, Arc<Log>>>>);

impl Logs {
    /// Begins the log of a pod, in place of one that an earlier pod of this name may have left.
    pub fn open(&self, pod: &PodKey) -> Entry {
        let name = (pod.namespace.clone(), pod.name.clone());
        let log = Arc::<Log>::default();
        self.lock().insert(name.clone(), log.clone());
        Entry { logs: self.clone(), name, log }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Arc<Log>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A log that is to be had. Dropping it ends the log and takes it out of the list.
#[derive(Debug)]
pub struct Entry {
    logs: Logs,
    name: Name,
    log: Arc<Log>,
}

impl Entry {
    /// Where to write.
    pub fn log(&self) -> Arc<Log> {
        self.log.clone()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.log.end();
        let mut logs = self.logs.lock();
        if logs.get(&self.name).is_some_and(|log| Arc::ptr_eq(log, &self.log)) {
            logs.remove(&self.name);
        }
    }
}

/// The part of a kubelet's API that the API server needs for logs.
pub fn router(logs: Logs) -> Router {
    Router::new().route("/containerLogs/{namespace}/{pod}/{container}", get(show)).with_state(logs)
}

/// All containers of a pod share its log: the pod server plays one application.
async fn show(
    State(logs): State<Logs>,
    Path((namespace, pod, _container)): Path<(String, String, String)>,
    Query(asked): Query<Asked>,
) -> Result<Body, (StatusCode, String)> {
    if asked.previous || asked.limit_bytes.is_some() {
        return Err((StatusCode::BAD_REQUEST, "this pod server knows neither previous nor limitBytes; leave them out".to_owned()));
    }
    let name = (namespace, pod);
    let log = logs.lock().get(&name).cloned();
    let log = log.ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {}/{} is not here", name.0, name.1)))?;
    let lines = log.0.subscribe();
    // Held no longer: the end of the pod is the end of the log.
    drop(log);
    let number = asked.first(&lines.borrow(), Utc::now());
    Ok(Body::from_stream(stream::unfold(Some((lines, number)), move |reader| {
        let asked = asked.clone();
        async move {
            let (mut lines, mut number) = reader?;
            loop {
                let (text, ended);
                {
                    let seen = lines.borrow_and_update();
                    (text, number) = seen.from(number, asked.timestamps);
                    ended = seen.ended || !asked.follow;
                }
                if ended || !text.is_empty() {
                    return Some((Ok::<_, Infallible>(Bytes::from(text)), (!ended).then_some((lines, number))));
                }
                lines.changed().await.ok()?;
            }
        }
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        DateTime::from_timestamp(1_893_456_000 + second, 0).unwrap()
    }

    fn filled(lines: i64) -> Log {
        let log = Log::default();
        (0..lines).for_each(|n| log.say(at(n), &n.to_string()));
        log
    }

    #[test]
    fn only_the_last_lines_are_kept_and_none_is_long() {
        let log = filled(250);
        log.say(at(250), &"ä\n".repeat(500));
        let lines = log.0.borrow();
        let (text, next) = lines.from(0, false);
        assert_eq!((text.lines().count(), text.lines().next(), next), (KEPT, Some("51"), 251));
        assert_eq!(text.lines().last().map(|line| line.chars().count()), Some(WIDTH));
        assert_eq!(lines.from(249, true).0.lines().next(), Some("2030-01-01T00:04:09.000000000Z 249"));
    }

    #[test]
    fn the_beginning_is_where_both_limits_allow() {
        let log = filled(210);
        let lines = log.0.borrow();
        let first = |asked: Asked| asked.first(&lines, at(210));
        assert_eq!(first(Asked::default()), 10);
        assert_eq!(first(Asked { tail_lines: Some(1), ..Asked::default() }), 209);
        assert_eq!(first(Asked { tail_lines: Some(0), ..Asked::default() }), 210);
        assert_eq!(first(Asked { since_seconds: Some(5), ..Asked::default() }), 205);
        assert_eq!(first(Asked { since_time: Some(at(200)), tail_lines: Some(30), ..Asked::default() }), 200);
    }

    #[test]
    fn a_new_pod_of_the_name_keeps_its_log_when_the_old_one_ends() {
        let logs = Logs::default();
        let key = |uid: &str| PodKey { namespace: "shop".into(), name: "web-0".into(), uid: uid.into() };
        let old = logs.open(&key("a"));
        let new = logs.open(&key("b"));
        let follower = old.log().0.subscribe();
        drop(old);
        assert!(follower.borrow().ended);
        assert!(logs.lock().values().any(|log| Arc::ptr_eq(log, &new.log)));
        drop(new);
        assert!(logs.lock().is_empty());
    }
}
