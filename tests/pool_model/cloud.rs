//! A modelled cloud: what really exists, and how late and how wrongly it tells.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use aether_operator::api::Time;
use aether_operator::cloud::{Class, Error, Marks, Phase, Vm};

use super::rng::Rng;

/// How this cloud is.
#[derive(Clone, Debug)]
pub struct Ways {
    /// A list may be that old, in seconds; never older than `settle`.
    pub lag: u64,
    pub settle: u32,
    /// Seconds until a VM runs, and until one that is deleted is gone.
    pub boot: u64,
    pub going: u64,
    /// Seconds from running to an address, and from there to a working proxy.
    pub address: u64,
    pub ready: u64,
    pub idempotent: bool,
    pub unique: bool,
    pub quota: usize,
    /// A create whose reply is lost may be carried out that many seconds later.
    pub late: u64,
    /// Released addresses are given out again first.
    pub reuses: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            lag: 0,
            settle: 10,
            boot: 20,
            going: 5,
            address: 5,
            ready: 30,
            idempotent: false,
            unique: false,
            quota: 1000,
            late: 0,
            reuses: false,
        }
    }
}

/// One real VM.
#[derive(Clone, Debug)]
pub struct Real {
    pub vm: Vm,
    pub name: String,
    pub made: Time,
    pub gone_at: Option<Time>,
    /// The proxy on it works, once it is up.
    pub works: bool,
    pub stopped: bool,
    /// Known as a second one that nobody but the model made.
    pub planted: bool,
}

pub struct Cloud {
    pub ways: Ways,
    pub vms: Vec<Real>,
    pub calls: u64,
    pub mutations: u64,
    /// When something was last changed by a call.
    pub changed: Option<Time>,
    /// What new VMs do wrong: they never work.
    pub broken: bool,
    pub no_capacity: bool,
    pub throttled: bool,
    /// The credentials are those of another account, which has nothing of the pool.
    pub switched: bool,
    past: VecDeque<(Time, Vec<Vm>)>,
    late: Vec<(Time, String, Marks)>,
    next: u32,
    free: Vec<IpAddr>,
}

fn error(class: Class) -> Error {
    Error { class, message: format!("{class}") }
}

impl Cloud {
    pub fn new(ways: Ways) -> Self {
        Self {
            ways,
            vms: Vec::new(),
            calls: 0,
            mutations: 0,
            changed: None,
            broken: false,
            no_capacity: false,
            throttled: false,
            switched: false,
            past: VecDeque::new(),
            late: Vec::new(),
            next: 1,
            free: Vec::new(),
        }
    }

    /// Time goes on.
    pub fn advance(&mut self, now: Time) {
        let due: Vec<_> = self.late.iter().filter(|(at, ..)| *at <= now).cloned().collect();
        self.late.retain(|(at, ..)| *at > now);
        for (_, name, marks) in due {
            let _ = self.make(&name, &marks, now);
        }
        let released: Vec<_> = self.vms.iter().filter(|r| r.gone_at.is_some_and(|t| t <= now)).filter_map(|r| r.vm.address).collect();
        self.free.extend(released);
        self.vms.retain(|r| r.gone_at.is_none_or(|t| t > now));
        for at in 0..self.vms.len() {
            let up = self.up_since(&self.vms[at]);
            let wants_address = up + secs(self.ways.address) <= now && self.vms[at].vm.address.is_none();
            let address = if wants_address { Some(self.address()) } else { None };
            let real = &mut self.vms[at];
            real.vm.address = real.vm.address.or(address);
            real.vm.phase = match () {
                () if real.gone_at.is_some() => Phase::Deleting,
                () if real.stopped => Phase::Stopped,
                () if up <= now => Phase::Running,
                () => Phase::Starting,
            };
        }
        self.past.push_back((now, self.vms.iter().map(|r| r.vm.clone()).collect()));
        while self.past.front().is_some_and(|(t, _)| *t + secs(self.ways.lag + 60) < now) {
            self.past.pop_front();
        }
    }

    fn address(&mut self) -> IpAddr {
        if self.ways.reuses && !self.free.is_empty() {
            return self.free.remove(0);
        }
        self.next += 1;
        IpAddr::V4(Ipv4Addr::from(0x0A00_0000 + self.next))
    }

    fn up_since(&self, real: &Real) -> Time {
        real.made + secs(self.ways.boot)
    }

    /// A probe of that VM would succeed now.
    pub fn answers(&self, id: &str, now: Time) -> bool {
        let up = |r: &Real| self.up_since(r) + secs(self.ways.address + self.ways.ready) <= now;
        self.real(id).is_some_and(|r| r.works && !r.stopped && r.gone_at.is_none() && r.vm.address.is_some() && up(r))
    }

    pub fn real(&self, id: &str) -> Option<&Real> {
        self.vms.iter().find(|r| r.vm.id == id)
    }

    /// VMs of that pool that exist.
    pub fn of<'a>(&'a self, pool: &'a str) -> impl Iterator<Item = &'a Real> {
        self.vms.iter().filter(move |r| r.vm.marks.pool == pool)
    }

    /// The cloud's list, as old as it may be.
    pub fn list(&mut self, rng: &mut Rng, now: Time) -> Result<Vec<Vm>, Error> {
        self.calls += 1;
        if self.throttled {
            return Err(error(Class::Throttled(Some(Duration::from_secs(20)))));
        }
        if self.switched {
            return Ok(Vec::new());
        }
        let from = now - secs(rng.below(self.ways.lag + 1));
        let shown = self.past.iter().rev().find(|(at, _)| *at <= from).or_else(|| self.past.front());
        Ok(shown.map(|(_, vms)| vms.clone()).unwrap_or_default())
    }

    pub fn find(&mut self, marks: &Marks) -> Result<bool, Error> {
        self.calls += 1;
        if self.throttled {
            return Err(error(Class::Throttled(None)));
        }
        Ok(self.vms.iter().any(|r| r.vm.marks.nonce == marks.nonce))
    }

    pub fn create(&mut self, name: &str, marks: &Marks, now: Time) -> Result<(), Error> {
        self.calls += 1;
        if self.throttled {
            return Err(error(Class::Throttled(Some(Duration::from_secs(20)))));
        }
        if self.vms.len() >= self.ways.quota {
            return Err(error(Class::Quota));
        }
        if self.no_capacity {
            return Err(error(Class::Capacity));
        }
        self.changed = Some(now);
        self.make(name, marks, now)
    }

    /// The reply to a create is lost; it is carried out now or a little later.
    pub fn create_unheard(&mut self, name: &str, marks: &Marks, now: Time, rng: &mut Rng) {
        self.changed = Some(now);
        let wait = rng.below(self.ways.late + 1);
        if wait == 0 {
            let _ = self.create(name, marks, now);
        } else {
            self.late.push((now + secs(wait), name.into(), marks.clone()));
        }
    }

    fn make(&mut self, name: &str, marks: &Marks, now: Time) -> Result<(), Error> {
        self.mutations += 1;
        if self.ways.idempotent && self.vms.iter().any(|r| r.vm.marks.nonce == marks.nonce) {
            return Ok(());
        }
        if self.ways.unique && self.vms.iter().any(|r| r.name == name) {
            return Err(error(Class::Invalid));
        }
        self.put(name, marks, now, false);
        Ok(())
    }

    /// A VM that is simply there.
    pub fn put(&mut self, name: &str, marks: &Marks, now: Time, planted: bool) {
        self.next += 1;
        let vm = Vm { id: format!("vm-{}", self.next), marks: marks.clone(), phase: Phase::Starting, address: None };
        let works = !self.broken;
        self.vms.push(Real { vm, name: name.into(), made: now, gone_at: None, works, stopped: false, planted });
    }

    pub fn delete(&mut self, id: &str, now: Time) -> Result<(), Error> {
        self.calls += 1;
        self.mutations += 1;
        if self.throttled {
            return Err(error(Class::Throttled(None)));
        }
        self.changed = Some(now);
        let going = secs(self.ways.going);
        if let Some(real) = self.vms.iter_mut().find(|r| r.vm.id == id) {
            real.gone_at.get_or_insert(now + going);
            real.vm.phase = Phase::Deleting;
        }
        Ok(())
    }
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
