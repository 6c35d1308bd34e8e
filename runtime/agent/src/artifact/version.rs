//! Versions of policies. Pure.

use semver::Version;

/// Returns the version that a tag or an annotation says: `1.2.3`, or `v1.2.3`. Other texts have no order, so that
/// nothing tells whether one of them goes back.
#[must_use]
pub fn version_of(text: &str) -> Option<Version> {
    text.strip_prefix('v').unwrap_or(text).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_an_order_and_other_tags_have_none() {
        assert!(version_of("v1.10.0") > version_of("1.9.0"));
        assert!(version_of("1.2.3-rc.1") < version_of("1.2.3"));
        for text in ["1.10", "1", "stable", "vv1.2.3", "1.2.3.4", "", "v"] {
            assert_eq!(version_of(text), None, "{text}");
        }
    }
}
