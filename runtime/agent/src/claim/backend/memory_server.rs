//! The server of a cluster ledger in memory: what it has, what it counts, and which faults the next writes meet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use weft_core::ledger::remote::Versions;

use super::contract::WriteError;
use crate::claim::block::{Block, BlockSpec, LedgerDomain};
use crate::claim::object::{Claim, ClaimSpec, LedgerNode, LedgerState, Persistent};

/// The fate of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It never arrives.
    DropRequest,
    /// It is executed, and the answer is lost.
    DropAnswer,
    /// It is held back; `release` executes it later.
    Hold,
    /// The server refuses it.
    Refuse,
}

#[derive(Debug, Clone)]
pub(super) enum Write {
    Create(ClaimSpec),
    Replace(ClaimSpec, Versions),
    Delete(String, Versions),
    CreateBlock(BlockSpec),
    ReplaceBlock(BlockSpec, Versions),
    DeleteBlock(String, Versions),
}

impl Write {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Create(spec) | Self::Replace(spec, _) => spec.name(),
            Self::CreateBlock(spec) | Self::ReplaceBlock(spec, _) => spec.name(),
            Self::Delete(name, _) | Self::DeleteBlock(name, _) => name.clone(),
        }
    }

    /// Returns whether a frozen ledger refuses it.
    pub(super) fn gives_out(&self) -> bool {
        match self {
            Self::Replace(spec, _) => !spec.holders.is_empty(),
            Self::Delete(..) | Self::DeleteBlock(..) => false,
            Self::Create(_) | Self::CreateBlock(_) | Self::ReplaceBlock(..) => true,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    pub(crate) claims: BTreeMap<String, Claim>,
    pub(crate) blocks: BTreeMap<String, Block>,
    pub(crate) domains: BTreeMap<String, LedgerDomain>,
    pub(crate) state: LedgerState,
    pub(crate) nodes: BTreeMap<String, LedgerNode>,
    pub(crate) pods: Vec<String>,
    /// Nodes with the taint `out-of-service` that are not ready.
    pub(crate) tainted: Vec<String>,
    /// IPAMClaims by namespace and name.
    pub(crate) persistent: BTreeMap<String, Persistent>,
    /// Faults of the next writes, in order.
    pub(crate) faults: VecDeque<Option<Fault>>,
    pub(super) held: Vec<Write>,
    pub(crate) version: u64,
    pub(crate) creates: usize,
    /// Reads of single claims.
    pub(crate) gets: usize,
    pub(crate) writes: usize,
    /// Lists of complete claims of a domain, or of all.
    pub(crate) whole_lists: usize,
    /// Lists of names of a domain.
    pub(crate) name_lists: usize,
    /// Reads of a single IPAMClaim.
    pub(crate) owner_reads: usize,
    pub(crate) away: bool,
    /// Names of objects that nobody may write.
    pub(crate) refused: Vec<String>,
    /// Nodes without a Node object.
    pub(crate) missing: Vec<String>,
    /// Names of claims that cannot be read.
    pub(crate) unreadable: BTreeSet<String>,
    /// Nodes on which an agent runs.
    pub(crate) agents: Vec<String>,
}

impl Server {
    /// Executes one write, with its preconditions.
    pub(super) fn execute(&mut self, write: Write) -> Result<Versions, WriteError> {
        self.version += 1;
        let version = self.version.to_string();
        let current = |server: &Self, name: &str, read: &Versions| {
            server.claims.get(name).is_some_and(|claim| claim.versions == *read)
        };
        let (spec, uid) = match write {
            Write::CreateBlock(..) | Write::ReplaceBlock(..) | Write::DeleteBlock(..) => {
                return self.execute_on_blocks(write, version);
            }
            Write::Create(spec) if self.claims.contains_key(&spec.name()) => return Err(WriteError::Conflict),
            Write::Create(spec) => (spec, version.clone()),
            Write::Replace(spec, read) if !current(self, &spec.name(), &read) => return Err(WriteError::Conflict),
            Write::Replace(spec, read) => (spec, read.uid),
            Write::Delete(name, read) if !current(self, &name, &read) => return Err(WriteError::Conflict),
            Write::Delete(name, read) => {
                self.claims.remove(&name);
                return Ok(read);
            }
        };
        let versions = Versions { uid, version };
        self.claims.insert(spec.name(), Claim { spec, versions: versions.clone(), deleting: false });
        Ok(versions)
    }

    /// Executes one write of a cell.
    fn execute_on_blocks(&mut self, write: Write, version: String) -> Result<Versions, WriteError> {
        let known = |server: &Self, name: &str| server.blocks.get(name).map(|block| block.versions.clone());
        let (spec, uid) = match write {
            Write::CreateBlock(spec) if known(self, &spec.name()).is_none() => (spec, version.clone()),
            Write::ReplaceBlock(spec, read) if known(self, &spec.name()).as_ref() == Some(&read) => (spec, read.uid),
            Write::DeleteBlock(name, read) if known(self, &name).as_ref() == Some(&read) => {
                self.blocks.remove(&name);
                return Ok(read);
            }
            _refused => return Err(WriteError::Conflict),
        };
        let versions = Versions { uid, version };
        self.blocks.insert(spec.name(), Block { spec, versions: versions.clone() });
        Ok(versions)
    }
}
