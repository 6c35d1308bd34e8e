//! `weftctl ledger freeze|thaw|fence|reclaim|who-has`: the cluster ledger by hand.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use weft_agent::claim::{Operation, Reach, operate};

use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Grant no address in the cluster until `thaw`: run it before etcd is restored from a backup.
    Freeze(Ledger),
    /// Grant addresses again, once every node has brought its claims back.
    Thaw {
        /// Although some nodes have not: their addresses may be given out twice.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        ledger: Ledger,
    },
    /// Declare a node's machine dead and give back what it held. If it still runs, its addresses are given out twice.
    Fence {
        /// The node.
        node: String,
        /// Id of the machine [default: the one its agent named last].
        #[arg(long, value_name = "ID")]
        machine: Option<String>,
        #[command(flatten)]
        ledger: Ledger,
    },
    /// Give back what fenced machines held, and what IPAMClaims owned that are gone.
    Reclaim(Ledger),
    /// Who has an address of the cluster ledger.
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

pub(crate) fn run(command: &ClusterCommand, output: Output) -> anyhow::Result<()> {
    let (operation, ledger) = match command {
        ClusterCommand::Freeze(ledger) => (Operation::Freeze, ledger),
        ClusterCommand::Thaw { force, ledger } => (Operation::Thaw { force: *force }, ledger),
        ClusterCommand::Fence { node, machine, ledger } => {
            (Operation::Fence { node: node.clone(), machine: machine.clone() }, ledger)
        }
        ClusterCommand::Reclaim(ledger) => (Operation::Reclaim, ledger),
        ClusterCommand::WhoHas { address, domain, ledger } => {
            (Operation::WhoHas { address: *address, domain: domain.clone() }, ledger)
        }
    };
    let reach = Reach { ledger: ledger.file.clone(), kubeconfig: ledger.kubeconfig.clone() };
    let lines = operate(&reach, &operation)?;
    output.lines(&lines, &lines)
}
