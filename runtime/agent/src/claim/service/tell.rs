//! Events about an address that two pods have: to the pod of this node, and to the one that the cluster knows.

use weft_core::agent::status::{Event, EventKind};
use weft_core::ledger::remote::{AddressState, RemoteRow};

use super::{Claims, Ledger};
use crate::claim::backend::Backend as _;
use crate::claim::object::{Claim, ClaimOwner, Holder};
use crate::claim::{Conflict, claim_name};
use crate::events::Subject;

/// The reason of such an event.
const REASON: &str = "AddressConflict";

impl Claims {
    /// Tells both pods of a conflict. The log has it already.
    pub(super) async fn report_conflict(&self, ledger: &Ledger, conflict: &Conflict) {
        let Some(events) = &self.reports.events else { return };
        let row = self.row_of(conflict);
        let own = row.as_ref().and_then(own_pod);
        let text = format!(
            "address {} of this pod is held in the cluster by {}: two pods have it; delete one of them",
            conflict.address, conflict.holder
        );
        events.send(own.clone().unwrap_or_else(|| self.node_itself()), event(text));
        let Some(row) = row else { return };
        let Ok(Some(claim)) = ledger.backend.get(&claim_name(&row.domain, conflict.address)).await else { return };
        let who = own.map_or_else(|| format!("container {}", conflict.container_id), |pod| pod_name(&pod));
        for pod in pods(&claim) {
            let node = &self.identity.node;
            let text = format!(
                "address {} of this pod is also on a link of {who} on node {node}: two pods have it; delete one of them",
                conflict.address
            );
            events.send(pod, event(text));
        }
    }

    /// Returns the row of the local attachment; `None` for an address in a cell.
    fn row_of(&self, conflict: &Conflict) -> Option<RemoteRow> {
        let rows = self.store.borrow().remote_rows(AddressState::Entry).ok()?;
        rows.into_iter().find(|row| {
            row.key.attachment.container_id == conflict.container_id && row.address(conflict.address).is_some()
        })
    }

    /// Without a pod, the node's owner can act.
    fn node_itself(&self) -> Subject {
        let node = self.identity.node.clone();
        Subject { kind: "Node", namespace: "default".to_owned(), name: node.clone(), uid: node }
    }
}

fn event(message: String) -> Event {
    Event { kind: EventKind::Warning, reason: REASON.to_owned(), message }
}

fn pod_name(pod: &Subject) -> String {
    format!("pod {}/{}", pod.namespace, pod.name)
}

/// Returns the pod of a row.
fn own_pod(row: &RemoteRow) -> Option<Subject> {
    let owner = &row.owner;
    match owner.kind.as_str() {
        "Pod" => event_subject((&owner.namespace, &owner.name), &owner.uid),
        _ => event_subject(owner.user.split_once('/')?, ""),
    }
}

/// Returns the pods that hold a claim.
fn pods(claim: &Claim) -> Vec<Subject> {
    let ClaimOwner { owner, .. } = &claim.spec.owner;
    let uid = if owner.kind == "Pod" { owner.uid.as_str() } else { "" };
    let pod = |holder: &Holder| event_subject(holder.pod.split_once('/')?, uid);
    claim.spec.holders.iter().filter_map(pod).collect()
}

fn event_subject((namespace, name): (&str, &str), uid: &str) -> Option<Subject> {
    let is_named = !namespace.is_empty() && !name.is_empty();
    let (namespace, name, uid) = (namespace.to_owned(), name.to_owned(), uid.to_owned());
    is_named.then_some(Subject { kind: "Pod", namespace, name, uid })
}
