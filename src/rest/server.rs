//! Connections: how many, how slow, and with TLS where there is a certificate.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::orders::Desk;

use super::auth::Gate;
use super::door::{Settings, router};

/// Longest time for the head of a request to come in, and for a connection to say nothing.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest head of a request, in bytes.
const LARGEST_HEAD: usize = 64 * 1024;
/// Connections at once.
const CONNECTIONS: usize = 1024;
/// How often the certificate is read again: those of clusters last for days, and are renewed in place.
const RENEWAL: Duration = Duration::from_mins(1);
/// Longest time for the last answers, once the server ends.
const FAREWELL: Duration = Duration::from_secs(5);
/// Pause after the system gives no more connections.
const BREATH: Duration = Duration::from_millis(100);

/// Files of a certificate.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The chain, as PEM.
    pub chain: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
}

/// Answers on a listener, until it is dropped; plain HTTP without a certificate. Fails at once if that cannot be read.
pub async fn serve(
    listener: TcpListener,
    certificate: Option<Certificate>,
    desk: Desk,
    gate: Gate,
    settings: Settings,
) -> anyhow::Result<()> {
    let (ending, connections) = (settings.ending.clone(), TaskTracker::new());
    let app = router(desk, gate, settings);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let (renewed, acceptor) = watch::channel(certificate.as_ref().map(acceptor).transpose()?);
    let accept = async {
        loop {
            // Whoever is too many waits in the system's queue.
            let Ok(place) = room.clone().acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(BREATH).await;
                continue;
            };
            let (app, tls, ending) = (app.clone(), acceptor.borrow().clone(), ending.clone());
            connections.spawn(async move {
                match tls {
                    None => converse(stream, app, &ending).await,
                    Some(tls) => {
                        if let Ok(Ok(stream)) = tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
                            converse(stream, app, &ending).await;
                        }
                    }
                }
                drop(place);
            });
        }
    };
    let renew = async {
        let Some(certificate) = &certificate else { return std::future::pending().await };
        loop {
            tokio::time::sleep(RENEWAL).await;
            match self::acceptor(certificate) {
                Ok(new) => {
                    renewed.send_replace(Some(new));
                }
                Err(error) => tracing::warn!(error = format!("{error:#}"), "the certificate cannot be read; the one before stays"),
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = renew => {}
        () = ending.cancelled() => {}
    }
    // Who was let in is answered.
    connections.close();
    let _ = tokio::time::timeout(FAREWELL, connections.wait()).await;
    Ok(())
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, app: Router, ending: &CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(LARGEST_HEAD);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(app)));
    // What goes wrong here is between the caller and the wire.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

fn acceptor(certificate: &Certificate) -> anyhow::Result<TlsAcceptor> {
    let shown = |path: &PathBuf| path.display().to_string();
    let chain = CertificateDer::pem_file_iter(&certificate.chain).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.with_context(|| format!("reading the certificate {}", shown(&certificate.chain)))?;
    let key = PrivateKeyDer::from_pem_file(&certificate.key).with_context(|| format!("reading the key {}", shown(&certificate.key)))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_no_client_auth().with_single_cert(chain, key).context("the certificate and the key")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
