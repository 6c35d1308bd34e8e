//! The benchmark: one run, one table of ratios. It compares weft with the reference plugins and with raw netlink,
//! interleaved.
//!
//! `weft-bench [--rounds N] [--row TEXT] [--json] [--check [--slack F]]`
//!
//! Figures are ratios of medians from rounds in which every contender takes its turn, in rotating order, so that a slow
//! machine or a noisy moment affects all of them. Only `--check` makes a missed budget an error, with slack: shared
//! machines are noisy, and tests have no timing asserts.
//!
//! Not here: how plugins are called and where (the library), the rows (`rows/`).

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod contenders;
mod launcher;
mod rows;
mod sample;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use weft_bench::scene::Scene;

use crate::contenders::{Contenders, Options};
use crate::table::Table;

/// Compares weft with the reference plugins and with raw netlink.
#[derive(Debug, Parser)]
#[command(name = "weft-bench", version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Measure only rows whose name contains this.
    #[arg(long, default_value = "")]
    row: String,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// Fail when a budget is missed.
    #[arg(long)]
    check: bool,
    /// With --check: the factor by which a budget may be missed.
    #[arg(long, default_value_t = 1.3, requires = "check")]
    slack: f64,
}

fn main() -> Result<ExitCode> {
    if let Some(exit) = launcher::as_launcher() {
        return exit;
    }
    let arguments = Arguments::parse();
    let contenders = Contenders::find(&arguments.options)?;
    let scene = Scene::enter()?;
    let contenders = contenders.install(&scene)?;
    let mut table = Table::default();
    for (name, measure) in rows::ALL {
        if name.contains(arguments.row.as_str()) {
            eprintln!("measuring: {name}");
            table.extend(measure(&scene, &contenders)?);
        }
    }
    if arguments.json {
        println!("{:#}", table.json());
    } else {
        println!("{}", table.human());
    }
    let missed = table.missed(arguments.slack);
    for row in &missed {
        eprintln!("budget missed (slack {}): {row}", arguments.slack);
    }
    Ok(if arguments.check && !missed.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
