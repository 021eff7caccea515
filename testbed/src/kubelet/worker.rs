//! The task of one pod: asks its life what should be, and makes it so.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Options;
use super::addresses::{Addresses, Lease};
use super::app::App;
use super::behaviour::Behaviour;
use super::container::{Container, Run, Turn};
use super::life::{Exit, Life, State, Status, Step, Wanted};
use super::logs::Log;
use super::pod::{Found, PodKey, Wish};
use super::status;

/// Longest time one request to the API server may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Wait before something that failed is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// Longest sleep: a wake-up too early does no harm, a timer for ever might.
const LONGEST_SLEEP: Duration = Duration::from_hours(1);

/// What all workers share.
#[derive(Clone)]
pub struct Node {
    /// Client of the API server.
    pub client: kube::Client,
    /// Settings.
    pub options: Arc<Options>,
    /// Where the root folders of containers are made.
    pub dir: PathBuf,
    /// The pod network.
    pub addresses: Addresses,
    /// Bounds the requests that are under way.
    pub requests: Arc<Semaphore>,
}

/// What a request about a pod came to.
enum Reply {
    Done,
    /// There is no such pod any more.
    Gone,
    Failed,
}

/// The machine's clock: this is the shell around the pure [`Life`].
fn now() -> DateTime<Utc> {
    Utc::now()
}

/// What runs.
enum Application {
    Played(App),
    Real(Box<Run>),
}

struct Worker {
    node: Node,
    key: PodKey,
    api: Api<Pod>,
    life: Life,
    lease: Arc<Lease>,
    app: Option<(u32, Application)>,
    /// What a process runs in, once it is laid out.
    container: Option<Container>,
    /// Whether the process is ready.
    ready: bool,
    log: Arc<Log>,
    /// What the log has been told, so that it is told once.
    told: Told,
    /// The last patch of the status: some states of a pod look the same from outside.
    published: Option<Value>,
}

/// Turns in a pod's life that its log tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    ready: bool,
    terminating: bool,
    exit: Option<Exit>,
}

/// Runs one pod until it is removed. Dropping the future is the pod's sudden end: everything it holds is closed. A pod
/// that has an address comes with its lease.
pub async fn run(node: Node, key: PodKey, found: Found, mut lease: Option<Lease>, log: Arc<Log>, mut wishes: watch::Receiver<Wish>) {
    let lease = loop {
        match lease.take().or_else(|| node.addresses.take()) {
            Some(lease) => break Arc::new(lease),
            None => sleep(AGAIN).await,
        }
    };
    let life = Life::new(&found, node.options.crash_back_off, now());
    let api = Api::namespaced(node.client.clone(), &key.namespace);
    let mut worker =
        Worker { node, key, api, life, lease, app: None, container: None, ready: false, log, told: Told::default(), published: None };
    if found.ended {
        worker.log.end();
        // Its status says all there is to say; only its deletion is of interest.
        drop(wishes.wait_for(|wish| wish.grace.is_some()).await);
        while let Reply::Failed = worker.remove().await {
            sleep(AGAIN).await;
        }
        return;
    }
    loop {
        let wish = wishes.borrow_and_update().clone();
        let image = wish.containers.first().map(|(_, image)| image.as_str()).unwrap_or_default();
        let behaviour = match Behaviour::parse(&wish.annotations, image, &worker.node.options) {
            Ok(played) if wish.real => worker.prepared(played).await.map_err(|error| format!("{error:#}")),
            behaviour => behaviour,
        };
        let step = worker.life.step(&wish, &behaviour, now());
        let wake = match worker.make(&wish, &behaviour, step).await {
            Reply::Done => worker.sleep(&wish, &behaviour),
            Reply::Failed => AGAIN,
            Reply::Gone => return,
        };
        tokio::select! {
            changed = wishes.changed() => if changed.is_err() { return },
            () = sleep(wake) => {}
            turn = turned(worker.app.as_mut()) => worker.turned(&wish, turn),
        }
    }
}

/// Waits for what an application does by itself. The listeners of a played one end only when it was asked to drain.
async fn turned(app: Option<&mut (u32, Application)>) -> Turn {
    match app {
        Some((_, Application::Played(app))) => {
            app.closed().await;
            Turn::Ended(0)
        }
        Some((_, Application::Real(run))) => run.next().await,
        None => std::future::pending().await,
    }
}

impl Worker {
    fn turned(&mut self, wish: &Wish, turn: Turn) {
        match turn {
            Turn::Ready(ready) => self.ready = ready,
            Turn::Ended(code) => {
                (self.app, self.ready) = (None, false);
                self.life.ended(wish, code, now());
            }
        }
    }

    /// How a process behaves: as it does, once all that it is given is there. An error is why it cannot be started.
    async fn prepared(&mut self, played: Behaviour) -> anyhow::Result<Behaviour> {
        if self.container.is_none() && !played.image_pull_error {
            let pod = timeout(REQUEST, self.api.get(&self.key.name)).await??;
            anyhow::ensure!(pod.metadata.uid.as_ref() == Some(&self.key.uid), "the pod is gone");
            let container = Container::prepare(&self.node.client, self.node.dir.clone(), pod, self.lease.ip());
            self.container = Some(timeout(REQUEST, container).await??);
        }
        Ok(Behaviour { readiness_delay: self.ready.then_some(Duration::ZERO), shutdown: Duration::ZERO, ..played })
    }

    /// How long nothing is to be done. Asked after a step was carried out, which may have taken a while.
    fn sleep(&mut self, wish: &Wish, behaviour: &Result<Behaviour, String>) -> Duration {
        let now = now();
        let step = self.life.clone().step(wish, behaviour, now);
        if self.published != Some(self.patch(wish, &step.status)) {
            return Duration::ZERO;
        }
        let longest = if wish.real && behaviour.is_err() { AGAIN } else { LONGEST_SLEEP };
        step.wake.map_or(longest, |wake| (wake - now).to_std().unwrap_or_default().min(longest))
    }

    /// Carries out one step: first the application, then what is said about it.
    async fn make(&mut self, wish: &Wish, behaviour: &Result<Behaviour, String>, step: Step) -> Reply {
        if let Err(error) = self.make_app(wish, behaviour.as_ref().ok(), step.wanted).await {
            warn!(pod = self.key.name, "{error:#}");
            return Reply::Failed;
        }
        if !wish.real {
            self.tell(wish, &step.status);
        } else if let State::Ended(_) = step.status.state {
            self.log.end();
        }
        let patch = self.patch(wish, &step.status);
        if self.published.as_ref() != Some(&patch) {
            let params = PatchParams::default();
            match self.request(self.api.patch_status(&self.key.name, &params, &Patch::Strategic(&patch))).await {
                Reply::Done => self.published = Some(patch),
                reply => return reply,
            }
        }
        if step.remove { self.remove().await } else { Reply::Done }
    }

    /// Writes into the log what has turned since the last step.
    fn tell(&mut self, wish: &Wish, status: &Status) {
        let exit = match status.state {
            State::Exited(exit) | State::BackOff { exit, .. } | State::Ended(exit) => Some(exit),
            _ => None,
        };
        let turned = Told { ready: status.ready, terminating: wish.grace.is_some(), exit };
        let before = std::mem::replace(&mut self.told, turned);
        if turned.terminating && !before.terminating {
            self.log.say(now(), "terminating: serves on for a while, then answers what is in flight");
        }
        if turned.ready != before.ready {
            self.log.say(now(), if turned.ready { "ready" } else { "not ready" });
        }
        if let Some(exit) = turned.exit.filter(|_| turned.exit != before.exit) {
            self.log.say(now(), &format!("exited with code {}", exit.code));
        }
        if let State::Ended(_) = status.state {
            self.log.end();
        }
    }

    fn patch(&self, wish: &Wish, status: &Status) -> Value {
        status::patch(&self.key, wish, status, self.lease.ip(), self.node.options.host_ip)
    }

    /// Removes the pod's object. What finalizers may still hold is only an entry: nothing of it runs.
    async fn remove(&self) -> Reply {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.key.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        // In a task of its own: the watch may tell of the removal, and so end this task, before the answer is here. To hang
        // up then would be a failed request in the audit log.
        let (api, name) = (self.api.clone(), self.key.name.clone());
        let answer = tokio::spawn(async move { api.delete(&name, &params).await.map(drop) });
        match self.request(async { answer.await.unwrap_or(Ok(())) }).await {
            Reply::Done => Reply::Gone,
            reply => reply,
        }
    }

    async fn make_app(&mut self, wish: &Wish, behaviour: Option<&Behaviour>, wanted: Wanted) -> anyhow::Result<()> {
        match (wanted, behaviour) {
            (Wanted::Serving { run, since }, Some(behaviour)) => {
                match self.app.as_ref().filter(|(running, _)| *running == run) {
                    Some((_, Application::Played(app))) => return Ok(app.set(&self.key.name, behaviour)?),
                    Some((_, Application::Real(_))) => return Ok(()),
                    None => self.close().await,
                }
                if let Some(container) = &self.container {
                    self.app = Some((run, Application::Real(Box::new(container.start(&self.log)?))));
                    return Ok(());
                }
                let default = [self.node.options.port];
                let ports = if wish.ports.is_empty() { default.as_slice() } else { wish.ports.as_slice() };
                let age = (now() - since).to_std().unwrap_or_default();
                let app = App::start(&self.key.name, &self.lease, ports, behaviour, age, &self.log)
                    .await
                    .with_context(|| format!("cannot listen on {} {ports:?}", self.lease.ip()))?;
                let PodKey { namespace, name, .. } = &self.key;
                let line = format!("version {} of pod {namespace}/{name} listens on {} {ports:?}", behaviour.version, self.lease.ip());
                self.log.say(now(), &line);
                self.app = Some((run, Application::Played(app)));
            }
            (Wanted::Draining, _) => match &mut self.app {
                Some((_, Application::Played(app))) => app.drain(),
                Some((_, Application::Real(run))) => run.terminate(),
                None => self.life.ended(wish, 0, now()),
            },
            (Wanted::Closed | Wanted::Serving { .. }, _) => self.close().await,
        }
        Ok(())
    }

    async fn close(&mut self) {
        if let Some((_, Application::Real(run))) = self.app.take() {
            run.kill().await;
        }
        self.ready = false;
    }

    async fn request<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Reply {
        let Ok(_permit) = self.node.requests.acquire().await else { return Reply::Gone };
        match timeout(REQUEST, request).await {
            Ok(Ok(_)) => Reply::Done,
            // 409 is the answer both for another pod's uid and for too many writers at once: in the first case the watch
            // will end this task, in the second another try is right.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
                debug!(pod = self.key.name, uid = self.key.uid, "removed by somebody else");
                Reply::Gone
            }
            Ok(Err(error)) => {
                warn!(pod = self.key.name, "{error}");
                Reply::Failed
            }
            Err(_) => {
                warn!(pod = self.key.name, "the API server does not answer");
                Reply::Failed
            }
        }
    }
}
