//! The state machine behind all dialects: VMs, addresses, operations, quota and rate windows. It is told the time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;

use super::knobs::{Death, Fault, Knobs, Refusal, Reuse, strike};
use super::rate::{Budget, Meter};
use super::vm::{End, Order, Phase, Vm};
use super::{Call, Change, Dialect, Effect, Time};

/// Everything there is in the cloud.
pub struct State {
    /// How it behaves.
    pub knobs: Knobs,
    /// What goes wrong; the first that strikes counts.
    pub faults: Vec<Fault>,
    /// In the order of their birth: the one with the id 1 is the first.
    vms: Vec<Vm>,
    /// Where each VM is, by the same index, as far as [`State::advance`] has told.
    told: Vec<Told>,
    operations: Vec<Operation>,
    /// In the order in which they became free.
    free: VecDeque<IpAddr>,
    meters: HashMap<(Dialect, String), Vec<Meter>>,
    calls: BTreeMap<(Dialect, Call), u64>,
}

/// How much of a VM's life was told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Boot,
    Halt,
    /// Its address is free again, too.
    All,
}

/// Something that a cloud does in its own time.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Counts all operations from 1.
    pub id: u64,
    /// What is done to the VM.
    pub call: Call,
    /// The VM.
    pub vm: u64,
    /// When it began.
    pub started: Time,
    /// Idempotency token of the request.
    pub token: Option<String>,
}

/// Where an operation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not done yet.
    Running,
    /// Done, at that time.
    Done(Time),
    /// It came to nothing, at that time.
    Failed(Time, Refusal),
}

impl State {
    /// An empty cloud with these addresses.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            knobs: Knobs::default(),
            faults: Vec::new(),
            vms: Vec::new(),
            told: Vec::new(),
            operations: Vec::new(),
            free: addresses.into_iter().collect(),
            meters: HashMap::new(),
            calls: BTreeMap::new(),
        }
    }

    /// Every VM that ever was, from the oldest.
    pub fn vms(&self) -> &[Vm] {
        &self.vms
    }

    /// How often each call was made, whatever came of it.
    pub fn calls(&self) -> &BTreeMap<(Dialect, Call), u64> {
        &self.calls
    }

    /// Counts a call.
    pub fn count(&mut self, dialect: Dialect, call: Call) {
        *self.calls.entry((dialect, call)).or_default() += 1;
    }

    /// Takes a request from the account's rate limits, or refuses it.
    pub(super) fn spend(&mut self, dialect: Dialect, account: &str, call: Call, now: Time) -> (Result<(), Refusal>, Option<Budget>) {
        let limits = self.knobs.limits.clone().unwrap_or_else(|| dialect.limits());
        let meters = self.meters.entry((dialect, account.to_owned())).or_default();
        // Other limits than before begin anew.
        if !meters.iter().map(|meter| meter.limit).eq(limits.iter().copied()) {
            *meters = limits.into_iter().map(Meter::new).collect();
        }
        let counting = || |meter: &&mut Meter| meter.counts(call);
        let wait = meters.iter_mut().filter(counting()).filter_map(|meter| meter.wait(now)).max();
        if wait.is_none() {
            meters.iter_mut().filter(counting()).for_each(|meter| meter.spend(now));
        }
        let budget = meters.first_mut().map(|meter| meter.budget(now));
        let refusal = wait.map(|wait| Refusal::Throttled(u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)));
        (refusal.map_or(Ok(()), Err), budget)
    }

    /// What goes wrong with this request.
    pub(super) fn strike(&mut self, dialect: Dialect, account: &str, call: Call) -> Option<Effect> {
        strike(&mut self.faults, dialect, account, call)
    }

    /// Makes all these VMs or none. The same token again answers with the VMs of the first time. `fails`: they will
    /// never boot, for that reason.
    pub fn create(
        &mut self,
        dialect: Dialect,
        account: &str,
        orders: Vec<Order>,
        fails: Option<&Refusal>,
        now: Time,
    ) -> Result<Vec<Vm>, Refusal> {
        if let Some(token) = orders.first().and_then(|order| order.token.as_ref()) {
            let of_token = |vm: &&Vm| vm.dialect == dialect && vm.account == account && vm.order.token.as_ref() == Some(token);
            let before: Vec<Vm> = self.vms.iter().filter(of_token).cloned().collect();
            if !before.is_empty() {
                return if before.iter().map(|vm| &vm.order).eq(&orders) { Ok(before) } else { Err(Refusal::TokenReused) };
            }
        }
        let mut alive = self.vms.iter().filter(|vm| vm.dialect == dialect && vm.account == account && vm.is_alive(now));
        if let Some(scope) = dialect.unique_names() {
            let clashes = |vm: &Vm| orders.iter().any(|order| order.name == vm.order.name && scope(order, &vm.order));
            if let Some(taken) = alive.clone().find(|vm| clashes(vm)) {
                return Err(Refusal::NameTaken(taken.order.name.clone()));
            }
        }
        let exceeds = self.knobs.quota.is_some_and(|quota| alive.by_ref().count() + orders.len() > quota);
        let fails = match dialect {
            // It is the operation that tells.
            Dialect::Gce if exceeds => Some(&Refusal::Quota),
            _ if exceeds => return Err(Refusal::Quota),
            _ => fails,
        };
        if self.free.len() < orders.len() {
            return Err(Refusal::NoCapacity);
        }
        Ok(orders.into_iter().filter_map(|order| self.bear(dialect, account, order, fails, now)).collect())
    }

    fn bear(&mut self, dialect: Dialect, account: &str, order: Order, fails: Option<&Refusal>, now: Time) -> Option<Vm> {
        let address = match self.knobs.reuse {
            Reuse::Late => self.free.pop_front(),
            Reuse::AtOnce => self.free.pop_back(),
        }?;
        let knobs = &self.knobs;
        let boots = now + knobs.boots_after;
        let dies = (!knobs.lifetime.is_zero()).then(|| boots + knobs.lifetime);
        let (stops, ends) = match (fails, dies, knobs.death) {
            (Some(refusal), ..) => (None, Some((boots, End::Failed(refusal.clone())))),
            (None, Some(at), Death::Vanishes) => (None, Some((at, End::Vanished))),
            (None, dies, _) => (dies, None),
        };
        let vm = Vm {
            id: self.vms.len() as u64 + 1,
            dialect,
            account: account.to_owned(),
            order,
            address,
            born: now,
            boots,
            addressed: now + knobs.address_after.max(knobs.boots_after),
            unlocked: now + knobs.locked_for,
            doomed: None,
            stops,
            ends,
        };
        self.begin(Call::Create, &vm, vm.order.token.clone(), now);
        self.vms.push(vm.clone());
        self.told.push(Told::Nothing);
        Some(vm)
    }

    fn begin(&mut self, call: Call, vm: &Vm, token: Option<String>, now: Time) {
        self.operations.push(Operation { id: self.operations.len() as u64 + 1, call, vm: vm.id, started: now, token });
    }

    /// The account's VMs as a list shows them, from the oldest, and the time that the list is of.
    pub fn list(&self, dialect: Dialect, account: &str, now: Time) -> (Vec<&Vm>, Time) {
        let as_of = now - self.knobs.list_lag;
        let shown = |vm: &Vm| vm.born <= as_of && vm.gone().is_none_or(|gone| as_of < gone + dialect.remembers());
        let of_account = self.vms.iter().filter(|vm| vm.dialect == dialect && vm.account == account);
        (of_account.filter(|vm| shown(vm)).collect(), as_of)
    }

    /// One VM of the account, if it is there now.
    pub fn find(&self, dialect: Dialect, account: &str, id: u64, now: Time) -> Result<&Vm, Refusal> {
        let found = self.at(id).filter(|vm| vm.dialect == dialect && vm.account == account);
        found.filter(|vm| vm.is_alive(now)).ok_or_else(|| Refusal::NotFound(id.to_string()))
    }

    /// One VM of the account by its name, where names are unique.
    pub fn find_named(&self, dialect: Dialect, account: &str, place: &str, name: &str, now: Time) -> Result<&Vm, Refusal> {
        let is_it = |vm: &&Vm| vm.dialect == dialect && vm.account == account && vm.order.place == place && vm.order.name == name;
        let found = self.vms.iter().filter(is_it).find(|vm| vm.is_alive(now));
        found.ok_or_else(|| Refusal::NotFound(name.to_owned()))
    }

    /// Deletes one VM of the account. One that is being deleted already stays so.
    pub fn delete(&mut self, dialect: Dialect, account: &str, id: u64, token: Option<String>, now: Time) -> Result<Vm, Refusal> {
        let after = self.knobs.deleted_after;
        let vm = self.find(dialect, account, id, now)?.clone();
        if now < vm.unlocked {
            return Err(Refusal::Locked);
        }
        self.begin(Call::Delete, &vm, token, now);
        let Some(vm) = self.at_mut(id) else { return Err(Refusal::NotFound(id.to_string())) };
        if vm.doomed.is_none() {
            vm.doomed = Some(now);
            // One that would have ended by itself while it is being deleted has not.
            vm.ends = Some((now + after, End::Deleted));
        }
        Ok(vm.clone())
    }

    /// A VM dies by itself, now.
    pub fn kill(&mut self, id: u64, death: Death, now: Time) -> Result<(), Refusal> {
        let vm = self.at_mut(id).filter(|vm| vm.is_alive(now)).ok_or_else(|| Refusal::NotFound(id.to_string()))?;
        match death {
            Death::Vanishes => vm.ends = Some((now, End::Vanished)),
            Death::Stops => vm.stops = Some(now),
        }
        Ok(())
    }

    /// An operation of the account.
    pub fn operation(&self, dialect: Dialect, account: &str, id: u64) -> Option<&Operation> {
        let operation = self.operations.get(usize::try_from(id.checked_sub(1)?).ok()?)?;
        self.at(operation.vm).filter(|vm| vm.dialect == dialect && vm.account == account).map(|_| operation)
    }

    /// The last operation of this kind on a VM.
    pub fn operation_on(&self, vm: u64, call: Call) -> Option<&Operation> {
        self.operations.iter().rev().find(|operation| operation.vm == vm && operation.call == call)
    }

    /// The operation that a request with this token began, for a VM of the account.
    pub fn operation_of(&self, dialect: Dialect, account: &str, token: &str) -> Option<&Operation> {
        let is_theirs = |id: u64| self.at(id).is_some_and(|vm| vm.dialect == dialect && vm.account == account);
        self.operations.iter().find(|operation| operation.token.as_deref() == Some(token) && is_theirs(operation.vm))
    }

    /// Where an operation is.
    pub fn progress(&self, operation: &Operation, now: Time) -> Progress {
        let Some(vm) = self.at(operation.vm) else { return Progress::Running };
        let (done, failed) = match (operation.call, &vm.ends) {
            (Call::Create, Some((at, End::Failed(refusal)))) => (*at, Some(refusal)),
            // What ends before it has booted is through with it.
            (Call::Create, _) => (vm.boots.min(vm.halts().unwrap_or(vm.boots)), None),
            (_, ends) => (ends.as_ref().map_or(operation.started, |(at, _)| *at), None),
        };
        match failed {
            _ if now < done => Progress::Running,
            Some(refusal) => Progress::Failed(done, refusal.clone()),
            None => Progress::Done(done),
        }
    }

    /// Lets time pass: what booted and what died since the last time, in order, and addresses become free.
    pub fn advance(&mut self, now: Time) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut freed = Vec::new();
        for (vm, told) in self.vms.iter().zip(&mut self.told).filter(|(_, told)| **told != Told::All) {
            if *told == Told::Nothing && vm.boots <= now && vm.ever_boots() {
                changes.push((vm.boots, Change::Booted(vm.clone())));
                *told = Told::Boot;
            }
            if let (Told::Boot, Some(halts)) = (*told, vm.halts().filter(|halts| *halts <= now)) {
                changes.push((halts, Change::Died(vm.clone())));
                *told = Told::Halt;
            }
            if let Some(gone) = vm.gone().filter(|gone| *gone <= now) {
                freed.push((gone, vm.address));
                *told = Told::All;
            }
        }
        freed.sort_by_key(|(at, _)| *at);
        self.free.extend(freed.into_iter().map(|(_, address)| address));
        changes.sort_by_key(|(at, _)| *at);
        changes.into_iter().map(|(_, change)| change).collect()
    }

    /// When [`State::advance`] will next have something to tell.
    pub fn next_due(&self, now: Time) -> Option<Time> {
        let unsettled = self.vms.iter().zip(&self.told).filter(|(_, told)| **told != Told::All);
        unsettled.flat_map(|(vm, _)| vm.moments()).filter(|moment| *moment > now).min()
    }

    fn at(&self, id: u64) -> Option<&Vm> {
        self.vms.get(usize::try_from(id.checked_sub(1)?).ok()?)
    }

    fn at_mut(&mut self, id: u64) -> Option<&mut Vm> {
        self.vms.get_mut(usize::try_from(id.checked_sub(1)?).ok()?)
    }
}

impl Phase {
    /// Whether the VM is on its way out or out.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Deleting | Self::Gone)
    }
}

#[cfg(test)]
mod tests;
