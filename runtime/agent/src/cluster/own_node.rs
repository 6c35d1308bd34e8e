//! Whether `--node-name` names this machine's Node. Under another name the agent would watch another node's pods, and
//! claims would name the wrong node.
//!
//! Invariant: an agent with the right name is never called wrong. The evidence is the absence of the Node from a copy
//! that is complete, a Node of another name with this machine's boot id, or a pod of this machine that is bound to
//! another node.

use std::cell::{Cell, RefCell};

use k8s_openapi::api::core::v1;
use kube::Api;
use kube::api::ListParams;
use tokio::time::{Duration, Instant};

use super::{Cluster, ClusterError};
use crate::pause::Pause;
use crate::server::Deadline;

/// Nodes per page of a list.
const PAGE: u32 = 100;
/// The pauses between two reads of Nodes. Listing all of them is work for the API server.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// Time limit of a read.
const LIMIT: Duration = Duration::from_secs(10);

/// What is known about the name.
#[derive(Debug, Default)]
pub(super) struct OwnNode {
    /// A pod of this machine that is bound to another node: the name will not become right.
    elsewhere: RefCell<Option<String>>,
    /// The Node of this machine has another name.
    fault: RefCell<Option<String>>,
    /// No Node has the name. It may be registered later, so claims go on.
    absent: RefCell<Option<String>>,
    /// The Node has this machine's boot id, or does not say one.
    is_sure: Cell<bool>,
    read: RefCell<Option<LastRead>>,
}

/// The last read of Nodes.
#[derive(Debug)]
struct LastRead {
    /// Whether the copy had the Node.
    is_there: bool,
    again: Instant,
    pause: Pause,
}

impl Cluster {
    /// Returns why the agent's name is wrong, or why it may be.
    #[must_use]
    pub(crate) fn node_fault(&self) -> Option<String> {
        self.wrong_node().or_else(|| self.own.absent.borrow().clone())
    }

    /// Returns why the agent's name is certainly wrong, if it is.
    #[must_use]
    pub(crate) fn wrong_node(&self) -> Option<String> {
        self.own.elsewhere.borrow().clone().or_else(|| self.own.fault.borrow().clone())
    }

    /// Takes note of the node to which a pod of this machine is bound.
    pub(crate) fn note_node_of_pod(&self, pod: &str, bound: &str) {
        if bound != self.node {
            let text = format!(
                "pod {pod} runs on this machine and is bound to node {bound:?}, but this agent was started for node {:?}: correct --node-name (NODE_NAME)",
                self.node
            );
            self.own.elsewhere.replace(Some(text));
        }
    }

    /// Compares the name with the Nodes. Reads them only if the copy leaves a doubt.
    pub(crate) async fn check_node(&self) {
        let is_there = self.nodes.get("", &self.node).is_some();
        if is_there && self.own.is_sure.get() {
            self.own.fault.replace(None);
            self.own.absent.replace(None);
            return;
        }
        let mut pause = Pause::new(FIRST_PAUSE, LONGEST_PAUSE);
        if let Some(last) = self.own.read.take().filter(|last| last.is_there == is_there) {
            if Instant::now() < last.again {
                self.own.read.replace(Some(last));
                return;
            }
            pause = last.pause;
        }
        let again = Instant::now() + pause.next();
        self.own.read.replace(Some(LastRead { is_there, again, pause }));
        let found = self.look_for_node(is_there).await;
        let (fault, absent) = match found {
            Ok(Found::Own) => {
                self.own.is_sure.set(true);
                (None, None)
            }
            Ok(Found::Other(name)) => {
                let text = format!(
                    "this machine is node {name:?}, but this agent was started for node {:?}: correct --node-name (NODE_NAME)",
                    self.node
                );
                (Some(text), None)
            }
            Ok(Found::Unknown) | Err(_) if is_there => (None, None),
            Ok(Found::Unknown) | Err(_) => {
                let text = format!(
                    "the API server has no Node {:?}: correct --node-name (NODE_NAME), or register this node",
                    self.node
                );
                (None, Some(text))
            }
        };
        let said = self.own.fault.borrow().clone().or_else(|| self.own.absent.borrow().clone());
        if let Some(text) = fault.as_ref().or(absent.as_ref()).filter(|text| said.as_ref() != Some(text)) {
            self.log.warn(text);
        }
        self.own.fault.replace(fault);
        self.own.absent.replace(absent);
    }

    /// Looks for the Node of this machine.
    async fn look_for_node(&self, is_there: bool) -> Result<Found, ClusterError> {
        let boot_id = weft_core::netlink::boot_id().unwrap_or_default();
        let api: Api<v1::Node> = Api::all(self.client()?);
        let deadline = Deadline::after(Some(LIMIT));
        if is_there {
            let node = self.bounded(&format!("read node {}", self.node), deadline, api.get(&self.node)).await?;
            let theirs = boot_id_of(&node);
            if theirs.is_empty() || theirs == boot_id {
                return Ok(Found::Own);
            }
        }
        // A Node that has not reported this boot yet, or another machine's.
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let list = self.bounded("list nodes", Deadline::after(Some(LIMIT)), api.list(&params)).await?;
            let own = list.items.iter().find(|node| !boot_id.is_empty() && boot_id_of(node) == boot_id);
            if let Some(name) = own.and_then(|node| node.metadata.name.clone()) {
                return Ok(Found::Other(name));
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok(Found::Unknown),
            }
        }
    }
}

/// Whose machine this is.
enum Found {
    /// The Node with the agent's name is this machine's.
    Own,
    /// It is that of the Node with this name.
    Other(String),
    /// No Node says.
    Unknown,
}

fn boot_id_of(node: &v1::Node) -> &str {
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    info.map_or("", |info| info.boot_id.as_str())
}
