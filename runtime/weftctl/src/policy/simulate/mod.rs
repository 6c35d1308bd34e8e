//! `weftctl policy simulate`: thousands of pods on hundreds of nodes, in memory. The real component decides, within the
//! limits of an ADD; the ledger is a model of the cluster's, with each node's knowledge of it. The same seed gives the
//! same output, byte for byte.

mod add;
mod cluster;
mod measure;
mod plot;
mod png;
mod run;
mod scene;
mod sets;
mod table;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ipnet::IpNet;
use serde::Serialize;
use weft_core::policy::Grants;

use self::measure::Measured;
use self::run::{Simulation, Subject};
use self::scene::Scene;
use self::workload::{SECOND, Terms};
use super::built;
use super::cases::Policy;
use super::granted::GrantArgs;
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// The project's directory.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// A component, or the name of a shipped policy, instead of what the project builds.
    #[arg(long, value_name = "POLICY")]
    policy: Option<String>,
    /// Another component or shipped policy that gets the same pods, to be compared.
    #[arg(long, value_name = "POLICY")]
    against: Option<String>,
    /// The network's configuration [default: the project's network.json].
    #[arg(long, value_name = "FILE")]
    network: Option<PathBuf>,
    /// A subnet in place of the network's ranges, each a range set of its own [default without a network: 10.64.0.0/20].
    #[arg(long = "range", value_name = "SUBNET")]
    ranges: Vec<IpNet>,
    /// Nodes, which share the ranges.
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    nodes: u32,
    /// Pods that are started.
    #[arg(long, default_value = "10000", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pods: u32,
    /// Pods that run at the same time [default: 70 % of the addresses, a quarter of the pods at most].
    #[arg(long)]
    running: Option<u32>,
    /// Mean time from a pod's start to its end, in seconds.
    #[arg(long, default_value = "600", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    lifetime: u32,
    /// Pods that start at the same instant, as when a node fails or a Deployment is rolled out.
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    burst: u32,
    /// Milliseconds until the ledger answers a create or a list.
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    latency: u32,
    /// Percent of the pods that are a StatefulSet's: their names come back, on any node.
    #[arg(long, default_value = "20", value_parser = clap::value_parser!(u8).range(0..=100))]
    stateful: u8,
    /// Labels of nodes: each node gets one of the values in turn.
    #[arg(long = "node-label", value_name = "KEY=VALUE[,VALUE...]", value_parser = scene::label)]
    node_labels: Vec<(String, Vec<String>)>,
    /// Labels of pods: each pod gets any of the values.
    #[arg(long = "pod-label", value_name = "KEY=VALUE[,VALUE...]", value_parser = scene::label)]
    pod_labels: Vec<(String, Vec<String>)>,
    /// Seed of the random numbers.
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Do not fill the pool with pods at the end.
    #[arg(long)]
    no_fill: bool,
    /// Also draw a chart to this file (.svg or .png).
    #[arg(long, value_name = "FILE", value_parser = plot::file)]
    plot: Option<PathBuf>,
    #[command(flatten)]
    grants: GrantArgs,
}

/// The output of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    nodes: usize,
    pods: usize,
    running: usize,
    lifetime_seconds: u64,
    burst: usize,
    latency_ms: u64,
    stateful_percent: u8,
    seed: u64,
    policies: &'a [Measured],
}

pub(super) fn run(args: &SimulateArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let network = scene::network(args)?;
    let grants = args.grants.resolve(&args.dir, network.as_ref());
    let mut policies = vec![load(args, args.policy.as_deref(), grants.clone(), state)?];
    if let Some(against) = &args.against {
        policies.push(load(args, Some(against), grants, state)?);
    }
    let scene = Scene::new(args, network)?;
    let terms = terms(args, &scene);
    let bar = bar(terms.pods * policies.len());
    let mut measured = Vec::new();
    for (title, policy) in &policies {
        let Policy::Ipam(policy) = policy else {
            bail!("{title} picks delegates; only policies that pick addresses are simulated");
        };
        let subject = Subject {
            policy,
            network: &scene.network,
            sets: scene.sets()?,
            limits: &scene.limits,
            rules: &scene.rules,
            config: scene.config(),
        };
        bar.set_message(title.clone());
        let passed = |more: u64| if more > 0 { bar.inc_length(more) } else { bar.inc(1) };
        let of = Simulation::new(subject, &terms).run(!args.no_fill, &passed);
        measured.push(Measured { policy: title.clone(), ..of });
    }
    bar.finish_and_clear();
    if let Some(file) = &args.plot {
        plot::draw(file, &measured).with_context(|| format!("cannot draw {}", file.display()))?;
    }
    let report = Report {
        nodes: terms.nodes,
        pods: terms.pods,
        running: terms.running,
        lifetime_seconds: terms.lifetime / SECOND,
        burst: terms.burst,
        latency_ms: terms.latency / 1_000,
        stateful_percent: terms.stateful,
        seed: terms.seed,
        policies: &measured,
    };
    table::print(&report, output)?;
    Ok(ExitCode::SUCCESS)
}

/// Loads a policy, with its name in the output.
fn load(args: &SimulateArgs, policy: Option<&str>, grants: Grants, state: &Path) -> anyhow::Result<(String, Policy)> {
    let path = match policy {
        Some(policy) => PathBuf::from(policy),
        None => std::path::absolute(&args.dir)?,
    };
    let title = path.file_stem().map_or_else(|| "policy".to_owned(), |stem| stem.to_string_lossy().into_owned());
    Ok((title, built::tested(&args.dir, policy, grants, state)?.policy))
}

fn terms(args: &SimulateArgs, scene: &Scene) -> Terms {
    let pods = args.pods as usize;
    let most = usize::try_from(scene.smallest() / 10 * 7).unwrap_or(usize::MAX).max(1);
    Terms {
        nodes: args.nodes as usize,
        pods,
        running: args.running.map_or(most.min(pods.div_ceil(4)), |running| running as usize).max(1),
        lifetime: u64::from(args.lifetime) * SECOND,
        burst: args.burst as usize,
        latency: u64::from(args.latency) * 1_000,
        stateful: args.stateful,
        seed: args.seed,
        node_labels: args.node_labels.iter().cloned().collect(),
        pod_labels: args.pod_labels.iter().cloned().collect(),
    }
}

/// A progress bar, only on a terminal.
fn bar(pods: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(pods as u64), ProgressDrawTarget::stderr());
    match ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} pods, {eta} left") {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_template) => bar,
    }
}
