//! Tokens for Google's APIs, which last an hour.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use secrecy::SecretString;

use super::http::{Credential, Tokens};
use super::{Class, Error};

const SCOPE: &str = "https://www.googleapis.com/auth/compute";
/// For a token, which is cached for most of its hour.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Tokens of a service account's key, or of the machine this runs on.
pub struct Google(Arc<dyn gcp_auth::TokenProvider>);

impl Google {
    /// From a service account's key, the JSON that Google makes.
    pub fn of_key(key: &str) -> Result<Credential, Error> {
        // The reader's own message may quote the key.
        let wrong = |_| Error { class: Class::Auth, message: "the key is not that of a service account".into() };
        let account = gcp_auth::CustomServiceAccount::from_json(key).map_err(wrong)?;
        Ok(Credential::Tokens(Arc::new(Self(Arc::new(account)))))
    }

    /// From the environment: workload identity, or what the libraries of Google look for.
    pub async fn of_environment() -> Result<Credential, Error> {
        let none = |_| Error { class: Class::Auth, message: "no credentials of Google are in the environment".into() };
        Ok(Credential::Tokens(Arc::new(Self(gcp_auth::provider().await.map_err(none)?))))
    }
}

impl Tokens for Google {
    fn token(&self) -> BoxFuture<'_, Result<SecretString, Error>> {
        async {
            let error = |class, message: &str| Error { class, message: message.into() };
            match tokio::time::timeout(TIMEOUT, self.0.token(&[SCOPE])).await {
                Ok(Ok(token)) => Ok(token.as_str().into()),
                Ok(Err(gcp_auth::Error::Str(_) | gcp_auth::Error::Json(..))) => {
                    Err(error(Class::Auth, "Google gives no token for that key"))
                }
                Ok(Err(_)) | Err(_) => Err(error(Class::Transient, "Google's tokens cannot be reached")),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_none_is_refused_without_being_shown() {
        let secret = "canary-5up3r";
        let error = Google::of_key(&format!("{{\"private_key\": \"{secret}\"}}")).err().unwrap();
        assert_eq!(error.class, Class::Auth);
        assert!(!format!("{error:?}").contains(secret));
    }
}
