//! What an operator does about pools, in a thread of its own: it can die, or stand still, at any moment, whole.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use aether_operator::cloud::account::Accounts;
use aether_operator::cluster::event::Publisher;
use aether_operator::cluster::pools::Pools;
use aether_operator::pool::keep::Keeper;
use aether_operator::pool::wish::Defaults;
use aether_operator::runtime::lease::{Candidate, Leadership};
use aether_operator::runtime::metrics::Metrics;
use kube::Client;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{oneshot, watch};

/// What an operator is started with.
#[derive(Clone)]
pub struct Settings {
    pub namespace: String,
    /// Name of the Lease.
    pub lease_name: String,
    pub lease: Duration,
    /// Addresses of clouds.
    pub addresses: BTreeMap<String, String>,
    pub settle_seconds: u32,
    pub log: Log,
}

/// A running operator. Dropping it is its death.
pub struct Operator {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    dead: Option<oneshot::Receiver<()>>,
}

impl Operator {
    /// One with that identity may take over from another of the same at once.
    pub fn start(client: Client, identity: &str, settings: &Settings) -> anyhow::Result<Self> {
        let (identity, settings) = (identity.to_owned(), settings.clone());
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (dies, dead) = oneshot::channel();
        std::thread::Builder::new().stack_size(4 << 20).spawn(move || {
            let log = settings.log.clone();
            let writer = move || log.clone();
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(writer).with_max_level(tracing::Level::INFO).finish();
            tracing::subscriber::with_default(subscriber, || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = stopped => {}
                        () = operate(client, &identity, &settings) => {}
                    }
                });
                drop(runtime);
            });
            let _ = dies.send(());
        })?;
        Ok(Self { handle, stop: Some(stop), dead: Some(dead) })
    }

    /// Ends it where it is.
    pub async fn die(mut self) {
        drop(self.stop.take());
        if let Some(dead) = self.dead.take() {
            let _ = dead.await;
        }
    }

    /// Stops it whole, clocks and all, until the sender is dropped.
    pub fn freeze(&self) -> mpsc::Sender<()> {
        let (wake, asleep): (_, Receiver<()>) = mpsc::channel();
        self.handle.spawn(async move {
            let _ = asleep.recv();
        });
        wake
    }
}

async fn operate(client: Client, identity: &str, settings: &Settings) {
    let leadership = Leadership::default();
    let (leads, mut follows) = watch::channel(false);
    let candidate =
        Candidate::new(&client, &settings.namespace, &settings.lease_name, identity, settings.lease.into(), leadership.clone()).run(leads);
    let accounts = Accounts::new(client.clone(), settings.addresses.clone(), Some(settings.settle_seconds)).unwrap();
    let publisher = Publisher::new(client.clone(), identity);
    let keeper = Keeper::new(
        Pools::new(client, leadership, None),
        publisher,
        accounts,
        Metrics::default(),
        &settings.namespace,
        Defaults::default(),
    );
    let keep = async {
        while follows.wait_for(|leads| *leads).await.is_ok() {
            tokio::select! {
                _ = follows.wait_for(|leads| !*leads) => {}
                () = keeper.run() => {}
            }
        }
    };
    tokio::select! { () = candidate => {}, () = keep => {} }
}

/// What the operators of one case say.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// The last lines of it.
    pub fn tail(&self, lines: usize) -> String {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// A line of the test's own.
    pub fn say(&self, text: &str) {
        let _ = writeln!(self.0.lock().unwrap(), "------ {text}");
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
