//! How often a cloud is asked: one limiter per credential, shared by all pools that use it.
//!
//! Clouds count requests per account, not per pool, and what they say about their limit they say to whoever
//! asked last. Nobody waits in here: what there is no room for answers [`Class::Throttled`] with the time
//! after which it is worth asking again, and the planner does something else meanwhile. A fifth of the room
//! is kept for looking and deleting, so that a pool being filled can always still be seen and emptied.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use chrono::TimeDelta;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use sha2::{Digest as _, Sha256};

use super::{Capabilities, Class, Cloud, Error, Marks, Order, Rate, Vm};
use crate::api::Time;
use crate::runtime::clock;

/// What a cloud lets one credential do, as a bucket of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// At once.
    pub burst: f64,
    /// How many come back in a second.
    pub per_second: f64,
    /// VMs on one page of a list: what a list costs shows when it is there.
    pub page: usize,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Has no claim to the room that is kept.
    Create,
    /// Lists, looks for an attempt, deletes.
    Keep,
}

/// The part of the room kept for [`Purpose::Keep`].
const KEPT: f64 = 0.2;
/// After a refusal without a time: this long, then twice as long, and so on.
const FIRST_PAUSE: TimeDelta = TimeDelta::seconds(1);
const LONGEST_PAUSE: TimeDelta = TimeDelta::seconds(64);

/// The limiter's state. Pure: time is an argument, and one that goes back is one that stands still.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    budget: Budget,
    /// Requests left; below 0 after a list that was longer than thought.
    left: f64,
    at: Time,
    /// The cloud does not want to be asked before.
    closed_until: Option<Time>,
    next_pause: TimeDelta,
}

impl Bucket {
    /// A full one.
    pub fn new(budget: Budget, now: Time) -> Self {
        Self { budget, left: budget.burst, at: now, closed_until: None, next_pause: FIRST_PAUSE }
    }

    /// Takes room for one request; if there is none, how long to wait before it is worth asking again.
    pub fn take(&mut self, purpose: Purpose, now: Time) -> Result<(), Duration> {
        self.refill(now);
        if let Some(until) = self.closed_until.filter(|until| *until > now) {
            return Err((until - now).to_std().unwrap_or_default());
        }
        let kept = if purpose == Purpose::Create { self.budget.burst * KEPT } else { 0.0 };
        let missing = kept + 1.0 - self.left;
        if missing > 0.0 {
            // At least a moment: an answer of no time at all would be asked again at once.
            let wait = (missing / self.budget.per_second.max(0.001)).clamp(0.1, 3600.0);
            return Err(Duration::from_secs_f64(wait));
        }
        self.left -= 1.0;
        Ok(())
    }

    /// What an answer of the cloud means for those after it.
    pub fn heard(&mut self, rate: Rate, class: Option<Class>, now: Time) {
        self.refill(now);
        if let Some(remaining) = rate.remaining {
            self.left = self.left.min(f64::from(remaining));
        }
        let told = match class {
            Some(Class::Throttled(Some(pause))) => TimeDelta::from_std(pause).ok().map(|pause| now + pause),
            Some(Class::Throttled(None)) if rate.backoff_until.is_none() => {
                let pause = self.next_pause;
                self.next_pause = (pause * 2).min(LONGEST_PAUSE);
                Some(now + pause)
            }
            None => {
                self.next_pause = FIRST_PAUSE;
                None
            }
            Some(_) => None,
        };
        // The latest counts: requests that were under way together are answered in any order.
        self.closed_until = self.closed_until.into_iter().chain(told).chain(rate.backoff_until).max();
    }

    /// What a list of so many VMs cost beyond its first page.
    pub fn listed(&mut self, vms: usize) {
        let pages = u32::try_from(vms / self.budget.page.max(1)).unwrap_or(u32::MAX);
        self.left -= f64::from(pages);
    }

    /// When the cloud may be asked again, if it said so.
    pub fn closed_until(&self, now: Time) -> Option<Time> {
        self.closed_until.filter(|until| *until > now)
    }

    fn refill(&mut self, now: Time) {
        #[allow(clippy::cast_precision_loss, reason = "milliseconds between two requests")]
        let seconds = (now - self.at).num_milliseconds().max(0) as f64 / 1000.0;
        self.left = (self.left + seconds * self.budget.per_second).min(self.budget.burst);
        self.at = self.at.max(now);
    }
}

/// One credential's limiter.
#[derive(Debug)]
pub struct Limiter(Mutex<Bucket>);

impl Limiter {
    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limiters of the process, by credential.
#[derive(Debug, Default)]
pub struct Limiters(Mutex<HashMap<[u8; 32], Weak<Limiter>>>);

impl Limiters {
    /// The limiter of that credential of that cloud; only a hash of it is kept. It lives as long as somebody uses it.
    pub fn of(&self, cloud: &str, credential: &str, budget: Budget) -> Arc<Limiter> {
        let key = Sha256::new().chain_update(cloud).chain_update([0]).chain_update(credential).finalize().into();
        let mut limiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limiters.retain(|_, limiter| limiter.strong_count() > 0);
        limiters.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            let limiter = Arc::new(Limiter(Mutex::new(Bucket::new(budget, clock::now()))));
            limiters.insert(key, Arc::downgrade(&limiter));
            limiter
        })
    }
}

/// A cloud that is asked only when there is room.
pub struct Limited {
    cloud: Arc<dyn Cloud>,
    limiter: Arc<Limiter>,
    settle: Option<u32>,
}

impl Limited {
    /// `limiter`: that of the cloud's credential. `settle`: seconds, where they are known better than by the provider.
    pub fn new(cloud: Arc<dyn Cloud>, limiter: Arc<Limiter>, settle: Option<u32>) -> Self {
        Self { cloud, limiter, settle }
    }

    async fn ask<'a, T>(&'a self, purpose: Purpose, call: impl FnOnce() -> BoxFuture<'a, Result<T, Error>>) -> Result<T, Error> {
        let room = self.limiter.bucket().take(purpose, clock::now());
        room.map_err(|wait| Error { class: Class::Throttled(Some(wait)), message: "not asked, to stay within the cloud's limit".into() })?;
        let answer = call().await;
        self.limiter.bucket().heard(self.cloud.rate(), answer.as_ref().err().map(|error| error.class), clock::now());
        answer
    }
}

impl Cloud for Limited {
    fn list<'a>(&'a self, pool: &'a str) -> BoxFuture<'a, Result<Vec<Vm>, Error>> {
        async move {
            let vms = self.ask(Purpose::Keep, move || self.cloud.list(pool)).await?;
            self.limiter.bucket().listed(vms.len());
            Ok(vms)
        }
        .boxed()
    }

    fn find<'a>(&'a self, marks: &'a Marks) -> BoxFuture<'a, Result<Option<Vm>, Error>> {
        self.ask(Purpose::Keep, move || self.cloud.find(marks)).boxed()
    }

    fn create<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Vm, Error>> {
        self.ask(Purpose::Create, move || self.cloud.create(order)).boxed()
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        self.ask(Purpose::Keep, move || self.cloud.delete(id)).boxed()
    }

    fn capabilities(&self) -> Capabilities {
        let own = self.cloud.capabilities();
        Capabilities { settle_seconds: self.settle.unwrap_or(own.settle_seconds), ..own }
    }

    fn rate(&self) -> Rate {
        let closed = self.limiter.bucket().closed_until(clock::now());
        let rate = self.cloud.rate();
        Rate { backoff_until: rate.backoff_until.max(closed), ..rate }
    }

    fn budget(&self) -> Option<Budget> {
        Some(self.limiter.bucket().budget)
    }
}

#[cfg(test)]
#[path = "limiter_tests.rs"]
mod tests;
