//! The rules of the protocol, by name. A test can leave out any of them to show its purpose.

/// A rule of the cluster ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Rule {
    /// The intent, with its nonce and every address that will be tried, is on disk before the first request.
    IntentFirst,
    /// A request for a nonce is sent only while its row is an intent.
    SendRow,
    /// An intent becomes an entry only if it is still that intent.
    CommitCas,
    /// ADD holds a lock until its links are up or undone; a doomed row becomes a tombstone only when the lock is free.
    AddLock,
    /// DEL of a sandbox whose ADD has no row yet leaves a mark, so that its intent fails.
    DelMark,
    /// Links are removed before the row becomes a tombstone.
    LinkFirst,
    /// Updates and deletes carry the uid they were decided on.
    Uid,
    /// Updates and deletes carry the resource version they were decided on.
    ResourceVersion,
    /// A tombstone acts only on a holder that has its nonce.
    Nonce,
    /// Taking over an existing claim is a write.
    AdoptWrite,
    /// A claim that a pod owns is adopted only from a holder on this machine.
    AdoptOwn,
    /// A pod's new sandbox takes over the row and addresses of the old one.
    Supersede,
    /// The row is taken over only after the old row's lock is free.
    SupersedeWaits,
    /// The agent removes holders of its machine that its store does not know.
    ReverseSweep,
    /// It lists the holders before it looks into its store.
    ListFirst,
    /// It judges only holders of its own store or of another boot of its machine.
    StoreId,
    /// It judges only holders of its own machine, whatever the node's name is.
    MachineId,
    /// The controller removes a holder only if its machine is fenced.
    Fence,
    /// A claim that an IPAMClaim owns is deleted only when no holder is left.
    HoldersEmpty,
    /// The first holder writes the IPAMClaim's status under its resource version before its links.
    StatusCas,
    /// An IPAMClaim that a live read does not find gives no address.
    OwnerLive,
    /// No claims are granted after a restore until every node has re-asserted its entries.
    Freeze,
    /// An agent that notices a restored history uses no earlier grant.
    Doubt,
    /// After a restore, entries whose claim is missing claim it again.
    Reassert,
    /// A node has re-asserted only when every entry has its own claim again.
    ConfirmStrict,
    /// A node that has re-asserted has no intent from before.
    DropIntents,
    /// After a restore, the IPAMClaim's status is written again.
    StatusAgain,
    /// The IPAMClaim's status is not written while the ledger is frozen.
    StatusFrozen,
    /// A claim without holders yields to a re-asserted entry.
    HolderlessYields,
    /// A cell is returned only when no row lies inside.
    Empty,
    /// A cell whose return has begun is never used again; the node takes another one.
    NoUnreturn,
    /// After a boot, nothing is allocated inside a cell until the node has confirmed that it still owns the cell.
    Unconfirmed,
    /// Only a successful write confirms that, not a read.
    ConfirmWrite,
    /// No single address inside a machine's cell is claimed.
    Cells,
    /// A fence refers to the boots before it, also if nobody takes it away.
    FenceEnds,
}

/// A set of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules(u64);

impl Rules {
    /// All rules.
    pub const ALL: Self = Self(u64::MAX);

    /// Returns whether a rule is in force.
    #[must_use]
    pub fn has(self, rule: Rule) -> bool {
        self.0 & 1 << rule as u8 != 0
    }

    /// Returns the same rules without one of them.
    #[must_use]
    pub fn without(self, rule: Rule) -> Self {
        Self(self.0 & !(1 << rule as u8))
    }
}
