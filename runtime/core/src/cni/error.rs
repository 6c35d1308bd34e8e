//! The CNI error object: the output of a failed call, ours or another plugin's.

use std::fmt;

use serde_json::{Map, Value, json};

use super::Object;
use super::text::pretty;

/// Error codes: those of the specification, two that only the reference implementation has, and from 100 on weft's own.
/// `docs/error-codes.md` describes what to do about each.
pub mod code {
    /// The configuration's CNI version is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or does not exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or wrong.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// Content is invalid (not JSON, wrong type).
    pub const DECODE: u32 = 6;
    /// The network configuration is wrong.
    pub const INVALID_CONFIG: u32 = 7;
    /// The network namespace cannot be used. Not in the specification's table.
    pub const INVALID_NETNS: u32 = 8;
    /// A temporary condition.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: every ADD would fail.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: like 50, and existing containers may have limited connectivity.
    pub const LIMITED: u32 = 51;
    /// A policy denied the request.
    pub const DENIED: u32 = 100;
    /// A policy failed: it trapped, exceeded its limits, or gave an answer that the host does not accept.
    pub const POLICY_FAILED: u32 = 101;
    /// No free address is left.
    pub const EXHAUSTED: u32 = 102;
    /// The kernel, or a service of the node, refused a change.
    pub const HOST_FAILED: u32 = 103;
    /// A part of an attachment could not be removed.
    pub const LEFTOVERS: u32 = 104;
    /// CHECK: the attachment differs from what ADD made.
    pub const DIFFERS: u32 = 105;
    /// An address, a host port or another thing of the node belongs to another attachment.
    pub const TAKEN: u32 = 106;
    /// Anything without a code of its own. Not in the specification's table.
    pub const INTERNAL: u32 = 999;
}

/// An error on its way to the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    /// See [`code`]; codes from 100 on are the plugin's own.
    pub code: u32,
    /// One line that a person can act on.
    pub msg: String,
    /// More text; may be empty.
    pub details: String,
}

impl CniError {
    /// An error without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same error with details.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// Returns the document to print: indented by four spaces, without a newline at the end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut object = Map::new();
        object.insert("code".to_owned(), json!(self.code));
        object.insert("msg".to_owned(), json!(self.msg));
        if !self.details.is_empty() {
            object.insert("details".to_owned(), json!(self.details));
        }
        pretty(&Value::Object(object))
    }

    /// Returns the error of an executed plugin that failed: its output, or an explanation of its silence.
    ///
    /// `failure` says how it ended (`exit status 1`).
    #[must_use]
    pub fn parse(stdout: &[u8], stderr: &[u8], failure: &str) -> Self {
        if stdout.is_empty() {
            return Self::new(
                code::INTERNAL,
                if stderr.is_empty() {
                    format!("netplugin failed with no error message: {failure}")
                } else {
                    format!("netplugin failed: {:?}: {failure}", String::from_utf8_lossy(stderr))
                },
            );
        }
        Self::from_document(stdout).unwrap_or_else(|reason| {
            let printed = String::from_utf8_lossy(stdout);
            Self::new(
                code::INTERNAL,
                format!("netplugin failed but error parsing its diagnostic message {printed:?}: {reason}"),
            )
        })
    }

    fn from_document(stdout: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(stdout).map_err(|e| e.to_string())?;
        let object = Object::from_value(value).map_err(|e| e.to_string())?;
        let mistyped = |e: super::Mistyped| e.to_string();
        Ok(Self {
            code: object.u32("code").map_err(mistyped)?.unwrap_or(code::INTERNAL),
            msg: object.str("msg").map_err(mistyped)?.unwrap_or_default().to_owned(),
            details: object.str("details").map_err(mistyped)?.unwrap_or_default().to_owned(),
        })
    }
}

impl fmt::Display for CniError {
    /// Writes `msg`, or `msg; details`: the form that runtimes log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.details.is_empty() { f.write_str(&self.msg) } else { write!(f, "{}; {}", self.msg, self.details) }
    }
}

impl std::error::Error for CniError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_without_empty_details_and_without_newline() {
        let error = CniError::new(7, "missing network name");
        assert_eq!(error.to_json(), "{\n    \"code\": 7,\n    \"msg\": \"missing network name\"\n}");
        let error = error.with_details("more");
        assert_eq!(
            error.to_json(),
            "{\n    \"code\": 7,\n    \"msg\": \"missing network name\",\n    \"details\": \"more\"\n}"
        );
        assert_eq!(error.to_string(), "missing network name; more");
    }

    #[test]
    fn reads_what_a_plugin_printed() {
        let read = CniError::parse(br#"{"code": 11, "msg": "m", "details": "d"}"#, b"", "exit status 1");
        assert_eq!(read, CniError::new(11, "m").with_details("d"));
        let again = CniError::parse(read.to_json().as_bytes(), b"noise", "exit status 1");
        assert_eq!(again, read);
    }

    #[test]
    fn a_plugin_that_died_is_described() {
        let msg = |out: &[u8], err: &[u8]| CniError::parse(out, err, "signal 9").msg;
        assert_eq!(msg(b"", b""), "netplugin failed with no error message: signal 9");
        assert_eq!(msg(b"", b"boom\n"), "netplugin failed: \"boom\\n\": signal 9");
        let garbage = msg(b"panic: x", b"");
        assert!(
            garbage.starts_with("netplugin failed but error parsing its diagnostic message \"panic: x\": "),
            "{garbage}"
        );
        let list = msg(b"[]", b"");
        assert!(list.starts_with("netplugin failed but error parsing"), "{list}");
    }
}
