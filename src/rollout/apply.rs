//! From a [`Plan`] to writes: in order, status last, the first failure ends it. No choices are made here.

use crate::cluster::event::Publisher;
use crate::cluster::write::{WriteError, Writer};

use super::model::{Observation, Plan};

/// What applying a plan came to.
#[derive(Debug)]
pub enum Applied {
    /// Nothing was to be written.
    Nothing,
    /// Everything was written; the index knows it already.
    Written,
    /// Something was not as expected; look again now.
    Stale,
    /// The API server refuses an object for good.
    Refused {
        /// Its name.
        object: String,
        /// What was said.
        message: String,
    },
    /// Try again after a while; what the API server said, if it denies this as things are.
    Later(Option<String>),
    /// Not ours to write any more.
    NotLeader,
}

/// Carries out a plan.
pub async fn apply(writer: &Writer, publisher: &Publisher, obs: &Observation, plan: &Plan) -> Applied {
    let mut broken = None;
    for action in &plan.actions {
        if broken.is_some() && !action.regardless {
            continue;
        }
        tracing::info!(update = %obs.meta.key(), why = action.why, "acting");
        if let Err(error) = writer.act(&obs.meta, action).await {
            broken.get_or_insert(error);
        }
    }
    if let Some(error) = broken {
        return failed(obs, error);
    }
    if let Some(status) = &plan.status {
        tracing::info!(update = %obs.meta.key(), state = %status.state, routing = status.routing, "recording");
        if let Err(error) = writer.status(&obs.meta, status, &plan.live).await {
            return failed(obs, error);
        }
        for note in plan.notes.clone() {
            // Apart, so that slow Events never hold up traffic.
            let (publisher, meta) = (publisher.clone(), obs.meta.clone());
            tokio::spawn(async move { publisher.publish(&meta, &note).await });
        }
    }
    if plan.actions.is_empty() && plan.status.is_none() { Applied::Nothing } else { Applied::Written }
}

fn failed(obs: &Observation, error: WriteError) -> Applied {
    let update = obs.meta.key();
    match error {
        WriteError::NotLeader => Applied::NotLeader,
        WriteError::Stale(..) => {
            tracing::debug!(%update, %error, "looking again");
            Applied::Stale
        }
        WriteError::Refused(target, message) => {
            tracing::warn!(%update, %target, message, "refused");
            Applied::Refused { object: target.key.name, message }
        }
        WriteError::Denied(_, ref said) => {
            tracing::warn!(%update, %error, "denied, trying again later");
            Applied::Later(Some(said.clone()))
        }
        WriteError::Later(..) => {
            tracing::warn!(%update, %error, "trying again later");
            Applied::Later(None)
        }
    }
}
