//! Each slot by itself: what is in flight goes on, what a crash left is taken up, what is there twice goes.

use std::net::IpAddr;

use crate::api::names;
use crate::api::proxy_pool::{Evicted, InFlight, Op, Step};

use super::census::{Proxy, called, to_delta};
use super::model::{Obstacle, Reply};
use super::plan::Turn;

/// Entries of the annotation that are looked at.
const MOST_ENTRIES: usize = 500;
/// Bytes of an entry: no cloud has a longer id, and the status that keeps the entries is bounded.
const LONGEST_ENTRY: usize = 128;

/// Takes up what people want replaced at once: neither floor nor batch holds it, but it counts as in flight. Each entry
/// is answered once, also one that nobody has: whoever gets that address later is left alone.
pub fn evict(turn: &mut Turn<'_>) {
    let annotation = turn.obs.meta.annotations.get(names::EVICT).map_or("", String::as_str);
    let written = annotation.split(|c: char| c == ',' || c.is_whitespace()).filter(|e| !e.is_empty()).take(MOST_ENTRIES);
    let (entries, too_long): (Vec<&str>, Vec<&str>) = written.partition(|e| e.len() <= LONGEST_ENTRY);
    let skipped = too_long.first().map(|first| {
        format!("{} entries of {} are longer than {LONGEST_ENTRY} bytes and skipped, first {first:.64}", too_long.len(), names::EVICT)
    });
    turn.warn_once("EvictionSkipped", skipped);
    turn.evicted.retain(|e| entries.contains(&e.entry.as_str()));
    for entry in entries {
        if turn.evicted.iter().any(|e| e.entry == entry) {
            continue;
        }
        let address: Option<IpAddr> = entry.parse().ok();
        let is_meant = |p: &&Proxy<'_>| p.stays() && (p.vm.id == entry || (address.is_some() && p.vm.address == address));
        let Some(proxy) = turn.census.proxies.iter().find(is_meant).copied() else {
            turn.note(true, "EvictionUnknown", format!("{} has no proxy {entry:.64}; nothing is evicted", turn.wish.title()));
            turn.evicted.push(Evicted { entry: entry.into(), vm_id: None });
            continue;
        };
        // It is answered when there is room for it.
        if turn.is_full() && turn.flight(proxy.vm.marks.slot).is_none() {
            continue;
        }
        turn.evicted.push(Evicted { entry: entry.into(), vm_id: Some(proxy.vm.id.clone()) });
        turn.note(false, "Evicting", format!("{} of {} is replaced because a person wants it", proxy.called(), turn.wish.title()));
        let slot = proxy.vm.marks.slot;
        let fresh = turn.mark(slot, Op::Evict, Some(&proxy));
        match turn.flight(slot) {
            // What goes already goes on; it has no replacement to begin with.
            Some(flight) if flight.op == Op::Remove => {}
            Some(flight) if flight.epoch > 0 && flight.epoch == proxy.vm.marks.epoch => {}
            Some(flight) => {
                flight.op = Op::Evict;
                flight.phase = Step::Deleting;
                flight.replaces = fresh.replaces;
                flight.address = fresh.address;
            }
            None => turn.flights.push(InFlight { phase: Step::Deleting, ..fresh }),
        }
        turn.delete("a person wants it replaced", &proxy);
    }
}

/// Brings everything in flight one step further.
pub fn advance(turn: &mut Turn<'_>) {
    for flight in std::mem::take(&mut turn.flights) {
        let goes_on = match flight.op {
            Op::Fill => fill(turn, flight),
            Op::Recycle | Op::Evict => replace(turn, flight),
            Op::Remove => remove(turn, flight),
        };
        turn.flights.extend(goes_on);
    }
}

/// Once it is listed, the cloud is the record.
fn fill(turn: &mut Turn<'_>, mut flight: InFlight) -> Option<InFlight> {
    if flight.epoch > 0 && turn.census.holder(flight.slot, flight.epoch).is_some() {
        return None;
    }
    if flight.epoch == 0 {
        turn.give_birth(&mut flight);
    } else {
        turn.chase(&mut flight);
    }
    Some(flight)
}

/// In flight until the old one is gone and the new one is healthy (rule I2).
fn replace(turn: &mut Turn<'_>, mut flight: InFlight) -> Option<InFlight> {
    let old = flight.replaces.as_deref().and_then(|id| turn.census.by_id(id));
    let new = if flight.epoch > 0 { turn.census.holder(flight.slot, flight.epoch) } else { None };
    if new.is_none() && flight.vm_id.is_some() {
        // It was there and is not any more: another one is needed, under another name.
        let is_late = flight.born.is_some_and(|born| turn.now - born >= to_delta(turn.wish.health.startup_timeout));
        flight.missed += u32::from(is_late);
        flight.epoch = 0;
        flight.nonce.clear();
    }
    flight.vm_id = new.map(|n| n.vm.id.clone());
    match (old, new) {
        (Some(old), _) if !old.stays() => flight.phase = Step::Deleting,
        (Some(old), _) if flight.phase == Step::Deleting => {
            let may_go = !turn.wish.paused && (turn.believes_dead(&old) || turn.is_spare(&old));
            if flight.op == Op::Evict || may_go {
                turn.delete("it was marked", &old);
            }
        }
        (Some(old), Some(new)) => {
            if new.serves() && turn.is_spare(&old) && !turn.wish.paused {
                flight.phase = Step::Deleting;
                turn.delete("its replacement is healthy", &old);
            }
        }
        (Some(old), None) => {
            // The room for surge is used up by others, or the account has none: the old one goes first, if it may.
            let is_refused = turn.plan.memory.creates.get(&flight.nonce).is_some_and(|c| c.answer == Reply::NotDone);
            let is_crowded = flight.epoch == 0 && !turn.has_room() && turn.may_ask();
            let is_over_quota = is_refused && turn.obstacle() == Some(Obstacle::Quota) && !turn.wish.paused;
            if (is_crowded || is_over_quota) && turn.is_spare(&old) {
                flight.phase = Step::Deleting;
                turn.delete("there is no room for its replacement", &old);
            } else if flight.epoch == 0 {
                turn.give_birth(&mut flight);
            } else {
                turn.chase(&mut flight);
            }
        }
        (None, None) => {
            flight.phase = Step::Creating;
            if flight.epoch == 0 {
                turn.give_birth(&mut flight);
            } else {
                turn.chase(&mut flight);
            }
        }
        (None, Some(new)) if new.serves() => {
            let gone = flight.address.clone().unwrap_or_default();
            turn.note(false, "Recycled", format!("Rolling deployment: Completed recycling {gone} in {}", turn.wish.title()));
            turn.plan.memory.replacement_took = (turn.now - flight.since).to_std().ok();
            return None;
        }
        (None, Some(_)) => flight.phase = Step::Starting,
    }
    Some(flight)
}

/// Until nothing of the slot is left.
fn remove(turn: &mut Turn<'_>, mut flight: InFlight) -> Option<InFlight> {
    let named = flight.replaces.as_deref().and_then(|id| turn.census.by_id(id));
    let Some(target) = named.or_else(|| turn.census.in_slot(flight.slot).next()) else {
        let answer = turn.plan.memory.creates.get(&flight.nonce).map(|c| c.answer);
        if flight.epoch == 0 || flight.vm_id.is_some() || matches!(answer, Some(Reply::NotDone | Reply::Missing)) {
            return None;
        }
        turn.chase(&mut flight);
        return Some(flight);
    };
    if flight.replaces.as_ref() != Some(&target.vm.id) {
        flight.replaces = Some(target.vm.id.clone());
        flight.address = Some(called(target.vm));
        flight.phase = Step::Marked;
    }
    if flight.epoch > 0 && target.vm.marks.epoch == flight.epoch {
        flight.vm_id = Some(target.vm.id.clone());
    }
    if !target.stays() {
        flight.phase = Step::Deleting;
    } else if !turn.wish.paused && (turn.believes_dead(&target) || turn.is_spare(&target)) {
        flight.phase = Step::Deleting;
        turn.delete("it is one too many", &target);
    }
    Some(flight)
}

/// Takes up what the status does not explain: a slot with an old and a new VM is being recycled; whatever is there beyond
/// that goes (rule I5).
pub fn adopt(turn: &mut Turn<'_>) {
    if turn.wish.paused {
        return;
    }
    for slot in turn.census.slots() {
        let epochs = turn.census.epochs(slot);
        let flight = turn.flight(slot).cloned();
        if flight.as_ref().is_some_and(|f| f.op == Op::Remove) {
            continue;
        }
        if flight.is_none() && epochs.len() > 1 && turn.is_full() {
            continue;
        }
        let newest = epochs.last_key_value().map(|(_, p)| *p);
        let older = epochs.values().rev().skip(1);
        let older = older.clone().find(|p| p.serves()).or_else(|| older.clone().next()).copied();
        let kept: Vec<String> = match &flight {
            Some(flight) if flight.op != Op::Fill => {
                let new = epochs.get(&flight.epoch).map(|p| p.vm.id.clone());
                flight.replaces.iter().cloned().chain(new).collect()
            }
            _ => newest.iter().map(|p| p.vm.id.clone()).collect(),
        };
        let kept = match (newest, older) {
            (Some(new), Some(old)) if flight.is_none() => {
                let mut found = turn.mark(slot, Op::Recycle, Some(&old));
                found.epoch = new.vm.marks.epoch;
                found.nonce.clone_from(&new.vm.marks.nonce);
                found.template.clone_from(&new.vm.marks.template);
                found.born = Some(new.vm.marks.born);
                found.vm_id = Some(new.vm.id.clone());
                turn.flights.push(found);
                vec![old.vm.id.clone(), new.vm.id.clone()]
            }
            _ => kept,
        };
        let surplus: Vec<_> = turn.census.in_slot(slot).filter(|p| p.stays() && !kept.contains(&p.vm.id)).collect();
        for proxy in surplus {
            if turn.believes_dead(&proxy) || turn.is_spare(&proxy) {
                turn.duplicates += 1;
                let message = format!("{} of {} is a second proxy of slot {slot}; it is removed", proxy.called(), turn.wish.title());
                turn.note(true, "Duplicate", message);
                turn.delete("its place is taken", &proxy);
            }
        }
    }
}
