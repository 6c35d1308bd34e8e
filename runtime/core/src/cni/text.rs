//! JSON text as the reference implementation prints it, and quoting as its messages have it.

use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

use serde::Serialize as _;

/// A value as text: four spaces of indentation, no newline at the end.
///
/// Go's encoder escapes what HTML would trip over. Those characters occur in JSON text inside strings only, so replacing
/// them in the whole is exact.
pub(super) fn pretty(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    "));
    // A `Value` has string keys only and a `Vec` takes every write, so neither of these can fail; were one to, the
    // compact form is the same document.
    let text = match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8(bytes).unwrap_or_else(|_not_utf8| value.to_string()),
        Err(_never) => value.to_string(),
    };
    text.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

/// A list of strings as Go's `%q` prints it: `["a" "b"]`.
pub(super) fn quoted_list<T: AsRef<str>>(items: &[T]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("{:?}", item.as_ref())).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn markup_is_escaped_and_the_text_stays_the_same_document() {
        let value = json!({"msg": "a <b> & \u{2028}c", "list": [], "object": {}});
        let text = pretty(&value);
        assert_eq!(
            text,
            "{\n    \"msg\": \"a \\u003cb\\u003e \\u0026 \\u2028c\",\n    \"list\": [],\n    \"object\": {}\n}"
        );
        assert_eq!(serde_json::from_str::<Value>(&text).ok(), Some(value));
    }

    #[test]
    fn lists_are_quoted_with_spaces_between() {
        assert_eq!(quoted_list(&["a=b", "c\"d"]), r#"["a=b" "c\"d"]"#);
        assert_eq!(quoted_list::<&str>(&[]), "[]");
    }
}
