//! Moving traffic: pure edits of the objects that decide where requests go, and the gate that says
//! when an edit is in force. Who may move what, and when, is decided in [`crate::rollout`].

pub mod apex;
pub mod gate;
pub mod gateway;
pub mod pods;
