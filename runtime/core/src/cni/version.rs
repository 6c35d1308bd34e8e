//! Versions of the specification, and the verbs of each.

use std::fmt;

use super::text::quoted_list;
use super::{CniError, Object, Verb, code};

/// A version of the CNI specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    major: u32,
    minor: u32,
    micro: u32,
}

impl Version {
    /// The meaning of an absent `cniVersion`.
    pub const V0_1_0: Self = Self::new(0, 1, 0);
    /// Introduced VERSION; the last version with a single address per family.
    pub const V0_2_0: Self = Self::new(0, 2, 0);
    /// Introduced lists of interfaces, addresses and routes.
    pub const V0_3_0: Self = Self::new(0, 3, 0);
    /// A correction of 0.3.0's text.
    pub const V0_3_1: Self = Self::new(0, 3, 1);
    /// Introduced CHECK.
    pub const V0_4_0: Self = Self::new(0, 4, 0);
    /// Removed `ips[].version`.
    pub const V1_0_0: Self = Self::new(1, 0, 0);
    /// Introduced GC and STATUS.
    pub const V1_1_0: Self = Self::new(1, 1, 0);

    /// All versions, oldest first. weft supports all of them.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest version.
    pub const CURRENT: Self = Self::V1_1_0;

    const fn new(major: u32, minor: u32, micro: u32) -> Self {
        Self { major, minor, micro }
    }

    /// Parses up to three numbers separated by dots; missing ones are 0, and an empty text is 0.1.0.
    ///
    /// The version need not exist.
    ///
    /// # Errors
    /// The text is not a version (code 6).
    pub fn parse(text: &str) -> Result<Self, CniError> {
        if text.is_empty() {
            return Ok(Self::V0_1_0);
        }
        let bad = |why: String| CniError::new(code::DECODE, why);
        let parts: Vec<&str> = text.split('.').collect();
        if parts.len() > 3 {
            return Err(bad(format!("invalid version {text:?}: too many parts")));
        }
        let mut numbers = [0_u32; 3];
        for ((number, part), which) in numbers.iter_mut().zip(&parts).zip(["major", "minor", "micro"]) {
            *number = part.parse().map_err(|e| {
                bad(format!("failed to convert {which} version part {part:?} of version {text:?}: {e}"))
            })?;
        }
        let [major, minor, micro] = numbers;
        Ok(Self { major, minor, micro })
    }

    /// Returns the supported version that a configuration names.
    ///
    /// # Errors
    /// The version does not exist (code 1). As in the reference, `1.0` is not `1.0.0`.
    pub fn reconcile(text: &str) -> Result<Self, CniError> {
        Self::reconcile_since(text, Self::V0_1_0)
    }

    /// Like `reconcile`, for a plugin that does not support versions before `oldest`.
    ///
    /// # Errors
    /// The version does not exist, or the plugin does not support it (code 1).
    pub fn reconcile_since(text: &str, oldest: Self) -> Result<Self, CniError> {
        let wanted = if text.is_empty() { Self::V0_1_0.to_string() } else { text.to_owned() };
        let spoken = || Self::ALL.into_iter().filter(move |version| *version >= oldest);
        spoken().find(|version| version.to_string() == wanted).ok_or_else(|| {
            let supported = quoted_list(&spoken().map(|version| version.to_string()).collect::<Vec<_>>());
            CniError::new(code::INCOMPATIBLE_VERSION, "incompatible CNI versions")
                .with_details(format!("config is {wanted:?}, plugin supports {supported}"))
        })
    }

    /// Returns the version of a configuration, if it has the verb.
    ///
    /// # Errors
    /// The version does not exist, or a later one introduced the verb.
    pub fn from_conf(conf: &Object, verb: Verb) -> Result<Self, CniError> {
        let text = conf
            .str("cniVersion")
            .map_err(|e| CniError::new(code::DECODE, format!("decoding version from network config: {e}")))?
            .unwrap_or_default();
        let since = match verb {
            Verb::Add | Verb::Del | Verb::Version => return Self::reconcile(text),
            Verb::Check => Self::V0_4_0,
            Verb::Gc | Verb::Status => Self::V1_1_0,
        };
        let version = Self::parse(text)?;
        if version < since {
            return Err(CniError::new(
                code::INCOMPATIBLE_VERSION,
                format!("config version does not allow {}", verb.name()),
            ));
        }
        if version > Self::CURRENT {
            return Err(CniError::new(
                code::INCOMPATIBLE_VERSION,
                format!("plugin version does not allow {}", verb.name()),
            ));
        }
        Self::reconcile(text)
    }

    /// Returns whether results have at most one address per family (`ip4`, `ip6`).
    #[must_use]
    pub fn is_single_address(self) -> bool {
        self < Self::V0_3_0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Returns the output of VERSION for a plugin that supports everything from `oldest` on: one line.
#[must_use]
pub fn version_document(oldest: Version) -> String {
    let versions: Vec<String> =
        Version::ALL.iter().filter(|version| **version >= oldest).map(|version| format!("\"{version}\"")).collect();
    format!("{{\"cniVersion\":\"{}\",\"supportedVersions\":[{}]}}\n", Version::CURRENT, versions.join(","))
}

/// Returns the message on stderr for a call without `CNI_COMMAND`, which succeeds.
#[must_use]
pub fn about_message(program: &str, oldest: Version) -> String {
    let versions: Vec<String> =
        Version::ALL.iter().filter(|version| **version >= oldest).map(ToString::to_string).collect();
    format!("{program}\nCNI protocol versions supported: {}\n", versions.join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn parsing_fills_in_what_is_missing() {
        assert_eq!(Version::parse("").unwrap(), Version::V0_1_0);
        assert_eq!(Version::parse("1").unwrap(), Version::V1_0_0);
        assert_eq!(Version::parse("0.3").unwrap(), Version::V0_3_0);
        assert!(Version::V0_3_1 < Version::V0_4_0 && Version::V0_4_0 < Version::V1_0_0);
        for bad in ["1.2.3.4", "x", "1.", "-1", "1.99999999999"] {
            assert_eq!(Version::parse(bad).unwrap_err().code, 6, "{bad}");
        }
    }

    #[test]
    fn unsupported_versions_are_named_with_all_supported_ones() {
        assert_eq!(Version::reconcile("").unwrap(), Version::V0_1_0);
        for version in Version::ALL {
            assert_eq!(Version::reconcile(&version.to_string()).unwrap(), version);
        }
        for bad in ["1.0", "0.5.0", "2.0.0", "01.0.0"] {
            let error = Version::reconcile(bad).unwrap_err();
            assert_eq!((error.code, error.msg.as_str()), (1, "incompatible CNI versions"));
            assert_eq!(
                error.details,
                format!(
                    "config is {bad:?}, plugin supports \
                     [\"0.1.0\" \"0.2.0\" \"0.3.0\" \"0.3.1\" \"0.4.0\" \"1.0.0\" \"1.1.0\"]"
                )
            );
        }
    }

    #[test]
    fn later_verbs_need_later_configurations() {
        let of = |version: Value, verb| {
            Version::from_conf(&Object::from_value(json!({"cniVersion": version})).unwrap(), verb)
        };
        let msg = |version: &str, verb| of(json!(version), verb).unwrap_err().msg;
        assert_eq!(msg("0.3.1", Verb::Check), "config version does not allow CHECK");
        assert_eq!(msg("9.9.9", Verb::Check), "plugin version does not allow CHECK");
        assert_eq!(msg("0.5.0", Verb::Check), "incompatible CNI versions");
        assert_eq!(msg("1.0.0", Verb::Gc), "config version does not allow GC");
        assert_eq!(msg("", Verb::Status), "config version does not allow STATUS");
        assert_eq!(of(json!("1.1.0"), Verb::Gc).unwrap(), Version::V1_1_0);
        assert_eq!(of(json!("0.4.0"), Verb::Check).unwrap(), Version::V0_4_0);
        assert_eq!(of(Value::Null, Verb::Add).unwrap(), Version::V0_1_0);
        let mistyped = of(json!(1), Verb::Add).unwrap_err();
        assert_eq!(mistyped.code, 6);
        assert!(mistyped.msg.starts_with("decoding version from network config: json: "), "{}", mistyped.msg);
    }

    #[test]
    fn the_version_document_is_one_line() {
        assert_eq!(
            version_document(Version::V0_1_0),
            "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"
        );
        assert!(
            about_message("CNI weft", Version::V0_1_0)
                .ends_with("supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n")
        );
        assert!(about_message("CNI firewall", Version::V0_4_0).ends_with("supported: 0.4.0, 1.0.0, 1.1.0\n"));
        let refused = Version::reconcile_since("0.3.1", Version::V0_4_0).unwrap_err();
        assert_eq!(refused.details, r#"config is "0.3.1", plugin supports ["0.4.0" "1.0.0" "1.1.0"]"#);
    }
}
