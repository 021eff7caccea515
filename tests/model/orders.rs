//! R4: what has been decided, by a person or by the steps.

use aether_operator::api::Ratio;
use serde_json::Value;

use super::invariants::Checker;
use super::world::{items, text};

/// A ratio that may come next.
pub struct Next {
    pub ratio: Ratio,
    /// A person has ordered it.
    pub ordered: bool,
    /// A person has approved it.
    pub approved: bool,
}

impl Checker {
    pub fn on_record(&self) -> Ratio {
        self.recorded.0.parse().unwrap_or(Ratio::ALL_OLD)
    }

    /// What was ordered within the time in which the operator may not have heard of the next order.
    pub fn orders_lately(&self) -> impl Iterator<Item = &Value> {
        let late = self.late.iter().flat_map(|(_, orders)| orders);
        self.orders.iter().chain(late).map(|(_, spec)| spec)
    }

    /// The ratio that comes after the recorded one, by order or by the steps.
    pub fn wanted_next(&self, spec: &Value) -> Option<Next> {
        let control = &spec["control"];
        let meant = text(control, "/version") == text(spec, "/version");
        if meant && control["paused"] == true {
            return None;
        }
        if meant && let Ok(ratio) = text(control, "/routing").parse() {
            return Some(Next { ratio, ordered: true, approved: true });
        }
        let approved = text(control, "/approved").parse::<Ratio>().ok().filter(|_| meant);
        let mut steps = items(spec, "/progression/steps").filter_map(|s| s.as_str()?.parse::<Ratio>().ok());
        let ratio = steps.find(|s| s.exceeds(self.on_record()))?;
        let approved = approved.is_some_and(|a| !ratio.exceeds(a));
        (approved || spec["requireManualApproval"] != true).then_some(Next { ratio, ordered: false, approved })
    }

    /// Whether a share of the new version was decided: ordered, or the next step with all of its pods ready, while the new
    /// version is good or a person has approved the step all the same.
    pub fn is_decided(&self, whole: bool, fits: impl Fn(Ratio) -> bool) -> bool {
        let next = self.orders_lately().filter_map(|spec| self.wanted_next(spec));
        let errs = self.errs_from.is_some_and(|from| self.on_record().share() >= from);
        next.filter(|next| next.ordered || (whole && (next.approved || !errs))).any(|next| fits(next.ratio))
    }
}
