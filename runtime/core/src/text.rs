//! Makes foreign text (from a guest or a plugin) safe for a terminal, a log and a CNI error: one line, no control
//! characters, limited length.

/// Escapes control characters, and truncates to at most `max` bytes (at a character).
pub(crate) fn clean(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars() {
        // Bidirectional overrides reorder a terminal's line just like escape sequences.
        let unsafe_char =
            c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let piece = if unsafe_char { c.escape_default().to_string() } else { c.to_string() };
        if out.len() + piece.len() > max {
            out.push_str("...");
            return out;
        }
        out.push_str(&piece);
    }
    out
}

/// Returns whether [`clean`] would at most change the length.
pub(crate) fn is_plain(text: &str) -> bool {
    clean(text, usize::MAX) == text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_and_cuts() {
        assert_eq!(clean("a\nb\u{1b}[31mc", 100), "a\\nb\\u{1b}[31mc");
        assert_eq!(clean("\u{202e}x", 100), "\\u{202e}x");
        assert_eq!(clean("äöü", 4), "äö...");
        assert_eq!(clean("grüße", 100), "grüße");
        assert!(is_plain("grüße") && !is_plain("a\tb"));
    }
}
