//! `weftctl ledger check`: compares a cluster ledger's claims with their users: pods, IPAMClaims and machines in the
//! cluster, and on a node its store, its journal and the addresses on its links.
//!
//! Invariants: the check changes nothing. A repair is one that the agent or the controller would make too, with the
//! versions on which it was decided. Nothing is given back because a pod is gone or a node does not answer: a person
//! has to confirm that (`fence`).

mod cells;
mod run;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use serde::Serialize;
use weft_core::ledger::remote::RemoteRow;
use weft_core::netlink;
use weft_core::store::NodeStore;

pub use run::{CheckOptions, Checked, check};

use super::any::Sameness;
use super::backend::{Backend, Fence, WriteError};
use super::drain::DrainError;
use super::object::{Claim, ClaimOwner, ClaimState, Identity, LedgerNode, Sharing};
use super::sweep::{entries, judge};
use super::{Rests, collect_orphans, reassert, reclaim, whereabouts};

/// The kind of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One interface has two claims in one domain.
    TwoClaims,
    /// Two domains have claims on one address.
    TwoDomains,
    /// Nobody holds a claim, and nobody keeps it.
    NoHolder,
    /// The IPAMClaim that keeps it is gone.
    NoOwner,
    /// The pod is gone, but not the claim.
    NoPod,
    /// The holder's machine is fenced.
    Fenced,
    /// The holder's machine is not its node's current one.
    OtherMachine,
    /// A claim names this node, but its store does not know it.
    NoRow,
    /// An attachment of this node has no claim on its address.
    NoClaim,
    /// An attachment's address belongs to somebody else in the cluster.
    Others,
    /// An attachment's address is on no link of this node.
    NoLink,
    /// An address of this node's store belongs to no journalled attachment.
    NoEntry,
    /// An address of a machine's cell has a claim of its own.
    InCell,
    /// A claim or cell cannot be read.
    Unreadable,
}

/// A problem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Its kind.
    pub kind: Kind,
    /// The address.
    pub address: IpAddr,
    /// Its domain.
    pub domain: String,
    /// The finding.
    pub what: String,
    /// The remedy.
    pub remedy: String,
}

impl Kind {
    /// Returns whether `weftctl ledger check --repair` repairs it.
    #[must_use]
    pub fn is_repairable(self) -> bool {
        matches!(self, Self::NoHolder | Self::NoOwner | Self::Fenced | Self::NoRow | Self::NoClaim)
    }
}

/// This node's side: its store, for reading or writing, and its identity.
pub(super) struct Local {
    pub(super) store: RefCell<NodeStore>,
    pub(super) identity: Identity,
    /// The ledger as the operator names it: a node may also have rows of another one.
    pub(super) ledger: String,
}

impl Local {
    fn is_of_ledger(&self, row: &RemoteRow) -> bool {
        self.is_ledger(&row.ledger)
    }

    /// Returns whether a row's ledger is the checked one. Its servers may have other names for the operator.
    fn is_ledger(&self, text: &str) -> bool {
        Sameness::compare(&self.ledger, text) != Sameness::Other
    }
}

/// Returns all problems, without changing anything. `pods` has the uids of the cluster's pods, if it has pods.
pub(super) async fn look<B: Backend>(
    backend: &B,
    local: Option<&Local>,
    pods: Option<&BTreeSet<String>>,
    claims: &[Claim],
) -> Result<Vec<Finding>, DrainError> {
    let mut found = Vec::new();
    report_duplicates(claims, &mut found);
    let nodes: BTreeMap<String, LedgerNode> =
        backend.nodes().await?.into_iter().map(|node| (node.node.clone(), node)).collect();
    for claim in claims {
        of_owner(backend, claim, pods, &mut found).await?;
        of_holders(backend, claim, &nodes, &mut found).await?;
    }
    if let Some(local) = local {
        of_node(local, claims, &mut found)?;
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn finding(claim: &Claim, kind: Kind, what: String, remedy: &str) -> Finding {
    let (address, domain) = (claim.spec.address, claim.spec.domain.clone());
    Finding { kind, address, domain, what, remedy: remedy.to_owned() }
}

/// Reports claims that are valid alone, but contradict each other.
fn report_duplicates(claims: &[Claim], found: &mut Vec<Finding>) {
    let mut owners = BTreeMap::<String, &Claim>::new();
    let mut addresses = BTreeMap::<IpAddr, &Claim>::new();
    // A marked claim is not used by its owner, which has another one.
    for claim in claims.iter().filter(|claim| claim.spec.state != ClaimState::Conflict) {
        let spec = &claim.spec;
        let ClaimOwner { owner, network, interface, slot } = &spec.owner;
        let key = format!("{}/{}/{network}/{interface}/{slot}", spec.domain, owner.uid);
        if let Some(other) = owners.insert(key, claim) {
            let what = format!("{} has {} as well", name(claim), other.spec.address);
            let remedy = "its node gives back what it does not use: weftctl ledger check --repair there";
            found.push(finding(claim, Kind::TwoClaims, what, remedy));
        }
        if let Some(other) = addresses.insert(spec.address, claim).filter(|other| other.spec.domain != spec.domain) {
            let what = format!("{} has it in domain {}", name(other), other.spec.domain);
            let remedy = "right if the domains are two wires; if they are one, give the networks one domain";
            found.push(finding(claim, Kind::TwoDomains, what, remedy));
        }
    }
}

/// Returns the owner of a claim, for messages.
fn name(claim: &Claim) -> String {
    let owner = &claim.spec.owner.owner;
    match owner.name.as_str() {
        "" => format!("{} {}", owner.kind, owner.uid),
        name => format!("{} {}/{name}", owner.kind, owner.namespace),
    }
}

async fn of_owner<B: Backend>(
    backend: &B,
    claim: &Claim,
    pods: Option<&BTreeSet<String>>,
    found: &mut Vec<Finding>,
) -> Result<(), DrainError> {
    let owner = &claim.spec.owner.owner;
    let nobody = claim.spec.holders.is_empty();
    if claim.spec.state == ClaimState::Conflict {
        return Ok(());
    }
    if claim.spec.is_persistent() {
        let rests = claim.spec.state == ClaimState::Resting;
        if nobody && !rests && !backend.persistent_exists(&owner.namespace, &owner.name, &owner.uid).await? {
            let what = format!("kept for {}, which is gone", name(claim));
            found.push(finding(claim, Kind::NoOwner, what, "give it back: --repair, or the controller"));
        }
    } else if nobody && claim.spec.sharing == Sharing::Exclusive {
        let what = format!("claimed for {}, and nobody holds it", name(claim));
        found.push(finding(claim, Kind::NoHolder, what, "give it back: --repair"));
    } else if owner.kind == "Pod" && pods.is_some_and(|pods| !pods.contains(&owner.uid)) {
        let what = format!("{} is gone", name(claim));
        let remedy = "its node gives it back with the pod's DEL; if that machine is dead: weftctl ledger fence NODE";
        found.push(finding(claim, Kind::NoPod, what, remedy));
    }
    Ok(())
}

async fn of_holders<B: Backend>(
    backend: &B,
    claim: &Claim,
    nodes: &BTreeMap<String, LedgerNode>,
    found: &mut Vec<Finding>,
) -> Result<(), DrainError> {
    for holder in &claim.spec.holders {
        let speaks = nodes.get(&holder.node).is_some_and(|node| node.machine == holder.machine);
        let suspect = !speaks || nodes.get(&holder.node).is_some_and(|node| !node.fenced_machines.is_empty());
        if suspect && backend.fence(&holder.node, (&holder.machine, &holder.boot_id)).await? == Fence::Fenced {
            let what = format!("held by {}, whose machine {} is fenced", holder.describe(), holder.machine);
            found.push(finding(claim, Kind::Fenced, what, "give it back: --repair, or the controller"));
        } else if !speaks && holder.machine != whereabouts::MACHINE {
            let what =
                format!("held by machine {} of node {}, which does not speak for it", holder.machine, holder.node);
            let remedy = "start its agent again; if that machine is dead: weftctl ledger fence NODE --machine ID";
            found.push(finding(claim, Kind::OtherMachine, what, remedy));
        }
    }
    Ok(())
}

/// Uses `reverse_sweep`'s order: the claims were listed before the store is read.
fn of_node(local: &Local, claims: &[Claim], found: &mut Vec<Finding>) -> Result<(), DrainError> {
    let Local { store, identity, .. } = local;
    for claim in claims {
        let own = claim.spec.holders.iter().filter(|holder| holder.machine == identity.machine);
        for holder in own.filter(|holder| holder.store_id == identity.store_id || holder.boot_id != identity.boot_id) {
            let row = store.borrow().remote_row(&holder.nonce)?;
            if row.is_none_or(|row| row.address(claim.spec.address).is_none()) {
                let what = format!("held by {}, of which this node's store knows nothing", holder.describe());
                found.push(finding(claim, Kind::NoRow, what, "give it back: --repair, or the agent's sweep"));
            }
        }
    }
    let known: BTreeMap<(&str, IpAddr), &Claim> =
        claims.iter().map(|claim| ((claim.spec.domain.as_str(), claim.spec.address), claim)).collect();
    // Without the right to enter namespaces, links are not checked.
    let links = netlink::addresses_in_use().ok();
    for (row, address) in entries(store)?.into_iter().filter(|(row, _address)| local.is_of_ledger(row)) {
        let container = &row.key.attachment.container_id;
        let mut note = |kind, what: String, remedy: &str| {
            let (domain, remedy) = (row.domain.clone(), remedy.to_owned());
            found.push(Finding { kind, address, domain, what, remedy });
        };
        match known.get(&(row.domain.as_str(), address)) {
            Some(claim) if claim.spec.is_held_by(&row.nonce) => {}
            // Claimed after the list.
            _ if store.borrow().remote_row(&row.nonce)?.is_none() => continue,
            Some(claim) => {
                let holders: Vec<String> = claim.spec.holders.iter().map(super::Holder::describe).collect();
                let what = format!("container {container} of this node has it, and so has {}", holders.join(", "));
                note(Kind::Others, what, "two pods have one address: delete one of them");
            }
            None => {
                let what = format!("container {container} of this node has it without a claim");
                note(Kind::NoClaim, what, "claim it again: --repair, or a restart of the agent");
            }
        }
        if links.as_ref().is_some_and(|links| !links.contains(&address)) {
            let what = format!("container {container} of this node has it, and no link does");
            note(Kind::NoLink, what, "see weftctl ps; weftctl gc removes attachments whose namespace is gone");
        }
        if store.borrow().entry(&row.key)?.is_none() {
            let what = format!("container {container} of this node has it, and the journal knows nothing of that");
            note(Kind::NoEntry, what, "see weftctl doctor");
        }
    }
    Ok(())
}

/// Repairs what can be repaired, with the listed versions in `claims`.
pub(super) async fn repair<B: Backend>(backend: &B, local: Option<&Local>, claims: &[Claim]) -> Result<(), DrainError> {
    for claim in claims {
        let kept = claim.spec.is_persistent() || claim.spec.state == ClaimState::Conflict;
        let leaked = claim.spec.holders.is_empty() && claim.spec.sharing == Sharing::Exclusive && !kept;
        if leaked {
            match backend.delete(&claim.spec.name(), &claim.versions).await {
                Ok(()) | Err(WriteError::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    reclaim(backend).await?;
    collect_orphans(backend, &mut Rests::default(), Instant::now()).await?;
    let Some(local) = local else { return Ok(()) };
    let Local { store, identity, .. } = local;
    judge(backend, store, identity, claims).await?;
    // Claims are written only into this ledger.
    let epoch = backend.state().await?.epoch;
    reassert(backend, store, (identity, epoch), |row| local.is_of_ledger(row)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::backend::Listing;
    use super::super::backend::memory::Memory;
    use super::super::claim_name;
    use super::super::object::{ClaimSpec, Holder};
    use super::super::tests::{Machine, OTHER, WEB, address};
    use super::*;

    async fn found(server: &Memory, local: &Local) -> Vec<Kind> {
        let claims = server.list(Listing::All).await.unwrap();
        let pods = BTreeSet::from(["web".to_owned()]);
        let found = look(server, Some(local), Some(&pods), &claims).await.unwrap();
        // The addresses here are on no link.
        found.into_iter().map(|finding| finding.kind).filter(|kind| !matches!(kind, Kind::NoLink)).collect()
    }

    /// Writes the record of an agent at its start.
    async fn write_record(server: &Memory, name: &str, machine: &str) {
        let write = |node: &mut LedgerNode| {
            name.clone_into(&mut node.node);
            machine.clone_into(&mut node.machine);
        };
        server.change_node(name, write).await.unwrap();
    }

    async fn repaired(server: &Memory, local: &Local) {
        let claims = server.list(Listing::All).await.unwrap();
        repair(server, Some(local), &claims).await.unwrap();
    }

    fn claim_of(uid: &str, address: &str, holders: Vec<Holder>) -> ClaimSpec {
        let owner = serde_json::json!({"kind": "Pod", "namespace": "ns", "name": uid, "uid": uid, "network": "storage",
            "interface": "net1", "slot": 0});
        serde_json::from_value(
            serde_json::json!({"domain": "default", "address": address, "owner": owner, "prefix": 24,
            "holders": holders}),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn what_is_found_is_repaired_where_a_repair_is_safe() {
        let server = Memory::default();
        let machine = Machine::new("node", "m1", &server);
        machine.add(&WEB).await.unwrap();
        write_record(&server, "node", "m1").await;
        let Machine { store, identity, .. } = machine;
        let local = Local { store, identity, ledger: "{}".to_owned() };
        assert_eq!(found(&server, &local).await, []);

        // A late create of this machine, a claim without a holder, and one of a machine without a record.
        let holder = |machine: &str, nonce: &str| Holder {
            node: "node".to_owned(),
            machine: machine.to_owned(),
            store_id: local.identity.store_id.clone(),
            nonce: nonce.to_owned(),
            ..Holder::default()
        };
        server.create(&claim_of("web", "10.0.0.7", vec![holder("m1", "late")]), None).await.unwrap();
        server.create(&claim_of("idle", "10.0.0.8", Vec::new()), None).await.unwrap();
        server.create(&claim_of("away", "10.0.0.9", vec![holder("m9", "far")]), None).await.unwrap();
        // A marked claim is valid, even beside its owner's replacement.
        let marked = ClaimSpec { state: ClaimState::Conflict, ..claim_of("web", "10.0.0.6", Vec::new()) };
        server.create(&marked, None).await.unwrap();
        // The claim of the running attachment is lost.
        server.0.borrow_mut().claims.remove(&claim_name("default", address()));
        let all = [Kind::NoHolder, Kind::NoPod, Kind::OtherMachine, Kind::NoRow, Kind::NoClaim];
        assert_eq!(found(&server, &local).await, all);
        repaired(&server, &local).await;
        // Only a person knows whether the other machine is dead.
        assert_eq!(found(&server, &local).await, [Kind::NoPod, Kind::OtherMachine]);
        server.change_node("node", |node| node.fenced_machines.push("m9".to_owned())).await.unwrap();
        assert_eq!(found(&server, &local).await, [Kind::NoPod, Kind::Fenced]);
        repaired(&server, &local).await;
        assert_eq!(found(&server, &local).await, []);
        let left = server.list(Listing::All).await.unwrap();
        assert_eq!(left.iter().filter(|claim| claim.spec.state == ClaimState::Active).count(), 1);
        assert_eq!(left.len(), 2);
    }

    #[tokio::test]
    async fn two_pods_with_one_address_are_found_and_left_to_a_person() {
        let server = Memory::default();
        let machine = Machine::new("node", "m1", &server);
        machine.add(&WEB).await.unwrap();
        write_record(&server, "node", "m1").await;
        server.0.borrow_mut().claims.clear();
        let rival = Machine::new("rival", "m2", &server);
        rival.add(&OTHER).await.unwrap();
        write_record(&server, "rival", "m2").await;
        let Machine { store, identity, .. } = machine;
        let local = Local { store, identity, ledger: "{}".to_owned() };
        assert_eq!(found(&server, &local).await, [Kind::NoPod, Kind::Others]);
        repaired(&server, &local).await;
        assert_eq!(found(&server, &local).await, [Kind::NoPod, Kind::Others]);
        let twins = server.list(Listing::All).await.unwrap();
        let mut lab = twins[0].clone();
        lab.spec.domain = "lab".to_owned();
        lab.spec.owner.owner.uid = "lab".to_owned();
        let mut second = twins[0].clone();
        second.spec.address = "10.0.0.77".parse().unwrap();
        let claims = [twins[0].clone(), lab, second];
        let mut seen = Vec::new();
        super::report_duplicates(&claims, &mut seen);
        assert_eq!(seen.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [Kind::TwoDomains, Kind::TwoClaims]);
    }
}
