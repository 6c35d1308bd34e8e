//! `weftctl repair`: restores what other programs removed from the packet filter (`nft flush ruleset`, a reload of
//! firewalld).
//!
//! Without `--apply` it only shows what it would restore.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use weft_core::attach::{Context, Node, Repair, lost_filters, repair};
use weft_core::store::NodeStore;

use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// Put back what is missing; without this, only show it.
    #[arg(long)]
    apply: bool,
}

/// Returns exit code 1 if something is still missing.
pub(crate) fn run(args: &RepairArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let Some(store) = NodeStore::open_read_only(state)? else {
        output.lines(&Repair::default(), &["no attachment was made yet: nothing to repair".to_owned()])?;
        return Ok(ExitCode::SUCCESS);
    };
    let found = if args.apply {
        drop(store);
        let context = Context::new(state.to_owned());
        repair(&mut Node::new(&context)).context("cannot repair the packet filter")?
    } else {
        lost_filters(&store).context("cannot look at the packet filter")?
    };
    output.lines(&found, &lines(&found, args.apply))?;
    let is_whole = found.unreadable.is_empty()
        && if args.apply { found.lost.iter().all(|lost| lost.problem.is_none()) } else { found.lost.is_empty() };
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn lines(found: &Repair, applied: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for lost in &found.lost {
        let verb = match (&lost.problem, applied) {
            (Some(_), _) => "failed to put back",
            (None, true) => "put back",
            (None, false) => "missing",
        };
        lines.push(format!("{} {} on {:?}:", lost.container_id, lost.ifname, lost.network));
        lines.extend(lost.missing.iter().map(|op| format!("  {verb}: {op}")));
        lines.extend(lost.problem.iter().map(|problem| format!("  {problem}")));
    }
    lines.extend(found.unreadable.iter().map(|problem| format!("cannot look at {problem}")));
    let total = found.attachments;
    lines.push(match found.lost.len() {
        0 => format!("{total} attachments have all they need in the packet filter"),
        lost if applied => format!("{lost} of {total} attachments had lost something"),
        lost => format!("{lost} of {total} attachments have lost something; `weftctl repair --apply` puts it back"),
    });
    lines
}
