//! Planted bugs: each must be caught, by the invariant that is there for it.

mod beliefs;
mod deeds;

use aether_operator::api::State;
use serde_json::json;

use super::meddler::{Meddler, Undoes};
use super::requests::Fault;
use super::scenario::{Act, Scenario, When};
use super::scenarios::pods::by_pods;
use super::scenarios::{adoption, deletions, edits, gateways, health, rollback_when, route_shapes, supersede};
use super::sim::Faults;

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    NewPodsBeforeThePin,
    UnreadyPodsCountAsReady,
    RatioBeforeDeployed,
    RatioAgainstTheOrders,
    NoSettling,
    OneRouteToNobody,
    ForeignWeightsForgotten,
    OldVersionGoneInRouting,
    NoDrainOfTheOld,
    NoDrainOfTheNew,
    ServicesGoneBeforeTheRoutes,
    FlipBeforeAllTraffic,
    UnpinBeforeThePodsAreGone,
    UnpauseBeforeTheUnpin,
    RiseAfterTheRollback,
    StatusSkipsStates,
    StatusAheadOfTheWork,
    SpecWritten,
    OthersTouched,
    OthersDeleted,
    WriteThatChangesNothing,
    StatusWithoutNews,
    ServicesLeftBehind,
    AnnotationLeftBehind,
    LabelsCountAsEndpoints,
    ServingKeyLeftInTheReplicaSet,
    MorePodsThanAsked,
    UnpinWithBothVersionsInService,
    FightsForEver,
    PinGoneUnnoticed,
    PauseGoneUnnoticed,
    AttemptIgnored,
    OrderForAnotherVersionFollowed,
    OneApprovalForEveryStep,
    SupersededGoneUndrained,
    BornTooSmall,
    AdoptionLetsGo,
    NothingCalledLive,
    GatewayTakenForGranted,
    HeldUpWritesGoThrough,
    ErrorsOverlooked,
}

use Bug::*;

fn promotion() -> Scenario {
    Scenario::new("promotion")
}

fn rollback() -> Scenario {
    rollback_when("rollback", When::Routing("1:1", 1500))
}

fn with_foreign_backend() -> Scenario {
    promotion().routes(route_shapes()[1].1.clone())
}

fn broken() -> Scenario {
    Scenario { broken: ["2.0.0".to_owned()].into(), ..Scenario::new("never ready").rolled_back() }
}

fn held() -> Scenario {
    let held = Scenario::new("held for a while").orders(When::State(State::Deployed, 2500), json!({"routing": "0:1"}));
    held.orders(When::After(6000), json!({"approved": "1:9"})).orders(When::After(6000), json!({"routing": null}))
}

fn hurried() -> Scenario {
    let at_once = Scenario::new("one ratio after the other").orders(When::State(State::Deployed, 0), json!({"routing": "1:1"}));
    at_once.orders(When::Routing("1:1", 0), json!({"routing": "3:1"})).orders(When::Routing("3:1", 0), json!({"routing": null}))
}

fn held_by_pods() -> Scenario {
    let held = by_pods("held for a while").orders(When::State(State::Deployed, 1000), json!({"routing": "1:3"}));
    held.orders(When::Routing("1:3", 30_000), json!({"routing": null}))
}

fn fought() -> Scenario {
    Scenario { meddler: Some(Meddler { undoes: Undoes::Pin, every: 9000, times: 9 }), ..promotion().rolled_back() }
}

fn pin_undone() -> Scenario {
    Scenario { meddler: Some(Meddler { undoes: Undoes::Pin, every: 9000, times: 1 }), ..promotion() }
}

fn approvals() -> Scenario {
    let approved = Scenario::new("approvals").with("requireManualApproval", json!(true));
    let approved = approved.orders(When::State(State::Deployed, 5000), json!({"approved": "1:9"}));
    approved.orders(When::Routing("1:9", 15_000), json!({"approved": "1:0"}))
}

fn order_for_another_version() -> Scenario {
    let ordered = Scenario::new("an order for another version");
    let ordered = ordered.orders(When::Routing("1:9", 0), json!({"version": "1.9.0", "routing": "1:0"}));
    ordered.when(When::After(9000), Act::Spec(json!({"control": null})))
}

fn again() -> Scenario {
    let again = rollback_when("another attempt", When::Routing("1:1", 1000));
    let again = again.when(When::State(State::RolledBack, 1000), Act::Spec(json!({"attempt": 2, "control": null})));
    again.ends(promotion().goal, "2.0.0")
}

fn edited_after_adoption() -> Scenario {
    adoption::adopted(Scenario::new, "the image, and much later the version")
        .when(When::After(0), Act::image("2.0.0"))
        .when(When::After(20_000), Act::Spec(json!({"version": "2.0.0"})))
}

/// A bug, the invariant that catches it, and the scenario in which it does.
type Planted = (Bug, &'static str, fn() -> Scenario);

/// Every planted bug.
pub const TABLE: [Planted; 41] = [
    (NewPodsBeforeThePin, "R11", promotion),
    (UnreadyPodsCountAsReady, "R1", broken),
    (RatioBeforeDeployed, "R4", promotion),
    (RatioAgainstTheOrders, "R4", held),
    (NoSettling, "settle", hurried),
    (OneRouteToNobody, "R10", promotion),
    (ForeignWeightsForgotten, "foreign share", with_foreign_backend),
    (OldVersionGoneInRouting, "R2", promotion),
    (NoDrainOfTheOld, "drain", promotion),
    (NoDrainOfTheNew, "drain", rollback),
    (ServicesGoneBeforeTheRoutes, "R1", promotion),
    (FlipBeforeAllTraffic, "flip", promotion),
    (UnpinBeforeThePodsAreGone, "pin", rollback),
    (UnpauseBeforeTheUnpin, "T3", promotion),
    (RiseAfterTheRollback, "R3", rollback),
    (StatusSkipsStates, "R5", promotion),
    (StatusAheadOfTheWork, "end", promotion),
    (SpecWritten, "R8", promotion),
    (OthersTouched, "R6", promotion),
    (OthersDeleted, "R6", promotion),
    (WriteThatChangesNothing, "no-op", promotion),
    (StatusWithoutNews, "rest", promotion),
    (ServicesLeftBehind, "T3", promotion),
    (AnnotationLeftBehind, "leftovers", rollback),
    (LabelsCountAsEndpoints, "size", || by_pods("promotion")),
    (ServingKeyLeftInTheReplicaSet, "T3", || by_pods("promotion")),
    (MorePodsThanAsked, "R4", held_by_pods),
    (UnpinWithBothVersionsInService, "pin", || by_pods("promotion")),
    (FightsForEver, "fight", fought),
    (PinGoneUnnoticed, "R11", pin_undone),
    (PauseGoneUnnoticed, "R1", || edits::rolled_out_past_us(Scenario::new, State::RollingBack, 1000)),
    (AttemptIgnored, "progress", again),
    (OrderForAnotherVersionFollowed, "R4", order_for_another_version),
    (OneApprovalForEveryStep, "R4", approvals),
    (SupersededGoneUndrained, "drain", || supersede::superseded(State::Routing, 9000)),
    (BornTooSmall, "birth", promotion),
    (AdoptionLetsGo, "native", edited_after_adoption),
    (NothingCalledLive, "end", deletions::nothing_left),
    (GatewayTakenForGranted, "settle", || gateways::lagging(12, "forward")),
    (HeldUpWritesGoThrough, "R3", rollback),
    (ErrorsOverlooked, "R4", health::breach),
];

impl Bug {
    /// What must go wrong for it to show.
    pub fn faults(self) -> Faults {
        match self {
            HeldUpWritesGoThrough => Faults::one(8, Fault::Frozen),
            _ => Faults::default(),
        }
    }
}
