//! The connection to the API server, with every call bounded.

use std::future::Future;
use std::time::Duration;

use kube::config::KubeconfigError;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config};

use super::facts::Kind;

/// Longest time any single request may take, watches excepted.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What is wrong with a kubeconfig, with nothing of what is in it: parsers quote the lines around an error, and there are tokens.
pub fn unusable(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::Parse(_) => "it cannot be read as a kubeconfig; kubectl config view tells where".into(),
        KubeconfigError::ParseClusterUrl(_) => "the server's address is none".into(),
        KubeconfigError::ParseProxyUrl(_) => "the proxy-url is no address".into(),
        other => other.to_string(),
    }
}

/// A client without the library's own retries: those re-send a POST for minutes, and waiting is ours to plan.
pub async fn connect() -> anyhow::Result<Client> {
    let mut config = Config::infer().await.map_err(|error| {
        let why = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<KubeconfigError>());
        let why = why.map_or_else(|| "there is none".into(), unusable);
        anyhow::anyhow!("no way to the API server: this is no pod with a ServiceAccount, and of the kubeconfig: {why}")
    })?;
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// How the API names a kind.
pub fn resource(kind: Kind) -> ApiResource {
    let (group, version, name, plural) = kind.gvk();
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, name), plural)
}

/// Objects of a kind in one namespace.
pub fn api(client: &Client, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &resource(kind))
}

/// Objects of a kind in every namespace.
pub fn api_all(client: &Client, kind: Kind) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource(kind))
}

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer in time; whether it was carried out is not known.
    #[error("no answer within {} s", CALL_TIMEOUT.as_secs())]
    Timeout,
    /// The API server said no, or could not be reached.
    #[error(transparent)]
    Api(#[from] kube::Error),
}

impl CallError {
    /// The HTTP code of the answer, if there was one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// What the API server said, in its own words.
    pub fn message(&self) -> String {
        match self {
            Self::Api(kube::Error::Api(status)) => status.message.clone(),
            other => other.to_string(),
        }
    }
}

/// Bounds a call in time.
pub async fn bounded<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(CallError::Timeout),
    }
}
