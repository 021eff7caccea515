//! What Amazon's SDK goes through, and what comes of its errors.

use std::fmt;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::http::{HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use reqwest::header::HeaderMap;
use serde_json::json;

use crate::cloud::answer::{self, Dialect, Reset, Rule, Verb};
use crate::cloud::http::LONGEST_ANSWER;
use crate::cloud::{Class, Error};
use crate::runtime::clock;

/// A request that failed.
pub type Failed<E> = SdkError<E, HttpResponse>;

const fn says(code: &'static str, class: Class) -> Rule {
    Rule { status: 0, code, says: "", class }
}

/// How EC2 says things; in words of XML, which the SDK has read.
pub const DIALECT: Dialect = Dialect {
    name: "EC2",
    code: Some("/code"),
    message: "/message",
    rules: &[
        says("InvalidInstanceID.NotFound", Class::NotFound),
        says("RequestLimitExceeded", Class::Throttled(None)),
        says("EC2ThrottledException", Class::Throttled(None)),
        says("Throttling", Class::Throttled(None)),
        says("ThrottlingException", Class::Throttled(None)),
        says("VcpuLimitExceeded", Class::Quota),
        says("VolumeLimitExceeded", Class::Quota),
        says("NetworkInterfaceLimitExceeded", Class::Quota),
        says("AddressLimitExceeded", Class::Quota),
        says("PrivateIpAddressLimitExceeded", Class::Quota),
        says("ResourceCountExceeded", Class::Quota),
        says("InstanceLimitExceeded", Class::Quota),
        says("MaxSpotInstanceCountExceeded", Class::Quota),
        says("InsufficientInstanceCapacity", Class::Capacity),
        says("InsufficientHostCapacity", Class::Capacity),
        says("InsufficientCapacity", Class::Capacity),
        says("InsufficientFreeAddressesInSubnet", Class::Capacity),
        says("SpotMaxPriceTooLow", Class::Capacity),
        says("UnfulfillableCapacity", Class::Capacity),
        says("AuthFailure", Class::Auth),
        says("UnauthorizedOperation", Class::Auth),
        says("InvalidClientTokenId", Class::Auth),
        says("UnrecognizedClientException", Class::Auth),
        says("SignatureDoesNotMatch", Class::Auth),
        says("MissingAuthenticationToken", Class::Auth),
        says("ExpiredToken", Class::Auth),
        says("RequestExpired", Class::Auth),
        says("OptInRequired", Class::Auth),
        says("Blocked", Class::Auth),
        says("PendingVerification", Class::Auth),
        // The instance of that token is gone already: another attempt has another token.
        says("IdempotentInstanceTerminated", Class::Transient),
        // It was refused as it stood; somebody may lift the protection.
        says("OperationNotPermitted", Class::Transient),
        says("IncorrectState", Class::Transient),
        says("IncorrectInstanceState", Class::Transient),
    ],
    reset: Reset::Never,
};

/// The HTTP client that all clouds of the process share, with its limits: nothing is tried twice, no redirect is followed and no
/// connection kept.
#[derive(Clone)]
pub struct Wire(reqwest::Client);

impl Wire {
    /// Through that client.
    pub fn new(client: reqwest::Client) -> Self {
        Self(client)
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl HttpClient for Wire {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // The machine's metadata server is asked with seconds of patience: most machines have none.
        let patience = settings.read_timeout().map(|read| read + settings.connect_timeout().unwrap_or_default());
        SharedHttpConnector::new(Connector { client: self.0.clone(), patience })
    }
}

#[derive(Debug)]
struct Connector {
    client: reqwest::Client,
    patience: Option<Duration>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (answer, patience) = (send(self.client.clone(), request), self.patience);
        HttpConnectorFuture::new(async move {
            let Some(patience) = patience else { return answer.await };
            let late = |_| ConnectorError::timeout("no answer in time".into());
            tokio::time::timeout(patience, answer).await.map_err(late)?
        })
    }
}

async fn send(client: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let (parts, body) = request.try_into_http1x().map_err(|e| ConnectorError::user(e.into()))?.into_parts();
    let body = body.bytes().map(<[u8]>::to_vec).ok_or_else(|| ConnectorError::user("a body that is not at hand".into()))?;
    let sent = client.request(parts.method, parts.uri.to_string()).headers(parts.headers).body(body).send().await;
    let mut response = sent.map_err(|e| lost(&e))?;
    let status = response.status().as_u16().try_into().map_err(|_| ConnectorError::io("no status".into()))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| lost(&e))? {
        if bytes.len() + chunk.len() > LONGEST_ANSWER {
            return Err(ConnectorError::io("the answer is too long".into()));
        }
        bytes.extend_from_slice(&chunk);
    }
    let mut answer = HttpResponse::new(status, SdkBody::from(bytes));
    for (name, value) in response.headers() {
        if let Ok(value) = value.to_str() {
            // A header that the SDK cannot keep is none that it needs.
            let _ = answer.headers_mut().try_append(name.as_str().to_owned(), value.to_owned());
        }
    }
    Ok(answer)
}

/// A `user` error is one of before anything was sent.
fn lost(error: &reqwest::Error) -> ConnectorError {
    if error.is_connect() || error.is_builder() {
        ConnectorError::user("no connection".into())
    } else if error.is_timeout() {
        ConnectorError::timeout("no answer in time".into())
    } else {
        ConnectorError::io("the connection broke off".into())
    }
}

/// What a failed request means. `secrets`: what was sent and must not come back in a message.
pub fn error<E: ProvideErrorMetadata>(verb: Verb, failed: &Failed<E>, secrets: &[&str]) -> Error {
    let unknown = if verb == Verb::Read { Class::Transient } else { Class::Unknown };
    let (class, why) = match failed {
        SdkError::ServiceError(refused) => {
            let (code, message) = (refused.err().code().unwrap_or_default(), refused.err().message().unwrap_or_default());
            let body = json!({"code": code, "message": message}).to_string();
            let status = refused.raw().status().as_u16();
            return answer::error(&DIALECT, verb, status, &HeaderMap::new(), body.as_bytes(), secrets, clock::now());
        }
        SdkError::ConstructionFailure(_) => (Class::Invalid, "no request can be made"),
        SdkError::DispatchFailure(failure) => match failure.as_connector_error() {
            Some(cause) if cause.is_user() => (Class::Transient, "no connection"),
            Some(cause) if cause.is_timeout() => (unknown, "no answer in time"),
            // What is not of our making comes from before anything was sent.
            Some(cause) if cause.is_other() => without_credentials(cause).unwrap_or((Class::Transient, "no credentials in time")),
            _ => (unknown, "the connection broke off"),
        },
        SdkError::TimeoutError(_) => (unknown, "no answer in time"),
        // An answer that cannot be read; of a refusal as well.
        SdkError::ResponseError(answer) if matches!(answer.raw().status().as_u16(), 401 | 403) => (Class::Auth, "refused without a reason"),
        _ => (unknown, "the answer cannot be read"),
    };
    Error { class, message: format!("{}: {why}", DIALECT.name) }
}

/// Nothing was sent then.
fn without_credentials(cause: &(dyn std::error::Error + 'static)) -> Option<(Class, &'static str)> {
    let mut at = Some(cause);
    while let Some(error) = at {
        match error.downcast_ref::<CredentialsError>() {
            Some(CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_)) => {
                return Some((Class::Transient, "the source of credentials does not answer"));
            }
            Some(_) => return Some((Class::Auth, "no credentials are in the environment; name them in spec.credentialsSecretRef")),
            None => at = error.source(),
        }
    }
    None
}
