//! What probes have found over time. Pure: findings go in, health comes out.
//!
//! It lives in this process only: after a start nobody's health is known until it was asked, and what is not known
//! counts neither as available nor as dead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::api::Time;
use crate::cloud::{Phase, Vm};

use super::model::Health;

/// What was found about each proxy of one pool, by the cloud's id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ledger {
    entries: BTreeMap<String, Entry>,
    /// Those that an earlier process has found healthy: a first failure is not the sign of one that never worked.
    once_healthy: BTreeSet<String>,
}

/// Only who was never asked was not asked for so long.
pub const NEVER: Duration = Duration::from_hours(24 * 365);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    health: Health,
    at: Time,
}

impl Ledger {
    /// Whom to ask now: those that run, have an address, and were not asked for as long as `interval`.
    pub fn due<'a>(&self, vms: &'a [Vm], interval: Duration, now: Time) -> impl Iterator<Item = &'a Vm> {
        let is_due = move |vm: &&Vm| self.entries.get(&vm.id).is_none_or(|e| now >= e.at + interval);
        vms.iter().filter(|vm| vm.phase == Phase::Running && vm.address.is_some()).filter(is_due)
    }

    /// An earlier process has found that one healthy.
    pub fn was_healthy(&mut self, id: &str) {
        self.once_healthy.insert(id.to_owned());
    }

    /// When the next one is due; `None` while nobody is asked.
    pub fn next(&self, interval: Duration) -> Option<Time> {
        self.entries.values().map(|e| e.at + interval).min()
    }

    /// Takes in one finding. `at`: when it was asked.
    pub fn hear(&mut self, id: String, alive: bool, at: Time) {
        let before = self.entries.get(&id).map(|e| e.health).unwrap_or_default();
        let once = self.once_healthy.remove(&id);
        let health = match before {
            _ if alive => Health::Healthy,
            Health::Healthy => Health::Unhealthy { failures: 1 },
            Health::Unhealthy { failures } => Health::Unhealthy { failures: failures.saturating_add(1) },
            Health::NotYet { failures } => Health::NotYet { failures: failures.saturating_add(1) },
            Health::Unknown if once => Health::Unhealthy { failures: 1 },
            Health::Unknown => Health::NotYet { failures: 1 },
        };
        self.entries.insert(id, Entry { health, at });
    }

    /// Forgets those that are not listed any more.
    pub fn keep_only(&mut self, vms: &[Vm]) {
        let listed: BTreeSet<&str> = vms.iter().map(|vm| &*vm.id).collect();
        self.entries.retain(|id, _| listed.contains(&**id));
        self.once_healthy.retain(|id| listed.contains(&**id));
    }

    /// By id.
    pub fn health(&self) -> BTreeMap<String, Health> {
        self.entries.iter().map(|(id, e)| (id.clone(), e.health)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::Marks;
    use rstest::rstest;

    const MINUTE: Duration = Duration::from_mins(1);

    fn vm(id: &str, phase: Phase, address: Option<&str>) -> Vm {
        let marks = Marks { pool: "p".into(), slot: 0, epoch: 1, nonce: "n".into(), template: "t".into(), born: Time::UNIX_EPOCH };
        Vm { id: id.into(), marks, phase, address: address.map(|a| a.parse().unwrap()) }
    }

    #[rstest]
    #[case(&[], Health::Unknown)]
    #[case(&[true], Health::Healthy)]
    #[case(&[false, false], Health::NotYet { failures: 2 })]
    #[case(&[false, true], Health::Healthy)]
    #[case(&[true, false, false], Health::Unhealthy { failures: 2 })]
    #[case(&[true, false, true], Health::Healthy)]
    fn findings_add_up(#[case] findings: &[bool], #[case] health: Health) {
        let mut ledger = Ledger::default();
        for alive in findings {
            ledger.hear("a".into(), *alive, Time::UNIX_EPOCH);
        }
        assert_eq!(ledger.health().get("a").copied().unwrap_or_default(), health);
    }

    #[test]
    fn what_an_earlier_process_found_healthy_only_fails() {
        let mut ledger = Ledger::default();
        ledger.was_healthy("a");
        assert_eq!(ledger.health(), BTreeMap::new(), "until it was asked nothing is known");
        ledger.hear("a".into(), false, Time::UNIX_EPOCH);
        assert_eq!(ledger.health()["a"], Health::Unhealthy { failures: 1 });
    }

    #[test]
    fn only_what_runs_somewhere_is_asked_and_not_before_its_time() {
        let vms =
            [vm("a", Phase::Running, Some("192.0.2.1")), vm("late", Phase::Running, None), vm("off", Phase::Stopped, Some("192.0.2.2"))];
        let mut ledger = Ledger::default();
        let due = |ledger: &Ledger, after: u64| ledger.due(&vms, MINUTE, Time::UNIX_EPOCH + Duration::from_secs(after)).count();
        assert_eq!((due(&ledger, 0), ledger.next(MINUTE)), (1, None));
        ledger.hear("a".into(), true, Time::UNIX_EPOCH);
        assert_eq!((due(&ledger, 59), due(&ledger, 60)), (0, 1));
        assert_eq!(ledger.due(&vms, NEVER, Time::UNIX_EPOCH + MINUTE).count(), 0);
        assert_eq!(ledger.next(MINUTE), Some(Time::UNIX_EPOCH + MINUTE));
        ledger.keep_only(&vms[1..]);
        assert_eq!(ledger, Ledger::default());
    }
}
