//! An operator's actions on a cluster ledger.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Builder;

use super::any::AnyBackend;
use super::backend::{Backend, Cells as _, Fence, Listing};
use super::block::{BlockSpec, block_name, cell_of};
use super::object::{Claim, ClaimSpec, ClaimState, LedgerState, claim_name};
use super::unreadable::UNREADABLE;
use super::{ClientSource, Rests, collect_orphans, reclaim, whereabouts};

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
        /// For how long this process has to see the freeze first, unless forced: a node that the ledger does not know
        /// any more speaks in this time.
        wait: Duration,
    },
    /// Declare a node's machine dead, and give back what it held.
    Fence {
        /// The node.
        node: String,
        /// Its machine. `None` if only one is known that is not fenced.
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
pub fn run_operation(reach: &Reach, operation: &Operation) -> anyhow::Result<Vec<String>> {
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the event loop")?;
    runtime.block_on(async {
        let backend = backend(reach).await?;
        match operation {
            Operation::Freeze => freeze(&backend).await,
            Operation::Thaw { force, wait } => thaw(&backend, *force, *wait).await,
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
    backend_of(&ledger_text(reach)?, reach.kubeconfig.as_deref()).await
}

/// Returns the text of the `ledger` object.
pub(super) fn ledger_text(reach: &Reach) -> anyhow::Result<String> {
    let Some(path) = &reach.ledger else { return Ok(KUBERNETES.to_owned()) };
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
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

pub(super) async fn thaw(backend: &impl Backend, force: bool, wait: Duration) -> anyhow::Result<Vec<String>> {
    let state = backend.state().await?;
    ensure!(state.frozen, "the cluster ledger is not frozen");
    let mut lines = unconfirmed(backend, state.epoch).await?;
    if lines.is_empty() && !force {
        tokio::time::sleep(wait).await;
        ensure!(backend.state().await? == state, "the cluster ledger was frozen again meanwhile; thaw it again");
        lines = unconfirmed(backend, state.epoch).await?;
    }
    if !lines.is_empty() && !force {
        bail!(
            "{}; wait for them, fence them, or use --force, which may give out their addresses twice",
            lines.join("; ")
        );
    }
    let nodes = backend.nodes().await?;
    let confirmed = nodes.iter().filter(|node| node.confirmed_epoch >= state.epoch).count();
    backend.set_state(state, LedgerState { frozen: false, ..state }).await?;
    lines.push(format!("thawed; {confirmed} nodes have confirmed"));
    Ok(lines)
}

/// Returns the machines that may have claims which the ledger lost: neither confirmed nor fenced, one line each.
async fn unconfirmed(backend: &impl Backend, epoch: u64) -> anyhow::Result<Vec<String>> {
    let nodes = backend.nodes().await?;
    let mut lines = Vec::new();
    for node in backend.agents().await? {
        if !nodes.iter().any(|known| known.node == node) {
            lines.push(format!("node {node} has an agent, and has not confirmed epoch {epoch}"));
        }
    }
    for node in nodes {
        for known in node.machines().into_iter().filter(|known| known.confirmed_epoch < epoch) {
            if backend.fence(&node.node, (&known.machine, &known.boot_id)).await? == Fence::Fenced {
                continue;
            }
            lines.push(match known.machine == node.machine {
                true => format!("node {} has not confirmed epoch {epoch}", node.node),
                false => format!(
                    "machine {}, which was node {} before, has not confirmed epoch {epoch}",
                    known.machine, node.node
                ),
            });
        }
    }
    Ok(lines)
}

pub(super) async fn fence(backend: &impl Backend, node: &str, machine: Option<&str>) -> anyhow::Result<Vec<String>> {
    let machine = match machine {
        Some(machine) => machine.to_owned(),
        None => only_machine(backend, node).await?,
    };
    let change = |node: &mut super::LedgerNode| {
        if !node.fenced_machines.contains(&machine) {
            node.fenced_machines.push(machine.clone());
        }
    };
    backend.change_node(node, change).await?;
    let removed = reclaim(backend).await?;
    Ok(vec![format!("machine {machine} of node {node} is fenced"), reclaimed(removed)])
}

/// `machine_id`: returns the machine that a node's name means. If several machines have had the name, the current one may
/// be the one that runs, so a person has to say which is dead.
async fn only_machine(backend: &impl Backend, node: &str) -> anyhow::Result<String> {
    let record = backend.node(node).await?.unwrap_or_default();
    let mut known = BTreeMap::<String, Known>::new();
    for machine in record.machines() {
        known.entry(machine.machine).or_default();
    }
    for claim in backend.list(Listing::Node(node)).await? {
        for holder in claim.spec.holders.iter().filter(|holder| holder.node == node) {
            known.entry(holder.machine.clone()).or_default().claims += 1;
        }
    }
    for holder in backend.blocks(Listing::Node(node)).await?.into_iter().filter_map(|block| block.spec.holder) {
        known.entry(holder.machine).or_default().cells += 1;
    }
    known.remove(whereabouts::MACHINE);
    if known.len() > 1 {
        known.retain(|machine, _known| !record.fenced_machines.contains(machine));
    }
    if known.len() > 1 {
        let lines = known.iter().map(|(machine, Known { claims, cells })| {
            let speaks = if *machine == record.machine { ", registered last" } else { "" };
            format!("{machine} ({claims} claims, {cells} cells{speaks})")
        });
        let machines = lines.collect::<Vec<_>>().join(", ");
        bail!(
            "several machines have had the node name {node:?}: {machines}; give the id of the dead one with --machine"
        );
    }
    // All are fenced already: what they still hold is given back.
    let machine = known.into_keys().next().or(Some(record.machine).filter(|machine| !machine.is_empty()));
    machine.with_context(|| {
        format!("no agent has ever registered for node {node:?}; give the machine's id with --machine")
    })
}

/// What a machine holds.
#[derive(Default)]
struct Known {
    claims: usize,
    cells: usize,
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
    if owner.owner.kind == UNREADABLE {
        let text = "cannot be read; correct it, or delete it if no pod has the address";
        return vec![format!("{} is taken: its claim {} {text}", spec.address, owner.owner.uid)];
    }
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
