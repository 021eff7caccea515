//! Clouds: where proxies live, behind one trait.
//!
//! A cloud is the record of what exists (rule I11): each VM carries its [`Marks`], so that a pool is rebuilt
//! from one full list. No call here decides anything; [`crate::pool`] does, from plain data.

use std::fmt;
use std::net::IpAddr;

use chrono::DateTime;
use futures::future::BoxFuture;

use crate::api::Time;

pub mod account;
pub mod answer;
#[cfg(feature = "aws")]
pub mod aws;
pub mod digitalocean;
pub mod error;
pub mod gcp;
pub mod google;
pub mod hetzner;
pub mod http;
pub mod kubernetes;
pub mod limiter;
pub mod marks;
pub mod vultr;

pub use error::{Class, Error};

/// What each VM of a pool is tagged with, from its birth on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Marks {
    /// UID of the pool. Only what carries it is ever deleted (rule I10).
    pub pool: String,
    /// Place in the pool, from 0.
    pub slot: u32,
    /// How often the slot's proxy has been replaced.
    pub epoch: u32,
    /// Names one attempt to create; it is on record before the call is made (rule I6).
    pub nonce: String,
    /// Hash of what the VM was made from: another one means drift.
    pub template: String,
    /// When the call to create was decided.
    pub born: Time,
}

/// A VM as the cloud lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// The cloud's own id, the only thing a VM is deleted by.
    pub id: String,
    /// Its marks.
    pub marks: Marks,
    /// What it is doing.
    pub phase: Phase,
    /// Public address; clouds give it late.
    pub address: Option<IpAddr>,
}

/// What a VM is doing, in the words that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Ordered, being made or booting.
    Starting,
    /// Running, as far as the cloud knows.
    Running,
    /// It exists and does not run: switched off, stopped, preempted. It still counts and costs.
    Stopped,
    /// Being deleted. What is deleted is not listed.
    Deleting,
}

/// One attempt to create a VM. The same order given again must never make a second one where the cloud can prevent it.
#[derive(Clone, PartialEq, Eq)]
pub struct Order {
    /// Lower-case letters, digits and dashes, at most 63; made of pool, slot, epoch: the same for a repeated attempt.
    pub name: String,
    /// Tags.
    pub marks: Marks,
    /// The script the VM boots with, plain text. Holds credentials: never logged.
    pub user_data: String,
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("name", &self.name).field("marks", &self.marks).finish_non_exhaustive()
    }
}

/// What a cloud does for safety by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The same [`Order`] again answers with the first VM (EC2's ClientToken, Compute Engine's requestId).
    pub idempotent_create: bool,
    /// A second VM of that name is refused.
    pub unique_names: bool,
    /// How long after a create a list may not show it, in seconds.
    pub settle_seconds: u32,
}

/// What is left of the cloud's rate limit, as its last answer said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Requests left in this window; `None`: the cloud does not say.
    pub remaining: Option<u32>,
    /// Nothing may be asked before then.
    pub backoff_until: Option<Time>,
}

/// One account in one place of one cloud, with one kind of VM: what one pool needs.
pub trait Cloud: Send + Sync {
    /// Every VM that carries the pool's UID, all pages. An incomplete list is an error (rule I4).
    fn list<'a>(&'a self, pool: &'a str) -> BoxFuture<'a, Result<Vec<Vm>, Error>>;
    /// The VM made by that attempt, if it is there: after a create with unknown outcome (rule I7).
    fn find<'a>(&'a self, marks: &'a Marks) -> BoxFuture<'a, Result<Option<Vm>, Error>>;
    /// Asks for one VM. Returns when the cloud has taken the order; it need not be there yet.
    fn create<'a>(&'a self, order: &'a Order) -> BoxFuture<'a, Result<Vm, Error>>;
    /// Deletes by id. One that is gone already is no error. The caller has seen the pool's UID on it.
    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Error>>;
    /// What the cloud does by itself.
    fn capabilities(&self) -> Capabilities;
    /// What the cloud said about its rate limit.
    fn rate(&self) -> Rate;
    /// What the cloud lets this credential do. Default: not known.
    fn budget(&self) -> Option<limiter::Budget> {
        None
    }
}

/// An address that can be called; clouds write 0.0.0.0 or nothing where there is none yet.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().filter(|address| !address.is_unspecified())
}

/// When a cloud says that it made a VM.
fn time(text: Option<&str>) -> Option<Time> {
    DateTime::parse_from_rfc3339(text?).ok().map(|at| at.to_utc())
}

#[cfg(test)]
mod kinds;
#[cfg(test)]
mod scripted;

#[cfg(test)]
#[path = "cloud_tests.rs"]
mod tests;
