//! Pods mode: whom the apex may select, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aether_operator::api::{Ratio, State, Time, names};
use aether_operator::cluster::facts::Kind;
use serde_json::Value;

use super::invariants::{Checked, Checker, ensure};
use super::truth::{self, find, picked, ready_endpoints, revision_of};
use super::world::{Objects, int, is_deleting, is_ready, strings, text};
use super::writes::Written;

/// After the death of a pod the Service is whole again within this time.
pub const HEALS: Duration = Duration::from_secs(30);

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
    /// The version behind it, where that is one that is not live, and how many pods it is to have.
    alone: Option<(String, usize)>,
    /// The live version alone is behind it.
    is_live: bool,
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
    /// So late the operator may hear of a death.
    slack: Duration,
    /// So many pods a version that is not live was to have when the Service came to it, or has had since.
    alone: usize,
    /// Since when more of another version serve than may, and how many did when they still might.
    over: Option<(Time, usize)>,
}

impl Service {
    pub fn new(size: i64, now: Time) -> Self {
        let size = usize::try_from(size).unwrap();
        let slack = Duration::ZERO;
        Self { size, seen: Seen::default(), shifted: now, turned: now, died: None, hurt: None, slack, alone: 0, over: None }
    }

    /// From now on it heals.
    pub fn is_hurt(&mut self, now: Time) {
        self.hurt = Some(now);
    }

    /// So many pods of another version may serve from now on: those that are too many were right until now.
    pub fn allow(&mut self, most: usize, seen: &Seen, now: Time) {
        self.over = (seen.others > most).then(|| self.over.unwrap_or((now, self.seen.others)));
    }

    /// A pod has died, and the operator may not have heard of it.
    fn is_unheard(&self, now: Time) -> bool {
        self.died.is_some_and(|at| now <= at + self.slack)
    }

    /// `slack`: so late the operator may hear of a death.
    pub fn remember(&mut self, seen: Seen, slack: Duration, now: Time) {
        if !self.seen.ready.is_subset(&seen.ready) {
            self.died = Some(now);
        }
        self.slack = slack;
        let few = seen.serving.len() < self.size;
        let unheard = self.is_unheard(now) && few;
        // A rollback waits for nobody: a pod of the old version that has just died is not there yet.
        let comes_back = seen.is_live && !self.seen.is_live && few && self.died.is_some_and(|at| now < at + HEALS);
        if comes_back || !self.seen.serving.is_subset(&seen.ready) || (unheard && seen.serving != self.seen.serving) {
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
        self.alone = match &seen.alone {
            Some((version, _)) if self.seen.alone.as_ref().is_some_and(|(v, _)| v == version) => self.alone.max(seen.serving.len()),
            Some((_, wanted)) => *wanted,
            None => 0,
        };
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
        let behind = truth::revision_behind(objects, &self.apex);
        Seen {
            is_live: behind.as_ref() == Some(&self.live),
            alone: behind.filter(|v| *v != self.live).map(|v| (v.clone(), Self::wanted(objects, &v))),
            others: self.of_another(objects, &serving),
            serving,
            shown: ready_endpoints(objects, &self.apex).len(),
            selector: find(objects, Kind::Service, &self.apex).map(|s| strings(s, "/spec/selector")).unwrap_or_default(),
            ready: ready.map(|(name, _)| name.to_owned()).collect(),
        }
    }

    /// Of these pods, how many are not of the live version.
    fn of_another(&self, objects: &Objects, pods: &BTreeSet<String>) -> usize {
        pods.iter().filter_map(|p| find(objects, Kind::Pod, p)).filter(|p| self.is_of_another(objects, p)).count()
    }

    /// What the workload's own rollout goes through while it is not held is its owner's affair, and what it has left to end.
    fn is_of_another(&self, objects: &Objects, pod: &Value) -> bool {
        let is_owners = !strings(pod, "/metadata/labels").contains_key(names::REVISION);
        revision_of(pod) != self.live && !(is_owners && (self.is_let_go(objects) || is_deleting(pod)))
    }

    fn is_there(objects: &Objects, version: &str) -> bool {
        Self::wanted(objects, version) > 0 || truth::all(objects, Kind::Pod).any(|(_, p)| revision_of(p) == version && !is_deleting(p))
    }

    pub fn wanted(objects: &Objects, version: &str) -> usize {
        let deployments =
            truth::all(objects, Kind::Deployment).filter(|(_, d)| truth::revision_run(objects, d) == version && !is_deleting(d));
        deployments.map(|(_, d)| usize::try_from(int(d, "/spec/replicas")).unwrap()).max().unwrap_or_default()
    }

    /// R11 by pods: no more of another version than the ratio comes to, none of it at 0 %; and never fewer in all than before.
    pub fn endpoints(&self, objects: &Objects, now: Time) -> Checked {
        let (all, state) = (picked(objects, &self.apex), self.state(objects));
        let others = all.iter().filter(|p| self.is_of_another(objects, p)).count();
        let most = self.most(objects, state, now);
        ensure(most > 0 || others == 0, "R11", || {
            format!("Service {} selects {others} pods that are not of {} in {state}", self.apex, self.live)
        })?;
        let serving = self.in_service(objects);
        let others = self.of_another(objects, &serving);
        // Less was ordered: going back takes writes of many pods, each seen before the next, and never more than before serve meanwhile.
        let goes_back = self.service.over.is_some_and(|(since, before)| others <= before && now < since + HEALS);
        ensure(others <= most || goes_back, "share", || format!("{others} pods of another version serve in {state}; at most {most} may"))?;
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

    /// As many serve as did before; on the new version alone no more than it was to have, until it has had more.
    fn floor(&self, objects: &Objects, state: State) -> usize {
        let alone = truth::revision_behind(objects, &self.apex).filter(|v| *v != self.live);
        match state {
            State::Deploying | State::Deployed | State::Routing | State::Completing | State::RollingBack if alone.is_some() => {
                let wanted = Self::wanted(objects, &alone.unwrap_or_default());
                let has_had = if self.service.seen.alone.is_some() { self.service.alone } else { wanted };
                self.service.size.min(wanted).min(has_had)
            }
            State::Deploying | State::Deployed | State::Routing | State::Completing | State::RollingBack => {
                self.service.size.min(Self::wanted(objects, &self.live))
            }
            _ => 0,
        }
    }

    /// So many pods of another version may serve.
    pub fn most(&self, objects: &Objects, state: State, now: Time) -> usize {
        match state {
            State::Completing | State::Completed | State::Pending => usize::MAX,
            // There is nobody to go back to, or not yet.
            State::RollingBack if self.comes_back(now) => usize::MAX,
            State::Deployed | State::Routing => {
                let next = self.orders_lately().filter_map(|spec| Some(self.wanted_next(spec)?.ratio));
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
            ensure(self.service.hurt.is_some() || self.service.is_unheard(w.now) || seen >= floor, "size", || {
                format!("{} went out of service while {seen} others were seen to serve, not {floor}", w.name)
            })?;
        }
        if self.of_another(w.after, &after) <= self.of_another(w.before, &before) {
            return Ok(());
        }
        if !Self::is_there(w.before, &self.live) {
            // People have deleted the version that was live: whoever serves instead is better than nobody.
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
        // The first pod that goes beyond what is on record has waited; the others of the step come with it.
        let begun = self.of_another(w.before, &before) > self.share(w.before, self.on_record());
        ensure(begun || rested >= self.settle, "settle", || {
            format!("{others} serve, {rested:?} after {} was put on record", self.recorded.0)
        })?;
        let version = find(w.after, Kind::RollingUpdate, &self.update).map(|u| self.brought_out(u)).unwrap_or_default();
        let (ready, all) = (self.ready_lately(&version), Self::wanted(w.before, &version));
        ensure(self.is_decided(ready >= all, |ratio| others <= self.share(w.before, ratio)), "R4", || {
            format!("{others} pods of another version serve with {ready} of {all} ready, and nobody has ordered it")
        })
    }
}
