//! As many as are wanted: the dead go, empty places are filled, what is too much goes.

use std::collections::BTreeSet;

use crate::api::proxy_pool::{InFlight, Op, Step};

use super::census::{Proxy, Standing};
use super::plan::Turn;

/// Empty places that are filled at once: what is asked for must be on record, and the record is bounded.
const FILL_AT_ONCE: usize = 20;

/// Removes what is dead, as far as that is believed (rule I9).
pub fn bury_the_dead(turn: &mut Turn<'_>) {
    if turn.wish.paused {
        return;
    }
    let dead: Vec<Proxy<'_>> = turn.census.proxies.iter().filter(|p| p.is_dead() && !turn.is_leaving(&p.vm.id)).copied().collect();
    let mut hopeless = 0;
    for proxy in dead {
        // What never worked and is made otherwise now cannot be hurt; a batch of them at once, should the probes be wrong.
        let is_hopeless = proxy.drifted && proxy.never_healthy && hopeless < turn.budget.batch;
        let is_believed = turn.believes_dead(&proxy);
        if !is_believed && !is_hopeless {
            continue;
        }
        hopeless += u32::from(!is_believed);
        if let Some(flight) = turn.flight(proxy.vm.marks.slot)
            && flight.replaces.as_ref() == Some(&proxy.vm.id)
        {
            flight.phase = Step::Deleting;
        }
        let why = if proxy.standing == Standing::Stopped { "the cloud says that it does not run" } else { "it fails its probes" };
        turn.note(true, "Unhealthy", format!("{} of {} is removed: {why}", proxy.called(), turn.wish.title()));
        turn.delete("it is dead", &proxy);
    }
}

/// Slots that count as taken: all but those on their way out.
fn taken(turn: &Turn<'_>) -> BTreeSet<u32> {
    let mut slots: BTreeSet<u32> = turn.census.slots().into_iter().chain(turn.flights.iter().map(|f| f.slot)).collect();
    for flight in turn.flights.iter().filter(|f| f.op == Op::Remove) {
        slots.remove(&flight.slot);
    }
    slots
}

/// Slots above minScaling.
pub fn excess(turn: &Turn<'_>) -> usize {
    taken(turn).len().saturating_sub(usize::try_from(turn.wish.min_scaling).unwrap_or(usize::MAX))
}

/// There are fewer slots than wanted.
pub fn is_short(turn: &Turn<'_>) -> bool {
    taken(turn).len() < usize::try_from(turn.wish.min_scaling).unwrap_or(usize::MAX)
}

/// Fills empty places up to minScaling.
pub fn fill(turn: &mut Turn<'_>) {
    let wanted = usize::try_from(turn.wish.min_scaling).unwrap_or(usize::MAX);
    let mut missing = wanted.saturating_sub(taken(turn).len());
    let mut open = turn.flights.iter().filter(|f| f.op == Op::Fill).count();
    let mut slot = 0;
    while missing > 0 && open < FILL_AT_ONCE && !turn.is_full() && turn.may_ask() && turn.has_room() {
        let is_free = turn.flight(slot).is_none() && turn.census.in_slot(slot).next().is_none();
        if is_free {
            let mut flight = turn.mark(slot, Op::Fill, None);
            turn.give_birth(&mut flight);
            turn.flights.push(flight);
            missing -= 1;
            open += 1;
        }
        slot += 1;
    }
}

/// Takes away what is above minScaling: first what does not serve, then what has drifted, then the oldest; what serves
/// only under the floor and within the batch.
pub fn shrink(turn: &mut Turn<'_>) {
    let excess = excess(turn);
    if excess == 0 {
        return;
    }
    let mut candidates: Vec<_> = taken(turn)
        .into_iter()
        .map(|slot| {
            let serving = turn.census.in_slot(slot).find(|p| p.serves() && !turn.is_leaving(&p.vm.id));
            let rank = serving.map(|p| (!p.drifted, p.vm.marks.born));
            (rank, slot, serving.or_else(|| turn.census.in_slot(slot).next()))
        })
        .collect();
    candidates.sort_by_key(|(rank, slot, _)| (*rank, *slot));
    for (_, slot, proxy) in candidates.into_iter().take(excess) {
        if let Some(flight) = turn.flight(slot) {
            flight.op = Op::Remove;
            continue;
        }
        let Some(proxy) = proxy else { continue };
        // What never served, or is believed dead, is nobody's loss.
        let is_loss = proxy.standing != Standing::Pending && !turn.believes_dead(&proxy);
        if turn.is_full() {
            return;
        }
        if is_loss && (turn.in_flight() >= turn.budget.batch || turn.is_degraded()) {
            return;
        }
        if !turn.is_spare(&proxy) && !turn.believes_dead(&proxy) {
            continue;
        }
        let flight = turn.mark(slot, Op::Remove, Some(&proxy));
        turn.note(false, "Removing", format!("{} of {} is removed: {excess} too many", proxy.called(), turn.wish.title()));
        turn.delete("it is one too many", &proxy);
        turn.flights.push(InFlight { phase: Step::Deleting, ..flight });
    }
}
