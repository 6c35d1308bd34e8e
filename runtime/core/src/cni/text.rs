//! JSON text in the form in which the reference implementation prints it, and its quoting in messages.

use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

use serde::Serialize as _;

/// Renders a value: four spaces of indentation, no newline at the end.
///
/// Go's encoder escapes characters that are special in HTML. They only occur inside strings of JSON text, so replacing
/// them everywhere is correct.
pub(super) fn pretty(value: &Value) -> String {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(b"    "));
    // Neither of these can fail: a `Value` has only string keys and a `Vec` accepts every write. The fallback is the
    // same document in compact form.
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

/// Formats a list of strings like Go's `%q`: `["a" "b"]`.
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
