//! Planted bugs: each must be caught, by the invariant that names it.

use aether_operator::rollout::model::{Memory, Observation, Plan};

use super::sim::Sim;

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    SkipPin,
}

impl Bug {
    pub fn before(self, _sim: &mut Sim, _obs: &Observation, _memory: &mut Memory) {}

    pub fn after(self, _sim: &mut Sim, _obs: &Observation, plan: &mut Plan) {
        if self == Self::SkipPin {
            plan.actions.retain(|a| a.why != "callers of the Service stay on the old version");
        }
    }
}
