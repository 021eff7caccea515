//! The cluster as the operator sees it and writes to it: the only user of [`kube::Client`].

pub mod client;
pub mod drive;
pub mod event;
pub mod facts;
pub mod index;
pub mod patch;
pub mod pools;
pub mod watch;
pub mod write;

use std::sync::{Mutex, MutexGuard, PoisonError};

use index::Index;

/// The index as its writers (watches, answers to writes) and readers share it. Held for lookups only, never across a call.
#[derive(Debug, Default)]
pub struct SharedIndex(Mutex<Index>);

impl SharedIndex {
    /// Locks it. A panic elsewhere leaves whole facts behind, so a poisoned lock is no reason to stop.
    pub fn lock(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
