//! `weftctl ps`, `who-has`: the attachments of the node; with `who-has --cluster`, addresses of all nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use weft_core::attach::{NetnsState, netns_state, plans, traces};
use weft_core::journal::Entry;
use weft_core::ledger::ClaimFilter;
use weft_core::plan::{Op, Plan};
use weft_core::store::{NodeStore, Role};
use weft_host_abi::types::Attachment;

use crate::output::{Output, ago};
use crate::selector::Selector;

#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    selector: Selector,
    /// Only those whose namespace is gone.
    #[arg(long)]
    dead: bool,
    /// Also show container ids and network namespaces.
    #[arg(long)]
    wide: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WhoHasArgs {
    /// The address.
    address: IpAddr,
    #[cfg(feature = "agent")]
    #[command(flatten)]
    cluster: crate::cluster::ClusterAddress,
}

/// A displayed attachment.
#[derive(Clone)]
struct Row {
    attachment: Attachment,
    role: &'static str,
    /// Namespace and name.
    pod: Option<String>,
    addresses: Vec<IpAddr>,
    ports: Vec<String>,
    netns: String,
    created: u64,
    state: NetnsState,
}

impl Row {
    fn read(entry: &Entry) -> anyhow::Result<Self> {
        let plans: Vec<Plan> = plans(entry)?.into_iter().map(|(_netns, plan)| plan).collect();
        let mut addresses: Vec<IpAddr> = entry.claims.iter().map(|(_scope, address)| *address).collect();
        if addresses.is_empty() {
            addresses.extend(plans.iter().flat_map(|plan| &plan.result.ips).map(|ip| ip.address.addr()));
        }
        let ports = plans.iter().flat_map(|plan| &plan.ops).filter_map(|op| match op {
            Op::HostPort(port) => Some(format!("{}:{}/{}", port.host_port, port.to.port(), port.protocol)),
            _ => None,
        });
        let mut ports: Vec<String> = ports.collect();
        ports.dedup();
        let traces = traces(entry)?;
        // Labels may be known of a container that no pod is named for.
        let pod = traces.decision.and_then(|trace| trace.request.pod).filter(|pod| !pod.name.is_empty());
        let pod = pod.map(|pod| format!("{}/{}", pod.namespace, pod.name));
        Ok(Self {
            attachment: entry.key.attachment.clone(),
            role: match entry.key.role {
                Role::Ipam => "ipam",
                Role::Steps => "steps",
                _ => "attachment",
            },
            pod,
            addresses,
            ports,
            netns: entry.record.netns.clone(),
            created: entry.created,
            state: netns_state(entry),
        })
    }

    fn alive(&self) -> &'static str {
        match self.state {
            NetnsState::There => "yes",
            NetnsState::Gone => "no",
            NetnsState::Unknown => "unknown",
        }
    }

    fn document(&self) -> serde_json::Value {
        json!({ "pod": self.pod, "network": self.attachment.network, "containerID": self.attachment.container_id,
                "ifname": self.attachment.ifname, "kind": self.role, "addresses": self.addresses, "ports": self.ports,
                "netns": self.netns, "created": self.created, "alive": self.alive() })
    }

    /// Returns the best of several names for an attachment.
    fn name(&self) -> String {
        self.pod.clone().unwrap_or_else(|| self.attachment.container_id.chars().take(12).collect())
    }

    /// All of them.
    fn names(&self) -> String {
        let container = format!("container {}", self.attachment.container_id);
        match &self.pod {
            Some(pod) => format!("{pod} ({container})"),
            None => container,
        }
    }
}

fn rows(state: &Path) -> anyhow::Result<Vec<Row>> {
    let Some(store) = NodeStore::open_read_only(state)? else { return Ok(Vec::new()) };
    // A pod's entry is the list of its attachments, which have their own entries; `weftctl pods` shows it.
    store.entries(None)?.iter().filter(|entry| entry.key.role != Role::Pod).map(Row::read).collect()
}

/// Returns one row per attachment for people: addresses of an IPAM plugin and ports of chained steps have entries of
/// their own.
fn merged(rows: &[Row]) -> impl Iterator<Item = Row> {
    let mut all: BTreeMap<Attachment, Row> = BTreeMap::new();
    for row in rows {
        let Some(first) = all.get_mut(&row.attachment) else {
            all.insert(row.attachment.clone(), row.clone());
            continue;
        };
        for address in &row.addresses {
            if !first.addresses.contains(address) {
                first.addresses.push(*address);
            }
        }
        first.ports.extend(row.ports.iter().cloned());
        first.pod = first.pod.take().or_else(|| row.pod.clone());
        if first.netns.is_empty() {
            (first.netns, first.state) = (row.netns.clone(), row.state);
        }
    }
    all.into_values()
}

pub(crate) fn ps(args: &PsArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let is_shown = |row: &Row| {
        args.selector.matches(&row.attachment, row.pod.as_deref()) && (!args.dead || row.state == NetnsState::Gone)
    };
    let rows = rows(state)?;
    let merged: Vec<Row> = merged(&rows).filter(is_shown).collect();
    let document: Vec<_> = rows.iter().filter(|row| is_shown(row)).map(Row::document).collect();
    let cells = merged.iter().map(|row| {
        let addresses = row.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ");
        let mut cells = vec![
            row.name(),
            row.attachment.network.clone(),
            row.attachment.ifname.clone(),
            addresses,
            row.ports.join(" "),
            ago(row.created),
            row.alive().to_owned(),
        ];
        if args.wide {
            cells.extend([row.attachment.container_id.clone(), row.netns.clone()]);
        }
        cells
    });
    let head = ["pod", "network", "if", "addresses", "ports", "age", "alive", "container", "netns"];
    let count = if args.wide { head.len() } else { head.len() - 2 };
    output.fitted(&document, &head[..count], cells.collect(), args.wide)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns exit code 1 if nobody has it.
pub(crate) fn who_has(args: &WhoHasArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "agent")]
    if let Some(found) = args.cluster.who_has(args.address, output)? {
        return Ok(if found { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let claims = match NodeStore::open_read_only(state)? {
        Some(store) => store.claims(&ClaimFilter { address: Some(args.address), ..ClaimFilter::default() })?,
        None => Vec::new(),
    };
    let attachments = rows(state)?;
    let mut lines = Vec::new();
    let mut documents = Vec::new();
    for claim in &claims {
        let holder = attachments.iter().find(|row| {
            row.attachment.container_id == claim.owner
                && row.attachment.ifname == claim.ifname
                && row.attachment.network == claim.network
                && row.addresses.contains(&claim.address)
        });
        let state = super::ledger::state_text(claim);
        lines.push(match holder {
            Some(row) if row.netns.is_empty() => format!(
                "{} on {}: {} of {}, {state} for {}; its namespace is not known",
                claim.address,
                claim.scope,
                row.attachment.ifname,
                row.names(),
                ago(claim.since),
            ),
            Some(row) => format!(
                "{} on {}: {} of {}, {state} for {}, namespace {} ({})",
                claim.address,
                claim.scope,
                row.attachment.ifname,
                row.names(),
                ago(claim.since),
                row.netns,
                if row.state == NetnsState::Gone { "gone" } else { row.alive() }
            ),
            None => format!(
                "{} on {}: {state} for {:?}, since {}",
                claim.address,
                claim.scope,
                claim.owner,
                ago(claim.since)
            ),
        });
        documents
            .push(json!({ "scope": claim.scope, "address": claim.address, "state": claim.state, "owner": claim.owner,
                               "since": claim.since, "attachment": holder.map(Row::document) }));
    }
    if claims.is_empty() {
        lines.push(format!("no attachment on this node has {}", args.address));
    }
    output.lines(&documents, &lines)?;
    Ok(if claims.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
