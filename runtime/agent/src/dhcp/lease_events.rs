//! The event `LeaseAbandoned`: the lease of an attachment is over and its link was taken down. On its pod, whose owner can
//! act; on the node if the pod is not known.

use std::path::PathBuf;

use tokio::task::spawn_blocking;
use weft_core::agent::status::{Event, EventKind};
use weft_host_abi::types::Attachment;

use crate::events::{Events, Subject};
use crate::sweep::pod_of_container;

/// The reason of the event.
const REASON: &str = "LeaseAbandoned";

/// Sends the event.
pub(crate) struct LeaseEvents {
    /// Where to send it.
    pub(crate) events: Events,
    /// The node's name.
    pub(crate) node: String,
    /// The directory with the journal, which knows the pods of containers.
    pub(crate) state: PathBuf,
}

impl LeaseEvents {
    /// Sends the event about an attachment whose lease is over.
    pub(super) async fn send_abandoned(&self, attachment: &Attachment, message: String) {
        let (state, container) = (self.state.clone(), attachment.container_id.clone());
        let pod = spawn_blocking(move || pod_of_container(&state, &container)).await.ok().flatten();
        let subject = match pod {
            Some(pod) => Subject { kind: "Pod", namespace: pod.namespace, name: pod.name, uid: pod.uid },
            None => {
                let (namespace, node) = ("default".to_owned(), self.node.clone());
                Subject { kind: "Node", namespace, name: node.clone(), uid: node }
            }
        };
        self.events.send(subject, Event { kind: EventKind::Warning, reason: REASON.to_owned(), message });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use weft_core::journal::Record;
    use weft_core::ledger::ClaimAsk;
    use weft_core::store::{Key, NodeStore, Role};
    use weft_host_abi::types::ReleaseRule;

    use super::*;

    fn attachment(container: &str) -> Attachment {
        Attachment { network: "lan".into(), container_id: container.into(), ifname: "eth0".into() }
    }

    #[tokio::test]
    async fn a_lease_that_is_over_is_an_event_of_its_pod_or_of_the_node() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = NodeStore::open(dir.path(), "boot").unwrap();
        let plan = r#"{"namespace": "ns", "name": "web", "uid": "u1", "attachments": []}"#;
        for container in ["c0", "c1"] {
            let key = Key { attachment: attachment(container), role: Role::Pod };
            let ask =
                ClaimAsk { key: &key, scope: "s", identities: &[], wants: &[], release: &ReleaseRule::Free, now: 1 };
            let record = |_: &[_]| Ok::<_, ()>(Record { plan: plan.to_owned(), ..Record::default() });
            store.claim(&ask, record).unwrap();
        }
        drop(store);
        // Entries of other containers are not read, so a damaged one hides nothing.
        let conn = rusqlite::Connection::open(dir.path().join("weft.db")).unwrap();
        conn.execute("UPDATE journal SET role = 9 WHERE container_id = 'c0'", []).unwrap();
        drop(conn);
        let (events, mut sent) = Events::for_tests();
        let lease_events = LeaseEvents { events, node: "node-1".to_owned(), state: dir.path().to_owned() };
        for (container, kind, name) in [("c1", "Pod", "web"), ("c2", "Node", "node-1")] {
            lease_events.send_abandoned(&attachment(container), "the IPv4 lease is over".to_owned()).await;
            let (subject, event) = sent.recv().await.unwrap();
            assert_eq!((subject.kind, subject.name.as_str()), (kind, name));
            assert_eq!((event.reason.as_str(), event.message.as_str()), (REASON, "the IPv4 lease is over"));
        }
    }
}
