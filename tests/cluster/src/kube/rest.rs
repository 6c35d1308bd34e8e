//! The API server's REST interface, through `kubectl proxy`: a call takes a millisecond, whereas kubectl needs a
//! process.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A client with the rights of its `kubectl proxy`.
pub struct Rest(PathBuf);

impl Rest {
    /// Connects through this socket.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self(socket.to_owned())
    }

    /// Reads an object; `None` if it does not exist.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        self.found("GET", path, None)
    }

    /// Makes an object.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.found("POST", path, Some(object))?.with_context(|| format!("{path} does not exist"))
    }

    /// Changes keys of an object.
    ///
    /// # Errors
    /// The API server refuses, or there is no such object.
    pub fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        self.found("PATCH", path, Some(patch))?.with_context(|| format!("{path} does not exist"))
    }

    /// Deletes an object immediately, if it exists.
    ///
    /// # Errors
    /// The API server refuses.
    pub fn delete(&self, path: &str) -> Result<()> {
        self.found("DELETE", &format!("{path}?gracePeriodSeconds=0"), None).map(drop)
    }

    fn found(&self, verb: &str, path: &str, body: Option<&Value>) -> Result<Option<Value>> {
        match self.call(verb, path, body)? {
            (200..=202, answer) => Ok(Some(answer)),
            (404, _) => Ok(None),
            (code, answer) => bail!("{verb} {path}: {code} {answer}"),
        }
    }

    /// Returns status code and body.
    ///
    /// # Errors
    /// The API server does not answer.
    pub fn call(&self, verb: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let kind = if verb == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut stream = UnixStream::connect(&self.0).context("connect to kubectl proxy")?;
        stream.set_read_timeout(Some(LIMIT)).context("set a time limit")?;
        let head = format!(
            "{verb} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).with_context(|| format!("{verb} {path}"))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(|| format!("{verb} {path}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{verb} {path}: no HTTP answer"))?;
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.with_context(|| format!("{verb} {path}: {head}"))?;
        Ok((code, serde_json::from_str(body).unwrap_or_else(|_text| Value::String(body.to_owned()))))
    }
}
