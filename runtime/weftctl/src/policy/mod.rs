//! `weftctl policy`: from an author's first file to something `weft` can run.

mod bench;
mod build;
mod built;
#[cfg(feature = "agent")]
mod bundle;
mod cache;
mod cases;
mod check;
mod compile;
mod granted;
mod inspect;
mod model;
mod new;
mod project;
#[cfg(feature = "agent")]
mod push;
#[cfg(feature = "agent")]
mod registry;
mod replay;
#[cfg(feature = "agent")]
mod sign;
mod simulate;
mod toolchain;
mod trace;
mod watch;

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;

pub(crate) use self::cases::parsed;
#[cfg(feature = "agent")]
pub(crate) use self::check::check_text;
pub(crate) use self::check::{check_file, plugins};
pub(crate) use self::compile::{by_hand, compile_file, is_compiled};
use crate::output::Output;

/// Components of `guest-plugins/`, built by build.rs: (name, component).
pub(crate) static SHIPPED: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/policies.rs"));

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Start a policy: a directory that builds and passes its own tests.
    New(new::NewArgs),
    /// Build a project into a component.
    Build(build::BuildArgs),
    /// Run a project's cases: a request and the state of the ledger, and what must come of it.
    Test(cases::TestArgs),
    /// Measure a policy: fuel, memory, time.
    Bench(bench::BenchArgs),
    /// Simulate a cluster: conflicts, exhaustion, fairness, fragmentation and reuse, also beside another policy.
    Simulate(simulate::SimulateArgs),
    /// Build and test again whenever a file of the project changes.
    Watch(watch::WatchArgs),
    /// Compile a component into the cache, so that the first ADD need not wait.
    Compile(compile::CompileArgs),
    /// Compile a component from standard input to standard output. What `compile` runs.
    #[command(hide = true)]
    CompileWorker(compile::WorkerArgs),
    /// List the policies of this node and their compilation state, or the tags of a repository.
    Ls(cache::LsArgs),
    /// Remove compiled code that is unusable or has not been used for a long time.
    Prune(cache::PruneArgs),
    /// Print the digest that a network names a policy by: a component's, or what a tag stands for in its registry.
    Digest(cache::DigestArgs),
    /// Add a component under the reference that networks name it by, digest included.
    Add(cache::AddArgs),
    /// Push a component to a registry as an OCI artifact that lists its imports.
    #[cfg(feature = "agent")]
    Push(push::PushArgs),
    /// Fetch a policy from a registry, verify it, and compile it on this node.
    #[cfg(feature = "agent")]
    Pull(registry::PullArgs),
    /// Record the digest of each tag in the lock file.
    #[cfg(feature = "agent")]
    Lock(registry::LockArgs),
    /// Remove a fetched policy from this node.
    #[cfg(feature = "agent")]
    Rm(registry::RmArgs),
    /// Save policies and their signatures to a directory, for sites without a registry.
    #[cfg(feature = "agent")]
    Save(bundle::SaveArgs),
    /// Verify and add the policies of such a directory.
    #[cfg(feature = "agent")]
    Load(bundle::LoadArgs),
    /// Sign a policy in its registry.
    #[cfg(feature = "agent")]
    Sign(sign::SignArgs),
    /// Verify the signatures of a policy, or of all that this node has.
    #[cfg(feature = "agent")]
    Verify(sign::VerifyArgs),
    /// Run a recorded policy call again, also with another policy, and show the difference.
    Replay(replay::ReplayArgs),
    /// Export recorded policy calls as test cases.
    #[command(subcommand)]
    Trace(trace::TraceCommand),
    /// Show what a policy is and what it reaches. One in a registry is not pulled for that.
    Inspect(inspect::InspectArgs),
    /// Check a network configuration for mistakes.
    Check(check::CheckArgs),
}

pub(crate) fn run(command: &PolicyCommand, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::New(args) => new::run(args, output),
        PolicyCommand::Build(args) => build::run(args, output),
        PolicyCommand::Test(args) => cases::run(args, state, output),
        PolicyCommand::Bench(args) => bench::run(args, state, output),
        PolicyCommand::Simulate(args) => simulate::run(args, state, output),
        PolicyCommand::Watch(args) => watch::run(args, state, output),
        PolicyCommand::Compile(args) => compile::run(args, state, output),
        PolicyCommand::CompileWorker(args) => Ok(compile::worker(args)),
        PolicyCommand::Ls(args) => cache::ls(args, state, output),
        PolicyCommand::Prune(args) => cache::prune(args, state, output),
        PolicyCommand::Digest(args) => cache::digest(args, output),
        PolicyCommand::Add(args) => cache::add(args, state, output),
        #[cfg(feature = "agent")]
        PolicyCommand::Push(args) => push::push(args, output),
        #[cfg(feature = "agent")]
        PolicyCommand::Pull(args) => registry::pull(args, state, output),
        #[cfg(feature = "agent")]
        PolicyCommand::Lock(args) => registry::lock_tags(args, state, output),
        #[cfg(feature = "agent")]
        PolicyCommand::Rm(args) => registry::rm(args, state, output),
        #[cfg(feature = "agent")]
        PolicyCommand::Save(args) => bundle::save(args, output),
        #[cfg(feature = "agent")]
        PolicyCommand::Load(args) => bundle::load(args, state, output),
        #[cfg(feature = "agent")]
        PolicyCommand::Sign(args) => sign::sign(args, output),
        #[cfg(feature = "agent")]
        PolicyCommand::Verify(args) => sign::verify(args, state, output),
        PolicyCommand::Replay(args) => replay::run(args, state, output),
        PolicyCommand::Trace(command) => trace::run(command, state, output),
        PolicyCommand::Inspect(args) => inspect::run(args, state, output),
        PolicyCommand::Check(args) => check::run(args, state, output),
    }
}

/// Returns the context of calls: this program compiles itself, and a person waits for it.
pub(crate) fn context(state: &Path) -> weft_core::attach::Context {
    let own = state.to_owned();
    let compile = Box::new(move |ask: &weft_core::policy::CompileAsk<'_>| by_hand(&own, ask));
    weft_core::attach::Context { compile, ..weft_core::attach::Context::new(state.to_owned()) }
}
