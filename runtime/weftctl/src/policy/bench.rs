//! `weftctl policy bench`: measures the cost of a policy. Fuel is the same on every machine; time is not.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;
use weft_core::attach::Asked;
use weft_core::policy::{Called, Evidence, Limits};

use super::built::{self, Tested};
use super::cases::{self, Policy, question_of};
use super::granted::GrantArgs;
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// The project's directory.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// A component, or the name of a shipped policy, to measure instead of what the project builds.
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// The case whose question is asked [default: the first that asks for a decision].
    #[arg(long, value_name = "NAME")]
    case: Option<String>,
    /// Number of calls.
    #[arg(long, default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    calls: u32,
    #[command(flatten)]
    grants: GrantArgs,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    case: String,
    calls: u32,
    /// Bytes of the component.
    component: usize,
    /// From compiled code on disk to the first answer, including an engine: the time of a process's first call.
    cold_us: u128,
    /// A call in a new instance, as in every ADD: the median.
    call_us: u128,
    /// A call in an instance that has answered before: the median. A policy with WASI has no such calls: its clock and random
    /// numbers belong to one request.
    warm_us: Option<u128>,
    fuel: Spread,
    /// Bytes after a call in a new instance.
    memory: usize,
    /// Bytes after all calls in one instance. A higher number means that the policy keeps memory per call.
    memory_after_all: Option<usize>,
    /// Share of the default limits that a call uses, in percent.
    share_of_fuel: f64,
    share_of_memory: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Spread {
    min: u64,
    median: u64,
    max: u64,
}

pub(super) fn run(args: &BenchArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let grants = args.grants.resolve(&args.dir, built::network(&args.dir)?.as_ref());
    let tested = built::tested(&args.dir, args.policy.as_deref(), grants, state)?;
    let case = case(args)?;
    let report = measure(args, &case, &tested)?;
    let warm = match report.warm_us {
        Some(warm) => format!("{warm} us in one instance for all"),
        None => "not measured: with WASI, every call needs an instance of its own".to_owned(),
    };
    let mut lines = vec![
        format!("case         {} ({} calls)", report.case, report.calls),
        format!("component    {} bytes", report.component),
        format!("cold         {} us from compiled code on disk to the first answer", report.cold_us),
        format!("call         {} us in an instance of its own, as every ADD", report.call_us),
        format!("warm         {warm}"),
        format!(
            "fuel         {} (from {} to {}); {:.1} % of the default limit",
            report.fuel.median, report.fuel.min, report.fuel.max, report.share_of_fuel
        ),
        format!("memory       {} KiB; {:.1} % of the default limit", report.memory / 1024, report.share_of_memory),
    ];
    if let Some(memory) = report.memory_after_all {
        lines.push(format!("             {} KiB after {} calls in one instance", memory / 1024, report.calls));
    }
    output.lines(&report, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the file of the case to measure.
fn case(args: &BenchArgs) -> anyhow::Result<PathBuf> {
    if let Some(name) = &args.case {
        return Ok(args.dir.join("cases").join(format!("{name}.json")));
    }
    let network = built::network(&args.dir)?;
    let usable = |path: &PathBuf| question_of(path, network.as_ref()).is_ok();
    cases::cases(&args.dir)?.into_iter().find(usable).context("no case of the project asks for a decision")
}

fn measure(args: &BenchArgs, case: &Path, tested: &Tested) -> anyhow::Result<Report> {
    let network = built::network(&args.dir)?;
    let ask = || question_of(case, network.as_ref());
    let (_question, limits) = ask()?;
    let start = Instant::now();
    let fresh = tested.reload()?;
    let first = call_once(&fresh, ask()?)?;
    let cold = start.elapsed();

    let (mut fuel, mut times) = (Vec::new(), Vec::new());
    for _ in 0..args.calls {
        let question = ask()?;
        let start = Instant::now();
        let evidence = call_once(&tested.policy, question)?;
        times.push(start.elapsed());
        fuel.push(evidence.fuel);
    }
    let (warm, last) = match has_wasi(&tested.policy) {
        true => (None, None),
        false => {
            call_repeatedly(&tested.policy, args.calls, &limits, &ask).map(|(warm, last)| (Some(warm), Some(last)))?
        }
    };
    let defaults = Limits::default();
    let fuel = spread(fuel);
    Ok(Report {
        case: case.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        calls: args.calls,
        component: tested.size,
        cold_us: cold.as_micros(),
        call_us: median(times).as_micros(),
        warm_us: warm.map(|warm| median(warm).as_micros()),
        share_of_fuel: percent(fuel.max, defaults.fuel),
        share_of_memory: percent(first.memory as u64, defaults.memory as u64),
        fuel,
        memory: first.memory,
        memory_after_all: last.map(|last| last.memory),
    })
}

fn has_wasi(policy: &Policy) -> bool {
    !match policy {
        Policy::Ipam(policy) => policy.wasi_imports(),
        Policy::Choice(policy) => policy.wasi_imports(),
    }
    .is_empty()
}

type Asking<'a> = &'a dyn Fn() -> anyhow::Result<(cases::Question, Limits)>;

/// Makes one call in a new instance.
fn call_once(policy: &Policy, (question, limits): (cases::Question, Limits)) -> anyhow::Result<Evidence> {
    match (policy, question.asked) {
        (Policy::Ipam(policy), Asked::Addresses(request)) => {
            answered(policy.allocate(&request, question.ledger, &limits))
        }
        (Policy::Choice(policy), Asked::Delegate(request)) => answered(policy.choose(&request, &limits)),
        _ => bail!("the case asks what this kind of policy does not decide"),
    }
}

/// Makes all calls in one instance; returns their times, and the evidence of the last one.
fn call_repeatedly(
    policy: &Policy,
    calls: u32,
    limits: &Limits,
    ask: Asking<'_>,
) -> anyhow::Result<(Vec<Duration>, Evidence)> {
    let (mut times, mut last) = (Vec::new(), Evidence::default());
    let mut timed = |call: &mut dyn FnMut(cases::Question) -> anyhow::Result<Evidence>| -> anyhow::Result<()> {
        for number in 1..=calls {
            let (question, _limits) = ask()?;
            let start = Instant::now();
            last = call(question).with_context(|| format!("call {number} in one instance"))?;
            times.push(start.elapsed());
        }
        Ok(())
    };
    match policy {
        Policy::Ipam(policy) => {
            let mut reused = policy.reused(limits)?;
            timed(&mut |question| match question.asked {
                Asked::Addresses(request) => answered(reused.allocate(&request, question.ledger)),
                Asked::Delegate(_) => bail!("the case asks for a delegate"),
            })?;
        }
        Policy::Choice(policy) => {
            let mut reused = policy.reused(limits)?;
            timed(&mut |question| match question.asked {
                Asked::Delegate(request) => answered(reused.choose(&request)),
                Asked::Addresses(_) => bail!("the case asks for addresses"),
            })?;
        }
    }
    Ok((times, last))
}

/// Returns the cost of an answer; a denial counts, a trap does not.
fn answered<T>(called: Called<T>) -> anyhow::Result<Evidence> {
    match called.outcome {
        Ok(_decision_or_denial) => Ok(called.evidence),
        Err(error) => Err(error.into()),
    }
}

fn spread(mut values: Vec<u64>) -> Spread {
    values.sort_unstable();
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    Spread { min: at(0), median: at(values.len() / 2), max: at(values.len().saturating_sub(1)) }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[expect(clippy::cast_precision_loss, reason = "a share that is shown with one digit")]
fn percent(part: u64, whole: u64) -> f64 {
    (part as f64 * 1000.0 / whole.max(1) as f64).round() / 10.0
}
