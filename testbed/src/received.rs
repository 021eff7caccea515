//! Which requests the pods' applications have read: it tells a request that was lost from one that only met the close of
//! an idle connection on its way. Callers and pods share this process, so that is known and need not be guessed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

/// The header with the number of a request.
const HEADER: HeaderName = HeaderName::from_static("x-request-number");

static RECEIVED: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);

fn received() -> MutexGuard<'static, HashSet<u64>> {
    RECEIVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that is looked after until this is dropped.
#[derive(Debug)]
pub struct Numbered(u64);

impl Numbered {
    /// Gives a request a number.
    pub fn new(headers: &mut HeaderMap) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        headers.insert(HEADER, HeaderValue::from(number));
        Self(number)
    }

    /// Whether an application has read it.
    pub fn is_received(&self) -> bool {
        received().contains(&self.0)
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        received().remove(&self.0);
    }
}

/// An application has read a request with these headers.
pub fn note(headers: &HeaderMap) {
    if let Some(number) = headers.get(HEADER).and_then(|n| n.to_str().ok()?.parse().ok()) {
        received().insert(number);
    }
}
