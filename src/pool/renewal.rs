//! Recycling: what is past its age limit, then what is made from an older template, oldest first.

use std::collections::BTreeSet;

use crate::api::proxy_pool::{InFlight, Op, Step};

use super::budget::Budget;
use super::census::Proxy;
use super::model::Deferral;
use super::plan::Turn;
use super::{sizing, windows};

/// Marks what may go now and says why the rest may not yet. Nothing is renewed while there are too many anyway.
pub fn recycle(turn: &mut Turn<'_>) {
    if sizing::excess(turn) > 0 {
        return;
    }
    for proxy in due(turn) {
        match hindrance(turn, &proxy) {
            None => begin(turn, &proxy),
            Some(why) => defer(turn, &proxy, why),
        }
    }
}

/// What should be recycled and is not yet in flight, in the order in which it goes.
pub fn due<'a>(turn: &Turn<'a>) -> Vec<Proxy<'a>> {
    let flying: BTreeSet<u32> = turn.flights.iter().map(|f| f.slot).collect();
    let is_free = |p: &&Proxy<'a>| p.stays() && !p.is_dead() && !turn.is_leaving(&p.vm.id) && !flying.contains(&p.vm.marks.slot);
    let free = || turn.census.proxies.iter().filter(is_free).copied();
    let mut aged: Vec<_> = free().filter(|p| p.aged).collect();
    aged.sort_by_key(|p| p.expires);
    aged.into_iter().chain(free().filter(|p| !p.aged && p.drifted)).collect()
}

/// The limits for that one. Without rolling all that is aged goes at once, as documented; an edit, a rotated password or an
/// upgrade of the operator never takes a whole pool down.
pub fn limits(turn: &Turn<'_>, proxy: &Proxy<'_>) -> Budget {
    if proxy.aged { turn.budget } else { Budget::gentle(turn.wish) }
}

/// What is in the way of recycling that one; nothing: it may go.
fn hindrance(turn: &Turn<'_>, proxy: &Proxy<'_>) -> Option<Deferral> {
    if turn.obstacle().is_some() || turn.brakes() {
        return Some(Deferral::Obstacle);
    }
    if turn.is_full() {
        return Some(Deferral::Batch);
    }
    if !turn.wish.rolling.enabled && proxy.aged {
        return None;
    }
    let limits = limits(turn, proxy);
    if !windows::are_open(&turn.wish.windows, turn.now) {
        return Some(Deferral::Window);
    }
    if !turn.trusts_probes() {
        return Some(Deferral::Probes);
    }
    if turn.is_degraded() {
        return Some(Deferral::Degraded);
    }
    if turn.in_flight() >= limits.batch {
        return Some(Deferral::Batch);
    }
    let makes_room = limits.has_surge && turn.has_room();
    (!makes_room && turn.available_without(proxy) < limits.floor).then_some(Deferral::Floor)
}

fn begin(turn: &mut Turn<'_>, proxy: &Proxy<'_>) {
    let mut flight = turn.mark(proxy.vm.marks.slot, Op::Recycle, Some(proxy));
    let number = turn.in_flight() + 1;
    let (ip, title) = (proxy.called(), turn.wish.title());
    let message = if turn.wish.rolling.enabled || !proxy.aged {
        let batch = limits(turn, proxy).batch;
        format!("Rolling deployment: Marked {ip} for recycling in {title}. Currently recycling {number}/{batch} proxies")
    } else {
        format!("Marked {ip} for recycling in {title}. Rolling deployment is disabled: everything aged goes at once")
    };
    turn.note(false, "Marked", message);
    turn.plan.memory.deferred.remove(&proxy.vm.id);
    if turn.budget.has_surge && turn.has_room() {
        turn.give_birth(&mut flight);
    } else {
        turn.delete("it is due", proxy);
        flight = InFlight { phase: Step::Deleting, ..flight };
    }
    turn.flights.push(flight);
}

/// Says why that one is not recycled, once per change of reason.
fn defer(turn: &mut Turn<'_>, proxy: &Proxy<'_>, why: Deferral) {
    if !turn.is_news(&proxy.vm.id, why) {
        return;
    }
    let (ip, title) = (proxy.called(), turn.wish.title());
    if why == Deferral::Floor {
        let (left, floor) = (turn.available_without(proxy), limits(turn, proxy).floor);
        let message =
            format!("Rolling deployment: Cannot recycle {ip} for {title}. Would reduce available proxies below minimum ({left} < {floor})");
        turn.note(false, "Deferred", message);
    }
    let noun = turn.wish.provider.noun();
    turn.note(false, "Deferred", format!("Rolling deployment: Deferred recycling {title} {noun} -> {ip}"));
}
