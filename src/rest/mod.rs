//! HTTP over [`crate::orders`]: the documented REST API, in the operator and in `aether proxy`.
//!
//! ```text
//! connection --server--> door --> hosts, limits --> Gate::who --> call::admit (Gate::may) --> handler --> orders::Desk
//! ```
//! [`routes::table`] is the one list of what there is: the router, the authorisation, the OpenAPI document and the tests are made
//! of it. A handler needs a [`call::Call`], and only `call::admit` makes one, so no route is reached without its permission.

pub mod auth;
pub mod call;
mod door;
mod fault;
mod hosts;
pub mod openapi;
mod pools;
pub mod query;
pub mod routes;
mod server;
#[cfg(test)]
mod tests;
mod updates;

pub use auth::Gate;
pub use door::{Settings, router};
pub use server::{Certificate, serve};
