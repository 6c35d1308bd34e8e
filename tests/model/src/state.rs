//! The state of the whole system: API server, nodes with their stores and links, ADDs, and requests under way.

use crate::scenario::Faults;

pub(crate) const ADDS: usize = 3;
pub(crate) const NODES: usize = 3;
pub(crate) const ADDRESSES: usize = 2;
pub(crate) const REQUESTS: usize = 3;

/// The state of a row in a node's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Row {
    #[default]
    None,
    Intent,
    Entry,
    Doomed,
    Tombstone,
}

/// The progress of an ADD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Phase {
    #[default]
    Idle,
    /// It runs and has written nothing.
    Started,
    /// It has an intent and decides on a request.
    Deciding,
    /// It waits for an answer.
    Waiting,
    /// It owns the address.
    Granted,
    /// The intent has become an entry; the link is next.
    Committed,
    Done,
    Failed,
    Killed,
}

/// One ADD with its row and link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Attempt {
    pub(crate) phase: Phase,
    pub(crate) row: Row,
    pub(crate) address: u8,
    /// It has moved to the next candidate once.
    pub(crate) moved: bool,
    pub(crate) link: bool,
    pub(crate) del: Del,
    pub(crate) boot: u8,
    pub(crate) store: u8,
}

/// The progress of a sandbox's DEL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Del {
    #[default]
    None,
    Half,
    Done,
}

/// A set of attempts, by bit. A nonce is the number of its attempt, so this is also a claim's list of holders.
pub(crate) type Set = u8;

/// The claim object of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Claim {
    /// 0 if no object exists.
    pub(crate) uid: u8,
    pub(crate) version: u8,
    pub(crate) owner: u8,
    pub(crate) holders: Set,
}

/// The reason for an update or create.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Sender {
    Add(u8),
    Reassert(u8),
    Removal,
}

/// A request on its way to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Request {
    Create { sender: Sender, address: u8 },
    Update { sender: Sender, address: u8, uid: u8, version: u8, holders: Set },
    Delete { address: u8, uid: u8, version: u8 },
}

/// A machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Node {
    pub(crate) up: bool,
    pub(crate) boot: u8,
    pub(crate) store: u8,
    pub(crate) fenced: bool,
    pub(crate) sweep: Sweep,
}

/// A reverse sweep between its two reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Sweep {
    #[default]
    Idle,
    /// It has listed a claim.
    Listed { address: u8, claim: Claim },
    /// It has read which nonces its store knows (the wrong order).
    Looked { known: Set },
}

/// The API server's contents that a snapshot keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Stored {
    pub(crate) claims: [Claim; ADDRESSES],
    /// `status.ips` of the IPAMClaims.
    pub(crate) status: [Option<u8>; ADDS],
    pub(crate) owner_gone: [bool; ADDS],
}

/// The state of etcd's backup and restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Backup {
    #[default]
    None,
    Taken,
    Restored,
}

/// The whole system.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct State {
    pub(crate) api: Stored,
    pub(crate) last_uid: u8,
    pub(crate) pods: [bool; ADDS],
    pub(crate) attempts: [Attempt; ADDS],
    pub(crate) nodes: [Node; NODES],
    /// Sorted, because their order makes no difference.
    pub(crate) requests: [Option<Request>; REQUESTS],
    pub(crate) snapshot: Stored,
    pub(crate) backup: Backup,
    pub(crate) frozen: bool,
    pub(crate) thawed: bool,
    /// Nodes that have re-asserted their entries, by bit.
    pub(crate) confirmed: u8,
    /// Nodes that know of the restore, by bit.
    pub(crate) noticed: u8,
    /// The ADD of a deleted sandbox took a running sandbox's link.
    pub(crate) robbed: bool,
    /// Faults that may still happen.
    pub(crate) left: Faults,
}

impl Attempt {
    /// Returns whether its process runs and may still act.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Started | Phase::Deciding | Phase::Waiting | Phase::Granted | Phase::Committed)
    }

    /// Ends in failure; a row that is still an intent becomes a tombstone.
    pub(crate) fn give_up(&mut self) {
        self.phase = Phase::Failed;
        if self.row == Row::Intent {
            self.row = Row::Tombstone;
        }
    }
}

impl State {
    /// Sends a request, unless the same one is under way or too many are.
    pub(crate) fn send(&mut self, request: Request) -> bool {
        if self.requests.contains(&Some(request)) {
            return false;
        }
        let Some(free) = self.requests.iter_mut().find(|slot| slot.is_none()) else { return false };
        *free = Some(request);
        self.requests.sort_unstable();
        true
    }

    /// Removes a request that has arrived.
    pub(crate) fn receive(&mut self, request: Request) {
        if let Some(slot) = self.requests.iter_mut().find(|slot| **slot == Some(request)) {
            *slot = None;
        }
        self.requests.sort_unstable();
    }
}

/// Returns the set with one attempt.
pub(crate) fn set_of_one(attempt: usize) -> Set {
    1 << attempt
}

/// Returns whether an attempt is in a set.
pub(crate) fn contains(set: Set, attempt: usize) -> bool {
    set & set_of_one(attempt) != 0
}
