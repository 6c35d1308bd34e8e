//! The operator's tool. One file per command; output is a table for people, or JSON with `--json`.

#[cfg(feature = "agent")]
mod agent;
mod attachments;
#[cfg(feature = "agent")]
mod cluster;
#[cfg(feature = "agent")]
mod controller;
mod detach;
mod doctor;
mod explain;
mod failures;
mod features;
mod install;
mod installed;
mod ledger;
mod list;
mod manual;
mod networks;
mod output;
mod plan;
mod pods;
mod policy;
mod pool;
mod pools;
mod repair;
mod selector;
#[cfg(feature = "agent")]
mod timespan;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use weft_core::exec::{self, HostView};

use crate::output::Output;

/// At the end of `--help` and of the man page.
const EXIT_CODES: &str = "\
Exit codes:
  0    done; what was looked at is as it should be
  1    failed, or found what is not as it should be (doctor, check, repair, who-has, policy check, policy test)
  2    the command line is wrong
  75   `policy compile --background`: the component is being compiled already, try again
  141  the reader of standard output has gone

Tables fit the terminal (COLUMNS, or 80 columns). Colours are for terminals only; NO_COLOR switches them off.";

/// Sets up and looks after weft on a node.
#[derive(Debug, Parser)]
#[command(name = "weftctl", version, arg_required_else_help = true, after_long_help = EXIT_CODES)]
struct Cli {
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
    /// Where weft keeps its state.
    #[arg(long, global = true, value_name = "DIR", env = "WEFT_STATE_DIR", default_value = weft_core::command::STATE_DIR)]
    state_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install weft on this node: binaries, plugin names, policies, directories.
    Install(install::InstallArgs),
    /// Uninstall weft from this node.
    Uninstall(install::UninstallArgs),
    /// Show what ADD would do, without doing it.
    Plan(plan::PlanArgs),
    /// Attach a container to a network by hand, as a runtime does.
    Add(list::ListArgs),
    /// Check an attachment that a runtime, or `add`, made.
    Check(list::ListArgs),
    /// Remove an attachment that a runtime, or `add`, made.
    Del(list::ListArgs),
    /// List attachments: pod, network, addresses, ports, and whether they are alive.
    Ps(attachments::PsArgs),
    /// List the networks of this node's pods: interface, addresses, and the policies that decided.
    Pods(pods::PodsArgs),
    /// Show who has an address.
    WhoHas(attachments::WhoHasArgs),
    /// Show how full the pools are: this node's, or the cluster's.
    #[command(subcommand)]
    Pool(pool::PoolCommand),
    /// The same as `pool ls`.
    #[command(hide = true)]
    Pools,
    /// Remove attachments whose network namespace is gone.
    Gc(detach::GcArgs),
    /// Remove a container's attachments by hand.
    Detach(detach::DetachArgs),
    /// List the ADDs that failed recently.
    Failures(failures::FailuresArgs),
    /// Show why an attachment has its addresses, or why there is none.
    Explain(explain::ExplainArgs),
    /// Build, compile, inspect and check policies.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Inspect, check, repair, import and export the ledger.
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),
    /// Run the node's agent: DHCP leases, pods, cluster ledger, policies, sweep.
    #[cfg(feature = "agent")]
    Agent(agent::AgentArgs),
    /// Run the cluster's controller: it releases addresses of dead machines and deleted IPAMClaims. One or two replicas per cluster.
    #[cfg(feature = "agent")]
    Controller(controller::ControllerArgs),
    /// Restore packet filter rules that other programs removed.
    Repair(repair::RepairArgs),
    /// Check this node, with a remedy for whatever is wrong.
    Doctor(doctor::DoctorArgs),
    /// Print the JSON Schema of network configurations, for editors.
    Schema,
    /// Print a completion script for a shell.
    Completion(manual::CompletionArgs),
    /// Print the man page.
    Man(manual::ManArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misunderstood(&error),
    };
    let output = Output::new(cli.json);
    let state = cli.state_dir;
    exec::set_host_view(host_view(&cli.command, &state));
    let done = match cli.command {
        Command::Install(args) => install::install(&args, &state, output),
        Command::Uninstall(args) => install::uninstall(&args, &state, output),
        Command::Plan(args) => plan::run(&args, &state, output),
        Command::Add(args) => list::add(&args, &state, output),
        Command::Check(args) => list::check(&args, &state),
        Command::Del(args) => list::del(&args, &state),
        Command::Ps(args) => attachments::ps(&args, &state, output),
        Command::Pods(args) => pods::run(&args, &state, output),
        Command::WhoHas(args) => attachments::who_has(&args, &state, output),
        Command::Pool(command) => pool::run(&command, &state, output),
        Command::Pools => pool::all_of_node(&state, output),
        Command::Gc(args) => detach::gc(&args, &state, output),
        Command::Detach(args) => detach::detach(&args, &state, output),
        Command::Failures(args) => failures::run(&args, &state, output),
        Command::Explain(args) => explain::run(&args, &state, output),
        Command::Policy(command) => policy::run(&command, &state, output),
        Command::Ledger(command) => ledger::run(&command, &state, output),
        #[cfg(feature = "agent")]
        Command::Agent(args) => agent::run(&args, &state, output),
        #[cfg(feature = "agent")]
        Command::Controller(args) => controller::run(&args),
        Command::Repair(args) => repair::run(&args, &state, output),
        Command::Doctor(args) => doctor::run(&args, &state, output),
        Command::Schema => manual::schema(output),
        Command::Completion(args) => manual::completion(&args, Cli::command(), output),
        Command::Man(args) => manual::man(&args, Cli::command(), output),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Returns what other vendors' plugins need if this is a pod.
#[cfg_attr(not(feature = "agent"), expect(unused_variables, reason = "only the agent says more"))]
fn host_view(command: &Command, state: &Path) -> HostView {
    #[cfg(feature = "agent")]
    if let Command::Agent(args) = command {
        return args.host_view(state);
    }
    HostView { state_dir: state.to_owned(), ..HostView::default() }
}

/// Prints help, or why the command line is wrong.
fn misunderstood(error: &clap::Error) -> ExitCode {
    // Without a reader there is nothing left to do.
    drop(error.print());
    if let Some(hint) = features::hint(error) {
        output::plain_error(&hint);
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}
