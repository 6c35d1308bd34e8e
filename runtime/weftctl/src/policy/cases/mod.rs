//! `weftctl policy test`: runs a directory of cases, each with a request, the state of the ledger, and the expected
//! outcome.

mod ask;
mod case;
mod outcome;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

pub(crate) use self::ask::parsed;
pub(super) use self::ask::{Policy, Question, of_ours, question_of};
use self::case::Case;
use super::built::{self, Tested};
use super::granted::GrantArgs;
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// The project's directory; its cases are `cases/*.json`.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// A component, or the name of a shipped policy, to test instead of what the project builds.
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// Only cases whose name contains this.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Write each case's outcome into its "expect".
    #[arg(long)]
    update: bool,
    #[command(flatten)]
    grants: GrantArgs,
}

/// The result of a case.
#[derive(Debug, Serialize)]
struct Verdict {
    case: String,
    about: String,
    ok: bool,
    updated: bool,
    fuel: u64,
    memory: usize,
    /// The differences, line by line.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

pub(super) fn run(args: &TestArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let grants = args.grants.resolve(&args.dir, built::network(&args.dir)?.as_ref());
    let tested = built::tested(&args.dir, args.policy.as_deref(), grants, state)?;
    let verdicts = test(&args.dir, &tested, args.filter.as_deref(), args.update)?;
    report(&verdicts, output)?;
    Ok(if verdicts.iter().all(|verdict| verdict.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns whether all cases of a project pass; prints those that do not.
pub(super) fn passes(dir: &Path, tested: &Tested, output: Output) -> anyhow::Result<bool> {
    let verdicts = test(dir, tested, None, false)?;
    report(&verdicts, output)?;
    Ok(verdicts.iter().all(|verdict| verdict.ok))
}

fn test(dir: &Path, tested: &Tested, filter: Option<&str>, update: bool) -> anyhow::Result<Vec<Verdict>> {
    let network = built::network(dir)?;
    let mut verdicts = Vec::new();
    for path in cases(dir)? {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if filter.is_none_or(|filter| name.contains(filter)) {
            let verdict = run_case(&path, name.clone(), network.as_ref(), &tested.policy, update);
            verdicts.push(verdict.with_context(|| format!("case {}", path.display()))?);
        }
    }
    if verdicts.is_empty() {
        bail!("no case in {} matches", dir.join("cases").display());
    }
    Ok(verdicts)
}

/// Returns the files of a project's cases, in order.
pub(super) fn cases(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let cases = dir.join("cases");
    let entries = cases.read_dir().with_context(|| format!("cannot read {}", cases.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn run_case(
    path: &Path,
    name: String,
    network: Option<&Value>,
    policy: &Policy,
    update: bool,
) -> anyhow::Result<Verdict> {
    let text = fs::read(path)?;
    let case: Case = serde_json::from_slice(&text)?;
    let answered = ask::ask(&case, network, policy)?;
    let (fuel, memory) = (answered.evidence.fuel, answered.evidence.memory);
    let mut verdict =
        Verdict { case: name, about: case.about.clone(), ok: true, updated: false, fuel, memory, why: None };
    let difference = match &case.expect {
        Some(expected) => outcome::difference(expected, &answered.outcome),
        None => Some("it has no \"expect\"; `weftctl policy test --update` writes it".to_owned()),
    };
    let mut why = over_budget(&case, fuel, memory);
    match difference {
        Some(_difference) if update => {
            let mut document: Value = serde_json::from_slice(&text)?;
            let expect = outcome::updated(case.expect.as_ref(), &answered.outcome);
            document.as_object_mut().context("a case is an object")?.insert("expect".to_owned(), Value::Object(expect));
            fs::write(path, format!("{}\n", serde_json::to_string_pretty(&document)?))?;
            verdict.updated = true;
        }
        Some(difference) => {
            let log = answered.evidence.log.iter().map(|line| format!("\nlogged: {}", line.text));
            why.insert(0, format!("{}{}", difference.trim_end(), log.collect::<String>()));
        }
        None => {}
    }
    if !why.is_empty() {
        verdict.ok = false;
        verdict.why = Some(why.join("\n"));
    }
    Ok(verdict)
}

fn over_budget(case: &Case, fuel: u64, memory: usize) -> Vec<String> {
    let mut over = Vec::new();
    if let Some(budget) = case.budget.fuel.filter(|budget| fuel > *budget) {
        over.push(format!("it used {fuel} fuel; the budget is {budget}"));
    }
    if let Some(budget) = case.budget.memory.filter(|budget| memory > *budget) {
        over.push(format!("it used {memory} bytes of memory; the budget is {budget}"));
    }
    over
}

fn report(verdicts: &[Verdict], output: Output) -> anyhow::Result<()> {
    if output.json {
        return output.lines(&verdicts, &[]);
    }
    let row = |verdict: &Verdict| {
        let state = match (verdict.ok, verdict.updated) {
            (false, _) => "FAILED",
            (true, true) => "updated",
            (true, false) => "ok",
        };
        let number = |number: u64| if number == 0 { "-".to_owned() } else { number.to_string() };
        let kib = (verdict.memory as u64).div_ceil(1024);
        vec![state.to_owned(), verdict.case.clone(), number(verdict.fuel), number(kib), verdict.about.clone()]
    };
    output.table(&verdicts, &["", "case", "fuel", "KiB", "about"], verdicts.iter().map(row).collect())?;
    let mut lines = Vec::new();
    for verdict in verdicts {
        if let Some(why) = &verdict.why {
            lines.push(format!("\n{} FAILED", verdict.case));
            lines.extend(why.lines().map(str::to_owned));
        }
    }
    let failed = verdicts.iter().filter(|verdict| !verdict.ok).count();
    lines.push(format!("\n{} passed, {failed} failed", verdicts.len() - failed));
    output.lines(&(), &lines)
}
