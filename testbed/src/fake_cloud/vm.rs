//! A VM's whole life, as moments: what it is doing at any time follows from them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;

use super::knobs::Refusal;
use super::{Dialect, Time};

/// What a VM was ordered with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Order {
    /// Name or label.
    pub name: String,
    /// Region, zone or location.
    pub place: String,
    /// Size, plan or type.
    pub kind: String,
    /// Image.
    pub image: String,
    /// What it boots with, plain text.
    pub user_data: String,
    /// Tags and labels. Flat tags have an empty value.
    pub tags: BTreeMap<String, String>,
    /// Network tags, where clouds have them besides.
    pub network_tags: Vec<String>,
    /// Cheaper, and may be taken away.
    pub spot: bool,
    /// Idempotency token.
    pub token: Option<String>,
    /// The rest of the request, as it came.
    pub rest: BTreeMap<String, Value>,
}

/// A VM that is or was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// Counts all VMs from 1; dialects show it each in their own way.
    pub id: u64,
    /// The cloud it is in.
    pub dialect: Dialect,
    /// The account that has it.
    pub account: String,
    /// What it was ordered with.
    #[serde(flatten)]
    pub order: Order,
    /// Its address, from before it is told.
    pub address: IpAddr,
    /// When it was ordered.
    pub born: Time,
    /// When it boots, if nothing comes between.
    pub boots: Time,
    /// When its address is told.
    pub addressed: Time,
    /// When it may be deleted.
    pub unlocked: Time,
    /// When it was asked to be deleted.
    pub doomed: Option<Time>,
    /// When it stopped by itself, or will.
    pub stops: Option<Time>,
    /// When it is gone, or will be, and why.
    pub ends: Option<(Time, End)>,
}

/// Why a VM is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Somebody deleted it.
    Deleted,
    /// It died by itself.
    Vanished,
    /// It never came to be.
    Failed(Refusal),
}

/// What a VM is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Ordered, not yet running.
    Starting,
    /// Running.
    Running,
    /// There, switched off.
    Stopped,
    /// Being deleted.
    Deleting,
    /// Gone.
    Gone,
}

impl Vm {
    /// What it is, or was, doing at a time since its birth.
    pub fn phase(&self, at: Time) -> Phase {
        let reached = |moment: Option<Time>| moment.is_some_and(|moment| moment <= at);
        if reached(self.gone()) {
            Phase::Gone
        } else if reached(self.doomed) {
            Phase::Deleting
        } else if reached(self.stops) {
            Phase::Stopped
        } else if self.boots <= at {
            Phase::Running
        } else {
            Phase::Starting
        }
    }

    /// Its address as far as it was told at a time.
    pub fn told_address(&self, at: Time) -> Option<IpAddr> {
        (self.addressed <= at).then_some(self.address)
    }

    /// Whether it was ordered and not gone at a time.
    pub fn is_alive(&self, at: Time) -> bool {
        self.born <= at && self.phase(at) != Phase::Gone
    }

    /// Whether its machine ran at a time.
    pub fn is_serving(&self, at: Time) -> bool {
        self.born <= at && self.phase(at) == Phase::Running
    }

    /// When it is gone.
    pub fn gone(&self) -> Option<Time> {
        self.ends.as_ref().map(|(at, _)| *at)
    }

    /// When its machine ends, if it ever runs.
    pub fn halts(&self) -> Option<Time> {
        [self.gone(), self.doomed, self.stops].into_iter().flatten().min()
    }

    /// Whether its machine ever runs, as things stand.
    pub fn ever_boots(&self) -> bool {
        self.halts().is_none_or(|halts| self.boots < halts)
    }

    /// All its moments.
    pub fn moments(&self) -> impl Iterator<Item = Time> + use<> {
        [Some(self.born), Some(self.boots), self.doomed, self.stops, self.gone()].into_iter().flatten()
    }

    /// The value of a mark: its name, or a tag or label, or the rest of a flat tag that begins with `key:` or `key=`.
    pub fn mark(&self, key: &str) -> Option<&str> {
        let tags = &self.order.tags;
        if key == "name" {
            return Some(&self.order.name);
        }
        tags.get(key).map(String::as_str).filter(|value| !value.is_empty()).or_else(|| {
            let flat = tags.iter().filter(|(_, value)| value.is_empty());
            flat.into_iter().find_map(|(tag, _)| tag.strip_prefix(key)?.strip_prefix([':', '=']))
        })
    }
}
