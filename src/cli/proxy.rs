//! `aether proxy`: the REST API on this machine, as whoever the kubeconfig says.

use super::Failure;
use super::session::Session;

/// Serves until Ctrl-C.
#[allow(clippy::unused_async, reason = "it will serve")]
pub async fn proxy(_session: &Session, _ports: &[u16]) -> Result<(), Failure> {
    Err(Failure::failed("not built yet"))
}
