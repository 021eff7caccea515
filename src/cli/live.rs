//! What is printed while an update changes: the live view, and the progress of waiting.

use std::io::IsTerminal as _;
use std::time::Duration;

use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use kube::ResourceExt as _;
use tokio::time::Instant;

use crate::api::RollingUpdate;
use crate::orders::Class;
use crate::orders::view::{Update, speaks_of_spec};
use crate::runtime::clock;

use super::session::Session;
use super::{Failure, note, print, render, update};

/// How often ages are drawn anew, and pods looked at.
const REDRAW: Duration = Duration::from_secs(2);

/// It is over, and the operator has seen everything that is asked of it.
pub fn is_over(update: &RollingUpdate) -> bool {
    let status = update.status.clone().unwrap_or_default();
    status.observed_generation >= update.metadata.generation && speaks_of_spec(update) && status.state.is_terminal()
}

/// The update as it is and as it changes, until `is_done`; answers as it is then. `seen` is told each change.
pub async fn follow(
    session: &Session,
    id: &str,
    is_done: impl Fn(&RollingUpdate) -> bool,
    mut seen: impl FnMut(&RollingUpdate) -> Result<(), Failure>,
) -> Result<RollingUpdate, Failure> {
    let mut changes = std::pin::pin!(session.desk.changes(&session.namespace, id));
    let mut told = false;
    while let Some(change) = changes.next().await {
        match change {
            Ok(Some(update)) => {
                told = false;
                seen(&update)?;
                if is_done(&update) {
                    return Ok(update);
                }
            }
            Ok(None) => return Err(Failure { code: 4, message: format!("update {id} does not exist any more") }),
            Err(refusal) if refusal.class == Class::Unavailable => {
                if !told {
                    note(&format!("{refusal}; trying again"));
                }
                told = true;
            }
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Err(Failure::failed(format!("the watch of update {id} ended; try again")))
}

/// Waits for what was ordered, and says on stderr what happens. `ordered`: the update as the order was written.
pub async fn wait(
    session: &Session,
    ordered: &RollingUpdate,
    limit: Duration,
    is_done: impl Fn(&RollingUpdate) -> bool,
) -> Result<RollingUpdate, Failure> {
    let id = ordered.name_any();
    let wanted = |u: &RollingUpdate| (u.spec.version.clone(), u.spec.attempt.unwrap_or(1));
    let is_replaced = |u: &RollingUpdate| wanted(u) != wanted(ordered) || u.uid() != ordered.uid();
    let is_written = |u: &RollingUpdate| u.metadata.generation >= ordered.metadata.generation;
    let mut last = String::new();
    let seen = |update: &RollingUpdate| {
        let line = render::line(&Update::of(update));
        if line != last {
            note(&line);
            last = line;
        }
        Ok(())
    };
    let done = follow(session, &id, |u| is_written(u) && (is_replaced(u) || is_done(u)), seen);
    let update = tokio::time::timeout(limit, done).await.map_err(|_| {
        let how = session.hint(&format!("update status {id}"));
        Failure::timeout(format!("not done within {}; it goes on, see: {how}", crate::api::duration::print(limit)))
    })??;
    if is_replaced(&update) {
        let (version, _) = wanted(&update);
        return Err(Failure::failed(format!("update {id}: somebody else has asked for version {version} meanwhile")));
    }
    Ok(update)
}

/// Shows an update until it is over: drawn anew in place on a terminal, a line per change elsewhere.
pub async fn watch(session: &Session, id: &str) -> Result<(), Failure> {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) || std::env::var_os("TERM").is_some_and(|t| t == "dumb");
    if plain || !std::io::stdout().is_terminal() {
        let mut last = String::new();
        let seen = |update: &RollingUpdate| {
            let line = render::line(&Update::of(update));
            if line == last {
                return Ok(());
            }
            last.clone_from(&line);
            print(&format!("{} {line}\n", clock::now().format("%H:%M:%SZ")))
        };
        return follow(session, id, is_over, seen).await.map(|_| ());
    }
    Box::pin(redraw(session, id)).await
}

async fn redraw(session: &Session, id: &str) -> Result<(), Failure> {
    // Who has had enough keeps what was shown last.
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout()).with_finish(ProgressFinish::AndLeave);
    bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let (sender, mut changes) = tokio::sync::watch::channel(None);
    let followed = follow(session, id, is_over, |update| {
        sender.send_replace(Some(update.clone()));
        Ok(())
    });
    let mut followed = std::pin::pin!(followed);
    let last = loop {
        tokio::select! {
            ended = &mut followed => break ended,
            () = draw(session, &bar, &mut changes) => {}
        }
    };
    bar.finish_and_clear();
    // The last page stays.
    print(&render::page(&update::page(session, &last?).await, clock::now()))
}

/// Draws what is there, and returns when there is a reason to draw again.
async fn draw(session: &Session, bar: &ProgressBar, changes: &mut tokio::sync::watch::Receiver<Option<RollingUpdate>>) {
    let next = Instant::now() + REDRAW;
    let current = changes.borrow_and_update().clone();
    if let Some(update) = current {
        let page = update::page(session, &update).await;
        bar.set_message(render::page(&page, clock::now()).trim_end().to_owned());
        bar.tick();
    }
    // Once the sender is gone there is nothing to wait for but the time.
    if tokio::time::timeout_at(next, changes.changed()).await.is_ok_and(|sent| sent.is_err()) {
        tokio::time::sleep_until(next).await;
    }
}
