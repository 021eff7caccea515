//! HTTPS in front of the bed's own servers, with certificates that the API server knows.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::pki::Pki;

/// The longest that a client may take to shake hands: the others wait meanwhile.
const PATIENCE: Duration = Duration::from_secs(1);

/// A listener for [`axum::serve`] that speaks TLS.
pub struct Listener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl Listener {
    /// Listens with a certificate for that name or address.
    pub async fn bind(address: SocketAddr, pki: &Pki, name: &str) -> anyhow::Result<Self> {
        let (certificate, key) = pki.server(&[name])?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key)?;
        Ok(Self { tcp: TcpListener::bind(address).await?, tls: Arc::new(config).into() })
    }
}

impl axum::serve::Listener for Listener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, from) = axum::serve::Listener::accept(&mut self.tcp).await;
            if let Ok(Ok(stream)) = timeout(PATIENCE, self.tls.accept(stream)).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}
