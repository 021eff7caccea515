//! Pods mode: whom the apex may select, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aether_operator::api::{Ratio, State, Time};
use aether_operator::cluster::facts::Kind;

use super::invariants::{Checked, Checker, ensure};
use super::truth::{self, find, picked, ready_endpoints, revision_of};
use super::world::{Objects, int, is_deleting, is_ready, strings, text};
use super::writes::Written;

/// After the death of a pod the Service is whole again within this time.
const HEALS: Duration = Duration::from_secs(30);

/// The EndpointSlice controller needs a moment to follow a new selector.
const FOLLOWS: Duration = Duration::from_secs(5);

/// Who is behind the apex.
#[derive(Default)]
pub struct Seen {
    /// Ready pods that its selector picks.
    serving: BTreeSet<String>,
    /// So many of them are not of the live version.
    others: usize,
    /// So many its slices show.
    shown: usize,
    selector: BTreeMap<String, String>,
    /// Every ready pod of the application.
    ready: BTreeSet<String>,
}

/// Who was behind the apex lately.
pub struct Service {
    /// Pods that the application had when all was quiet.
    pub size: usize,
    seen: Seen,
    /// Since when so many are not of the live version.
    shifted: Time,
    /// Since when it has that selector.
    turned: Time,
    /// When a pod has died.
    died: Option<Time>,
    /// When one that served has, until as many serve again.
    hurt: Option<Time>,
}

impl Service {
    pub fn new(size: i64, now: Time) -> Self {
        let size = usize::try_from(size).unwrap();
        Self { size, seen: Seen::default(), shifted: now, turned: now, died: None, hurt: None }
    }

    /// `slack`: so late the operator may hear of a death.
    pub fn remember(&mut self, seen: Seen, slack: Duration, now: Time) {
        if !self.seen.ready.is_subset(&seen.ready) {
            self.died = Some(now);
        }
        let unheard = self.died.is_some_and(|at| now <= at + slack) && seen.serving.len() < self.size;
        if !self.seen.serving.is_subset(&seen.ready) || (unheard && seen.serving != self.seen.serving) {
            self.hurt = Some(now);
        } else if seen.shown.min(seen.serving.len()) >= self.size {
            self.hurt = None;
        }
        if self.seen.others != seen.others {
            self.shifted = now;
        }
        if self.seen.selector != seen.selector {
            self.turned = now;
        }
        self.seen = seen;
    }
}

impl Checker {
    /// Ready pods behind the apex, by its selector.
    pub fn in_service(&self, objects: &Objects) -> BTreeSet<String> {
        picked(objects, &self.apex).into_iter().filter(|p| is_ready(p)).map(|p| text(p, "/metadata/name").to_owned()).collect()
    }

    pub fn see(&self, objects: &Objects) -> Seen {
        let ready = truth::all(objects, Kind::Pod).filter(|(_, p)| truth::is_part_of(p, &self.workload) && is_ready(p));
        let serving = self.in_service(objects);
        Seen {
            others: self.of_another(objects, &serving),
            serving,
            shown: ready_endpoints(objects, &self.apex).len(),
            selector: find(objects, Kind::Service, &self.apex).map(|s| strings(s, "/spec/selector")).unwrap_or_default(),
            ready: ready.map(|(name, _)| name.to_owned()).collect(),
        }
    }

    /// Of these pods, how many are not of the live version.
    fn of_another(&self, objects: &Objects, pods: &BTreeSet<String>) -> usize {
        pods.iter().filter_map(|p| find(objects, Kind::Pod, p)).filter(|p| revision_of(p) != self.live).count()
    }

    pub fn wanted(objects: &Objects, version: &str) -> usize {
        let deployments =
            truth::all(objects, Kind::Deployment).filter(|(_, d)| truth::revision_run(objects, d) == version && !is_deleting(d));
        deployments.map(|(_, d)| usize::try_from(int(d, "/spec/replicas")).unwrap()).max().unwrap_or_default()
    }

    /// R11 by pods: no more of another version than the ratio comes to, none of it at 0 %; and never fewer in all than before.
    pub fn endpoints(&self, objects: &Objects, now: Time) -> Checked {
        let (all, state) = (picked(objects, &self.apex), self.state(objects));
        let others = all.iter().filter(|p| revision_of(p) != self.live).count();
        let most = self.most(objects, state, now);
        ensure(most > 0 || others == 0, "R11", || {
            format!("Service {} selects {others} pods that are not of {} in {state}", self.apex, self.live)
        })?;
        let serving = self.in_service(objects);
        let others = self.of_another(objects, &serving);
        ensure(others <= most, "share", || format!("{others} pods of another version serve in {state}; at most {most} may"))?;
        let healing = self.service.hurt.is_some_and(|since| now < since + HEALS);
        let floor = self.floor(objects, state);
        let shown = ready_endpoints(objects, &self.apex);
        let follows = now < self.service.turned + FOLLOWS;
        for pods in [Some(serving), Some(shown).filter(|_| !follows)].into_iter().flatten() {
            ensure(healing || pods.len() >= floor, "size", || {
                format!("{} pods serve in {state}, {floor} did before: {pods:?}", pods.len())
            })?;
        }
        Ok(())
    }

    /// As many serve as did before; on the new version alone no more than it is to have.
    fn floor(&self, objects: &Objects, state: State) -> usize {
        let alone = truth::revision_behind(objects, &self.apex).is_some_and(|v| v != self.live);
        match state {
            State::Deploying | State::Deployed | State::Routing | State::Completing | State::RollingBack if alone => {
                let version = truth::revision_behind(objects, &self.apex).unwrap_or_default();
                self.service.size.min(Self::wanted(objects, &version))
            }
            State::Deploying | State::Deployed | State::Routing | State::Completing | State::RollingBack => {
                self.service.size.min(Self::wanted(objects, &self.live))
            }
            _ => 0,
        }
    }

    /// So many pods of another version may serve.
    fn most(&self, objects: &Objects, state: State, now: Time) -> usize {
        match state {
            State::Completing | State::Completed | State::Pending => usize::MAX,
            // There is nobody to go back to, or not yet.
            State::RollingBack if self.comes_back(now) => usize::MAX,
            State::Deployed | State::Routing => {
                let next = self.orders.iter().filter_map(|(_, spec)| Some(self.wanted_next(spec)?.ratio));
                next.chain([self.on_record()]).map(|ratio| self.share(objects, ratio)).max().unwrap_or_default()
            }
            _ => 0,
        }
    }

    /// Pods of the new version that a ratio comes to, rounded down; from x:0 on, all.
    fn share(&self, objects: &Objects, ratio: Ratio) -> usize {
        if ratio.is_all_new() {
            return usize::MAX;
        }
        let (new, old) = ratio.reduced();
        let size = self.service.size.max(Self::wanted(objects, &self.live));
        usize::try_from(u64::from(new) * size as u64 / (u64::from(new) + u64::from(old))).unwrap()
    }

    /// Pods and selectors: always a pod in before a pod out, and more of the new version only as decided.
    pub fn enlisting(&self, w: &Written<'_>) -> Checked {
        let (before, after) = (self.in_service(w.before), self.in_service(w.after));
        let floor = self.floor(w.before, self.state(w.before));
        if w.kind == Kind::Pod && !before.is_subset(&after) {
            let seen = ready_endpoints(w.before, &self.apex).intersection(&after).count();
            ensure(self.service.hurt.is_some() || seen >= floor, "size", || {
                format!("{} went out of service while {seen} others were seen to serve, not {floor}", w.name)
            })?;
        }
        if self.of_another(w.after, &after) <= self.of_another(w.before, &before) {
            return Ok(());
        }
        let (state, others) = (self.state(w.before), self.of_another(w.after, &after));
        let back = matches!(state, State::RollingBack | State::RolledBack | State::Failed);
        ensure(!back, "R3", || format!("{others} pods of another version serve after {} was written in {state}", w.name))?;
        ensure(matches!(state, State::Deployed | State::Routing | State::Completing), "R4", || {
            format!("{others} serve already in {state}")
        })?;
        if others <= self.share(w.before, self.on_record()) {
            return Ok(());
        }
        let rested = (w.now - self.recorded.1.min(self.service.shifted)).to_std().unwrap_or_default();
        ensure(rested >= self.settle, "settle", || format!("{others} serve, {rested:?} after {} was put on record", self.recorded.0))?;
        let version = find(w.after, Kind::RollingUpdate, &self.update).map(|u| self.brought_out(u)).unwrap_or_default();
        let (ready, all) = (self.ready_lately(&version), Self::wanted(w.before, &version));
        ensure(self.is_decided(ready >= all, |ratio| others <= self.share(w.before, ratio)), "R4", || {
            format!("{others} pods of another version serve with {ready} of {all} ready, and nobody has ordered it")
        })
    }
}
