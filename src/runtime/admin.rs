//! `/livez`, `/readyz` and `/metrics`: plain HTTP for kubelet and Prometheus, nothing to steer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::cluster::SharedIndex;

use super::metrics::Metrics;

/// What the probes look at.
#[derive(Clone)]
pub struct Health {
    /// Every watch has listed once.
    pub synced: Arc<AtomicBool>,
    /// Every task still runs.
    pub alive: Arc<AtomicBool>,
    /// The cluster as known.
    pub index: Arc<SharedIndex>,
    /// What is counted.
    pub metrics: Metrics,
}

/// Serves until the process ends.
pub async fn serve(address: SocketAddr, health: Health) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let app = Router::new()
        .route("/livez", get(|State(h): State<Health>| async move { probe(&h.alive) }))
        .route("/readyz", get(|State(h): State<Health>| async move { probe(&h.synced) }))
        .route("/metrics", get(metrics))
        .with_state(health);
    axum::serve(listener, app).await?;
    Ok(())
}

fn probe(good: &AtomicBool) -> (StatusCode, &'static str) {
    if good.load(Ordering::Relaxed) { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not yet\n") }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let text = health.metrics.text(&health.index);
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}
