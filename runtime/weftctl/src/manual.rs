//! `weftctl completion`, `man`, `schema`: descriptions of weft for shells, `man` and editors.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use clap_complete::Shell;
use serde_json::Value;

use crate::output::Output;

/// Schemas of the shipped policies' configurations, by `ipam.type`. `select.policy` names the others.
const POLICIES: &[(&str, &str)] = &[
    ("host-local", include_str!("../../../guest-plugins/host-local/src/schema.json")),
    ("static", include_str!("../../../guest-plugins/static/src/schema.json")),
    ("by-label", include_str!("../../../guest-plugins/by-label/src/schema.json")),
    ("cluster-wide", include_str!("../../../guest-plugins/cluster-wide/src/schema.json")),
];

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell.
    shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write a page for each command into this directory, instead of one page to standard output.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn completion(
    args: &CompletionArgs,
    mut command: clap::Command,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "weftctl", &mut script);
    output.raw(&script)?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn man(args: &ManArgs, command: clap::Command, output: Output) -> anyhow::Result<ExitCode> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).context("cannot render the page")?;
        output.raw(&page)?;
        return Ok(ExitCode::SUCCESS);
    };
    let cannot = || format!("cannot write pages into {}", dir.display());
    std::fs::create_dir_all(dir).with_context(cannot)?;
    clap_mangen::generate_to(command, dir).with_context(cannot)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the JSON Schema of network configurations.
pub(crate) fn schema(output: Output) -> anyhow::Result<ExitCode> {
    let policies = POLICIES.iter().map(|(name, text)| {
        let schema: Value = serde_json::from_str(text).with_context(|| format!("the schema of {name} is not JSON"))?;
        Ok((*name, schema))
    });
    let policies = policies.collect::<anyhow::Result<Vec<_>>>()?;
    output.document(&weft_core::conf::schema(&policies))?;
    Ok(ExitCode::SUCCESS)
}
