//! The rules, judged on what really exists when a call arrives, never on what the operator believes.

use aether_operator::api::ProxyPoolStatus;
use aether_operator::api::proxy_pool::Op;
use aether_operator::cloud::{Marks, Phase, Vm};
use aether_operator::pool::budget::Budget;
use aether_operator::pool::model::Deed;
use aether_operator::pool::wish::Wish;

use super::cloud::secs;
use super::world::World;

/// A rule that was broken, and how.
pub type Violation = (&'static str, String);

fn broken(rule: &'static str, how: String) -> Result<(), Violation> {
    Err((rule, how))
}

impl World {
    pub fn wish(&self) -> Wish {
        Wish::parse("pool", &self.spec, &self.defaults).unwrap()
    }

    /// I4: no create and no delete without a complete list that is newer than the last mutation, by the settle time.
    pub fn judge_list(&self, deed: &Deed, changed: Option<aether_operator::api::Time>) -> Result<(), Violation> {
        if matches!(deed, Deed::Hold | Deed::Release) {
            return Ok(());
        }
        let settle = secs(self.cloud.ways.settle.into());
        let listed = self.honest_list.as_ref().map(|(at, _)| *at);
        if self.list_failed {
            return broken("I4", format!("{deed:?} after a list that failed"));
        }
        if listed.is_none_or(|at| changed.is_some_and(|c| at < c + settle)) {
            return broken("I4", format!("{deed:?} with a list of {listed:?}, changed at {changed:?}"));
        }
        Ok(())
    }

    /// I3, I6, I7 and I11.
    pub fn judge_create(&mut self, marks: &Marks) -> Result<(), Violation> {
        if marks.pool != self.meta.uid {
            return broken("I11", format!("created with the marks of {}", marks.pool));
        }
        if self.cloud.switched {
            return broken("account", format!("slot {} is made in another account", marks.slot));
        }
        if !self.status.in_flight.iter().any(|f| f.nonce == marks.nonce && f.slot == marks.slot && f.epoch == marks.epoch) {
            return broken("I6", format!("create of slot {} epoch {} without its intent on record", marks.slot, marks.epoch));
        }
        if self.unknown.remove(&marks.nonce) && !self.looked.remove(&marks.nonce) {
            return broken("I7", format!("slot {} epoch {} asked for again without a look", marks.slot, marks.epoch));
        }
        self.looked.remove(&marks.nonce);
        let wish = self.wish();
        let uid = &self.meta.uid;
        let there = self.cloud.of(uid).filter(|r| !r.planted).count();
        if there >= usize::try_from(wish.max_scaling).unwrap() {
            return broken("I3", format!("create with {there} there and {} allowed", wish.max_scaling));
        }
        Ok(())
    }

    /// I5: at most one live VM per place, but for those the model has put there.
    pub fn judge_places(&self) -> Result<(), Violation> {
        let live: Vec<_> = self.cloud.of(&self.meta.uid).filter(|r| r.gone_at.is_none() && !r.planted).collect();
        for (at, one) in live.iter().enumerate() {
            for two in &live[at + 1..] {
                if (one.vm.marks.slot, one.vm.marks.epoch) == (two.vm.marks.slot, two.vm.marks.epoch) {
                    return broken("I5", format!("{} and {} share slot {}", one.vm.id, two.vm.id, one.vm.marks.slot));
                }
            }
        }
        Ok(())
    }

    /// I1, I2, I9 and I10.
    pub fn judge_delete(&mut self, id: &str) -> Result<(), Violation> {
        let Some(real) = self.cloud.real(id).cloned() else { return Ok(()) };
        if real.vm.marks.pool != self.meta.uid {
            return broken("I10", format!("{id} belongs to pool {}", real.vm.marks.pool));
        }
        if self.meta.deleting || real.gone_at.is_some() {
            return Ok(());
        }
        let claimed = self.status.evicted.iter().find(|e| e.vm_id.as_deref() == Some(id));
        if let Some(claimed) = claimed {
            let first = self.evicted.entry(claimed.entry.clone()).or_insert_with(|| id.to_owned());
            if first != id {
                return broken("evict", format!("{id} goes for {:?}, as {first} did already", claimed.entry));
            }
            return Ok(());
        }
        let (wish, probed) = (self.wish(), self.process.probes.get(id).copied().unwrap_or_default());
        let is_late = self.now - real.vm.marks.born >= chrono::TimeDelta::from_std(wish.health.startup_timeout).unwrap();
        // A list may be behind by the settle time, and it is what the operator has.
        let shown = self.shown(id).cloned().unwrap_or(real.vm.clone());
        let is_mute = is_late && (shown.address.is_none() || shown.phase == Phase::Starting);
        let fails = probed.failures >= wish.health.failure_threshold && (probed.was_healthy || is_late);
        if real.stopped {
            return Ok(());
        }
        let is_flown = self.status.in_flight.iter().any(|f| f.op != Op::Fill && f.replaces.as_deref() == Some(id));
        if is_mute || fails {
            // A second one may go for either reason, as may one that was marked for recycling and fails since. How old a
            // second one really is nobody can see: by its marks it is as late as the first.
            let by_health = self.judge_health_delete(id, &wish, &real.vm.marks);
            if by_health.is_ok() || !(real.planted || (is_flown && !is_mute)) {
                return by_health;
            }
        }
        self.judge_voluntary(id, &real.vm.marks, &wish)
    }

    /// That VM as the last list shows it.
    fn shown(&self, id: &str) -> Option<&Vm> {
        self.honest_list.iter().flat_map(|(_, vms)| vms).find(|vm| vm.id == id)
    }

    /// I9: not while so many fail at once, nor while the operator's own request fails.
    fn judge_health_delete(&self, id: &str, wish: &Wish, marks: &Marks) -> Result<(), Violation> {
        let threshold = wish.health.failure_threshold;
        let probed = self.process.probes.get(id).copied().unwrap_or_default();
        if marks.template != self.template && !probed.was_healthy {
            return Ok(());
        }
        let listed: Vec<_> = self.honest_list.iter().flat_map(|(_, vms)| vms).filter(|v| v.marks.pool == self.meta.uid).collect();
        let dead = |id: &str| self.process.probes.get(id).is_some_and(|p| p.failures >= threshold && p.was_healthy);
        let count = listed.iter().filter(|v| dead(&v.id) && v.phase == Phase::Running).count();
        let allowed = listed.len() * usize::try_from(wish.health.max_unhealthy_percent).unwrap();
        if self.direct == Some(false) || (count > 1 && count * 100 > allowed) {
            return broken("I9", format!("{id} goes for its health while {count} of {} fail", listed.len()));
        }
        Ok(())
    }

    /// I1 and I2.
    fn judge_voluntary(&mut self, id: &str, marks: &Marks, wish: &Wish) -> Result<(), Violation> {
        if !wish.rolling.enabled {
            return Ok(());
        }
        let budget = Budget::of(wish);
        let listed = self.honest_list.iter().flat_map(|(_, vms)| vms).filter(|v| v.marks.pool == self.meta.uid);
        let serves = |id: &str| self.process.probes.get(id).is_some_and(|p| p.ok);
        let left = listed
            .filter(|v| v.phase == Phase::Running && v.id != id && serves(&v.id))
            .filter(|v| !self.deleted.contains(&v.id) && self.cloud.real(&v.id).is_none_or(|r| r.gone_at.is_none()))
            .count();
        if left < usize::try_from(budget.floor).unwrap() {
            return broken("I1", format!("{id} goes and leaves {left} available, {} must stay", budget.floor));
        }
        let is_second = self.cloud.of(&self.meta.uid).any(|r| r.vm.id != id && r.planted && r.vm.marks.slot == marks.slot)
            || self.cloud.real(id).is_some_and(|r| r.planted);
        let has_no_address = self.shown(id).is_some_and(|vm| vm.address.is_none());
        let never_served = has_no_address || self.process.probes.get(id).is_some_and(|p| p.at.is_some() && !p.was_healthy);
        if is_second || never_served {
            return Ok(());
        }
        self.open.insert(marks.slot, marks.epoch);
        if self.open.len() > usize::try_from(budget.batch).unwrap() {
            return broken("I2", format!("slots {:?} are in flight, {} may be", self.open, budget.batch));
        }
        Ok(())
    }

    /// A slot is in flight until its old VM is gone and a newer one serves, or for good if it is not wanted any more.
    pub fn close_flights(&mut self) {
        let is_over = |slot: u32, epoch: u32| {
            let old = self.cloud.of(&self.meta.uid).any(|r| (r.vm.marks.slot, r.vm.marks.epoch) == (slot, epoch));
            let serves = |id: &str| self.process.probes.get(id).is_some_and(|p| p.ok);
            let new = self.cloud.of(&self.meta.uid).any(|r| r.vm.marks.slot == slot && r.vm.marks.epoch > epoch && serves(&r.vm.id));
            let removed = self.status.in_flight.iter().all(|f| f.slot != slot || f.op != Op::Recycle);
            !old && (new || (removed && self.shrunk.contains(&slot)))
        };
        let over: Vec<u32> = self.open.iter().filter(|(slot, epoch)| is_over(**slot, **epoch)).map(|(slot, _)| *slot).collect();
        for slot in over {
            self.open.remove(&slot);
        }
    }

    /// I2, as the record has it: nothing begins beyond the batch. And no epoch is ever given out twice.
    pub fn judge_status(&mut self, new: &ProxyPoolStatus) -> Result<(), Violation> {
        let budget = Budget::of(&self.wish());
        let flying = |s: &ProxyPoolStatus| s.in_flight.iter().filter(|f| matches!(f.op, Op::Recycle)).count();
        let (before, after) = (flying(&self.status), flying(new));
        let planted = self.cloud.vms.iter().filter(|r| r.planted).count();
        if after > before && after > usize::try_from(budget.batch).unwrap_or(usize::MAX) + planted {
            return broken("I2", format!("{after} slots are marked, {} may be", budget.batch));
        }
        for flight in new.in_flight.iter().filter(|f| f.op == Op::Remove) {
            self.shrunk.insert(flight.slot);
        }
        if new.epoch < self.status.epoch {
            return broken("epoch", format!("{} after {}", new.epoch, self.status.epoch));
        }
        Ok(())
    }

    /// I10: the pool goes when nothing of it is left.
    pub fn judge_release(&self) -> Result<(), Violation> {
        let left = self.cloud.of(&self.meta.uid).filter(|r| r.gone_at.is_none()).count();
        if left > 0 {
            return broken("I10", format!("the finalizer goes with {left} VMs left"));
        }
        Ok(())
    }
}
