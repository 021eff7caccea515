//! Leadership by a Lease, after client-go's protocol: only the leader writes.
//!
//! A holder is gone when its Lease has not *changed* for its duration by our own clock; every write
//! of the Lease replaces exactly the version that was read. A Lease is no fence: a leader that was
//! stopped and goes on must find out by itself, so [`Leadership::is_held`] is asked right before
//! every write and turns false at the renew deadline, counted from before the request that renewed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::cluster::client::{CallError, bounded};

/// Times of the protocol.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// A Lease unchanged for this long is free. Default 15 s.
    pub lease: Duration,
    /// A leader that could not renew for this long stops writing. Default two thirds of that.
    pub renew_deadline: Duration,
    /// Between two tries. Default two fifteenths.
    pub retry: Duration,
}

impl From<Duration> for Times {
    fn from(lease: Duration) -> Self {
        Self { lease, renew_deadline: lease * 2 / 3, retry: lease * 2 / 15 }
    }
}

/// Whether this process may write, to be asked right before it does.
#[derive(Clone, Debug, Default)]
pub struct Leadership(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    until: Option<Instant>,
    /// Counts how often leadership was won.
    term: u64,
}

impl Held {
    fn now(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}

impl Leadership {
    /// True until the renew deadline of the last renewal.
    pub fn is_held(&self) -> bool {
        self.term().is_some()
    }

    /// While it is held, a number that is another one after every interruption: between two looks that tell the same
    /// nobody else can have led.
    pub fn term(&self) -> Option<u64> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.now().then_some(held.term)
    }

    fn set(&self, until: Option<Instant>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if until.is_some() && !held.now() {
            held.term += 1;
        }
        held.until = until;
    }
}

/// A candidate for one Lease.
pub struct Candidate {
    /// The Leases of the operator's namespace.
    pub leases: Api<Lease>,
    /// The Lease's name.
    pub name: String,
    /// Who we are; unique per process.
    pub identity: String,
    /// Times of the protocol.
    pub times: Times,
    /// What writers ask.
    pub leadership: Leadership,
}

/// A foreign Lease as we last saw it change.
struct Seen {
    version: Option<String>,
    at: Instant,
}

impl Candidate {
    /// A candidate in that namespace.
    pub fn new(client: &Client, namespace: &str, name: &str, identity: &str, times: Times, leadership: Leadership) -> Self {
        Self { leases: Api::namespaced(client.clone(), namespace), name: name.into(), identity: identity.into(), times, leadership }
    }

    /// Campaigns and renews for ever; `leads` follows.
    pub async fn run(self, leads: watch::Sender<bool>) {
        let mut seen = Seen { version: None, at: Instant::now() };
        loop {
            let started = Instant::now();
            match self.round(&mut seen).await {
                Ok(true) => {
                    self.leadership.set(Some(started + self.times.renew_deadline));
                    leads.send_if_modified(|l| !std::mem::replace(l, true));
                }
                Ok(false) => self.stand_down(&leads),
                Err(error) => {
                    tracing::warn!(error = error.message(), lease = self.name, "lease not renewed");
                    if !self.leadership.is_held() {
                        self.stand_down(&leads);
                    }
                }
            }
            tokio::time::sleep(self.times.retry).await;
        }
    }

    fn stand_down(&self, leads: &watch::Sender<bool>) {
        self.leadership.set(None);
        leads.send_if_modified(|l| std::mem::replace(l, false));
    }

    /// One look at the Lease, and a write if it is ours or free. True: we lead.
    async fn round(&self, seen: &mut Seen) -> Result<bool, CallError> {
        let Some(lease) = bounded(self.leases.get_opt(&self.name)).await? else {
            let lease =
                Lease { metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() }, spec: Some(self.spec(None)) };
            return won(bounded(self.leases.create(&PostParams::default(), &lease)).await);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder != self.identity && !holder.is_empty() {
            if lease.metadata.resource_version != seen.version {
                *seen = Seen { version: lease.metadata.resource_version.clone(), at: Instant::now() };
            }
            let term = spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).map_or(self.times.lease, Duration::from_secs);
            if seen.at.elapsed() < term {
                return Ok(false);
            }
        }
        let ours = Lease { spec: Some(self.spec(Some(&spec))), ..lease };
        won(bounded(self.leases.replace(&self.name, &PostParams::default(), &ours)).await)
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let kept = before.filter(|b| b.holder_identity.as_deref() == Some(&self.identity));
        let changes = before.and_then(|b| b.lease_transitions).unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.times.lease.as_secs().max(1)).unwrap_or(i32::MAX)),
            acquire_time: kept.and_then(|b| b.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if kept.is_some() || before.is_none() { changes } else { changes + 1 }),
            ..LeaseSpec::default()
        }
    }

    /// Gives the Lease back, so that a successor need not wait. Failing is fine: it runs out.
    pub async fn release(client: &Client, namespace: &str, name: &str, identity: &str) {
        let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
        let Ok(Some(mut lease)) = bounded(leases.get_opt(name)).await else { return };
        let Some(spec) = lease.spec.as_mut().filter(|s| s.holder_identity.as_deref() == Some(identity)) else { return };
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        if let Err(error) = bounded(leases.replace(name, &PostParams::default(), &lease)).await {
            tracing::debug!(error = error.message(), "lease not released");
        }
    }
}

/// A conflict means that somebody else was faster.
fn won(answer: Result<Lease, CallError>) -> Result<bool, CallError> {
    match answer {
        Ok(_) => Ok(true),
        Err(e) if e.code() == Some(409) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_ends_with_every_interruption() {
        let leadership = Leadership::default();
        let later = || Some(Instant::now() + Duration::from_mins(1));
        assert_eq!(leadership.term(), None);
        leadership.set(later());
        let first = leadership.term();
        leadership.set(later());
        assert!(first.is_some() && leadership.term() == first, "a renewal is no interruption");
        leadership.set(None);
        assert_eq!(leadership.term(), None);
        leadership.set(later());
        let second = leadership.term();
        assert!(second.is_some() && second != first);
        // It ran out, as while the process stood still, and was won again before anybody looked.
        leadership.set(Some(Instant::now()));
        leadership.set(later());
        assert!(leadership.term().is_some() && leadership.term() != second);
    }
}
