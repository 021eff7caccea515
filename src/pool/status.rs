//! What is said about a pool: the documented words, conditions, and when saying it is worth a write.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use crate::api::conditions::{
    self, AVAILABLE, Answer, CAPACITY_UNAVAILABLE, CONFIG_ADJUSTED, CREDENTIALS_VALID, DEGRADED, INVALID_SPEC, PROBE_TRUSTED,
    PROVIDER_REACHABLE, QUOTA_EXCEEDED, RATE_LIMITED, READY, RECONCILING, RECYCLING, ROTATION_FEASIBLE, RUNAWAY_BRAKE, STALLED,
};
use crate::api::proxy_pool::{InFlight, Op, ProviderStatus, RollingConfig, Step};
use crate::api::{ProxyPoolStatus, Time, duration};
use crate::cloud::{Class, marks};
use crate::rollout::model::count;
use crate::rollout::wish::SpecError;

use super::budget::Budget;
use super::census::{Proxy, Standing};
use super::model::{Deferral, Memory, Note, Observation, Obstacle, Plan};
use super::plan::{BUSY, Turn, is_late};
use super::{renewal, sizing};

/// Addresses that a list of the status holds; the REST API answers the whole.
const MOST_ADDRESSES: usize = 500;
/// An invalid spec is looked at again after this long; an edit comes at once.
const LATER: Duration = Duration::from_mins(5);

/// Nothing is known of what is wanted: nothing is touched.
pub fn invalid(obs: &Observation, memory: Memory, error: &SpecError, now: Time) -> Plan {
    let mut said = obs.status.clone();
    said.observed_generation = Some(obs.meta.generation);
    let mut message = error.to_string();
    if obs.meta.deleting && !obs.orphan {
        message += "; the pool can go once this is mended, or with deletionPolicy: Orphan, which leaves its proxies";
    }
    for (type_, answer) in [(READY, Answer::False), (RECONCILING, Answer::False), (STALLED, Answer::True)] {
        conditions::set(&mut said.conditions, obs.meta.generation, now, type_, answer, INVALID_SPEC, &message);
    }
    let mut plan = Plan { memory, requeue: LATER, ..Plan::default() };
    let was = conditions::find(&obs.status.conditions, STALLED).map(|c| &c.message);
    if was != Some(&message) {
        plan.notes.push(Note { warning: true, reason: INVALID_SPEC, message });
    }
    if said != obs.status {
        said.last_update = Some(now);
        plan.status = Some(said);
    }
    plan
}

/// The status as it is after this plan.
pub fn say(turn: &Turn<'_>) -> ProxyPoolStatus {
    let Turn { obs, wish, now, .. } = *turn;
    let mut said = obs.status.clone();
    count_words(&mut said, turn);
    said.observed_generation = Some(obs.meta.generation);
    said.config = Some(RollingConfig {
        enabled: wish.rolling.enabled,
        min_available: number(wish.rolling.min_available),
        batch_size: number(wish.rolling.batch_size),
    });
    said.effective_min_available = Some(number(turn.budget.floor));
    said.selector = Some(format!("{}={}", marks::POOL, obs.meta.uid));
    said.duplicates_removed += number(turn.duplicates);
    said.epoch = turn.epoch();
    said.known = turn.known();
    said.in_flight.clone_from(&turn.flights);
    said.evicted.clone_from(&turn.evicted);
    said.provider = Some(ProviderStatus {
        name: wish.provider.name().into(),
        last_list_at: obs.list.as_ref().map(|l| l.at),
        rate_remaining: obs.rate.remaining.map(i64::from),
        backoff_until: turn.plan.memory.setbacks.values().map(|s| s.until).chain(obs.rate.backoff_until).filter(|t| *t > now).max(),
        last_error: last_error(turn),
    });
    set_conditions(&mut said, turn);
    said
}

/// The words as documented: nobody is counted as healthy once it is marked, and everybody is until then.
fn count_words(said: &mut ProxyPoolStatus, turn: &Turn<'_>) {
    let proxies = &turn.census.proxies;
    let marked: BTreeSet<&str> = turn.flights.iter().filter_map(|f| f.replaces.as_deref()).collect();
    let is_free = |p: &&Proxy<'_>| !marked.contains(p.vm.id.as_str()) && !turn.is_leaving(&p.vm.id);
    let serving = || proxies.iter().filter(|p| p.serves()).filter(is_free);
    let recycled = |is: fn(&InFlight) -> bool| turn.flights.iter().filter(move |f| f.op != Op::Fill && is(f));
    let waiting = || recycled(|f| f.phase == Step::Marked);
    let going = || recycled(|f| f.phase != Step::Marked);
    let addresses = |flights: &mut dyn Iterator<Item = &InFlight>| -> Vec<String> {
        flights.filter_map(|f| f.address.clone()).filter(|a| a.parse::<IpAddr>().is_ok()).take(MOST_ADDRESSES).collect()
    };
    said.healthy = count(serving());
    said.pending = count(proxies.iter().filter(|p| matches!(p.standing, Standing::Pending | Standing::Unknown)).filter(is_free));
    said.pending_recycle = count(waiting());
    said.recycling = count(going());
    said.healthy_ips = serving().filter_map(|p| p.vm.address).map(|a| a.to_string()).take(MOST_ADDRESSES).collect();
    said.pending_recycle_ips = addresses(&mut waiting());
    said.recycling_ips = addresses(&mut going());
    said.replicas = Some(count(turn.census.all()));
    said.ready = Some(format!("{}/{}", said.healthy, turn.wish.min_scaling));
    said.aged = count(proxies.iter().filter(|p| p.aged && p.stays()));
    said.unhealthy = count(proxies.iter().filter(|p| p.is_dead() || p.standing == Standing::Ailing));
    let oldest = proxies.iter().map(|p| p.vm.marks.born).min();
    said.oldest_age = oldest.map(|t| duration::print(Duration::from_secs((turn.now - t).num_seconds().try_into().unwrap_or(0))));
    said.next_expiry = proxies.iter().filter(|p| !p.aged && p.stays()).filter_map(|p| p.expires).min();
}

fn last_error(turn: &Turn<'_>) -> Option<String> {
    let setback = turn.plan.memory.setbacks.values().rfind(|s| s.until > turn.now).map(|s| s.message.clone());
    let listing = turn.obs.list_error.as_ref().map(|e| e.message.clone());
    listing.or(setback).map(|m| m.chars().take(300).collect())
}

/// One condition: its type, the answer, one word and a sentence.
type Said = (&'static str, Answer, &'static str, String);

fn set_conditions(said: &mut ProxyPoolStatus, turn: &Turn<'_>) {
    let generation = turn.obs.meta.generation;
    let always = [state_of(said, turn), recycling(turn)].concat();
    for (type_, answer, reason, message) in always.into_iter().chain(cloud(turn)).chain(trust(turn)) {
        conditions::set(&mut said.conditions, generation, turn.now, type_, answer, reason, &message);
    }
    for (type_, told) in [
        (CONFIG_ADJUSTED, adjusted(turn)),
        (RUNAWAY_BRAKE, braked(turn)),
        (DEGRADED, degraded(turn)),
        (ROTATION_FEASIBLE, feasible(turn)),
        (QUOTA_EXCEEDED, met(turn, Obstacle::Quota, "Quota")),
        (CAPACITY_UNAVAILABLE, met(turn, Obstacle::Capacity, "NoCapacity")),
        (RATE_LIMITED, limited(turn)),
    ] {
        match told {
            Some((answer, reason, message)) => {
                conditions::set(&mut said.conditions, generation, turn.now, type_, answer, reason, &message);
            }
            None => conditions::clear(&mut said.conditions, type_),
        }
    }
}

/// Ready, Reconciling, Stalled and Available. Recycling is a pool's daily life: it makes it neither unready nor reconciling.
fn state_of(said: &ProxyPoolStatus, turn: &Turn<'_>) -> Vec<Said> {
    let (available, wish, floor) = (turn.available(), turn.wish, turn.budget.floor);
    let text = format!("{available} of {} proxies serve; at least {floor} must", wish.min_scaling);
    let in_recycling = u32::try_from(turn.flights.iter().filter(|f| f.op != Op::Fill).count()).unwrap_or(0);
    let is_whole = available + in_recycling >= wish.min_scaling && available >= floor;
    let memory = &turn.plan.memory;
    let refusal = [Obstacle::Credentials, Obstacle::Invalid].iter().find_map(|o| memory.setbacks.get(o));
    let is_moving = !turn.obs.meta.deleting && (said.pending > 0 || turn.flights.iter().any(|f| matches!(f.op, Op::Fill | Op::Remove)));
    let (word, message) = match refusal {
        _ if turn.obs.meta.deleting && turn.obs.list.is_none() => {
            let why = turn.obs.list_error.as_ref().map_or("the cloud has not been listed yet", |e| e.message.as_str());
            ("Deleting", format!("how many proxies are left is not known: {why:.300}; deletionPolicy: Orphan lets go of them"))
        }
        _ if turn.obs.meta.deleting => ("Deleting", format!("{} proxies are left", turn.census.all().count())),
        Some(refusal) => ("Refused", format!("the cloud refuses to make proxies: {}", refusal.message)),
        None if wish.paused => ("Paused", format!("spec.paused is true; {text}")),
        None if turn.obs.list.is_none() => ("NotListed", "the cloud has not been listed yet".into()),
        None if is_whole => ("Serving", text.clone()),
        None => ("TooFew", text.clone()),
    };
    let is_ready = is_whole && refusal.is_none() && !turn.obs.meta.deleting && turn.obs.list.is_some();
    let is_available = available >= floor.max(u32::from(wish.min_scaling > 0));
    vec![
        (READY, is_ready.into(), word, message.clone()),
        (RECONCILING, (refusal.is_none() && (is_moving || !is_ready)).into(), word, message.clone()),
        (STALLED, (refusal.is_some() && !turn.obs.meta.deleting).into(), word, message),
        (AVAILABLE, is_available.into(), if is_available { "Enough" } else { "TooFew" }, text),
    ]
}

/// Rule I8: whatever is due and does not go is explained, with numbers.
fn recycling(turn: &Turn<'_>) -> Vec<Said> {
    let (flying, due) = (turn.in_flight(), renewal::due(turn));
    let batch = if turn.wish.rolling.enabled { turn.budget.batch.to_string() } else { "all".into() };
    if flying > 0 {
        return vec![(RECYCLING, Answer::True, "InFlight", format!("{flying}/{batch} in flight, {} more are due", due.len()))];
    }
    let Some(first) = due.first() else {
        return vec![(RECYCLING, Answer::False, "NothingDue", "no proxy is past its age limit or made from an older template".into())];
    };
    let count = due.len();
    let (reason, text) = match turn.plan.memory.deferred.get(&first.vm.id) {
        _ if turn.wish.paused => ("Paused", "spec.paused is true".into()),
        Some(Deferral::Floor) => (
            "Floor",
            format!("{} would be left and {} must stay available", turn.available_without(first), renewal::limits(turn, first).floor),
        ),
        Some(Deferral::Batch) => ("Batch", format!("{flying}/{batch} are in flight")),
        Some(Deferral::Window) => {
            let next = turn.wish.windows.iter().filter_map(|w| w.next(turn.now)).min();
            ("Window", next.map_or("no window ever opens".into(), |t| format!("the next window opens at {t}")))
        }
        Some(Deferral::Degraded) => ("Degraded", "a replacement has missed its startupTimeout".into()),
        Some(Deferral::Obstacle) if turn.brakes() => ("Brake", "no replacement is made while RunawayBrake is True".into()),
        Some(Deferral::Obstacle) => ("Obstacle", "the cloud would make no replacement now".into()),
        Some(Deferral::Probes) => ("Probes", "the probes are not trusted".into()),
        None => ("Waiting", "the list of the cloud is not new enough".into()),
    };
    vec![(RECYCLING, Answer::False, reason, format!("{count} proxies are due: {text}"))]
}

fn cloud(turn: &Turn<'_>) -> Vec<Said> {
    let error = turn.obs.list_error.as_ref();
    let auth = error.filter(|e| e.class == Class::Auth).map(|e| &e.message);
    let refused = auth.or_else(|| turn.plan.memory.setbacks.get(&Obstacle::Credentials).map(|s| &s.message));
    let unreachable = error.filter(|e| !matches!(e.class, Class::Auth | Class::Throttled(_)));
    vec![
        match refused {
            Some(message) => (CREDENTIALS_VALID, Answer::False, "Refused", message.clone()),
            None if turn.obs.list.is_some() => (CREDENTIALS_VALID, Answer::True, "Accepted", "the cloud takes the credentials".into()),
            None => (CREDENTIALS_VALID, Answer::Unknown, "NotListed", "the cloud has not been listed yet".into()),
        },
        match unreachable {
            Some(error) => (PROVIDER_REACHABLE, Answer::False, "ListFailed", error.to_string()),
            None if turn.obs.list.is_some() => (PROVIDER_REACHABLE, Answer::True, "Listed", "the cloud answers".into()),
            None => (PROVIDER_REACHABLE, Answer::Unknown, "NotListed", "the cloud has not been listed yet".into()),
        },
    ]
}

fn trust(turn: &Turn<'_>) -> Vec<Said> {
    let doubt = match turn.census.doubts(turn.wish) {
        _ if turn.obs.direct == Some(false) => {
            Some(("DirectFails", "the operator's own request to the targets fails too; nothing is deleted for its health".to_owned()))
        }
        Some((dead, all)) => Some((
            "TooManyAtOnce",
            format!(
                "{dead} of {all} proxies fail at once, more than {} percent; nothing is deleted for its health. If they are dead, evict them ({}) or raise health.maxUnhealthyPercent",
                turn.wish.health.max_unhealthy_percent,
                crate::api::names::EVICT
            ),
        )),
        None => None,
    };
    vec![match doubt {
        Some((reason, message)) => (PROBE_TRUSTED, Answer::False, reason, message),
        None => (PROBE_TRUSTED, Answer::True, "Plausible", "the probes are believed".into()),
    }]
}

type Told = Option<(Answer, &'static str, String)>;

fn adjusted(turn: &Turn<'_>) -> Told {
    let asked = turn.budget.asked?;
    let (floor, min, max) = (turn.budget.floor, turn.wish.min_scaling, turn.wish.max_scaling);
    let message = format!(
        "minAvailable {asked} can never be kept with minScaling {min} and maxScaling {max}: {floor} is kept instead; raise minScaling, or maxScaling for room to create replacements first"
    );
    Some((Answer::True, "MinAvailableLowered", message))
}

fn braked(turn: &Turn<'_>) -> Told {
    if let Some(missing) = turn.missing {
        let (meta, secret) = (&turn.obs.meta, turn.wish.credentials.as_deref().unwrap_or_default());
        let message = format!(
            "the cloud lists none of the {missing} proxies that were there, and none of them was deleted from here: is Secret {secret} that of another account? Nothing is done until they are listed again. If they are gone for good: kubectl -n {} annotate proxypool {} {}={} --overwrite",
            meta.namespace,
            meta.name,
            crate::api::names::GONE,
            turn.obs.status.epoch
        );
        return Some((Answer::True, "NoneListed", message));
    }
    let surplus = turn.surplus();
    let odd: Vec<&str> = turn.census.unreadable.iter().filter(|p| p.stays()).map(|p| p.vm.id.as_str()).collect();
    if !odd.is_empty() && (surplus > 0 || (sizing::is_short(turn) && !turn.has_room())) {
        let (all, cap) = (turn.census.all().count(), turn.budget.cap);
        let message = format!(
            "{} of {all} proxies cannot be told by their marks and take the room of others, maxScaling is {cap}; restore their {}* tags, delete them at the provider, or raise maxScaling: {:.300}",
            odd.len(),
            marks::PREFIX,
            odd.join(", ")
        );
        return Some((Answer::True, "Unreadable", message));
    }
    if surplus > 0 {
        let cap = turn.budget.cap;
        let message = format!("{surplus} proxies exist above maxScaling {cap}; none is created until they are gone");
        return Some((Answer::True, "MoreThanMaxScaling", message));
    }
    let until = turn.plan.memory.brake_until.filter(|t| *t > turn.now)?;
    let attempts = turn.flights.iter().map(|f| f.attempts).max().unwrap_or(0);
    Some((Answer::True, "CreatesNeverAppear", format!("{attempts} creates of one slot never appeared; none is made until {until}")))
}

fn degraded(turn: &Turn<'_>) -> Told {
    let late: Vec<_> = turn.flights.iter().filter(|f| is_late(f, &turn.census, turn.wish, turn.now)).collect();
    let first = late.first()?;
    let message = format!(
        "{} replacements are not healthy after {}, first that of slot {}; nothing more is recycled until they are",
        late.len(),
        duration::print(turn.wish.health.startup_timeout),
        first.slot
    );
    Some((Answer::True, "ReplacementNotHealthy", message))
}

/// Whether the whole pool can be renewed within its age limit.
fn feasible(turn: &Turn<'_>) -> Told {
    let limit = turn.wish.age_limit.filter(|_| turn.wish.rolling.enabled && turn.wish.min_scaling > 0)?;
    let measured = turn.plan.memory.replacement_took;
    let took = Duration::from_secs(measured.unwrap_or(turn.wish.health.startup_timeout / 2).as_secs());
    let needed = turn.budget.renewal(turn.wish, took);
    let mut fits = needed <= limit;
    let mut numbers = format!(
        "{} proxies, {} at once, {} per replacement{}: {} of an ageLimit of {}",
        turn.wish.min_scaling,
        turn.budget.width(turn.wish),
        duration::print(took),
        if measured.is_some() { "" } else { " (not measured yet)" },
        duration::print(needed),
        duration::print(limit)
    );
    if let Some(requests) = turn.obs.requests {
        let asking = Budget::asking(turn.wish, requests, BUSY);
        fits &= asking.is_some_and(|time| time <= limit);
        let lists = Budget::listing(turn.wish, requests, BUSY);
        let time =
            asking.map_or("nothing is left".into(), |time| format!("{} is needed", duration::print(Duration::from_secs(time.as_secs()))));
        // Writing to a String does not fail.
        let _ = write!(numbers, "; of {:.1} requests a second lists take {lists:.1}, for the rest {time}", requests.per_second);
    }
    Some(if fits { (Answer::True, "Fits", numbers) } else { (Answer::False, "TooSlow", numbers) })
}

fn met(turn: &Turn<'_>, obstacle: Obstacle, reason: &'static str) -> Told {
    turn.plan.memory.setbacks.get(&obstacle).map(|s| (Answer::True, reason, s.message.clone()))
}

fn limited(turn: &Turn<'_>) -> Told {
    let throttled = turn.plan.memory.setbacks.get(&Obstacle::Throttled).filter(|s| s.until > turn.now).map(|s| s.until);
    let until = throttled.max(turn.obs.rate.backoff_until).filter(|t| *t > turn.now)?;
    Some((Answer::True, "Throttled", format!("nothing is asked of the cloud until {until}")))
}

/// Conditions that people should hear about when they turn to that answer. Of a list that failed they hear in any case.
const ALARMS: [(&str, Answer); 9] = [
    (CONFIG_ADJUSTED, Answer::True),
    (RUNAWAY_BRAKE, Answer::True),
    (DEGRADED, Answer::True),
    (QUOTA_EXCEEDED, Answer::True),
    (CAPACITY_UNAVAILABLE, Answer::True),
    (PROBE_TRUSTED, Answer::False),
    (ROTATION_FEASIBLE, Answer::False),
    (CREDENTIALS_VALID, Answer::False),
    (STALLED, Answer::True),
];

/// Puts the status into the plan if it says something new, and the alarms into the log.
pub fn settle(turn: Turn<'_>, mut said: ProxyPoolStatus) -> Plan {
    let (old, now) = (&turn.obs.status, turn.now);
    let mut plan = turn.plan;
    for (type_, bad) in ALARMS {
        let is_bad = |s: &ProxyPoolStatus| conditions::find(&s.conditions, type_).filter(|c| c.status == bad.as_str()).cloned();
        if let Some(condition) = is_bad(&said)
            && is_bad(old).is_none()
        {
            plan.notes.push(Note { warning: true, reason: type_, message: condition.message });
        }
    }
    if news(old) != news(&said) {
        said.last_update = Some(now);
        plan.status = Some(said);
    }
    plan
}

/// A status without what changes by itself and sentences: what is left is worth a write.
fn news(status: &ProxyPoolStatus) -> ProxyPoolStatus {
    let mut status = status.clone();
    status.last_update = None;
    status.oldest_age = None;
    if let Some(provider) = &mut status.provider {
        provider.last_list_at = None;
        provider.rate_remaining = None;
        // That there is one is news; that it is put off is not.
        provider.backoff_until = provider.backoff_until.map(|_| Time::UNIX_EPOCH);
    }
    for condition in &mut status.conditions {
        condition.message.clear();
    }
    status
}

fn number(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
