//! `CNI_ARGS`: pairs of text, parsed as strictly as each reference plugin does.

use super::text::quoted_list;
use super::{CniError, code};

/// The key that permits unknown keys.
const IGNORE_UNKNOWN: &str = "IgnoreUnknown";

/// Splits `K=V;K=V`. As in the reference plugins, a value that contains `=` and an empty pair (a `;` at the end) are
/// errors.
///
/// # Errors
/// A part is not a pair.
pub fn parse_pairs(args: &str) -> Result<Vec<(String, String)>, CniError> {
    if args.is_empty() {
        return Ok(Vec::new());
    }
    let pair = |part: &str| match part.split_once('=') {
        Some((key, value)) if !value.contains('=') => Ok((key.to_owned(), value.to_owned())),
        _ => Err(CniError::new(code::INVALID_ENVIRONMENT, format!("ARGS: invalid pair {part:?}"))),
    };
    args.split(';').map(pair).collect()
}

/// Returns the valid pairs, for a plugin that ignores other parts.
#[must_use]
pub fn usable_pairs(args: &str) -> Vec<(String, String)> {
    let pairs = args.split(';').filter_map(|part| part.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Refuses keys that are not in `known` (case matters) unless the pairs contain `IgnoreUnknown`.
///
/// # Errors
/// An unknown key, or an `IgnoreUnknown` that is not a boolean.
pub fn check_known(pairs: &[(String, String)], known: &[&str]) -> Result<(), CniError> {
    let mut ignore = false;
    let mut unknown = Vec::new();
    for (key, value) in pairs {
        if key == IGNORE_UNKNOWN {
            ignore = parse_bool(value).ok_or_else(|| {
                let lower = value.to_lowercase();
                CniError::new(
                    code::INVALID_ENVIRONMENT,
                    format!(
                        "ARGS: error parsing value of pair {:?}: boolean unmarshal error: invalid input {lower}",
                        format!("{key}={value}")
                    ),
                )
            })?;
        } else if !known.contains(&key.as_str()) {
            unknown.push(format!("{key}={value}"));
        }
    }
    if unknown.is_empty() || ignore {
        return Ok(());
    }
    Err(CniError::new(code::INVALID_ENVIRONMENT, format!("ARGS: unknown args {}", quoted_list(&unknown))))
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn pairs_are_split_strictly() {
        assert!(parse_pairs("").unwrap().is_empty());
        let pairs = parse_pairs("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;EMPTY=").unwrap();
        assert_eq!(pairs[1], ("K8S_POD_NAMESPACE".to_owned(), "ns".to_owned()));
        assert_eq!(pairs[2], ("EMPTY".to_owned(), String::new()));
        for (args, part) in [("A=1;", ""), ("A", "A"), ("A=1=2", "A=1=2"), ("A=1;;B=2", "")] {
            let error = parse_pairs(args).unwrap_err();
            assert_eq!((error.code, error.msg), (4, format!("ARGS: invalid pair {part:?}")));
        }
    }

    #[test]
    fn unknown_keys_are_listed_unless_ignored() {
        let check = |args: &str| check_known(&parse_pairs(args).unwrap(), &["MAC"]).map_err(|e| e.msg);
        assert_eq!(check("MAC=x"), Ok(()));
        assert_eq!(check("mac=x;MAC=y;B=2").unwrap_err(), r#"ARGS: unknown args ["mac=x" "B=2"]"#);
        assert_eq!(check("B=2;IgnoreUnknown=True"), Ok(()));
        assert_eq!(check("B=2;IgnoreUnknown=1"), Ok(()));
        assert!(check("B=2;IgnoreUnknown=0").is_err());
        assert_eq!(
            check("IgnoreUnknown=Yes").unwrap_err(),
            r#"ARGS: error parsing value of pair "IgnoreUnknown=Yes": boolean unmarshal error: invalid input yes"#
        );
    }
}
