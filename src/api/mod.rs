//! The contract with the user: what the custom resources hold, and nothing else.
//!
//! These types mirror the documented YAML one to one. Rules that one field alone can break are CEL
//! in the schema, so that `kubectl apply` refuses them; [`crate::rollout::wish`] and [`crate::pool::wish`] turn an accepted
//! spec into domain types, and nothing after it reads the raw one.

pub mod conditions;
pub mod duration;
pub mod evidence;
pub mod names;
pub mod proxy_pool;
pub mod ratio;
pub mod rolling_update;

pub use conditions::Condition;
pub use proxy_pool::{ProxyPool, ProxyPoolSpec, ProxyPoolStatus};
pub use ratio::Ratio;
pub use rolling_update::{RollingUpdate, RollingUpdateSpec, RollingUpdateStatus, State};

/// The project's time: UTC, kept to the millisecond.
pub type Time = chrono::DateTime<chrono::Utc>;

/// Every custom resource definition of the operator, as `aether-operator crds` prints them.
pub fn crds() -> Vec<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> {
    vec![rolling_update::crd(), proxy_pool::crd()]
}
