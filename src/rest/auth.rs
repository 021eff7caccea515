//! Who asks, and whether they may. Nothing is remembered between requests: what was taken away is gone with the next one.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use crate::cluster::client::{CallError, bounded};
use crate::orders::{Class, Refusal};

/// Audience that tokens for this API are made for, where nothing else is configured.
pub const AUDIENCE: &str = "aether.dev";
/// Longest token that is looked at, in bytes; the API server's own are about 1 KiB.
const LONGEST_TOKEN: usize = 16 * 1024;
/// Longest name that is put on record.
const LONGEST_NAME: usize = 1024;

/// Who decides.
#[derive(Clone)]
pub enum Gate {
    /// The API server, asked about each bearer token and each verb: what is done then is done by the operator.
    Reviewed(Reviews),
    /// The API server as well, but by itself: what is done is done as whoever runs this process (`aether proxy`).
    Own,
}

/// Whom the API server is asked through.
#[derive(Clone)]
pub struct Reviews {
    client: Client,
    audience: String,
}

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Caller(Option<UserInfo>);

/// One thing that somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The verb.
    pub verb: &'a str,
    /// API group of the kind; empty for the core.
    pub group: &'a str,
    /// Plural of the kind.
    pub resource: &'a str,
    /// Where.
    pub namespace: &'a str,
    /// On which one; `None`: on all.
    pub name: Option<&'a str>,
}

impl Caller {
    /// The name for annotation and log, where it is not whoever runs this process.
    pub fn name(&self) -> Option<&str> {
        self.0.as_ref()?.username.as_deref()
    }
}

impl Gate {
    /// Asks the API server about each request. `client` must be allowed to create TokenReviews and SubjectAccessReviews.
    pub fn reviewed(client: Client, audience: &str) -> Self {
        Self::Reviewed(Reviews { client, audience: audience.to_owned() })
    }

    /// Who asks; anybody who cannot prove it is refused.
    pub async fn who(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        match self {
            Self::Own => Ok(Caller::default()),
            Self::Reviewed(reviews) => reviews.who(&token(headers)?).await,
        }
    }

    /// Whether they may.
    pub async fn may(&self, caller: &Caller, access: Access<'_>) -> Result<(), Refusal> {
        match (self, &caller.0) {
            (Self::Own, _) => Ok(()),
            (Self::Reviewed(reviews), Some(user)) => reviews.may(user, access).await,
            (Self::Reviewed(_), None) => Err(unknown("a bearer token is needed")),
        }
    }
}

impl Reviews {
    async fn who(&self, token: &str) -> Result<Caller, Refusal> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![self.audience.clone()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let asked = bounded(Api::all(self.client.clone()).create(&PostParams::default(), &review)).await;
        let status = asked.map_err(|e| unavailable("a token", &e))?.status.unwrap_or_default();
        let wanted = status.audiences.iter().flatten().any(|a| *a == self.audience);
        let user = status.user.filter(|_| status.authenticated == Some(true) && status.error.is_none() && wanted);
        let good = |name: &String| {
            !name.is_empty() && name != "system:anonymous" && name.len() <= LONGEST_NAME && !name.contains(char::is_control)
        };
        match user {
            Some(user) if user.username.as_ref().is_some_and(good) => Ok(Caller(Some(user))),
            // Not what the API server says about it: that may quote the token.
            _ => Err(unknown(&format!(
                "the token is not valid for the audience {0}; make one with kubectl create token NAME --audience {0}",
                self.audience
            ))),
        }
    }

    async fn may(&self, user: &UserInfo, access: Access<'_>) -> Result<(), Refusal> {
        let attributes = ResourceAttributes {
            verb: Some(access.verb.to_owned()),
            group: Some(access.group.to_owned()),
            resource: Some(access.resource.to_owned()),
            namespace: Some(access.namespace.to_owned()),
            name: access.name.map(str::to_owned),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: user.username.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let asked = bounded(Api::all(self.client.clone()).create(&PostParams::default(), &review)).await;
        let status = asked.map_err(|e| unavailable("a permission", &e))?.status.unwrap_or_default();
        if status.allowed && status.denied != Some(true) {
            return Ok(());
        }
        let Access { verb, resource, namespace, .. } = access;
        let kind = if access.group.is_empty() { resource.to_owned() } else { format!("{resource}.{}", access.group) };
        let name = access.name.map_or_else(String::new, |n| format!(" {n:.80}"));
        let user = user.username.as_deref().unwrap_or_default();
        let message =
            format!("{user} may not {verb} {kind}{name} in namespace {namespace}; a Role with the verb {verb} on {kind} allows it");
        Err(Refusal { class: Class::Forbidden, message })
    }
}

/// The one bearer token of a request.
fn token(headers: &HeaderMap) -> Result<String, Refusal> {
    let mut found = headers.get_all(AUTHORIZATION).iter();
    let (Some(header), None) = (found.next(), found.next()) else {
        return Err(unknown("exactly one header Authorization: Bearer TOKEN is needed"));
    };
    let written = header.to_str().ok().and_then(|text| text.split_once(' '));
    let token = written.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token);
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    let token = token.filter(|t| !t.is_empty() && t.len() <= LONGEST_TOKEN && t.bytes().all(fits));
    token.map(str::to_owned).ok_or_else(|| unknown("the Authorization header must be Bearer and a token"))
}

fn unknown(message: &str) -> Refusal {
    Refusal { class: Class::Unauthenticated, message: message.to_owned() }
}

/// Who cannot be asked about is not let in.
fn unavailable(what: &str, error: &CallError) -> Refusal {
    tracing::warn!(%error, "the API server was asked about {what} and gave no answer");
    Refusal { class: Class::Unavailable, message: format!("the API server cannot be asked about {what} now; try again") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use rstest::rstest;

    fn headers(values: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    #[rstest]
    #[case(&[])]
    #[case(&[b"".as_slice()])]
    #[case(&[b"Bearer".as_slice()])]
    #[case(&[b"Bearer ".as_slice()])]
    #[case(&[b"Bearer  x".as_slice()])]
    #[case(&[b"Bearer a b".as_slice()])]
    #[case(&[b"Bearer a,b".as_slice()])]
    #[case(&[b"Basic YTpi".as_slice()])]
    #[case(&[b"Token abc".as_slice()])]
    #[case(&[b"abc".as_slice()])]
    #[case(&[b"Bearer \xc3\xa4".as_slice()])]
    #[case(&[b"Bearer\tabc".as_slice()])]
    #[case(&[b"Bearer abc".as_slice(), b"Bearer abc".as_slice()])]
    #[case(&[b"Basic YTpi".as_slice(), b"Bearer abc".as_slice()])]
    fn what_is_no_token_gets_no_further(#[case] values: &[&[u8]]) {
        assert_eq!(token(&headers(values)).unwrap_err().class, Class::Unauthenticated);
    }

    #[test]
    fn a_token_as_long_as_a_book_gets_no_further() {
        let long = format!("Bearer {}", "a".repeat(LONGEST_TOKEN + 1));
        assert_eq!(token(&headers(&[long.as_bytes()])).unwrap_err().class, Class::Unauthenticated);
    }

    #[rstest]
    #[case("Bearer abc.def-_~+/=")]
    #[case("bearer abc.def-_~+/=")]
    fn a_token_is_taken_as_it_is(#[case] value: &str) {
        assert_eq!(token(&headers(&[value.as_bytes()])).unwrap(), "abc.def-_~+/=");
    }
}
