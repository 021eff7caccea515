//! The HTTP server. Its own rather than axum's, because that one always replies.

use std::convert::Infallible;

use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::desk::{Cloud, Lost};
use super::{control, digitalocean, ec2, gce, hetzner, vultr};

/// All dialects and the control API. Their paths differ.
pub(super) fn routes() -> Router<Cloud> {
    let dialects = [digitalocean::routes(), hetzner::routes(), vultr::routes(), gce::routes(), ec2::routes()];
    dialects.into_iter().fold(control::routes(), Router::merge)
}

/// Serves until it is dropped, and all connections with it.
pub(super) async fn serve(listener: TcpListener, routes: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(connections.spawn(converse(TokioIo::new(stream), routes.clone()))),
                Err(error) => {
                    tracing::warn!("the cloud cannot accept a connection: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: TokioIo<tokio::net::TcpStream>, routes: Router) {
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        // What was asked for is done even if nobody waits for the answer any more.
        let reply = tokio::spawn(tower_call(routes.clone(), request));
        async move {
            let response = reply.await?.unwrap_or_else(|never| match never {});
            // An error here ends the connection without a word.
            if response.extensions().get::<Lost>().is_some() { Err(std::io::Error::other("lost")) } else { Ok(response) }
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    // Clients that go away, and lost replies, are no news.
    let _ = http.timer(TokioTimer::new()).serve_connection(stream, service).await;
}

async fn tower_call(routes: Router, request: hyper::Request<Incoming>) -> Result<Response, Infallible> {
    let service = hyper_util::service::TowerToHyperService::new(routes);
    hyper::service::Service::call(&service, request).await
}
