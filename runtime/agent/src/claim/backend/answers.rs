//! Requests to an API server, and what its answers mean for a ledger: only what it refused for good is known not to have been
//! executed.

use std::future::Future;
use std::time::Duration;

use super::contract::{ReadError, WriteError};
use super::with_causes;

/// How long one request may take. An API server that does not answer by then is taken for away; what was sent is looked for
/// afterwards.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends a write and waits for its answer.
pub(super) async fn written<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, WriteError> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(answer) => answer.map_err(failed),
        Err(_late) => Err(WriteError::NoAnswer(late())),
    }
}

/// Sends a create. That its resource is not found means that there is no such resource at all.
pub(super) async fn created<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, WriteError> {
    let unknown = |error| match error {
        kube::Error::Api(status) if status.code == 404 => WriteError::Refused(
            "the API server does not know the objects of the cluster ledger; apply deploy/crds/ipam.weft.dev.yaml"
                .to_owned(),
        ),
        error => failed(error),
    };
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(answer) => answer.map_err(unknown),
        Err(_late) => Err(WriteError::NoAnswer(late())),
    }
}

/// Sends a read and waits for its answer.
pub(super) async fn read<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ReadError> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(answer) => answer.map_err(unreadable),
        Err(_late) => Err(ReadError(late())),
    }
}

fn late() -> String {
    format!("no answer within {} seconds", PATIENCE.as_secs())
}

/// What a failed write means. Only what the API server itself refused for good is known not to have been executed.
fn failed(error: kube::Error) -> WriteError {
    match error {
        kube::Error::Api(status) => match status.code {
            // 409: the name exists, or a precondition does not hold. 404: the object is gone.
            404 | 409 => WriteError::Conflict,
            422 | 403 if status.message.contains("the cluster ledger is frozen") => WriteError::Frozen,
            // An API server that has just started does not know yet what its admission policies speak of.
            code if status.message.contains("failed to configure policy") => {
                WriteError::NoAnswer(format!("{} (code {code})", status.message))
            }
            code @ (400 | 401 | 403 | 405 | 413 | 415 | 422) => {
                WriteError::Refused(format!("{} (code {code})", status.message))
            }
            code => WriteError::NoAnswer(format!("{} (code {code})", status.message)),
        },
        error @ (kube::Error::BuildRequest(_) | kube::Error::Auth(_)) => WriteError::Refused(error.to_string()),
        error => WriteError::NoAnswer(with_causes(&error)),
    }
}

fn unreadable(error: kube::Error) -> ReadError {
    match error {
        kube::Error::Api(status) => ReadError(format!("{} (code {})", status.message, status.code)),
        error => ReadError(with_causes(&error)),
    }
}
