//! `weftctl ledger freeze|thaw|fence|reclaim|clear|who-has`, `pool --cluster` and `who-has --cluster`: manual actions
//! on the cluster ledger.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::ensure;
use clap::{Args, Subcommand};
use weft_agent::claim::{
    CheckOptions, Checked, Finding, Operation, PoolReach, PoolView, Reach, check, describe, look_at_pools,
    run_operation, who_has,
};

use crate::output::Output;
use crate::pool::bar;

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Grant no address in the cluster until `thaw`: run it before etcd is restored from a backup.
    Freeze(Ledger),
    /// Let the cluster ledger grant addresses again, after every node has written its claims.
    Thaw {
        /// Thaw even if some nodes have not confirmed. Their addresses may be allocated twice.
        #[arg(long)]
        force: bool,
        /// For how long to look at the freeze first, so that nodes can speak that the restored ledger does not know.
        #[arg(long, value_name = "SECONDS", default_value_t = 120)]
        wait: u64,
        #[command(flatten)]
        ledger: Ledger,
    },
    /// Declare a node's machine dead and release its addresses. If it still runs, its addresses may be allocated twice.
    Fence {
        /// The node.
        node: String,
        /// Id of the machine; required if several have had the node's name.
        #[arg(long, value_name = "ID")]
        machine: Option<String>,
        #[command(flatten)]
        ledger: Ledger,
    },
    /// Release the addresses of fenced machines and of deleted IPAMClaims.
    Reclaim(Ledger),
    /// Free an address that was in use on the wire, after that machine is gone.
    Clear {
        /// The address.
        address: IpAddr,
        /// Its domain.
        #[arg(long, value_name = "NAME", default_value = "default")]
        domain: String,
        #[command(flatten)]
        ledger: Ledger,
    },
    /// Compare claims with pods, IPAMClaims and machines, and on a node with its store, journal and links. Changes nothing without
    /// `--repair`.
    Check {
        /// Repair what the agent and the controller would repair too.
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        ledger: Ledger,
    },
    /// Show who has an address in the cluster ledger.
    WhoHas {
        /// The address.
        address: IpAddr,
        /// Its domain.
        #[arg(long, value_name = "NAME", default_value = "default")]
        domain: String,
        #[command(flatten)]
        ledger: Ledger,
    },
}

/// Which cluster ledger.
#[derive(Debug, Clone, Args)]
pub(crate) struct Ledger {
    /// A file with the "ledger" object of a network's configuration, for etcd.
    #[arg(long = "ledger", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Credentials for the API server.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    kubeconfig: Option<PathBuf>,
}

pub(crate) fn run(command: &ClusterCommand, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let (operation, ledger) = match command {
        ClusterCommand::Freeze(ledger) => (Operation::Freeze, ledger),
        ClusterCommand::Thaw { force, wait, ledger } => {
            if !force && *wait > 0 {
                output.print_note(&format!(
                    "looking at the freeze for {wait} seconds first, so that every node can speak"
                ));
            }
            (Operation::Thaw { force: *force, wait: Duration::from_secs(*wait) }, ledger)
        }
        ClusterCommand::Fence { node, machine, ledger } => {
            (Operation::Fence { node: node.clone(), machine: machine.clone() }, ledger)
        }
        ClusterCommand::Reclaim(ledger) => (Operation::Reclaim, ledger),
        ClusterCommand::Clear { address, domain, ledger } => {
            (Operation::Clear { address: *address, domain: domain.clone() }, ledger)
        }
        ClusterCommand::Check { repair, ledger } => {
            let options = CheckOptions { state_dir: state.to_owned(), repair: *repair };
            return print_check(&check(&ledger.reach(), &options)?, output);
        }
        ClusterCommand::WhoHas { address, domain, ledger } => {
            print_claim(&ledger.reach(), *address, domain, output)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let lines = run_operation(&ledger.reach(), &operation)?;
    output.lines(&lines, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the findings of a check. Returns exit code 1 if something is wrong.
fn print_check(checked: &Checked, output: Output) -> anyhow::Result<ExitCode> {
    let line =
        |head: &str, finding: &Finding| format!("{head}{} ({}): {}", finding.address, finding.domain, finding.what);
    let mut lines: Vec<String> = checked.repaired.iter().map(|finding| line("repaired  ", finding)).collect();
    for finding in &checked.left {
        lines.push(line("", finding));
        lines.push(format!("          {}", finding.remedy));
    }
    let beside = match &checked.node {
        Some(node) => format!("the store, journal and links of node {node}"),
        None => "no node: this machine does not use the ledger".to_owned(),
    };
    lines.push(format!(
        "{} claims, {} cells, and {beside}: {} wrong",
        checked.claims,
        checked.cells,
        checked.left.len()
    ));
    output.lines(checked, &lines)?;
    Ok(if checked.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

// === impl Ledger ===

impl Ledger {
    fn reach(&self) -> Reach {
        Reach { ledger: self.file.clone(), kubeconfig: self.kubeconfig.clone() }
    }

    /// Returns whether a ledger is named, so that the cluster is meant.
    fn is_named(&self) -> bool {
        self.file.is_some() || self.kubeconfig.is_some()
    }
}

/// An address of the cluster ledger instead of this node's.
#[derive(Debug, Args)]
pub(crate) struct ClusterAddress {
    /// Ask the cluster ledger, and not only this node.
    #[arg(long)]
    cluster: bool,
    /// The address's domain in the cluster ledger.
    #[arg(long, value_name = "NAME", default_value = "default")]
    domain: String,
    #[command(flatten)]
    ledger: Ledger,
}

impl ClusterAddress {
    /// Prints who has an address in the cluster, and returns whether somebody has; `None` if the cluster is not meant.
    pub(crate) fn who_has(&self, address: IpAddr, output: Output) -> anyhow::Result<Option<bool>> {
        if !self.cluster && !self.ledger.is_named() {
            return Ok(None);
        }
        print_claim(&self.ledger.reach(), address, &self.domain, output).map(Some)
    }
}

/// Prints who has an address of a domain, and returns whether somebody has.
fn print_claim(reach: &Reach, address: IpAddr, domain: &str, output: Output) -> anyhow::Result<bool> {
    let claim = who_has(reach, address, domain)?;
    let nobody = || vec![format!("nobody has {address} in domain {domain}")];
    output.lines(&claim, &claim.as_ref().map_or_else(nobody, describe))?;
    Ok(claim.is_some())
}

/// Pools of the cluster ledger instead of this node's.
#[derive(Debug, Args)]
pub(crate) struct ClusterPools {
    /// The cluster's pools: AddressPools, and ranges of networks on its ledger.
    #[arg(long)]
    cluster: bool,
    /// The ranges of a network's configuration in its cluster ledger.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    conf: Option<PathBuf>,
    #[command(flatten)]
    ledger: Ledger,
}

impl ClusterPools {
    pub(crate) fn is_asked_for(&self) -> bool {
        self.cluster || self.conf.is_some() || self.ledger.is_named()
    }

    /// Prints all pools, or one in full.
    pub(crate) fn show(&self, name: Option<&str>, output: Output) -> anyhow::Result<ExitCode> {
        let mut pools = look_at_pools(&PoolReach { reach: self.ledger.reach(), conf: self.conf.clone() })?;
        let Some(name) = name else {
            let rows = pools.iter().map(row).collect();
            output.fitted(&pools, &["pool", "kind", "domain", "taken", "free in", "usage"], rows, false)?;
            return Ok(ExitCode::SUCCESS);
        };
        pools.retain(|pool| pool.name == name);
        ensure!(
            !pools.is_empty(),
            "the cluster has no pool {name:?}; \"weftctl pool ls --cluster\" shows those it has"
        );
        output.lines(&pools, &pools.iter().flat_map(in_full).collect::<Vec<_>>())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn row(pool: &PoolView) -> Vec<String> {
    let usage = &pool.usage;
    let shown = pool.problem.clone().unwrap_or_else(|| bar(usage.taken, usage.capacity));
    vec![
        pool.name.clone(),
        pool.kind.to_owned(),
        pool.domain.clone(),
        format!("{} of {}", usage.taken, usage.capacity),
        pieces(usage.free_pieces),
        shown,
    ]
}

fn pieces(count: u64) -> String {
    if count == 1 { "1 piece".to_owned() } else { format!("{count} pieces") }
}

fn in_full(pool: &PoolView) -> Vec<String> {
    let usage = &pool.usage;
    let mut lines = vec![
        format!("{} {} in domain {}", pool.kind, pool.name, pool.domain),
        format!("usage      {} {} of {}", bar(usage.taken, usage.capacity), usage.taken, usage.capacity),
        format!(
            "free       {} in {}, the longest {}: {}% scattered",
            usage.free,
            pieces(usage.free_pieces),
            usage.longest_free,
            usage.fragmentation()
        ),
    ];
    if let Some(cells) = &pool.cells {
        let of_nodes: u64 = cells.nodes.values().sum();
        lines.push(format!(
            "blocks     {of_nodes} cells of {} addresses on {} nodes, taken as a whole; {} shared",
            cells.size,
            cells.nodes.len(),
            cells.shared
        ));
    }
    lines.extend(pool.problem.iter().map(|problem| format!("problem    {problem}")));
    for (range, map) in pool.ranges.iter().zip(&pool.maps) {
        lines.push(format!("range      {range}"));
        lines.push(format!("           {map}"));
    }
    let mut list = |head: &str, counts: &mut dyn Iterator<Item = (&str, u64)>| {
        let mut counts: Vec<(&str, u64)> = counts.collect();
        counts.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
        for (name, count) in counts {
            let name = if name.is_empty() { "(nobody holds it)" } else { name };
            lines.push(format!("{head:<10} {count:>6}  {name}"));
        }
    };
    list("state", &mut pool.states.iter().map(|(name, count)| (*name, *count)));
    list("node", &mut pool.nodes.iter().map(|(name, count)| (name.as_str(), *count)));
    if let Some(cells) = &pool.cells {
        list("cells", &mut cells.nodes.iter().map(|(name, count)| (name.as_str(), *count)));
        list("cells", &mut std::iter::once(("(shared)", cells.shared)).filter(|(_name, count)| *count > 0));
    }
    list("network", &mut pool.networks.iter().map(|(name, count)| (name.as_str(), *count)));
    lines
}
