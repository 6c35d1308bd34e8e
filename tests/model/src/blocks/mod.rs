//! Blocks: a machine claims a whole cell of addresses with one write, and allocates them locally.
//!
//! The model has one cell of one address and two nodes, because faults concern single addresses. The API server knows
//! only the cell; the rows inside are in the nodes' stores. Not modelled: shared cells, and doubt.

mod inside;
mod node;
mod server;

use crate::checker::{Label, Model, Steps};
use crate::rules::{Rule, Rules};

const NODES: usize = 2;
const ADDS: usize = 3;
const REQUESTS: usize = 3;
/// Larger nonces, uids and versions are not modelled.
const LAST_NONCE: u8 = 4;
const LAST_UID: u8 = 6;
const LAST_VERSION: u8 = 4;

/// How often each fault may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Faults {
    /// An answer is lost, or comes too late.
    pub lose: u8,
    /// A node goes down and comes back.
    pub reboot: u8,
    /// It comes back with an empty store.
    pub reimage: u8,
    /// It comes back with a copy of its disk from a time when it owned a cell.
    pub roll_back: u8,
    /// A node's store is moved away while its pods run.
    pub wipe: u8,
    /// etcd is restored from a snapshot.
    pub restore: u8,
    /// A node is declared fenced while it runs.
    pub false_fence: u8,
}

/// The protocol of blocks for a scenario.
#[derive(Debug, Clone)]
pub struct Blocks {
    /// The node of each ADD.
    adds: Vec<usize>,
    /// The ADD that requests its address by name, with a claim, wherever it lies.
    by_claim: Option<usize>,
    faults: Faults,
    rules: Rules,
}

impl Blocks {
    /// Returns one ADD on each of the given nodes, with all rules and without faults.
    #[must_use]
    pub fn new(adds: &[usize]) -> Self {
        assert!(adds.len() <= ADDS && adds.iter().all(|&node| node < NODES), "the scenario is larger than a state");
        Self { adds: adds.to_vec(), by_claim: None, faults: Faults::default(), rules: Rules::ALL }
    }

    /// Returns the same with faults.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Returns the same where an ADD requests its address with a claim.
    #[must_use]
    pub fn by_claim(mut self, add: usize) -> Self {
        self.by_claim = Some(add);
        self
    }

    /// Returns the same without a rule.
    #[must_use]
    pub fn without_rule(mut self, rule: Rule) -> Self {
        self.rules = self.rules.without(rule);
        self
    }

    fn has_rule(&self, rule: Rule) -> bool {
        self.rules.has(rule)
    }

    /// Returns the ADDs of a node that take their address inside its cell.
    fn on_node(&self, node: usize) -> impl Iterator<Item = usize> {
        let adds = self.adds.iter().enumerate();
        adds.filter(move |&(add, &on)| on == node && self.by_claim != Some(add)).map(|(add, _node)| add)
    }
}

/// The state of a cell's row in a node's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Row {
    #[default]
    None,
    /// On disk before the first request.
    Taking,
    Owned,
    /// Owned in an earlier boot.
    Unconfirmed,
    Returning,
}

/// The cell's object at the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Cell {
    /// 0 if no object exists.
    uid: u8,
    version: u8,
    node: u8,
    store: u8,
    nonce: u8,
}

/// A request on its way to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Request {
    Create {
        node: u8,
        nonce: u8,
        store: u8,
        again: bool,
    },
    /// Writes that the node has the cell in this boot.
    Update {
        node: u8,
        nonce: u8,
        uid: u8,
        version: u8,
    },
    Delete {
        uid: u8,
        version: u8,
    },
}

/// A machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Node {
    up: bool,
    fenced: bool,
    store: u8,
    row: Row,
    nonce: u8,
    /// It waits for the answer to a create request.
    waits: bool,
    /// The answer under way: whether the cell was created.
    answer: Option<bool>,
    /// Its store was moved away under running pods in this boot.
    blind: bool,
    /// The row and nonce in the copy of its disk.
    copy: Option<(Row, u8)>,
}

/// The progress of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Phase {
    #[default]
    Before,
    Added,
    Deleted,
}

/// One attachment: its row inside the cell (or its claim), and its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Attachment {
    phase: Phase,
    row: bool,
    link: bool,
}

/// The state of etcd's backup and restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Backup {
    #[default]
    None,
    Taken(Cell),
    Restored,
}

/// The whole system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct State {
    cell: Cell,
    /// The address is claimed on its own.
    claimed: bool,
    last_uid: u8,
    last_nonce: u8,
    nodes: [Node; NODES],
    attachments: [Attachment; ADDS],
    requests: [Option<Request>; REQUESTS],
    backup: Backup,
    frozen: bool,
    /// Nodes that have re-asserted, by bit.
    confirmed: u8,
    left: Faults,
}

impl State {
    /// Sends a request, unless the same one is under way or too many are.
    fn send(&mut self, request: Request) -> bool {
        if self.requests.contains(&Some(request)) {
            return false;
        }
        let Some(free) = self.requests.iter_mut().find(|slot| slot.is_none()) else { return false };
        *free = Some(request);
        self.requests.sort_unstable();
        true
    }

    /// Returns the delete request for the cell as it was read.
    fn delete(&self) -> Request {
        Request::Delete { uid: self.cell.uid, version: self.cell.version }
    }

    /// Returns whether the cell exists and has the node's nonce.
    fn has_cell(&self, node: usize) -> bool {
        self.cell.uid != 0 && self.cell.nonce == self.nodes[node].nonce
    }
}

fn step(transition: &'static str, subject: usize) -> Label {
    Label { transition, subject: Some(subject), address: None, fault: false }
}

fn event(transition: &'static str) -> Label {
    Label { transition, subject: None, address: None, fault: false }
}

fn fault(transition: &'static str, subject: Option<usize>) -> Label {
    Label { transition, subject, address: None, fault: true }
}

impl Model for Blocks {
    type State = State;

    fn start(&self) -> State {
        let mut state = State { left: self.faults, ..State::default() };
        for node in &mut state.nodes {
            (node.up, node.store) = (true, 1);
        }
        state
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let links = state.attachments.iter().filter(|attachment| attachment.link).count();
        (links > 1).then_some("duplicate: two links have one address")
    }

    fn is_clean(&self, state: &State) -> bool {
        state.cell.uid == 0
            && !state.claimed
            && !state.frozen
            && state.requests.iter().all(Option::is_none)
            && state.nodes.iter().all(|node| node.row == Row::None && !node.waits)
            && state.attachments.iter().all(|attachment| !attachment.row && !attachment.link)
    }

    fn steps(&self, state: &State, steps: &mut Steps<State>) {
        for node in 0..NODES {
            if state.nodes[node].up {
                self.cell_steps(state, node, steps);
                self.faults_of(state, node, steps);
            } else {
                self.boots(state, node, steps);
            }
        }
        for add in 0..self.adds.len() {
            self.attachment_steps(state, add, steps);
        }
        self.controller_steps(state, steps);
        self.server_steps(state, steps);
        self.restore_steps(state, steps);
    }
}
