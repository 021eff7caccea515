//! What is printed for people; pure. Tables look as kubectl's do.

use std::fmt::Write as _;

use crate::api::rolling_update::{CleanupPolicy, Transition};
use crate::api::{Ratio, State, Time};
use crate::orders::view::{HealthAnswer, Limits, Update};
use crate::orders::{Hold, Order};

use super::pods::Row;

/// Cells of the bar that shows the new version's share.
const BAR: usize = 20;

/// What `update status` shows.
#[derive(Debug, Clone)]
pub struct Page {
    /// The update.
    pub update: Update,
    /// What was measured.
    pub health: HealthAnswer,
    /// The newest changes of state.
    pub history: Vec<Transition>,
    /// The pods of each version, or why they are not shown.
    pub pods: Result<Vec<VersionPods>, String>,
}

/// The pods of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionPods {
    /// Which.
    pub version: String,
    /// Its pods.
    pub pods: Vec<Row>,
}

/// A table without borders, three spaces between columns.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let header = header.iter().map(|&h| h.to_owned()).collect::<Vec<_>>();
    let lines = || std::iter::once(&header).chain(rows);
    let width = |column: usize| lines().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for line in lines() {
        let cells = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// The same, moved in.
fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".into() } else { format!("  {line}\n") }).collect()
}

/// A span of time, as kubectl shows ages.
pub fn age(from: Option<Time>, now: Time) -> String {
    let Some(from) = from else { return "<unknown>".into() };
    let seconds = (now - from).num_seconds().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let pair = |large: i64, unit: &str, small: i64, part: &str| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit}{small}{part}") }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => pair(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => pair(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => pair(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

fn at(millis: i64) -> Option<Time> {
    Time::from_timestamp_millis(millis).filter(|_| millis > 0)
}

fn or_dash(text: Option<String>) -> String {
    text.filter(|t| !t.is_empty()).unwrap_or_else(|| "-".into())
}

/// A share as people say it: 25 %, 33.3 %.
pub fn percent(share: f64) -> String {
    // What is not nothing is not shown as nothing, nor what is not all as all.
    if share > 0.0 && share < 0.0001 {
        return "< 0.01 %".into();
    }
    if share < 1.0 && share > 0.9999 {
        return "> 99.99 %".into();
    }
    let text = format!("{:.2}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

fn share(ratio: &str) -> f64 {
    ratio.parse::<Ratio>().map_or(0.0, Ratio::share)
}

/// The new version's share as a bar.
fn bar(ratio: &str) -> String {
    let new = share(ratio);
    // What is not nothing is seen, and what is not all is not shown as all.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "0 to 20")]
    let cells = (new * BAR as f64).round() as usize;
    let cells = match new {
        0.0 => 0,
        1.0 => BAR,
        _ => cells.clamp(1, BAR - 1),
    };
    format!("[{}{}] {} new", "#".repeat(cells), "-".repeat(BAR - cells), percent(new))
}

fn ready(update: &Update) -> String {
    let wanted = update.new_instances.map_or_else(|| "?".into(), |n| n.to_string());
    format!("{}/{wanted}", update.ready_instances.unwrap_or_default())
}

fn verdict(update: &Update) -> String {
    or_dash(update.decision.as_ref().map(|d| d.verdict.as_str().to_owned()))
}

/// The table of updates. `namespaces`: with theirs. `wide`: with what each does or waits for.
pub fn updates(updates: &[Update], namespaces: bool, wide: bool, now: Time) -> String {
    let mut header = vec!["ID", "STATE", "ROUTING", "NEW", "OLD", "READY", "HEALTH", "AGE"];
    if namespaces {
        header.insert(0, "NAMESPACE");
    }
    if wide {
        header.extend(["REASON", "MESSAGE"]);
    }
    let row = |u: &Update| {
        let mut row = if namespaces { vec![u.namespace.clone()] } else { Vec::new() };
        row.extend([
            u.update_id.clone(),
            u.state.to_string(),
            u.routing.clone(),
            u.new_version.clone(),
            or_dash(u.old_version.clone()),
            ready(u),
            verdict(u),
            age(at(u.created_at), now),
        ]);
        if wide {
            row.extend([u.reason.clone(), u.message.clone()]);
        }
        row
    };
    table(&header, &updates.iter().map(row).collect::<Vec<_>>())
}

/// One line on how an update is: what is appended where nothing can be redrawn.
pub fn line(update: &Update) -> String {
    format!(
        "{}: {} {} ({} new), {} ready, {}: {}",
        update.update_id,
        update.state,
        update.routing,
        percent(share(&update.routing)),
        ready(update),
        update.reason,
        update.message
    )
}

/// What was asked, in words.
pub fn confirmation(update: &Update, order: &Order) -> String {
    let id = &update.update_id;
    match order {
        Order::Routing(Hold(Some(ratio))) => format!("update {id}: routing {ratio} asked for ({} new)", percent(ratio.share())),
        Order::Routing(Hold(None)) => format!("update {id}: no ratio is held any more"),
        Order::Approve(_) => {
            let up_to = update.asked.approved.clone().unwrap_or_default();
            format!("update {id}: approved up to {up_to} ({} new)", percent(share(&up_to)))
        }
        Order::Pause => format!("update {id}: pause asked for"),
        Order::Resume => match &update.asked.routing {
            Some(held) => format!("update {id}: not paused any more; routing {held} is held by hand (-r auto lets it go)"),
            None => format!("update {id}: goes on"),
        },
        Order::Complete => format!("update {id}: completion asked for"),
        Order::Rollback => format!("update {id}: rollback asked for"),
    }
}

/// What people ask of it, in words.
fn asked(update: &Update) -> String {
    let asked = &update.asked;
    let mut said = Vec::new();
    if asked.version != update.new_version {
        said.push(format!("version {} instead", asked.version));
    }
    said.extend(asked.routing.as_ref().map(|r| format!("routing {r} ({} new)", percent(share(r)))));
    said.extend(asked.approved.as_ref().map(|r| format!("approved up to {r}")));
    if asked.paused {
        said.push("paused".into());
    }
    said.extend(asked.outcome.map(|o| format!("{o:?}").to_lowercase()));
    if said.is_empty() { "nothing".into() } else { said.join(", ") }
}

fn policy(policy: CleanupPolicy) -> &'static str {
    match policy {
        CleanupPolicy::Immediate => "IMMEDIATE (the old version goes at completion)",
        CleanupPolicy::GracePeriod => "GRACE_PERIOD (the old version stays 5 minutes)",
        CleanupPolicy::Manual => "MANUAL (the old version stays until it is undeployed or the next release begins)",
    }
}

fn limits(limits: &Limits) -> String {
    format!("error rate {}, p99 latency {} ms", percent(limits.max_error_rate), limits.max_latency_ms)
}

/// Everything about one update.
pub fn page(page: &Page, now: Time) -> String {
    let update = &page.update;
    let mut lines: Vec<(&str, String)> = vec![
        ("Update", update.update_id.clone()),
        ("Namespace", update.namespace.clone()),
        ("Artifact", update.artifact_base.clone()),
        ("Versions", format!("{} -> {}", or_dash(update.old_version.clone()), update.new_version)),
        ("State", format!("{} ({})", update.state, update.reason)),
        ("Message", update.message.clone()),
        ("Traffic", format!("{} ({})", bar(&update.routing), update.routing)),
    ];
    if let Some(effective) = update.effective_routing.as_ref().filter(|e| **e != update.routing) {
        lines.push(("In force", format!("{} ({effective})", bar(effective))));
    }
    if let Some(step) = &update.step {
        let place = if step.index == 0 { "none, a person's ratio".into() } else { format!("{} of {}", step.index, step.of) };
        // Once the time has come the message says what else is waited for.
        let next = step.next_not_before.filter(|at| update.is_active() && *at > now);
        let next = next.map(|at| format!("; next one not before {} (in {})", at.format("%H:%M:%SZ"), age(Some(now), at)));
        lines.push(("Step", format!("{place}, for {}{}", age(Some(step.since), now), next.unwrap_or_default())));
    }
    lines.push(("Ready", format!("{} pods of the new version", ready(update))));
    if update.is_active() {
        lines.push(("Asked", asked(update)));
        let who = if update.require_manual_approval { "each step waits for a person" } else { "not needed" };
        lines.push(("Approval", who.into()));
    }
    lines.push(("Cleanup", policy(update.cleanup_policy).into()));
    lines.push(("Started", format!("{} ago", age(at(update.created_at), now))));
    let mut text = String::new();
    for (name, value) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<12}{value}", format!("{name}:"));
    }
    let _ = write!(text, "\n{}", health(&page.health, now));
    let _ = write!(text, "\nPods:\n{}", indented(&pods(&page.pods, now)));
    let _ = write!(text, "\nHistory:\n{}", indented(&history(&page.history, now)));
    text
}

/// What was measured, against the limits.
pub fn health(answer: &HealthAnswer, now: Time) -> String {
    let health = &answer.health;
    let row = |name: &str, h: &crate::api::rolling_update::VersionHealth| {
        let measured = h.request_count > 0;
        vec![
            or_dash(Some(h.version.clone())),
            name.into(),
            h.request_count.to_string(),
            or_dash(measured.then(|| percent(h.error_rate))),
            or_dash(measured.then(|| format!("{:.1} ms", h.avg_latency_ms))),
        ]
    };
    let rows = [row("old", &health.old_version), row("new", &health.new_version)];
    let is_counted = health.old_version.request_count + health.new_version.request_count > 0;
    // A reading alone is never written, so while a verdict stands its figures grow old.
    let counted = if is_counted { format!("Counted:    until {} ago\n", age(at(health.collected_at), now)) } else { String::new() };
    format!(
        "Health:     {} ({}): {}\nLimits:     {}\n{counted}{}",
        answer.verdict.as_str(),
        answer.reason,
        answer.message,
        limits(&answer.thresholds),
        indented(&table(&["VERSION", "SIDE", "REQUESTS", "ERRORS", "MEAN LATENCY"], &rows))
    )
}

fn pods(pods: &Result<Vec<VersionPods>, String>, now: Time) -> String {
    let versions = match pods {
        Ok(versions) => versions,
        Err(why) => return format!("not shown: {why}\n"),
    };
    let row = |version: &str, pod: &Row| {
        let ready = if pod.ready { "yes" } else { "no" };
        vec![version.to_owned(), pod.name.clone(), ready.into(), pod.status.clone(), pod.restarts.to_string(), age(pod.born, now)]
    };
    let rows: Vec<_> = versions.iter().flat_map(|v| v.pods.iter().map(|p| row(&v.version, p))).collect();
    if rows.is_empty() { "none\n".into() } else { table(&["VERSION", "POD", "READY", "STATUS", "RESTARTS", "AGE"], &rows) }
}

fn history(history: &[Transition], now: Time) -> String {
    let row = |t: &Transition| vec![age(Some(t.at), now), t.from.to_string(), t.to.to_string(), t.reason.clone(), t.by.clone()];
    let rows: Vec<_> = history.iter().map(row).collect();
    if rows.is_empty() { "none\n".into() } else { table(&["AGE", "FROM", "TO", "REASON", "BY"], &rows) }
}

/// How an update ended, as the last word of waiting.
pub fn ending(update: &Update) -> String {
    let (id, new) = (&update.update_id, &update.new_version);
    match update.state {
        State::Completed => format!("update {id}: version {new} is live"),
        State::RolledBack => {
            format!(
                "update {id}: rolled back, version {} is live ({}: {})",
                or_dash(update.old_version.clone()),
                update.reason,
                update.message
            )
        }
        State::Failed => format!("update {id}: failed ({}: {})", update.reason, update.message),
        _ => line(update),
    }
}
