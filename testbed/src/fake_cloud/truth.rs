//! What really happened, for tests to compare with what was believed.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::state::State;
use super::vm::Vm;
use super::{Call, Dialect, Time};

/// Everything that happened until [`Truth::now`].
#[derive(Clone, Debug)]
pub struct Truth {
    /// When it was asked for.
    pub now: Time,
    /// Every VM that ever was, from the oldest.
    pub vms: Vec<Vm>,
    /// How often each call was made, whatever came of it.
    pub calls: BTreeMap<(Dialect, Call), u64>,
}

/// VMs that should be one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Twins {
    /// What they have in common.
    pub key: Vec<String>,
    /// Their ids.
    pub vms: Vec<u64>,
    /// The highest number of them that were there at the same time. 1: one after the other.
    pub at_once: usize,
}

/// How many VMs there were from a moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// From then on, until the next.
    pub at: Time,
    /// Ordered and not yet gone.
    pub alive: usize,
    /// Running.
    pub serving: usize,
}

impl Truth {
    pub(super) fn of(state: &State, now: Time) -> Self {
        Self { now, vms: state.vms().to_vec(), calls: state.calls().clone() }
    }

    /// The same with only some of the VMs.
    #[must_use]
    pub fn only(mut self, keep: impl Fn(&Vm) -> bool) -> Self {
        self.vms.retain(keep);
        self
    }

    /// The VMs that are there now.
    pub fn alive(&self) -> impl Iterator<Item = &Vm> {
        self.vms.iter().filter(|vm| vm.is_alive(self.now))
    }

    /// How often a call was made, in all dialects.
    pub fn called(&self, call: Call) -> u64 {
        self.calls.iter().filter(|((_, other), _)| *other == call).map(|(_, times)| times).sum()
    }

    /// The number of VMs over time: one entry for each change, the first at the first birth.
    pub fn counts(&self) -> Vec<Count> {
        let moments: BTreeSet<Time> = self.vms.iter().flat_map(Vm::moments).filter(|at| *at <= self.now).collect();
        let count = |at| Count {
            at,
            alive: self.vms.iter().filter(|vm| vm.is_alive(at)).count(),
            serving: self.vms.iter().filter(|vm| vm.is_serving(at)).count(),
        };
        let mut counts: Vec<Count> = moments.into_iter().map(count).collect();
        counts.dedup_by_key(|count| (count.alive, count.serving));
        counts
    }

    /// The lowest numbers of VMs (alive, serving) there were at any moment from `since` until now.
    pub fn lowest(&self, since: Time) -> (usize, usize) {
        let counts = self.counts();
        let before = counts.partition_point(|count| count.at <= since);
        // What was there when it began counts as well; before the first birth nothing was.
        let (past, since) = counts.split_at(before);
        let at_first = past.last().map_or((0, 0), |count| (count.alive, count.serving));
        since.iter().fold(at_first, |(alive, serving), count| (alive.min(count.alive), serving.min(count.serving)))
    }

    /// The highest number of VMs that were there at the same time.
    pub fn highest(&self) -> usize {
        self.counts().iter().map(|count| count.alive).max().unwrap_or_default()
    }

    /// VMs that have all these marks in common (see [`Vm::mark`]): for a pool's uid, slot and epoch there must not be any.
    pub fn twins(&self, marks: &[&str]) -> Vec<Twins> {
        self.twins_by(|vm| marks.iter().map(|mark| vm.mark(mark).map(ToOwned::to_owned)).collect())
    }

    /// VMs with the same key. Those without one are left out.
    pub fn twins_by(&self, key: impl Fn(&Vm) -> Option<Vec<String>>) -> Vec<Twins> {
        let mut groups: BTreeMap<Vec<String>, Vec<Vm>> = BTreeMap::new();
        for vm in &self.vms {
            if let Some(key) = key(vm) {
                groups.entry(key).or_default().push(vm.clone());
            }
        }
        let several = groups.into_iter().filter(|(_, vms)| vms.len() > 1);
        let twins = several.map(|(key, vms)| {
            let ids = vms.iter().map(|vm| vm.id).collect();
            Twins { key, vms: ids, at_once: Self { now: self.now, vms, calls: BTreeMap::new() }.highest() }
        });
        twins.collect()
    }
}
