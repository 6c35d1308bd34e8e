//! `weftctl pool ls|show`: the fill level of pools, this node's or the cluster's.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::ensure;
use clap::{Args, Subcommand};
use serde_json::json;
use weft_core::attach::traces;
use weft_core::journal::Entry;
use weft_core::ledger::Pool;
use weft_core::store::NodeStore;
use weft_host_abi::types::Range;

use crate::networks;
use crate::output::Output;

/// Where nodes have their network configurations.
const CONF_DIR: &str = "/etc/cni/net.d";

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
    /// Directory of network configurations, which say where the gateways are.
    #[arg(long, value_name = "DIR", default_value = CONF_DIR)]
    conf_dir: PathBuf,
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
    of_node(name, &from.conf_dir, state, output)
}

/// The pools of this node's store.
pub(crate) fn all_of_node(state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    of_node(None, Path::new(CONF_DIR), state, output)
}

/// Shows the pools of this node's store, or those of one network.
fn of_node(network: Option<&str>, conf_dir: &Path, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let (mut pools, declared) = match NodeStore::open_read_only(state)? {
        Some(store) => (store.pools()?, declared(&store.entries(None)?, conf_dir)),
        None => (Vec::new(), Vec::new()),
    };
    for pool in &mut pools {
        // What is in use nevertheless was taken by something else than a policy, and counts.
        pool.size = pool.size.saturating_sub(u64::from(gateway(pool, &declared).is_some())).max(pool.taken);
    }
    if let Some(network) = network {
        pools.retain(|pool| pool.scope == network);
        ensure!(!pools.is_empty(), "this node has no pool {network:?}; \"weftctl pool ls\" shows those it has");
    }
    let documents: Vec<_> = pools
        .iter()
        .map(|pool| {
            json!({ "scope": pool.scope, "first": pool.first, "last": pool.last, "size": pool.size,
                    "taken": pool.taken, "gateway": gateway(pool, &declared) })
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

/// Declared ranges with the scopes that they are in: those that policies were asked about, and those of configurations. The store
/// knows where a range begins and ends, and not which of its addresses is the gateway.
fn declared(entries: &[Entry], conf_dir: &Path) -> Vec<(String, Range)> {
    let asked = entries.iter().flat_map(|entry| {
        let request = traces(entry).ok().and_then(|traces| traces.decision).map(|decision| decision.request);
        let ranges: Vec<Range> =
            request.into_iter().flat_map(|request| request.range_sets).flat_map(|set| set.ranges).collect();
        let scoped = |(scope, _address): &(String, IpAddr)| {
            ranges.iter().map(|range| (scope.clone(), range.clone())).collect::<Vec<_>>()
        };
        entry.claims.iter().flat_map(scoped).collect::<Vec<_>>()
    });
    asked.chain(networks::ranges(conf_dir)).collect()
}

/// The address of a pool that is never given out.
fn gateway(pool: &Pool, declared: &[(String, Range)]) -> Option<IpAddr> {
    let same = |(scope, range): &&(String, Range)| {
        *scope == pool.scope && (range.first, range.last) == (pool.first, pool.last)
    };
    let found = declared.iter().filter(same);
    found.filter_map(|(_scope, range)| range.gateway.filter(|gateway| range.contains(*gateway))).next()
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
