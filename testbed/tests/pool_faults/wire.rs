//! The way from one operator to the API server, which can be stopped at an exact request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use kube::Client;
use kube::client::Body;
use tokio::runtime::Handle;
use tokio::sync::watch;

type Request = axum::http::Request<Body>;

/// Which side of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It is not made yet.
    Before,
    /// It is made, and the answer is not there yet.
    After,
}

/// Kinds of writes to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Of a pool's status.
    Status,
    /// Of anything else but the Lease: finalizer, what is published, Events, pods.
    Other,
}

/// The n-th write of that kind, from 1.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    pub write: Write,
    pub nth: u32,
    pub side: Side,
}

/// Where an operator is stopped.
pub struct Gate {
    stop: Option<Stop>,
    counted: [AtomicU32; 2],
    reached: watch::Sender<bool>,
    open: watch::Sender<bool>,
}

impl Gate {
    pub fn new(stop: Option<Stop>) -> Arc<Self> {
        Arc::new(Self { stop, counted: Default::default(), reached: watch::Sender::new(false), open: watch::Sender::new(false) })
    }

    /// Waits until the operator is there. For ever if it is to be stopped nowhere.
    pub async fn reached(&self) {
        let _ = self.reached.subscribe().wait_for(|reached| *reached).await;
    }

    /// Whoever waits goes on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Writes so far: of statuses, and others.
    pub fn writes(&self) -> [u32; 2] {
        [0, 1].map(|at| self.counted[at].load(Ordering::Relaxed))
    }

    fn side(&self, request: &Request) -> Option<Side> {
        let write = kind(request)?;
        let nth = self.counted[write as usize].fetch_add(1, Ordering::Relaxed) + 1;
        self.stop.filter(|stop| stop.write == write && stop.nth == nth).map(|stop| stop.side)
    }

    async fn wait(&self) {
        self.reached.send_replace(true);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}

fn kind(request: &Request) -> Option<Write> {
    let path = request.uri().path();
    let is_write = request.method() != axum::http::Method::GET && !path.contains("/leases");
    is_write.then(|| if path.contains("/proxypools/") && path.ends_with("/status") { Write::Status } else { Write::Other })
}

/// A client for an operator that sees only one pool. What it has sent is carried out even if it is gone by then.
pub fn client(base: &Client, world: &Handle, namespace: &str, pool: &str, gate: &Arc<Gate>) -> Client {
    let (base, world, gate) = (base.clone(), world.clone(), gate.clone());
    let watched = format!("/apis/aether.dev/v1alpha1/namespaces/{namespace}/proxypools?fieldSelector=metadata.name%3D{pool}&");
    let service = tower::service_fn(move |mut request: Request| {
        let (base, world, gate) = (base.clone(), world.clone(), gate.clone());
        let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        if let Some(query) = path.strip_prefix("/apis/aether.dev/v1alpha1/proxypools?") {
            *request.uri_mut() = format!("{watched}{query}").parse().unwrap();
        }
        async move {
            let side = gate.side(&request);
            if side == Some(Side::Before) {
                gate.wait().await;
            }
            let answer = world.spawn(async move { base.send(request).await }).await?;
            if side == Some(Side::After) {
                gate.wait().await;
            }
            Ok::<_, tower::BoxError>(answer?)
        }
    });
    Client::new(service, namespace)
}
