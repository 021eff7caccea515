//! One room per state: what is done in it, and what is waited for.

use std::time::Duration;

use crate::api::conditions::Answer;
use crate::traffic::gate::Gate;

use super::decide::Turn;

pub mod completing;
pub mod deploying;
mod endpoints;
mod fence;
mod interference;
pub mod pending;
pub mod progress;
pub mod resting;
pub mod rolling_back;
pub mod shifting;
mod sizing;

/// What is waited for, in a CamelCase word and a sentence.
pub struct Wait(pub &'static str, pub String);

const GATEWAY_REFUSES: &str = "GatewayRefuses";
const WAITING_FOR_GATEWAY: &str = "WaitingForGateway";
const GATEWAY_STATUS_MISSING: &str = "GatewayStatusMissing";

impl Wait {
    /// What TrafficShifted says of it, if it is a gateway that is waited for.
    fn of_gateway(&self) -> Option<(Answer, &'static str, String)> {
        let answer = match self.0 {
            GATEWAY_REFUSES | WAITING_FOR_GATEWAY => Answer::False,
            GATEWAY_STATUS_MISSING => Answer::Unknown,
            _ => return None,
        };
        Some((answer, self.0, self.1.clone()))
    }
}

/// What a gate that is not open makes wait for. A moment's silence is not worth a word.
fn shut(turn: &mut Turn<'_>, gate: &Gate) -> Option<Wait> {
    let why = match gate {
        Gate::Confirmed => return None,
        Gate::Refused(why) => return Some(Wait(GATEWAY_REFUSES, why.clone())),
        Gate::Mute(why) | Gate::Silent(why) => why.clone(),
    };
    let silent = turn.held("silent");
    for word in [SLOW_GATEWAY, MUTE_GATEWAY] {
        turn.wake_after(word.saturating_sub(silent));
    }
    match silent {
        s if s < SLOW_GATEWAY => None,
        s if s < MUTE_GATEWAY => Some(Wait(WAITING_FOR_GATEWAY, why)),
        _ => Some(Wait(GATEWAY_STATUS_MISSING, why)),
    }
}

/// A gateway that says nothing for this long after a write is worth a word.
pub const SLOW_GATEWAY: Duration = Duration::from_secs(2);
/// A gateway that says nothing for this long is taken for one that never will.
pub const MUTE_GATEWAY: Duration = Duration::from_mins(1);
