//! `aether proxy`: the REST API on this machine, as whoever the kubeconfig says. No token is asked for, and the API server
//! decides what that person may do.

use futures::future::try_join_all;
use tokio::net::TcpListener;

use crate::rest::{self, Gate, Settings};

use super::session::Session;
use super::{Failure, note};

/// Serves until Ctrl-C, on this machine alone.
pub async fn proxy(session: &Session, ports: &[u16]) -> Result<(), Failure> {
    let mut listeners = Vec::new();
    for port in ports {
        let busy = |error| Failure::failed(format!("cannot listen on 127.0.0.1:{port}: {error}; choose another one with --port"));
        listeners.push(TcpListener::bind(("127.0.0.1", *port)).await.map_err(busy)?);
    }
    for port in ports {
        note(&format!("serving http://127.0.0.1:{port}, as the kubeconfig's identity; Ctrl-C ends it"));
    }
    let settings = Settings { namespace: session.namespace.clone(), ..Settings::default() };
    let serve = |listener| rest::serve(listener, None, session.desk.clone(), Gate::Own, settings.clone());
    try_join_all(listeners.into_iter().map(serve)).await.map_err(|error| Failure::failed(error.to_string()))?;
    Ok(())
}
