//! What is listed, sorted: which VMs serve, which are dead, and whose place each holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::api::Time;
use crate::cloud::{Marks, Phase, Vm};

use super::model::{Health, Observation};
use super::wish::Wish;

/// How a VM stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Running, and its last probe succeeded: it counts as available.
    Serving,
    /// Still within its startupTimeout and not healthy yet.
    Pending,
    /// Running; nobody has probed it yet.
    Unknown,
    /// It fails its probes, not often enough to be called dead.
    Ailing,
    /// By its probes it is dead, or it missed its startupTimeout.
    Dead,
    /// The cloud itself says that it does not run.
    Stopped,
    /// The cloud is deleting it.
    Going,
}

/// One VM and what is made of it.
#[derive(Clone, Copy, Debug)]
pub struct Proxy<'a> {
    /// As listed.
    pub vm: &'a Vm,
    /// How it stands.
    pub standing: Standing,
    /// When it reaches its age limit.
    pub expires: Option<Time>,
    /// It is past its age limit.
    pub aged: bool,
    /// It was made from something else than what is wanted now.
    pub drifted: bool,
    /// It was never seen healthy.
    pub never_healthy: bool,
}

impl Proxy<'_> {
    /// It counts as available.
    pub fn serves(&self) -> bool {
        self.standing == Standing::Serving
    }

    /// It is there to stay, as far as the cloud is concerned.
    pub fn stays(&self) -> bool {
        self.standing != Standing::Going
    }

    /// It should be removed for its health.
    pub fn is_dead(&self) -> bool {
        matches!(self.standing, Standing::Dead | Standing::Stopped)
    }

    /// Its address, or its id while it has none: what log lines call it.
    pub fn called(&self) -> String {
        called(self.vm)
    }
}

/// A VM's address, or its id while it has none.
pub fn called(vm: &Vm) -> String {
    vm.address.map_or_else(|| vm.id.clone(), |a| a.to_string())
}

/// Every listed VM that carries the pool's UID (rule I10), oldest first.
#[derive(Clone, Debug, Default)]
pub struct Census<'a> {
    /// Those whose marks say which they are.
    pub proxies: Vec<Proxy<'a>>,
    /// Those whose marks do not. They count as VMs (rule I3) and go with the pool; nothing else is ever decided about them.
    pub unreadable: Vec<Proxy<'a>>,
    /// Where each is among the proxies: a pool may have ten thousand, and is looked at whole each time.
    ids: HashMap<&'a str, usize>,
    slots: BTreeMap<u32, Vec<usize>>,
}

/// How far a clock may be wrong.
const SKEW: chrono::TimeDelta = chrono::TimeDelta::days(1);

/// Whether marks say which VM this is. What nobody here can have written says as little as what cannot be parsed.
fn is_readable(marks: &Marks, now: Time) -> bool {
    marks.readable() && marks.epoch < u32::MAX && marks.born - now <= SKEW
}

impl<'a> Census<'a> {
    /// Sorts what is listed.
    pub fn take(obs: &'a Observation, wish: &Wish, now: Time) -> Self {
        let listed = obs.list.iter().flat_map(|l| &l.vms).filter(|vm| vm.marks.pool == obs.meta.uid);
        let mut proxies: Vec<_> = listed.map(|vm| judge(vm, obs, wish, now)).collect();
        proxies.sort_by(|a, b| (a.vm.marks.born, &a.vm.id).cmp(&(b.vm.marks.born, &b.vm.id)));
        let (proxies, unreadable): (Vec<_>, Vec<_>) = proxies.into_iter().partition(|p| is_readable(&p.vm.marks, now));
        let ids = proxies.iter().enumerate().map(|(at, p)| (p.vm.id.as_str(), at)).collect();
        let mut slots: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, proxy) in proxies.iter().enumerate() {
            slots.entry(proxy.vm.marks.slot).or_default().push(at);
        }
        Self { proxies, unreadable, ids, slots }
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = Proxy<'a>> {
        self.proxies.iter().chain(&self.unreadable).copied()
    }

    /// The VM with that id.
    pub fn by_id(&self, id: &str) -> Option<Proxy<'a>> {
        self.proxies.get(*self.ids.get(id)?).copied()
    }

    /// The VMs of a slot, oldest first.
    pub fn in_slot(&self, slot: u32) -> impl Iterator<Item = Proxy<'a>> {
        self.slots.get(&slot).into_iter().flatten().filter_map(|at| self.proxies.get(*at)).copied()
    }

    /// The VM that holds that place: of several the oldest that serves, else the oldest that is not dead (rule I5).
    pub fn holder(&self, slot: u32, epoch: u32) -> Option<Proxy<'a>> {
        let rank = |p: &Proxy| match p.standing {
            Standing::Serving => 0,
            Standing::Pending | Standing::Unknown | Standing::Ailing => 1,
            Standing::Dead | Standing::Stopped => 2,
            Standing::Going => 3,
        };
        self.in_slot(slot).filter(|p| p.vm.marks.epoch == epoch).min_by_key(rank)
    }

    /// The slots that any VM holds.
    pub fn slots(&self) -> BTreeSet<u32> {
        self.slots.keys().copied().collect()
    }

    /// Epochs of a slot whose VMs are there to stay, with their holders, newest last.
    pub fn epochs(&self, slot: u32) -> BTreeMap<u32, Proxy<'a>> {
        let epochs: BTreeSet<u32> = self.in_slot(slot).filter(Proxy::stays).map(|p| p.vm.marks.epoch).collect();
        epochs.into_iter().filter_map(|epoch| Some((epoch, self.holder(slot, epoch)?))).collect()
    }

    /// Whether so many are dead by their probes at once that the probes cannot be right (rule I9). One is always believed.
    pub fn doubts(&self, wish: &Wish) -> Option<(usize, usize)> {
        let all = self.proxies.iter().filter(|p| p.stays()).count();
        let dead = self.proxies.iter().filter(|p| p.standing == Standing::Dead).count();
        let percent = usize::try_from(wish.health.max_unhealthy_percent).unwrap_or(100);
        (dead > 1 && dead * 100 > all * percent).then_some((dead, all))
    }
}

fn judge<'a>(vm: &'a Vm, obs: &Observation, wish: &Wish, now: Time) -> Proxy<'a> {
    let health = obs.health_of(&vm.id);
    let is_late = now - vm.marks.born >= to_delta(wish.health.startup_timeout);
    let enough = wish.health.failure_threshold;
    let standing = match (vm.phase, health) {
        (Phase::Deleting, _) => Standing::Going,
        (Phase::Stopped, _) => Standing::Stopped,
        (Phase::Running, Health::Healthy) => Standing::Serving,
        // What has no address, or does not run, cannot even be probed.
        _ if is_late && (vm.address.is_none() || vm.phase == Phase::Starting) => Standing::Dead,
        (Phase::Running, Health::NotYet { failures }) if is_late && failures >= enough => Standing::Dead,
        (Phase::Running, Health::Unhealthy { failures }) if failures >= enough => Standing::Dead,
        (Phase::Running, Health::Unhealthy { .. }) => Standing::Ailing,
        (Phase::Running, Health::Unknown) if vm.address.is_some() => Standing::Unknown,
        (Phase::Starting | Phase::Running, _) => Standing::Pending,
    };
    let expires = expiry(wish, &vm.marks);
    Proxy {
        vm,
        standing,
        expires,
        aged: expires.is_some_and(|t| t <= now),
        drifted: vm.marks.template != obs.template,
        never_healthy: matches!(health, Health::NotYet { .. }),
    }
}

/// When a VM reaches its age limit: earlier than the limit by its own share of the jitter, the same at every look.
pub fn expiry(wish: &Wish, marks: &Marks) -> Option<Time> {
    let limit = wish.age_limit?;
    if wish.jitter_percent == 0 {
        return marks.born.checked_add_signed(to_delta(limit));
    }
    let digest = Sha256::digest(format!("{} {} {}", marks.pool, marks.slot, marks.epoch));
    let (high, low) = (digest.first().copied().unwrap_or(0), digest.get(1).copied().unwrap_or(0));
    let share = f64::from(u16::from_be_bytes([high, low])) / 65536.0;
    marks.born.checked_add_signed(to_delta(limit.mul_f64(1.0 - share * f64::from(wish.jitter_percent) / 100.0)))
}

/// A duration as times are calculated with.
pub fn to_delta(duration: Duration) -> chrono::TimeDelta {
    chrono::TimeDelta::from_std(duration).unwrap_or(chrono::TimeDelta::MAX)
}
