//! A plan carried out: status first, then what is published, then the cloud.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use crate::api::ProxyPoolStatus;
use crate::cloud::{Class, Error, Order, Vm};
use crate::cluster::facts::Meta;
use crate::pool::model::{Action, Deed, Needs, Note, Observation, Outcome, Plan, order_name};
use crate::pool::publication::Publication;
use crate::rollout::build::short_hash;
use crate::runtime::clock;
use crate::runtime::metrics::PoolFigures;

use super::open::{Made, Open};
use super::{Keeper, Kept, later};

/// Events of one look: each takes a request, and the log has them all.
const EVENTS: usize = 20;
/// After this long it is seen to that what was published is still there.
const STILL_THERE: Duration = Duration::from_mins(5);

impl Keeper {
    /// Status first, then what is published, then the cloud.
    pub(super) async fn apply(&self, obs: &Observation, open: Option<&Open>, plan: Plan, kept: &mut Kept) -> Duration {
        let mut status = obs.status.clone();
        let mut meta = obs.meta.clone();
        if let Some(said) = plan.status {
            match self.pools.status(&meta, &said).await {
                Ok(written) => {
                    (status, meta) = (said, super::meta(&written));
                    kept.own = Some(written);
                }
                // Nothing of the plan is done, and nothing of it was learned.
                Err(error) => return later(&obs.meta, "its status was not written", &error),
            }
        }
        kept.memory = plan.memory;
        self.show(obs, &status, kept);
        for note in &plan.notes {
            if note.warning {
                tracing::warn!(pool = %meta.key(), "{}", note.message);
            } else {
                tracing::info!(pool = %meta.key(), "{}", note.message);
            }
        }
        let published = match (open.and_then(|open| open.made.as_ref()), plan.serving) {
            _ if meta.deleting => self.withdraw(&meta, kept).await,
            (Some(made), Some(serving)) => self.publish(&meta, made, serving, kept).await,
            // Who serves is not known yet, so who is about to go may be published still.
            (Some(_), None) => false,
            (None, _) => true,
        };
        let mut stopped = false;
        for action in &plan.actions {
            let outcome = if stopped || (!published && matches!(action.deed, Deed::Delete { .. })) {
                Outcome::Skipped
            } else {
                self.act(action, &status, &mut meta, open, kept, obs.orphan).await
            };
            if let Outcome::Failed(error) = &outcome {
                tracing::warn!(pool = %meta.key(), why = action.why, %error, "the cloud did not do it");
                stopped |= matches!(error.class, Class::Throttled(_) | Class::Auth);
            }
            kept.memory.learn(&action.deed, &outcome, clock::now());
        }
        // Last: whoever reads them waits for nothing, and the work would.
        for note in plan.notes.iter().take(EVENTS) {
            self.publisher.publish_of_pool(&meta, note).await;
        }
        let now = clock::now();
        let again = now + plan.requeue;
        // Looks in between, for probes or edits, do not put it off.
        kept.list_again = Some(kept.list_again.map_or(again, |at| at.min(again)));
        let probe = open.and_then(|open| kept.ledger.next(open.interval())).map(|at| (at - now).to_std().unwrap_or_default());
        probe.map_or(plan.requeue, |probe| probe.min(plan.requeue))
    }

    fn show(&self, obs: &Observation, status: &ProxyPoolStatus, kept: &mut Kept) {
        let Ok(wish) = &obs.wish else { return };
        let provider = wish.provider.name();
        kept.shown = Some(provider);
        let (key, wanted, rate_remaining) = (&obs.meta.key(), wish.min_scaling, obs.rate.remaining);
        self.metrics.pool(&PoolFigures { key, provider, status, wanted, rate_remaining });
    }

    /// True: what is published names nobody who is about to go, or cannot be helped.
    async fn publish(&self, meta: &Meta, made: &Made, serving: BTreeSet<SocketAddr>, kept: &mut Kept) -> bool {
        let publication = Publication { serving, port: made.port, login: made.login.clone() };
        let mark = short_hash(&format!("{:?} {} {} {:?}", publication.serving, made.port, made.template, made.publish));
        if kept.published.as_ref().is_some_and(|(of, at)| *of == mark && clock::now() < *at + STILL_THERE) {
            return true;
        }
        match self.pools.publish(meta, &publication, made.publish).await {
            Ok(()) => {
                kept.published = Some((mark, clock::now()));
                true
            }
            Err(error) => {
                tracing::warn!(pool = %meta.key(), %error, "addresses not published");
                if error.is_lasting() {
                    // Said once until it is another, or some time has passed.
                    kept.published = Some((mark, clock::now()));
                    let message = format!("{error}{}", self.way_in(&meta.namespace, error.code()));
                    self.publisher.publish_of_pool(meta, &Note { warning: true, reason: "NotPublished", message }).await;
                }
                error.is_lasting()
            }
        }
    }

    /// Takes away what was published before the first proxy goes. The pool's own end does it in any case.
    async fn withdraw(&self, meta: &Meta, kept: &mut Kept) -> bool {
        if kept.published.as_ref().is_none_or(|(of, _)| !of.is_empty()) {
            match self.pools.withdraw(meta).await {
                Ok(()) => kept.published = Some((String::new(), clock::now())),
                Err(error) => tracing::warn!(pool = %meta.key(), %error, "addresses not taken away"),
            }
        }
        true
    }

    async fn act(
        &self,
        action: &Action,
        status: &ProxyPoolStatus,
        meta: &mut Meta,
        open: Option<&Open>,
        kept: &mut Kept,
        orphan: bool,
    ) -> Outcome {
        let is_met = match &action.needs {
            Needs::Nothing | Needs::Unchanged(_) => true,
            Needs::Recorded(nonce) => status.in_flight.iter().any(|f| f.nonce == *nonce),
            Needs::Listed(at) => {
                kept.list.as_ref().is_some_and(|list| list.at >= *at && list.vms.iter().any(|vm| is_meant(vm, &action.deed)))
            }
        };
        if !is_met || !self.pools.leads() {
            return Outcome::Skipped;
        }
        let failed = |error: Error| Outcome::Failed(error);
        if orphan
            && action.deed == Deed::Release
            && let Err(error) = self.pools.let_go(meta).await
        {
            tracing::warn!(pool = %meta.key(), %error, "its pods would go with it, so it stays");
            return Outcome::Skipped;
        }
        match (&action.deed, open) {
            (Deed::Hold | Deed::Release, _) => match self.pools.hold(meta, action.deed == Deed::Hold).await {
                Ok(written) => {
                    *meta = super::meta(&written);
                    kept.own = Some(written);
                    Outcome::Done
                }
                Err(error) => {
                    tracing::info!(pool = %meta.key(), %error, "the finalizer was not changed");
                    Outcome::Skipped
                }
            },
            (_, None) => Outcome::Skipped,
            (Deed::Look(marks), Some(open)) => {
                let found = open.cloud.find(marks).await;
                self.metrics.called(open.provider, "find", &found);
                found.map_or_else(failed, |vm| Outcome::Found(vm.is_some()))
            }
            (Deed::Create(marks), Some(open)) => {
                let Some(made) = &open.made else { return Outcome::Skipped };
                let order = Order { name: order_name(marks), marks: marks.clone(), user_data: made.script.clone() };
                let made = open.cloud.create(&order).await;
                self.metrics.called(open.provider, "create", &made);
                made.map_or_else(failed, |_| Outcome::Done)
            }
            (Deed::Delete { id, .. }, Some(open)) => {
                let gone = open.cloud.delete(id).await;
                self.metrics.called(open.provider, "delete", &gone);
                gone.map_or_else(failed, |()| Outcome::Done)
            }
        }
    }
}

fn is_meant(vm: &Vm, deed: &Deed) -> bool {
    matches!(deed, Deed::Delete { id, pool } if vm.id == *id && vm.marks.pool == *pool)
}
