//! What is answered instead of what was asked for: a status code and one sentence, never more.

use axum::http::StatusCode;
use axum::http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

use crate::orders::{Class, Refusal};

use super::routes::Group;

/// A no over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of no.
    pub status: StatusCode,
    /// A sentence for whoever asked.
    pub message: String,
}

impl Fault {
    /// A no of that kind.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// As a group of routes says it.
    pub fn of(refusal: Refusal, group: Group) -> Self {
        let status = match refusal.class {
            Class::Invalid => group.invalid(),
            Class::Unauthenticated => StatusCode::UNAUTHORIZED,
            Class::Forbidden => StatusCode::FORBIDDEN,
            Class::NotFound => StatusCode::NOT_FOUND,
            Class::Conflict => StatusCode::CONFLICT,
            Class::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, message: refusal.message }
    }

    /// The answer of that group.
    pub fn answer(&self, group: Group) -> Response {
        let body = axum::Json(json!({group.error_key(): self.message}));
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            StatusCode::SERVICE_UNAVAILABLE => headers.insert(RETRY_AFTER, HeaderValue::from_static("1")),
            _ => None,
        };
        response
    }
}
