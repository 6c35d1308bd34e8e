//! The agent's log: lines on stderr. The program that starts the agent (systemd, kubelet) stores them.

use std::fmt::Write as _;

/// The log.
#[derive(Debug, Clone, Copy)]
pub struct Log;

impl Log {
    /// Logs an event. Escapes control characters of foreign texts.
    pub fn info(self, line: &str) {
        write("info", line);
    }

    /// Logs something that may need attention.
    pub fn warn(self, line: &str) {
        write("warning", line);
    }
}

#[expect(clippy::print_stderr, reason = "the agent's log")]
fn write(level: &str, line: &str) {
    eprintln!("weft agent: {level}: {}", printable(line));
}

/// Returns the text on one line, without raw control characters.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            // Writing to a string does not fail.
            write!(out, "{}", c.escape_default()).ok();
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_foreign_text_stays_on_its_line() {
        assert_eq!(super::printable("a\n\u{1b}[2Jb \u{202e}ü"), "a\\n\\u{1b}[2Jb \\u{202e}ü");
    }
}
