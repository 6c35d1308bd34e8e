//! All printing: a table or lines for people, one JSON document for programs.

#![expect(clippy::print_stderr, reason = "a command line tool prints; everything else goes through here")]

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};

use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// The form of the output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Whether to print JSON instead of text.
    pub(crate) json: bool,
    /// Whether standard output is a terminal with colours.
    colours: bool,
}

/// States in the first column of a table, with their colour number (red, yellow, green).
const STATES: &[(&str, u8)] = &[("FAIL", 31), ("failed", 31), ("warn", 33), ("ok", 32), ("done", 32)];

/// Columns of a terminal of unknown width.
const COLUMNS: u16 = 80;

/// Makes a foreign text safe for a terminal: control characters, and those that change the text direction, are escaped.
pub(crate) fn clean(text: &str) -> String {
    let odd = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        if odd(c) { cleaned.extend(c.escape_default()) } else { cleaned.push(c) }
    }
    cleaned
}

/// Formats how long ago a time is, in seconds since 1970.
pub(crate) fn ago(since: u64) -> String {
    let seconds = weft_core::facts::now().map_or(0, |now| now.saturating_sub(since));
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Writes a line to stdout. If its reader has closed the pipe, the program ends like any other.
#[expect(clippy::disallowed_methods, reason = "as SIGPIPE would end it, which Rust programs ignore")]
fn print(line: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(BROKEN_PIPE),
        outcome => outcome.context("cannot write to stdout"),
    }
}

/// The exit code that a shell reports for a program ended by SIGPIPE.
const BROKEN_PIPE: i32 = 141;

/// Returns whether a stream has colours: a terminal, unless <https://no-color.org> or similar variables forbid them.
fn has_colours(stream: &impl IsTerminal) -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    stream.is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// Returns the configured number of columns.
fn columns() -> Option<u16> {
    std::env::var_os("COLUMNS").and_then(|text: OsString| text.to_str()?.parse().ok())
}

/// Colours the state at the beginning of a line.
fn coloured(line: &str) -> String {
    let word = line.split(' ').next().unwrap_or_default();
    match STATES.iter().find(|(state, _colour)| *state == word) {
        Some((state, colour)) => {
            format!("\u{1b}[{colour}m{state}\u{1b}[0m{}", line.strip_prefix(word).unwrap_or_default())
        }
        None => line.to_owned(),
    }
}

impl Output {
    /// Creates output in the requested form.
    pub(crate) fn new(json: bool) -> Self {
        Self { json, colours: !json && has_colours(&std::io::stdout()) }
    }

    /// Prints rows under a header, or the value as JSON. On a terminal rows are fitted into its columns; a program gets
    /// one line per row.
    pub(crate) fn table<T: Serialize>(self, value: &T, head: &[&str], rows: Vec<Vec<String>>) -> anyhow::Result<()> {
        let terminal = std::io::stdout().is_terminal().then_some(COLUMNS);
        self.rows(value, head, rows, columns().or(terminal))
    }

    /// Like `table`, with an optional width.
    fn rows<T: Serialize>(
        self,
        value: &T,
        head: &[&str],
        rows: Vec<Vec<String>>,
        width: Option<u16>,
    ) -> anyhow::Result<()> {
        if self.json {
            return print_json(value);
        }
        if rows.is_empty() {
            return print("nothing to show");
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        table.set_header(head.iter().map(|cell| cell.to_uppercase()).collect::<Vec<_>>());
        for row in rows {
            table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<_>>());
        }
        for line in table.to_string().lines() {
            let line = line.strip_prefix(' ').unwrap_or(line).trim_end();
            if self.colours { print(&coloured(line)) } else { print(line) }?;
        }
        Ok(())
    }

    /// Like `table`, within the terminal's columns (`COLUMNS`, or 80): longer cells are wrapped, unless `wide` is set.
    pub(crate) fn fitted<T: Serialize>(
        self,
        value: &T,
        head: &[&str],
        rows: Vec<Vec<String>>,
        wide: bool,
    ) -> anyhow::Result<()> {
        self.rows(value, head, rows, (!wide).then(|| columns().unwrap_or(COLUMNS)))
    }

    /// Prints a JSON document, whatever form was requested.
    #[expect(clippy::unused_self, reason = "all that prints is a method")]
    pub(crate) fn document<T: Serialize>(self, value: &T) -> anyhow::Result<()> {
        print_json(value)
    }

    /// Prints a text for another program unchanged.
    #[expect(clippy::unused_self, reason = "all that prints is a method")]
    pub(crate) fn raw(self, text: &[u8]) -> anyhow::Result<()> {
        print(String::from_utf8_lossy(text).trim_end_matches('\n'))
    }

    /// Prints lines, or the value as JSON.
    pub(crate) fn lines<T: Serialize>(self, value: &T, lines: &[String]) -> anyhow::Result<()> {
        if self.json {
            return print_json(value);
        }
        for line in lines.iter().flat_map(|line| line.split('\n')) {
            print(&clean(line))?;
        }
        Ok(())
    }

    /// Prints why the command failed: to stderr, and as JSON to stdout if requested.
    pub(crate) fn error(self, error: &anyhow::Error) {
        if self.json {
            let document = serde_json::json!({ "error": format!("{error:#}") });
            drop(print(&format!("{document:#}")));
        }
        let (red, plain) = if has_colours(&std::io::stderr()) { ("\u{1b}[31m", "\u{1b}[0m") } else { ("", "") };
        for line in format!("weftctl: {error:#}").split('\n') {
            eprintln!("{red}{}{plain}", clean(line));
        }
    }

    /// Prints a line besides the answer.
    pub(crate) fn print_note(self, line: &str) {
        eprintln!("weftctl: {}", clean(line));
    }
}

/// Prints a plain line to stderr, for a program that reads it.
pub(crate) fn plain_error(line: &str) {
    eprintln!("{line}");
}

fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value).context("cannot encode the answer")?)
}
