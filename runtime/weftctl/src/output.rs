//! The only place that prints: a table or lines for people, one JSON document for programs.

#![expect(clippy::print_stderr, reason = "a command line tool prints; everything else goes through here")]

use std::io::{ErrorKind, Write};

use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON instead of text.
    pub(crate) json: bool,
}

/// A text of somebody else's for a terminal: control characters, and those that turn the direction of writing, are written as
/// escapes.
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

/// How long ago a time is, in seconds since 1970.
pub(crate) fn ago(since: u64) -> String {
    let seconds = weft_core::facts::now().map_or(0, |now| now.saturating_sub(since));
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Writes a line to stdout. When its reader has gone, the program ends as any other in a pipe.
#[expect(clippy::disallowed_methods, reason = "as SIGPIPE would end it, which Rust programs ignore")]
fn print(line: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(BROKEN_PIPE),
        outcome => outcome.context("cannot write to stdout"),
    }
}

/// What a shell reports of a program that SIGPIPE ended.
const BROKEN_PIPE: i32 = 141;

impl Output {
    /// Prints rows under a head, or the value as JSON.
    pub(crate) fn table<T: Serialize>(self, value: &T, head: &[&str], rows: Vec<Vec<String>>) -> anyhow::Result<()> {
        if self.json {
            return print_json(value);
        }
        if rows.is_empty() {
            print("nothing to show")?;
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(head.iter().map(|cell| cell.to_uppercase()).collect::<Vec<_>>());
        for row in rows {
            table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<_>>());
        }
        for line in table.to_string().lines() {
            print(line.strip_prefix(' ').unwrap_or(line).trim_end())?;
        }
        Ok(())
    }

    /// As `table`, in as many columns as the terminal has (`COLUMNS`, or 80): longer cells are wrapped, unless it is to be `wide`.
    pub(crate) fn fitted<T: Serialize>(
        self,
        value: &T,
        head: &[&str],
        rows: Vec<Vec<String>>,
        wide: bool,
    ) -> anyhow::Result<()> {
        if self.json || rows.is_empty() || wide {
            return self.table(value, head, rows);
        }
        let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(80);
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
        table.set_header(head.iter().map(|cell| cell.to_uppercase()).collect::<Vec<_>>());
        for row in rows {
            table.add_row(row.iter().map(|cell| clean(cell)).collect::<Vec<_>>());
        }
        table.to_string().lines().try_for_each(|line| print(line.strip_prefix(' ').unwrap_or(line).trim_end()))
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

    /// Prints why the command failed: to stderr, and as JSON to stdout where that was asked for.
    pub(crate) fn error(self, error: &anyhow::Error) {
        if self.json {
            let document = serde_json::json!({ "error": format!("{error:#}") });
            drop(print(&format!("{document:#}")));
        }
        for line in format!("weftctl: {error:#}").split('\n') {
            eprintln!("{}", clean(line));
        }
    }

    /// A line beside the answer.
    pub(crate) fn note(self, line: &str) {
        eprintln!("weftctl: {}", clean(line));
    }
}

/// A bare line to stderr, for a program that reads it.
pub(crate) fn plain_error(line: &str) {
    eprintln!("{line}");
}

fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value).context("cannot encode the answer")?)
}
