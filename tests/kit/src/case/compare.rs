//! Compares two transcripts, and checks the differences against the intended ones.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::{Differs, Edition};

/// One place where two transcripts differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// JSON pointer.
    pub at: String,
    /// The reference's value.
    pub reference: Option<Value>,
    /// weft's value.
    pub weft: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |side: &Option<Value>| side.as_ref().map_or_else(|| "(nothing)".to_owned(), Value::to_string);
        write!(f, "{}\n    reference: {}\n    weft:      {}", self.at, show(&self.reference), show(&self.weft))
    }
}

/// Returns all differences, in order.
#[must_use]
pub fn differences(reference: &Value, weft: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    collect_differences("", Some(reference), Some(weft), &mut found);
    found
}

fn collect_differences(at: &str, reference: Option<&Value>, weft: Option<&Value>, found: &mut Vec<Difference>) {
    match (reference, weft) {
        (Some(Value::Object(left)), Some(Value::Object(right))) => {
            let keys: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
            for key in keys {
                collect_differences(&format!("{at}/{}", escape(key)), left.get(key), right.get(key), found);
            }
        }
        (Some(Value::Array(left)), Some(Value::Array(right))) => {
            for index in 0..left.len().max(right.len()) {
                collect_differences(&format!("{at}/{index}"), left.get(index), right.get(index), found);
            }
        }
        (left, right) if left == right => {}
        (left, right) => {
            found.push(Difference { at: at.to_owned(), reference: left.cloned(), weft: right.cloned() });
        }
    }
}

/// Escapes a key as in RFC 6901.
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Returns the problems of a run for a CNI version compared with a reference: unlisted differences, and listed ones
/// that do not exist. Empty if there are none.
#[must_use]
pub fn judge(
    found: &[Difference],
    (edition, version): (Edition, &str),
    listed: &[Differs],
    general: &[Differs],
) -> Vec<String> {
    let applies = |entry: &&Differs| {
        entry.reference.is_none_or(|about| about == edition)
            && (entry.versions.is_empty() || entry.versions.iter().any(|known| known == version))
    };
    let listed: Vec<&Differs> = listed.iter().filter(applies).collect();
    let known: Vec<&Differs> = listed.iter().copied().chain(general.iter().filter(applies)).collect();
    let unlisted = |difference: &&Difference| !known.iter().any(|entry| covers(entry, difference));
    let mut wrong: Vec<String> = found.iter().filter(unlisted).map(ToString::to_string).collect();
    let stale = listed.iter().filter(|entry| !entry.sometimes);
    wrong.extend(
        stale.filter(|entry| !found.iter().any(|difference| covers(entry, difference))).map(|entry| {
            format!("differs.json lists {}, but the two agree there, or weft has something else", entry.at)
        }),
    );
    wrong
}

/// Returns whether an entry covers a difference.
fn covers(entry: &Differs, difference: &Difference) -> bool {
    matches(&entry.at, &difference.at) && entry.weft.as_ref().is_none_or(|want| Some(want) == difference.weft.as_ref())
}

/// Returns whether a pattern with `*` (within a segment) and `**` (any number of segments) matches a pointer.
#[must_use]
pub(super) fn matches(pattern: &str, pointer: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let pointer: Vec<&str> = pointer.split('/').collect();
    segments(&pattern, &pointer)
}

fn segments(pattern: &[&str], pointer: &[&str]) -> bool {
    match pattern.split_first() {
        None => pointer.is_empty(),
        Some((&"**", rest)) => (0..=pointer.len()).any(|skip| segments(rest, pointer.get(skip..).unwrap_or_default())),
        Some((first, rest)) => match pointer.split_first() {
            Some((segment, tail)) => glob(first, segment) && segments(rest, tail),
            None => false,
        },
    }
}

/// `*` stands for any text.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, tail)) => text.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| rest.get(at..).is_some_and(|from| glob(tail, from)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: (Edition, &str) = (Edition::Debian, "1.0.0");
    const OLD: (Edition, &str) = (Edition::Debian, "0.2.0");

    fn entry(at: &str, sometimes: bool) -> Differs {
        Differs {
            at: at.to_owned(),
            why: "reason".to_owned(),
            sometimes,
            weft: None,
            versions: Vec::new(),
            reference: None,
        }
    }

    #[test]
    fn finds_every_kind_of_difference() {
        let reference = json!({"a": 1, "b": [1, 2], "c": {"d": "x"}, "same": null});
        let weft = json!({"a": 2, "b": [1], "e": true, "c": {"d": "x"}, "same": null});
        let found: Vec<_> = differences(&reference, &weft).into_iter().map(|d| d.at).collect();
        assert_eq!(found, ["/a", "/b/1", "/e"]);
    }

    #[test]
    fn unlisted_and_stale_entries_are_wrong() {
        let found = differences(&json!({"a": 1, "b": 1}), &json!({"a": 2, "b": 1}));
        assert_eq!(judge(&found, NOW, &[entry("/a", false)], &[]), Vec::<String>::new());
        assert_eq!(judge(&found, NOW, &[], &[entry("/a", false), entry("/z", false)]), Vec::<String>::new());
        assert_eq!(judge(&found, NOW, &[], &[]).len(), 1);
        assert_eq!(judge(&found, NOW, &[entry("/a", false), entry("/b", false)], &[]).len(), 1);
        assert_eq!(judge(&found, NOW, &[entry("/a", false), entry("/b", true)], &[]), Vec::<String>::new());
    }

    #[test]
    fn an_entry_may_contain_the_value_of_weft() {
        let found = differences(&json!({"a": 1}), &json!({"a": 2}));
        let with = |value: Value| [Differs { weft: Some(value), ..entry("/a", false) }];
        assert_eq!(judge(&found, NOW, &with(json!(2)), &[]), Vec::<String>::new());
        assert_eq!(judge(&found, NOW, &with(json!(3)), &[]).len(), 2);
    }

    #[test]
    fn entries_for_other_versions_do_not_count() {
        let found = differences(&json!({"a": 1}), &json!({"a": 2}));
        let old = Differs { versions: vec!["0.2.0".to_owned()], ..entry("/a", false) };
        assert_eq!(judge(&found, OLD, std::slice::from_ref(&old), &[]), Vec::<String>::new());
        assert_eq!(judge(&found, NOW, std::slice::from_ref(&old), &[]).len(), 1);
    }

    #[test]
    fn entries_for_the_other_reference_do_not_count() {
        let found = differences(&json!({"a": 1}), &json!({"a": 2}));
        let current = Differs { reference: Some(Edition::Current), ..entry("/a", false) };
        assert_eq!(
            judge(&found, (Edition::Current, "1.0.0"), std::slice::from_ref(&current), &[]),
            Vec::<String>::new()
        );
        assert_eq!(judge(&found, NOW, std::slice::from_ref(&current), &[]).len(), 1);
        assert_eq!(judge(&[], NOW, &[current], &[]), Vec::<String>::new());
    }

    #[test]
    fn patterns() {
        assert!(matches("/*/host/links", "/02 observe/host/links"));
        assert!(matches("/**/mtu", "/02 observe/host/links/cni0/mtu"));
        assert!(matches("/**/ipv6~1conf~1*~1accept_dad", "/1/host/sysctls/ipv6~1conf~1eth0~1accept_dad"));
        assert!(!matches("/*/links", "/02 observe/host/links"));
        assert!(matches("/* CHECK */error", "/03 CHECK a/error"));
        assert!(!matches("/a", "/ab"));
        assert!(matches("/a*", "/ab"));
    }
}
