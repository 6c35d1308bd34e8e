//! stdin: a JSON object with a well-formed name. `conf` reads the rest.

use super::{CniError, Object, check_name, code};

/// Parses stdin.
///
/// # Errors
/// Code 6: not a JSON object. Code 7: a missing or malformed name.
pub fn read_network(stdin: &[u8]) -> Result<Object, CniError> {
    let decode =
        |why: &dyn std::fmt::Display| CniError::new(code::DECODE, format!("error unmarshall network config: {why}"));
    let object = Object::from_text(stdin).map_err(|e| decode(&e))?;
    check_name(object.str("name").map_err(|e| decode(&e))?.unwrap_or_default())?;
    Ok(object)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn names_are_required_and_checked() {
        let error = |text: &str| read_network(text.as_bytes()).unwrap_err();
        for text in ["", "{", "[]", "1", "{} x", r#"{"name": 1}"#] {
            let error = error(text);
            assert_eq!(error.code, 6, "{text}");
            assert!(error.msg.starts_with("error unmarshall network config: "), "{}", error.msg);
        }
        for text in ["{}", "null", r#"{"name": ""}"#, r#"{"name": null}"#] {
            assert_eq!((error(text).code, error(text).msg.as_str()), (7, "missing network name"), "{text}");
        }
        let bad = error(r#"{"name": "a b"}"#);
        assert_eq!((bad.code, bad.msg.as_str()), (7, "invalid characters found in network name"));
        assert_eq!(bad.details, "a b");
        assert!(read_network(br#" {"Name": "net-1_x.y"} "#).is_ok());
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_overflow() {
        let text = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(read_network(text.as_bytes()).unwrap_err().code, 6);
    }
}
