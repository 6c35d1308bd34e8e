//! Requests to an API server, and the meaning of its answers for a ledger: only a definite refusal proves that a
//! request was not executed.

use std::future::Future;
use std::time::Duration;

use super::contract::{ReadError, WriteError};
use super::with_causes;

/// Time limit of one request. An API server that does not answer by then counts as away; the outcome of a write is read
/// later.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends a write and waits for its answer.
pub(super) async fn written<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, WriteError> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(answer) => answer.map_err(failed),
        Err(_late) => Err(WriteError::NoAnswer(timeout_message())),
    }
}

/// Sends a create. If the server does not find the resource, the resource type does not exist.
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
        Err(_late) => Err(WriteError::NoAnswer(timeout_message())),
    }
}

/// Sends a read and waits for its answer.
pub(super) async fn read<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ReadError> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(answer) => answer.map_err(unreadable),
        Err(_late) => Err(ReadError(timeout_message())),
    }
}

fn timeout_message() -> String {
    format!("no answer within {} seconds", PATIENCE.as_secs())
}

/// Interprets a failed write. Only a definite refusal of the API server itself proves that it was not executed.
fn failed(error: kube::Error) -> WriteError {
    match error {
        kube::Error::Api(status) => match status.code {
            // 409: the name exists, or a precondition fails. 404: the object is gone.
            404 | 409 => WriteError::Conflict,
            422 | 403 if status.message.contains("the cluster ledger is frozen") => WriteError::Frozen,
            // An API server that has just started may not know the types of its admission policies yet.
            code if status.message.contains("failed to configure ") => {
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

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn answer(code: u16, message: &str) -> WriteError {
        failed(kube::Error::Api(Box::new(Status::failure(message, "Forbidden").with_code(code))))
    }

    /// The messages of kube-apiserver 1.37.
    #[test]
    fn an_answer_of_a_starting_api_server_is_no_refusal() {
        let denied = "addressclaims.ipam.weft.dev is forbidden: ValidatingAdmissionPolicy 'freeze.ipam.weft.dev'";
        for start in [
            "denied request: failed to configure policy: failed to find resource referenced by paramKind",
            "with binding 'freeze.ipam.weft.dev' denied request: failed to configure binding: paramKind kind not yet synced to use for admission",
        ] {
            assert!(matches!(answer(403, &format!("{denied} {start}")), WriteError::NoAnswer(_)), "{start}");
        }
        let frozen = format!("{denied} denied request: the cluster ledger is frozen; run \"weftctl ledger thaw\"");
        assert_eq!(answer(422, &frozen), WriteError::Frozen);
        assert!(matches!(answer(403, "User cannot create resource"), WriteError::Refused(_)));
        assert_eq!(answer(409, "exists"), WriteError::Conflict);
    }
}
