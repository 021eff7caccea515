//! The shell around the real plan: one process that lists, probes, plans, writes the status and then acts; it may die
//! before and after each of these.

use std::collections::BTreeMap;
use std::time::Duration;

use aether_operator::api::{ProxyPoolStatus, Time};
use aether_operator::cloud::{Class, Error};
use aether_operator::pool::model::{Deed, Health, Listed, Memory, Needs, Outcome, order_name};
use aether_operator::pool::plan::plan;

use super::cloud::secs;
use super::truth::Violation;
use super::world::World;

/// What the process knows, and loses when it dies.
#[derive(Default)]
pub struct Process {
    pub memory: Memory,
    pub list: Option<Listed>,
    pub list_error: Option<Error>,
    pub probes: BTreeMap<String, Probed>,
    pub wakes: Option<Time>,
}

/// What is known of one VM by probing it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probed {
    pub was_healthy: bool,
    pub failures: u32,
    pub ok: bool,
    pub at: Option<Time>,
}

impl Probed {
    pub fn health(self) -> Health {
        match self {
            Self { at: None, .. } => Health::Unknown,
            Self { ok: true, .. } => Health::Healthy,
            Self { was_healthy: true, failures, .. } => Health::Unhealthy { failures },
            Self { failures, .. } => Health::NotYet { failures },
        }
    }
}

/// The process died, or the plan could not be followed to its end.
enum End {
    Died,
    Over,
}

impl World {
    /// Probes whose turn it is; says whether any verdict changed.
    pub fn probe(&mut self) -> bool {
        let now = self.now;
        let mut changed = false;
        let vms = || self.process.list.iter().flat_map(|l| &l.vms);
        let known: Vec<String> = vms().map(|v| v.id.clone()).collect();
        let listed: Vec<String> = vms().filter(|v| v.address.is_some()).map(|v| v.id.clone()).collect();
        self.process.probes.retain(|id, _| known.contains(id));
        for id in listed {
            let fails = self.is_faulty() && self.rng.percent(self.scenario.faults.probe);
            let ok = self.cloud.answers(&id, now) && !self.outage && !fails;
            let probed = self.process.probes.entry(id).or_default();
            if probed.at.is_some_and(|at| at + secs(30) > now) {
                continue;
            }
            let before = probed.health();
            *probed =
                Probed { was_healthy: probed.was_healthy || ok, failures: if ok { 0 } else { probed.failures + 1 }, ok, at: Some(now) };
            changed |= before != probed.health();
        }
        changed
    }

    /// One look, one plan, and what follows from it.
    pub fn turn(&mut self) -> Result<(), Violation> {
        self.look();
        let obs = self.observe();
        let plan = plan(&obs, &self.process.memory, self.now);
        let mut plan = plan;
        if let Some(bug) = self.bug {
            bug.spoil(&mut plan, self);
        }
        self.process.memory = plan.memory.clone();
        self.process.wakes = Some(self.now + plan.requeue.max(Duration::from_secs(1)));
        for note in &plan.notes {
            self.tell(&format!("  {}", note.message));
        }
        self.notes.extend(plan.notes.iter().map(|n| n.message.clone()));
        if let Some(status) = plan.status.take() {
            if self.dies() {
                return Ok(());
            }
            if self.is_faulty() && self.rng.percent(self.scenario.faults.conflict) {
                self.process.wakes = Some(self.now + secs(1));
                return Ok(());
            }
            self.judge_status(&status)?;
            self.tell_change(&status);
            self.status = status;
            self.writes += 1;
            if self.dies() {
                return Ok(());
            }
        }
        let mut skips = false;
        let seen = self.cloud.changed;
        for action in plan.actions {
            if !matches!(action.deed, Deed::Look(_)) {
                self.judge_list(&action.deed, seen)?;
            }
            let outcome = if skips {
                Outcome::Skipped
            } else {
                match self.follow(&action.deed, &action.needs)? {
                    Ok(outcome) => outcome,
                    Err(End::Died | End::Over) => return Ok(()),
                }
            };
            self.tell(&format!("  {:?} ({}): {outcome:?}", action.deed, action.why));
            if let Outcome::Failed(error) = &outcome {
                skips |= matches!(error.class, Class::Throttled(_) | Class::Auth);
            }
            self.process.memory.learn(&action.deed, &outcome, self.now);
        }
        Ok(())
    }

    fn tell_change(&mut self, status: &ProxyPoolStatus) {
        let (old, new) = (serde_json::to_value(&self.status).unwrap(), serde_json::to_value(status).unwrap());
        let changed: Vec<_> = new.as_object().unwrap().iter().filter(|(key, value)| old.get(key) != Some(value)).collect();
        let told = changed.iter().filter(|(key, _)| !["last_update", "oldestAge"].contains(&key.as_str()));
        let told: Vec<String> =
            told.map(|(key, value)| format!("{key}: {}", if *key == "conditions" { "..".into() } else { value.to_string() })).collect();
        self.tell(&format!("  writes {}", told.join(", ")));
    }

    fn look(&mut self) {
        let failed = self.is_faulty() && self.rng.percent(self.scenario.faults.list);
        let listed = self.cloud.list(&mut self.rng, self.now);
        match listed {
            Ok(vms) if !failed => {
                self.process.list = Some(Listed { at: self.now, vms });
                self.process.list_error = None;
            }
            Ok(_) => self.process.list_error = Some(Error { class: Class::Transient, message: "half a list".into() }),
            Err(error) => {
                self.process.memory.set_back(&error, self.now);
                self.process.list_error = Some(error);
            }
        }
    }

    /// Dies, if its time has come.
    fn dies(&mut self) -> bool {
        let dies = self.is_faulty() && self.rng.percent(self.scenario.faults.crash);
        if dies {
            self.die();
        }
        dies
    }

    pub fn die(&mut self) {
        self.tell("  dies");
        self.process = Process { wakes: Some(self.now + secs(1 + self.rng.below(30))), ..Process::default() };
    }

    fn follow(&mut self, deed: &Deed, needs: &Needs) -> Result<Result<Outcome, End>, Violation> {
        if self.dies() {
            return Ok(Err(End::Died));
        }
        if let Needs::Recorded(nonce) = needs
            && !self.status.in_flight.iter().any(|f| f.nonce == *nonce)
        {
            return Ok(Err(End::Over));
        }
        let outcome = match deed {
            Deed::Hold => {
                self.meta.finalizers.push("aether.dev/proxies".into());
                self.writes += 1;
                Outcome::Done
            }
            Deed::Release => {
                self.judge_release()?;
                self.exists = false;
                self.writes += 1;
                Outcome::Done
            }
            Deed::Look(marks) => {
                self.looked.insert(marks.nonce.clone());
                self.cloud.find(marks).map_or_else(Outcome::Failed, Outcome::Found)
            }
            Deed::Create(marks) => {
                self.judge_create(marks)?;
                let name = order_name(marks);
                let roll = if self.is_faulty() { self.rng.below(100) } else { 100 };
                let unheard = self.scenario.faults.unheard;
                let unknown = || Outcome::Failed(Error { class: Class::Unknown, message: "no reply".into() });
                if roll < unheard {
                    self.unknown.insert(marks.nonce.clone());
                    self.cloud.create_unheard(&name, marks, self.now, &mut self.rng);
                    unknown()
                } else if roll < unheard + self.scenario.faults.unsent {
                    self.unknown.insert(marks.nonce.clone());
                    unknown()
                } else {
                    self.cloud.create(&name, marks, self.now).map_or_else(Outcome::Failed, |()| Outcome::Done)
                }
            }
            Deed::Delete { id, .. } => {
                let fails = self.is_faulty() && self.rng.percent(self.scenario.faults.delete);
                self.judge_delete(id)?;
                if fails && self.rng.percent(50) {
                    Outcome::Failed(Error { class: Class::Transient, message: "locked".into() })
                } else {
                    let done = self.cloud.delete(id, self.now);
                    self.deleted.insert(id.clone());
                    match done {
                        Err(error) => Outcome::Failed(error),
                        Ok(()) if fails => Outcome::Failed(Error { class: Class::Unknown, message: "no reply".into() }),
                        Ok(()) => Outcome::Done,
                    }
                }
            }
        };
        Ok(if self.dies() { Err(End::Died) } else { Ok(outcome) })
    }
}
