//! An operator's actions on a cluster ledger.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Builder;

use super::any::AnyBackend;
use super::backend::{Backend, Cells as _, Fence};
use super::block::{BlockSpec, block_name, cell_of};
use super::object::{Claim, ClaimSpec, ClaimState, LedgerState, claim_name};
use super::{ClientSource, Rests, collect_orphans, reclaim};

/// The ledger of a cluster whose API server is given by credentials alone.
const KUBERNETES: &str = r#"{"type":"kubernetes"}"#;

/// Which ledger, and how to reach it.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// A file with the `ledger` object of a network's configuration; Kubernetes if `None`.
    pub ledger: Option<PathBuf>,
    /// Credentials for the API server; those of the environment if `None`.
    pub kubeconfig: Option<PathBuf>,
}

/// An action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Grant no claims until `Thaw`: before a restore of etcd.
    Freeze,
    /// Grant claims again, once every node has written its claims again.
    Thaw {
        /// Even if some nodes have not.
        force: bool,
    },
    /// Declare a node's machine dead, and give back what it held.
    Fence {
        /// The node.
        node: String,
        /// Its machine; the last one that its agent recorded if `None`.
        machine: Option<String>,
    },
    /// Give back what fenced machines held, and what IPAMClaims owned that are gone.
    Reclaim,
    /// Free an address that is marked because it was in use on the wire.
    Clear {
        /// The address.
        address: IpAddr,
        /// Its domain.
        domain: String,
    },
}

/// Executes it. Returns what was done, one line each.
///
/// # Errors
/// The ledger cannot be reached, or the operation is not possible now.
pub fn operate(reach: &Reach, operation: &Operation) -> anyhow::Result<Vec<String>> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    runtime.block_on(async {
        let backend = backend(reach).await?;
        match operation {
            Operation::Freeze => freeze(&backend).await,
            Operation::Thaw { force } => thaw(&backend, *force).await,
            Operation::Fence { node, machine } => fence(&backend, node, machine.as_deref()).await,
            Operation::Reclaim => {
                let fenced = reclaimed(reclaim(&backend).await?);
                let orphans = collect_orphans(&backend, &mut Rests::default(), Instant::now()).await?;
                Ok(vec![fenced, format!("{orphans} claims of IPAMClaims that are gone were given back")])
            }
            Operation::Clear { address, domain } => clear(&backend, *address, domain).await,
        }
    })
}

pub(super) async fn backend(reach: &Reach) -> anyhow::Result<AnyBackend> {
    if let Some(path) = &reach.ledger {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        return backend_of(&text, reach.kubeconfig.as_deref()).await;
    }
    backend_of(KUBERNETES, reach.kubeconfig.as_deref()).await
}

/// Returns the backend that the text of a `ledger` object names.
pub(super) async fn backend_of(text: &str, kubeconfig: Option<&Path>) -> anyhow::Result<AnyBackend> {
    let needs_client = serde_json::from_str::<Value>(text).is_ok_and(|ledger| ledger["type"] == "kubernetes");
    if !needs_client {
        return Ok(AnyBackend::new(text, None)?);
    }
    let client = client(kubeconfig).await?;
    let source: ClientSource = Rc::new(move || Ok(client.clone()));
    Ok(AnyBackend::new(text, Some(&source))?)
}

/// Returns a client of the API server, with the credentials of a file or of the environment.
pub(super) async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("cannot use {}", path.display()))?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await.context("there are no credentials for an API server; use --kubeconfig")?,
    };
    Ok(Client::try_from(config)?)
}

async fn freeze(backend: &impl Backend) -> anyhow::Result<Vec<String>> {
    let state = backend.state().await?;
    ensure!(!state.frozen, "the cluster ledger is frozen already, in epoch {}", state.epoch);
    let frozen = LedgerState { epoch: state.epoch + 1, frozen: true };
    backend.set_state(state, frozen).await?;
    Ok(vec![format!("frozen in epoch {}: no address is granted until \"weftctl ledger thaw\"", frozen.epoch)])
}

async fn thaw(backend: &impl Backend, force: bool) -> anyhow::Result<Vec<String>> {
    let state = backend.state().await?;
    ensure!(state.frozen, "the cluster ledger is not frozen");
    let (mut lines, nodes) = (Vec::new(), backend.nodes().await?);
    let confirmed = nodes.iter().filter(|node| node.confirmed_epoch >= state.epoch).count();
    for node in nodes {
        let machine_and_boot = (node.machine.as_str(), node.boot_id.as_str());
        if node.confirmed_epoch < state.epoch && backend.fence(&node.node, machine_and_boot).await? == Fence::None {
            lines.push(format!("node {} has not confirmed epoch {}", node.node, state.epoch));
        }
    }
    if !lines.is_empty() && !force {
        bail!(
            "{}; wait for them, fence them, or use --force, which may give out their addresses twice",
            lines.join("; ")
        );
    }
    backend.set_state(state, LedgerState { frozen: false, ..state }).await?;
    lines.push(format!("thawed; {confirmed} nodes have confirmed"));
    Ok(lines)
}

async fn fence(backend: &impl Backend, node: &str, machine: Option<&str>) -> anyhow::Result<Vec<String>> {
    let nodes = backend.nodes().await?;
    let known = nodes.into_iter().find(|known| known.node == node).map(|known| known.machine);
    let machine = machine.map(str::to_owned).or(known).with_context(|| {
        format!("no agent has ever registered for node {node:?}; give the machine's id with --machine")
    })?;
    let change = |node: &mut super::LedgerNode| {
        if !node.fenced_machines.contains(&machine) {
            node.fenced_machines.push(machine.clone());
        }
    };
    backend.change_node(node, change).await?;
    let removed = reclaim(backend).await?;
    Ok(vec![format!("machine {machine} of node {node} is fenced"), reclaimed(removed)])
}

async fn clear(backend: &impl Backend, address: IpAddr, domain: &str) -> anyhow::Result<Vec<String>> {
    let name = claim_name(domain, address);
    let claim = backend.get(&name).await?.filter(|claim| claim.spec.state == ClaimState::Conflict);
    let claim = claim.with_context(|| format!("{address} is not in conflict in domain {domain:?}"))?;
    backend.delete(&name, &claim.versions).await?;
    Ok(vec![format!("{address} is free in domain {domain}")])
}

fn reclaimed(count: usize) -> String {
    format!("{count} claims and cells of fenced machines were given back")
}

/// The holder of an address.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Has {
    /// It is claimed.
    Claim(Box<ClaimSpec>),
    /// It lies in a machine's cell: only that machine knows whether a pod has it.
    Cell(Box<BlockSpec>),
}

/// Returns the holder of an address in a domain, by a live read.
///
/// # Errors
/// The ledger cannot be reached.
pub fn who_has(reach: &Reach, address: IpAddr, domain: &str) -> anyhow::Result<Option<Has>> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    runtime.block_on(async {
        let backend = backend(reach).await?;
        if let Some(Claim { spec, .. }) = backend.get(&claim_name(domain, address)).await? {
            return Ok(Some(Has::Claim(Box::new(spec))));
        }
        let cell_size = backend.domain(domain).await?.map_or(0, |domain| domain.cell_size);
        if cell_size == 0 {
            return Ok(None);
        }
        let cell = backend.block(&block_name(domain, cell_of(address, cell_size))).await?;
        Ok(cell.filter(|block| !block.spec.shared).map(|block| Has::Cell(Box::new(block.spec))))
    })
}

/// Describes the holder of an address.
#[must_use]
pub fn describe(has: &Has) -> Vec<String> {
    match has {
        Has::Claim(spec) => describe_claim(spec),
        Has::Cell(spec) => {
            let holder = spec.holder.clone().unwrap_or_default();
            vec![
                format!("in the cell {} of node {} (machine {})", spec.addresses(), holder.node, holder.machine),
                "  whether a pod has it, only that node knows: run \"weftctl who-has\" there".to_owned(),
            ]
        }
    }
}

/// Describes the owner and holders of a claim: one line for the owner and one for each holder.
fn describe_claim(spec: &ClaimSpec) -> Vec<String> {
    let owner = &spec.owner;
    let name = match owner.owner.name.as_str() {
        "" => owner.owner.uid.clone(),
        name => format!("{}/{name}", owner.owner.namespace),
    };
    if spec.state == ClaimState::Conflict {
        let by = spec.in_use_by.as_deref().unwrap_or("somebody");
        let text =
            format!("{} is in conflict: {by} answers for it on the wire of network {}", spec.address, owner.network);
        return vec![text];
    }
    let mut lines = vec![format!(
        "{} belongs to {} {name}, {}network {}{}",
        spec.address,
        owner.owner.kind,
        if owner.interface.is_empty() { String::new() } else { format!("interface {} on ", owner.interface) },
        owner.network,
        if spec.holders.is_empty() { "; nobody holds it" } else { "" }
    )];
    lines.extend(spec.holders.iter().map(|holder| {
        format!("  held by container {} on node {} (machine {})", holder.container_id, holder.node, holder.machine)
    }));
    lines
}
