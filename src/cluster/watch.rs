//! One watch per kind, each with its own task and its own back-off, so that one that fails stops no other.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, watcher::Error};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::SharedIndex;
use super::client;
use super::facts::{Fact, Key, Kind};

/// Cloud load balancers drop idle connections at 240 s; a watch is renewed before.
const WATCH_SECONDS: u32 = 200;

/// News for whoever decides.
#[derive(Clone, Debug)]
pub enum News {
    /// An object of that kind has changed or gone.
    Object(Kind, Fact),
    /// There are new figures about that RollingUpdate in the index.
    Measured(Key),
}

/// Starts the watches, of one namespace or of all. The receiver tells when all of them have listed once.
pub fn start(
    client: &Client,
    namespace: Option<&str>,
    index: &Arc<SharedIndex>,
    news: &mpsc::UnboundedSender<News>,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<bool> {
    let (ready, all_ready) = watch::channel(false);
    let ready = Arc::new(ready);
    let waiting = Arc::new(std::sync::Mutex::new(Kind::ALL.iter().copied().collect::<HashSet<_>>()));
    for kind in Kind::ALL {
        let (ready, waiting) = (ready.clone(), waiting.clone());
        let synced = move || {
            let mut waiting = waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            waiting.remove(&kind);
            if waiting.is_empty() {
                ready.send_replace(true);
            }
        };
        let objects = namespace.map_or_else(|| client::api_all(client, kind), |name| client::api(client, kind, name));
        tasks.spawn(run(objects, kind, index.clone(), news.clone(), synced));
    }
    all_ready
}

async fn run(objects: Api<DynamicObject>, kind: Kind, index: Arc<SharedIndex>, news: mpsc::UnboundedSender<News>, synced: impl Fn()) {
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let stream = watcher(objects, config).default_backoff();
    futures::pin_mut!(stream);
    let mut listed = HashSet::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => take(kind, event, &mut listed, &index, &news, &synced),
            Err(error) if is_absent(&error) => {
                // Without the Gateway API there are no routes, and that is an answer. Any other kind must be there.
                if kind == Kind::HttpRoute {
                    tracing::debug!("the API server has no Gateway API");
                    synced();
                } else {
                    tracing::warn!(kind = kind.gvk().2, "the API server does not know this kind; install the definitions in crds/");
                }
                tokio::time::sleep(Duration::from_secs(10)).await;
            }
            Err(error) => tracing::warn!(kind = kind.gvk().2, %error, "watch failed, trying again"),
        }
    }
}

fn take(
    kind: Kind,
    event: Event<DynamicObject>,
    listed: &mut HashSet<String>,
    index: &SharedIndex,
    news: &mpsc::UnboundedSender<News>,
    synced: &impl Fn(),
) {
    let tell = |fact: Fact| {
        // Nobody listens any more only while the process ends.
        let _ = news.send(News::Object(kind, fact));
    };
    match event {
        Event::Init => listed.clear(),
        Event::InitApply(object) | Event::Apply(object) => {
            let fact = Fact::read(kind, object);
            listed.insert(fact.meta().uid.clone());
            if index.lock().apply(kind, fact.clone()) {
                tell(fact);
            }
        }
        Event::Delete(object) => {
            let fact = Fact::read(kind, object);
            let (key, uid) = (fact.meta().key(), fact.meta().uid.clone());
            listed.remove(&uid);
            index.lock().delete(kind, &key, &uid);
            tell(fact);
        }
        Event::InitDone => {
            let gone = index.lock().retain(kind, listed);
            listed.clear();
            gone.into_iter().for_each(tell);
            synced();
        }
    }
}

fn is_absent(error: &Error) -> bool {
    matches!(error, Error::InitialListFailed(kube::Error::Api(status)) | Error::WatchStartFailed(kube::Error::Api(status)) if status.code == 404)
}
