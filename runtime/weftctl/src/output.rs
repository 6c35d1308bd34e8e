//! The only place that prints: a table or lines for people, one JSON document for programs.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool prints; everything else goes through here"
)]

use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON instead of text.
    pub(crate) json: bool,
}

impl Output {
    /// Prints rows under a head, or the value as JSON.
    pub(crate) fn table<T: Serialize>(self, value: &T, head: &[&str], rows: Vec<Vec<String>>) -> anyhow::Result<()> {
        if self.json {
            return print_json(value);
        }
        if rows.is_empty() {
            println!("nothing to show");
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(head.iter().map(|cell| cell.to_uppercase()).collect::<Vec<_>>());
        for row in rows {
            table.add_row(row);
        }
        for line in table.to_string().lines() {
            println!("{}", line.trim());
        }
        Ok(())
    }

    /// Prints lines, or the value as JSON.
    pub(crate) fn lines<T: Serialize>(self, value: &T, lines: &[String]) -> anyhow::Result<()> {
        if self.json {
            return print_json(value);
        }
        for line in lines {
            println!("{line}");
        }
        Ok(())
    }

    /// Prints why the command failed: to stderr, and as JSON to stdout where that was asked for.
    pub(crate) fn error(self, error: &anyhow::Error) {
        if self.json {
            let document = serde_json::json!({ "error": format!("{error:#}") });
            println!("{document:#}");
        }
        eprintln!("weftctl: {error:#}");
    }

    /// A line beside the answer.
    pub(crate) fn note(self, line: &str) {
        eprintln!("weftctl: {line}");
    }
}

/// A bare line to stderr, for a program that reads it.
pub(crate) fn plain_error(line: &str) {
    eprintln!("{line}");
}

fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value).context("cannot encode the answer")?);
    Ok(())
}
