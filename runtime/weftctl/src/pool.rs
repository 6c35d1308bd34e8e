//! `weftctl pool ls|show`: the fill level of pools, this node's or the cluster's.

use std::path::Path;
use std::process::ExitCode;

use anyhow::ensure;
use clap::{Args, Subcommand};
use serde_json::json;
use weft_core::store::NodeStore;

use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum PoolCommand {
    /// List pools: how much of each is taken.
    Ls(PoolArgs),
    /// Show one pool: what is taken, by whom, and how scattered the free addresses are.
    Show {
        /// Its name, as `ls` shows it.
        name: String,
        #[command(flatten)]
        from: PoolArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PoolArgs {
    #[cfg(feature = "agent")]
    #[command(flatten)]
    cluster: crate::cluster::ClusterPools,
}

pub(crate) fn run(command: &PoolCommand, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let (name, from) = match command {
        PoolCommand::Ls(from) => (None, from),
        PoolCommand::Show { name, from } => (Some(name.as_str()), from),
    };
    #[cfg(feature = "agent")]
    if from.cluster.is_asked_for() {
        return from.cluster.show(name, output);
    }
    #[cfg(not(feature = "agent"))]
    let PoolArgs {} = from;
    of_node(name, state, output)
}

/// Shows the pools of this node's store, or those of one network.
pub(crate) fn of_node(network: Option<&str>, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let mut pools = match NodeStore::open_read_only(state)? {
        Some(store) => store.pools()?,
        None => Vec::new(),
    };
    if let Some(network) = network {
        pools.retain(|pool| pool.scope == network);
        ensure!(!pools.is_empty(), "this node has no pool {network:?}; \"weftctl pool ls\" shows those it has");
    }
    let documents: Vec<_> = pools
        .iter()
        .map(|pool| {
            json!({ "scope": pool.scope, "first": pool.first, "last": pool.last, "size": pool.size,
                            "taken": pool.taken })
        })
        .collect();
    let cells = pools.iter().map(|pool| {
        vec![
            pool.scope.clone(),
            format!("{}-{}", pool.first, pool.last),
            format!("{} of {}", pool.taken, pool.size),
            bar(pool.taken, pool.size),
        ]
    });
    output.fitted(&documents, &["network", "range", "taken", "usage"], cells.collect(), false)?;
    Ok(ExitCode::SUCCESS)
}

/// Draws a fill level: any taken address is visible, and only a full pool looks full.
pub(crate) fn bar(taken: u64, size: u64) -> String {
    const WIDTH: u64 = 20;
    let parts = |whole: u64| u128::from(taken.min(size)) * u128::from(whole) / u128::from(size.max(1));
    let filled = u64::try_from(parts(WIDTH)).unwrap_or(WIDTH).max(u64::from(taken > 0));
    let (full, empty) =
        ("#".repeat(usize::try_from(filled).unwrap_or(0)), ".".repeat(usize::try_from(WIDTH - filled).unwrap_or(0)));
    format!("{full}{empty} {:>3}%", parts(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_the_first_and_the_last_address() {
        assert_eq!(bar(0, 254), "....................   0%");
        assert_eq!(bar(1, 254), "#...................   0%");
        assert_eq!(bar(127, 254), "##########..........  50%");
        assert_eq!(bar(253, 254), "###################.  99%");
        assert_eq!(bar(254, 254), "#################### 100%");
        assert_eq!(bar(u64::MAX, u64::MAX), "#################### 100%");
    }
}
