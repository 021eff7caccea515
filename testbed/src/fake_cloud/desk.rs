//! Where every request is seen to: who asks, whether they may, what goes wrong, and only then what is asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{SubsecRound, TimeDelta, Utc};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::knobs::{Effect, Refusal};
use super::rate::Budget;
use super::state::{Operation, State};
use super::vm::{Order, Vm};
use super::{Call, Change, Clock, Dialect, Hands, Time, digitalocean, ec2, gce, hetzner, vultr};

/// The cloud as all who serve it share it.
#[derive(Clone)]
pub(super) struct Cloud(Arc<Shared>);

struct Shared {
    books: Mutex<Books>,
    accounts: BTreeMap<String, String>,
    machines: Option<UnboundedSender<Change>>,
    /// Something may be due earlier than it was.
    changed: Notify,
    held: watch::Sender<Held>,
}

/// What is under way and does not arrive.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    /// How many requests were held so far.
    pub times: u32,
    /// None is held any more.
    pub released: bool,
}

struct Books {
    state: State,
    hands: Hands,
}

/// Put on a response that nobody is to get: the connection ends instead.
#[derive(Clone, Copy)]
pub(super) struct Lost;

impl Cloud {
    pub fn new(state: State, accounts: BTreeMap<String, String>, machines: Option<UnboundedSender<Change>>) -> Self {
        let books = Mutex::new(Books { state, hands: Hands::default() });
        Self(Arc::new(Shared { books, accounts, machines, changed: Notify::new(), held: watch::Sender::default() }))
    }

    /// Does something at one moment. What happened until then has happened.
    pub fn with<T>(&self, act: impl FnOnce(&mut State, Time) -> T) -> T {
        let mut books = self.0.books.lock().unwrap_or_else(PoisonError::into_inner);
        // Times go over the wire in milliseconds at best.
        let now = books.hands.read(Utc::now()).trunc_subsecs(3);
        self.tell_now(&mut books.state, now);
        let done = act(&mut books.state, now);
        self.tell_now(&mut books.state, now);
        self.0.changed.notify_one();
        done
    }

    pub fn set_clock(&self, setting: Clock) {
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner).hands.set(setting, Utc::now());
        self.with(|_, _| ());
    }

    /// Under the lock, so that the order is right.
    fn tell_now(&self, state: &mut State, now: Time) {
        for change in state.advance(now) {
            if let Some(machines) = &self.0.machines {
                // Who no longer listens does not want to know.
                let _ = machines.send(change);
            }
        }
    }

    /// Tells of what happens by itself, when it happens.
    pub async fn tell(self) {
        loop {
            let changed = self.0.changed.notified();
            let wait = {
                let mut books = self.0.books.lock().unwrap_or_else(PoisonError::into_inner);
                let now = books.hands.read(Utc::now());
                self.tell_now(&mut books.state, now);
                let due = books.state.next_due(now).filter(|_| books.hands.stopped.is_none());
                due.map(|due| (due - now).to_std().unwrap_or_default())
            };
            match wait {
                Some(wait) => tokio::select! { () = changed => {}, () = sleep(wait) => {} },
                None => changed.await,
            }
        }
    }

    /// What is under way and does not arrive.
    pub fn held(&self) -> &watch::Sender<Held> {
        &self.0.held
    }

    async fn hold(&self) {
        let mut held = self.0.held.subscribe();
        self.0.held.send_modify(|held| held.times += 1);
        let _ = held.wait_for(|held| held.released).await;
    }

    /// A credential that is good for something.
    pub fn any_credential(&self) -> Option<&str> {
        self.0.accounts.keys().next().map(String::as_str)
    }

    /// Sees to a request. `project`: the account, where the path says it.
    pub async fn answer(
        &self,
        dialect: Dialect,
        call: Call,
        headers: &HeaderMap,
        project: Option<&str>,
        act: impl FnOnce(&mut Desk) -> Result<Response, Refusal>,
    ) -> Response {
        let account = self.account(dialect, headers, project);
        let admitted = self.with(|state, now| {
            state.count(dialect, call);
            let account = account?;
            let (allowed, budget) = state.spend(dialect, account, call, now);
            let effect = if allowed.is_ok() { state.strike(dialect, account, call) } else { None };
            Ok((account, allowed, budget, effect))
        });
        let (account, allowed, budget, effect) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => return dialect.refuse(&refusal),
        };
        if effect == Some(Effect::HoldRequest) {
            self.hold().await;
        }
        let mut response = self.with(|state, now| {
            let refusal = match &effect {
                Some(Effect::Refuse(refusal)) => Some(refusal.clone()),
                // Whatever it says: nobody will get it.
                Some(Effect::LoseRequest) => Some(Refusal::Unavailable),
                _ => allowed.err(),
            };
            let mut desk = Desk { state, dialect, account, now, effect: effect.as_ref() };
            let done = refusal.map_or_else(|| act(&mut desk), Err);
            let throttled = if let Err(Refusal::Throttled(seconds)) = &done { Some(*seconds) } else { None };
            let mut response = done.unwrap_or_else(|refusal| dialect.refuse(&refusal));
            if let Some(budget) = budget {
                let throttled = throttled.map(|seconds| now + TimeDelta::seconds(seconds.into()));
                dialect.tell_budget(response.headers_mut(), Budget { throttled, ..budget });
            }
            response
        });
        match effect {
            Some(Effect::LoseReply | Effect::LoseRequest) => drop(response.extensions_mut().insert(Lost)),
            Some(Effect::Delay(delay)) => sleep(delay).await,
            Some(Effect::HoldReply) => self.hold().await,
            Some(Effect::Refuse(_) | Effect::FailLater(_) | Effect::Stale(_) | Effect::HoldRequest) | None => {}
        }
        response
    }

    fn account<'a>(&'a self, dialect: Dialect, headers: &HeaderMap, project: Option<&'a str>) -> Result<&'a str, Refusal> {
        let credential = match dialect.credential(headers) {
            None if project.is_some() => return project.ok_or(Refusal::Unauthorized),
            credential => credential.ok_or(Refusal::Unauthorized)?,
        };
        let account = self.0.accounts.get(credential).ok_or(Refusal::Unauthorized)?;
        Ok(project.unwrap_or(account))
    }
}

/// What a request may do: as its account, at its moment.
pub(super) struct Desk<'a> {
    pub state: &'a mut State,
    dialect: Dialect,
    pub account: &'a str,
    pub now: Time,
    effect: Option<&'a Effect>,
}

impl Desk<'_> {
    pub fn create(&mut self, orders: Vec<Order>) -> Result<Vec<Vm>, Refusal> {
        let fails = if let Some(Effect::FailLater(refusal)) = self.effect { Some(refusal) } else { None };
        self.state.create(self.dialect, self.account, orders, fails, self.now)
    }

    /// The VMs of a list and the time that it is of.
    pub fn list(&self) -> (Vec<&Vm>, Time) {
        let late = if let Some(Effect::Stale(late)) = self.effect { *late } else { Duration::ZERO };
        self.state.list(self.dialect, self.account, self.now - late)
    }

    pub fn find(&self, id: u64) -> Result<&Vm, Refusal> {
        self.state.find(self.dialect, self.account, id, self.now)
    }

    pub fn delete(&mut self, id: u64, token: Option<String>) -> Result<Vm, Refusal> {
        self.state.delete(self.dialect, self.account, id, token, self.now)
    }

    /// An operation of the account.
    pub fn operation(&self, id: u64) -> Result<&Operation, Refusal> {
        self.state.operation(self.dialect, self.account, id).ok_or_else(|| Refusal::NotFound(id.to_string()))
    }
}

impl Dialect {
    /// What names the account: bearer token or access key id.
    fn credential(self, headers: &HeaderMap) -> Option<&str> {
        let header = headers.get("authorization")?.to_str().ok()?;
        match self {
            Self::Ec2 => header.split_once("Credential=")?.1.split('/').next(),
            _ => header.strip_prefix("Bearer "),
        }
    }

    fn refuse(self, refusal: &Refusal) -> Response {
        match self {
            Self::DigitalOcean => digitalocean::refuse(refusal),
            Self::Hetzner => hetzner::refuse(refusal),
            Self::Vultr => vultr::refuse(refusal),
            Self::Gce => gce::refuse(refusal),
            Self::Ec2 => ec2::refuse(refusal),
        }
    }

    fn tell_budget(self, headers: &mut HeaderMap, budget: Budget) {
        match self {
            Self::DigitalOcean => digitalocean::tell_budget(headers, budget),
            Self::Hetzner => hetzner::tell_budget(headers, budget),
            Self::Vultr | Self::Gce | Self::Ec2 => {}
        }
    }
}
