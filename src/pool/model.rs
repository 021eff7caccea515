//! What a plan for a pool is made from and what comes out of it: plain data, owned, without a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use crate::api::{ProxyPoolStatus, Time};
pub use crate::cloud::limiter::Budget as Requests;
use crate::cloud::{Capabilities, Class, Error, Marks, Rate, Vm};
use crate::cluster::facts::Meta;
use crate::rollout::build::short_hash;
use crate::rollout::wish::SpecError;

use super::wish::Wish;

/// All that a plan for one pool looks at.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The ProxyPool's own metadata.
    pub meta: Meta,
    /// What is wanted.
    pub wish: Result<Wish, SpecError>,
    /// deletionPolicy is Orphan, whatever else the spec says: a pool must be able to go when its spec does not parse.
    pub orphan: bool,
    /// What was said last, with the intents on record.
    pub status: ProxyPoolStatus,
    /// What a VM would be made from now ([`template`]).
    pub template: String,
    /// The last complete list.
    pub list: Option<Listed>,
    /// Why the newest attempt to list failed; `None`: it is the list above.
    pub list_error: Option<Error>,
    /// What the probes say, by the cloud's id. What is not in it is [`Health::Unknown`].
    pub health: BTreeMap<String, Health>,
    /// Whether the operator's own direct request to the probes' targets succeeds; `None`: there are none, or nobody asked.
    pub direct: Option<bool>,
    /// What the cloud does by itself.
    pub capabilities: Capabilities,
    /// What the cloud said about its rate limit.
    pub rate: Rate,
    /// What the cloud lets the pool's credential do; `None`: not known.
    pub requests: Option<Requests>,
}

impl Observation {
    /// What the probes say of that VM.
    pub fn health_of(&self, id: &str) -> Health {
        self.health.get(id).copied().unwrap_or(Health::Unknown)
    }

    /// How long after a call a list may not show what it did.
    pub fn settle(&self) -> Duration {
        Duration::from_secs(self.capabilities.settle_seconds.into())
    }
}

/// A complete list of what carries the pool's UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// When it was asked for, not when it came: it shows nothing that happened later.
    pub at: Time,
    /// Every VM, all pages.
    pub vms: Vec<Vm>,
}

/// What the probes say of one proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// The last probe succeeded.
    Healthy,
    /// It never was healthy, as far as is known; that many probes failed in a row.
    NotYet {
        /// Failed probes in a row.
        failures: u32,
    },
    /// It was healthy, and that many probes have failed since.
    Unhealthy {
        /// Failed probes in a row; at least 1.
        failures: u32,
    },
    /// Nobody has asked yet.
    #[default]
    Unknown,
}

/// What the process remembers of a pool between two plans. Losing it (a crash) makes waits start again; it never makes
/// one shorter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// When something was last changed in the cloud, as far as is known; after a start, the start itself, because a
    /// predecessor may have made a call just before. Only a list asked for a settle time later counts (rule I4).
    pub last_mutation: Option<Time>,
    /// What became of creates that no list shows yet, by nonce.
    pub creates: BTreeMap<String, Created>,
    /// What keeps the cloud from making VMs.
    pub setbacks: BTreeMap<Obstacle, Setback>,
    /// Until when no VM is created after creates that never appeared.
    pub brake_until: Option<Time>,
    /// Why each VM that should be recycled is not, as it was said last.
    pub deferred: BTreeMap<String, Deferral>,
    /// What was said last, by its reason, of things that no status keeps: it is said once.
    pub told: BTreeMap<&'static str, String>,
    /// When the first of the empty lists in a row was asked for, while the pool is being deleted (rule I10).
    pub empty_since: Option<Time>,
    /// How long the last replacement took, from its mark until it was healthy.
    pub replacement_took: Option<Duration>,
}

/// What is known of one create that no list shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// When it was answered.
    pub at: Time,
    /// What was answered.
    pub answer: Reply,
}

/// What a create, or the look for one, came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Taken, or perhaps: it may be there.
    MayExist,
    /// Certainly not carried out; it may be asked for again.
    NotDone,
    /// It was looked for and is there; the list will show it.
    Found,
    /// It was looked for, and the cloud knows of none.
    Missing,
}

/// What keeps the cloud from making VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Obstacle {
    /// The account may not have more.
    Quota,
    /// The place has no more.
    Capacity,
    /// The credentials are refused.
    Credentials,
    /// The request is refused.
    Invalid,
    /// The cloud is in trouble.
    Trouble,
    /// Fewer requests are wanted: nothing at all is asked.
    Throttled,
}

/// An obstacle, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setback {
    /// How often in a row.
    pub times: u32,
    /// No create before then.
    pub until: Time,
    /// The cloud's own words.
    pub message: String,
}

/// Why a VM that should be recycled is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Deferral {
    /// It would leave too few.
    Floor,
    /// As many as may be are in flight.
    Batch,
    /// No window is open.
    Window,
    /// A replacement has missed its startupTimeout.
    Degraded,
    /// The cloud would not make a replacement.
    Obstacle,
    /// The probes are not trusted.
    Probes,
}

/// What to do about one pool now.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// To be written before the first action, with the version that was looked at as a lock; if that fails nothing of
    /// the plan is done (rule I6).
    pub status: Option<ProxyPoolStatus>,
    /// To be done in this order, after the status is written. They are independent: one that fails ends no other,
    /// except that after `Throttled` or `Auth` the rest is reported as [`Outcome::Skipped`].
    pub actions: Vec<Action>,
    /// To be logged and published, in this order, after the status is written.
    pub notes: Vec<Note>,
    /// Where the proxies listen that serve and stay: what is published before the first deletion. `None`: leave what is
    /// published as it is, since too little is known.
    pub serving: Option<BTreeSet<SocketAddr>>,
    /// To list again and look again after this time even if nothing happens.
    pub requeue: Duration,
    /// What to remember; [`Memory::learn`] adds what the actions came to.
    pub memory: Memory,
}

/// One effect, with what must still be true when it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Why, for logs.
    pub why: &'static str,
    /// What.
    pub deed: Deed,
    /// What must hold right before.
    pub needs: Needs,
}

/// The effects there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Puts the finalizer on the pool.
    Hold,
    /// Takes the finalizer away.
    Release,
    /// Asks the cloud for the VM of that attempt (`Cloud::find`).
    Look(Marks),
    /// Asks the cloud for one VM.
    Create(Marks),
    /// Deletes one VM by its id.
    Delete {
        /// The cloud's id.
        id: String,
        /// The pool's UID that it was seen with.
        pool: String,
    },
}

/// What must hold right before an effect; where it does not, the effect is left out and the pool looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The ProxyPool is at the version that was looked at.
    Unchanged(String),
    /// The status on record holds an intent with that nonce, and this process leads.
    Recorded(String),
    /// The newest complete list was asked for at that time or later and shows the VM with the pool's UID; this process leads.
    Listed(Time),
    /// Nothing: it only reads.
    Nothing,
}

/// What an action came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or taken.
    Done,
    /// What a look found.
    Found(bool),
    /// Not even tried.
    Skipped,
    /// An error.
    Failed(Error),
}

/// A log line that is an Event as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Something is not as it should be.
    pub warning: bool,
    /// One CamelCase word.
    pub reason: &'static str,
    /// The documented line, or a sentence.
    pub message: String,
}

impl Memory {
    /// Remembers what a deed came to. Call it once for every action of a plan, in order.
    pub fn learn(&mut self, deed: &Deed, outcome: &Outcome, now: Time) {
        match (deed, outcome) {
            (Deed::Create(marks), Outcome::Skipped) => self.note(marks, Reply::NotDone, now),
            (Deed::Create(marks), Outcome::Done | Outcome::Found(_)) => {
                self.note(marks, Reply::MayExist, now);
                self.last_mutation = Some(now);
                self.setbacks.clear();
            }
            (Deed::Create(marks), Outcome::Failed(error)) => {
                let may_exist = error.class == Class::Unknown;
                self.note(marks, if may_exist { Reply::MayExist } else { Reply::NotDone }, now);
                if may_exist {
                    self.last_mutation = Some(now);
                }
                self.set_back(error, now);
            }
            (Deed::Look(marks), Outcome::Found(found)) => {
                self.note(marks, if *found { Reply::Found } else { Reply::Missing }, now);
            }
            (Deed::Look(marks), Outcome::Failed(error)) => {
                // Some clouds refuse an order they had taken, and tell it only to who asks.
                if matches!(error.class, Class::Quota | Class::Capacity | Class::Invalid) {
                    self.note(marks, Reply::NotDone, now);
                }
                self.set_back(error, now);
            }
            (Deed::Delete { .. }, Outcome::Done | Outcome::Found(_)) => self.last_mutation = Some(now),
            (Deed::Delete { .. }, Outcome::Failed(error)) => {
                self.last_mutation = Some(now);
                if matches!(error.class, Class::Throttled(_) | Class::Auth) {
                    self.set_back(error, now);
                }
            }
            (Deed::Hold | Deed::Release | Deed::Look(_) | Deed::Delete { .. }, _) => {}
        }
    }

    fn note(&mut self, marks: &Marks, answer: Reply, at: Time) {
        self.creates.insert(marks.nonce.clone(), Created { at, answer });
    }

    /// Waits longer each time the same obstacle is met.
    pub fn set_back(&mut self, error: &Error, now: Time) {
        let (obstacle, first, longest) = match error.class {
            Class::Quota => (Obstacle::Quota, 60, 600),
            Class::Capacity => (Obstacle::Capacity, 60, 600),
            Class::Auth => (Obstacle::Credentials, 30, 300),
            Class::Invalid => (Obstacle::Invalid, 60, 600),
            Class::Throttled(_) => (Obstacle::Throttled, 15, 300),
            Class::NotFound | Class::Transient | Class::Unknown => (Obstacle::Trouble, 5, 120),
        };
        let times = self.setbacks.get(&obstacle).map_or(0, |s| s.times) + 1;
        let doubled = Duration::from_secs(longest.min(first << (times - 1).min(10)));
        let wait = match error.class {
            Class::Throttled(Some(asked)) => asked.clamp(Duration::from_secs(1), Duration::from_hours(1)),
            _ => doubled,
        };
        self.setbacks.insert(obstacle, Setback { times, until: now + wait, message: error.message.clone() });
    }
}

/// The nonce of one birth: the same for every attempt at it, another one for every other.
pub fn nonce(pool: &str, slot: u32, epoch: u32) -> String {
    short_hash(&format!("{pool} {slot} {epoch}"))
}

/// The mark of what a VM is made from: provider block, proxy settings, bootstrap script and credentials as a hash, and the
/// port in clear, because what runs goes on listening there whatever is wanted later.
pub fn template(made_from: &str, port: u16) -> String {
    format!("{}-{port}", short_hash(made_from))
}

/// Where the proxy of that VM listens, once it has an address. `wanted`: the port of one whose marks do not say.
pub fn listens_at(vm: &Vm, wanted: u16) -> Option<SocketAddr> {
    let own = vm.marks.template.rsplit_once('-').and_then(|(_, port)| port.parse().ok());
    Some(SocketAddr::new(vm.address?, own.unwrap_or(wanted)))
}

/// The name of a VM, at most 63 characters: the same for a repeated attempt.
pub fn order_name(marks: &Marks) -> String {
    format!("aether-{}-{}-{}", short_hash(&marks.pool), marks.slot, marks.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn marks() -> Marks {
        let pool = "2c0ee3f8-4d61-4d3b-9b1f-0a9c5d1f7a11";
        Marks { pool: pool.into(), slot: 4999, epoch: u32::MAX, nonce: nonce(pool, 4999, 3), template: "t".into(), born: Time::UNIX_EPOCH }
    }

    fn failed(class: Class) -> Outcome {
        Outcome::Failed(Error { class, message: "no".into() })
    }

    #[test]
    fn names_are_labels() {
        let name = order_name(&marks());
        assert!(name.len() <= 63 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{name}");
    }

    #[rstest]
    #[case(Outcome::Done, Reply::MayExist, true)]
    #[case(failed(Class::Unknown), Reply::MayExist, true)]
    #[case(failed(Class::Quota), Reply::NotDone, false)]
    #[case(failed(Class::Throttled(None)), Reply::NotDone, false)]
    #[case(Outcome::Skipped, Reply::NotDone, false)]
    fn what_a_create_comes_to(#[case] outcome: Outcome, #[case] answer: Reply, #[case] mutated: bool) {
        let (mut memory, now) = (Memory::default(), Time::UNIX_EPOCH);
        memory.learn(&Deed::Create(marks()), &outcome, now);
        assert_eq!(memory.creates[&marks().nonce], Created { at: now, answer });
        assert_eq!(memory.last_mutation, mutated.then_some(now));
    }

    #[test]
    fn a_delete_that_failed_may_have_been_carried_out() {
        let (mut memory, now) = (Memory::default(), Time::UNIX_EPOCH);
        memory.learn(&Deed::Delete { id: "1".into(), pool: "p".into() }, &failed(Class::Unknown), now);
        assert_eq!(memory.last_mutation, Some(now));
    }

    #[test]
    fn obstacles_wait_longer_each_time_and_a_success_ends_them() {
        let (mut memory, now) = (Memory::default(), Time::UNIX_EPOCH);
        let create = Deed::Create(marks());
        let waits = [60, 120, 240, 480, 600, 600].map(|seconds| {
            memory.learn(&create, &failed(Class::Quota), now);
            ((memory.setbacks[&Obstacle::Quota].until - now).num_seconds(), seconds)
        });
        assert!(waits.iter().all(|(found, wanted)| found == wanted), "{waits:?}");
        memory.learn(&create, &failed(Class::Throttled(Some(Duration::from_secs(77)))), now);
        assert_eq!(memory.setbacks[&Obstacle::Throttled].until, now + Duration::from_secs(77));
        memory.learn(&create, &Outcome::Done, now);
        assert_eq!(memory.setbacks, BTreeMap::new());
    }
}
