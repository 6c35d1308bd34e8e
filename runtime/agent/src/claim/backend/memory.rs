//! A cluster ledger in memory, for tests: it can lose requests and answers, hold requests back, and be frozen.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use weft_core::ledger::remote::{Runs, Span, Versions, is_in};

use super::contract::{Backend, Cells, Fence, Keepers, Keeping, Listing, ReadError, Status, WriteError};
use super::fence;
use super::memory_server::Write;
pub(crate) use super::memory_server::{Fault, Server};
use crate::claim::block::{Block, BlockSpec, LedgerDomain};
use crate::claim::history::{History, Position};
use crate::claim::object::{Claim, ClaimSpec, ClaimState, LedgerNode, LedgerState, Persistent};
use crate::claim::remembered::Remembered;

/// The time on its clients' clocks.
const NOW: u64 = 1_000_000;

/// A client of the server.
#[derive(Debug, Default)]
pub(crate) struct Memory(pub(crate) Rc<RefCell<Server>>, History);

/// Another client of the same server.
impl Clone for Memory {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0), History::default())
    }
}

impl Memory {
    /// Executes the requests that were held back.
    pub(crate) fn release(&self) {
        let mut server = self.0.borrow_mut();
        for write in std::mem::take(&mut server.held) {
            drop(server.execute(write));
        }
    }

    pub(crate) fn fail_next(&self, faults: &[Option<Fault>]) {
        self.0.borrow_mut().faults = faults.iter().copied().collect();
    }

    fn write(&self, write: Write, reassertion: bool) -> Result<Versions, WriteError> {
        let mark = self.1.mark();
        let written = self.send(write, reassertion);
        match &written {
            Ok(versions) => {
                let revision = versions.version.parse().unwrap();
                self.1.answered(mark, Position { revision, wrote: true, ..Position::default() }, NOW);
            }
            Err(WriteError::NoAnswer(_)) => self.1.failed(),
            Err(_) => {}
        }
        written
    }

    fn send(&self, write: Write, reassertion: bool) -> Result<Versions, WriteError> {
        let mut server = self.0.borrow_mut();
        let no_answer = || WriteError::NoAnswer("injected".to_owned());
        if server.away {
            return Err(no_answer());
        }
        server.writes += 1;
        server.creates += usize::from(matches!(write, Write::Create(_)));
        if server.state.frozen && !reassertion && write.gives_out() {
            return Err(WriteError::Frozen);
        }
        if server.refused.contains(&write.name()) {
            return Err(WriteError::Refused("injected".to_owned()));
        }
        match server.faults.pop_front().flatten() {
            None => server.execute(write),
            Some(Fault::DropRequest) => Err(no_answer()),
            Some(Fault::Refuse) => Err(WriteError::Refused("injected".to_owned())),
            Some(Fault::DropAnswer) => {
                drop(server.execute(write));
                Err(no_answer())
            }
            Some(Fault::Hold) => {
                server.held.push(write);
                Err(no_answer())
            }
        }
    }

    fn read<T>(&self, read: impl FnOnce(&Server) -> T) -> Result<T, ReadError> {
        let server = self.0.borrow();
        if server.away { Err(ReadError("injected".to_owned())) } else { Ok(read(&server)) }
    }
}

impl Cells for Memory {
    async fn create_block(&self, spec: &BlockSpec, epoch: Option<u64>) -> Result<Versions, WriteError> {
        self.write(Write::CreateBlock(spec.clone()), epoch.is_some())
    }

    async fn block(&self, name: &str) -> Result<Option<Block>, ReadError> {
        self.read(|server| server.blocks.get(name).cloned())
    }

    async fn replace_block(&self, spec: &BlockSpec, read: &Versions) -> Result<Versions, WriteError> {
        self.write(Write::ReplaceBlock(spec.clone(), read.clone()), false)
    }

    async fn delete_block(&self, name: &str, read: &Versions) -> Result<(), WriteError> {
        self.send(Write::DeleteBlock(name.to_owned(), read.clone()), false).map(drop)
    }

    async fn blocks(&self, listing: Listing<'_>) -> Result<Vec<Block>, ReadError> {
        let wanted = |block: &Block| match listing {
            Listing::Node(node) => block.spec.holder.as_ref().is_some_and(|holder| holder.node == node),
            Listing::Persistent | Listing::Conflict => false,
            Listing::Domain(domain) => block.spec.domain == domain,
            Listing::All => true,
        };
        self.read(|server| server.blocks.values().filter(|block| wanted(block)).cloned().collect())
    }

    async fn create_domain(&self, domain: &LedgerDomain, epoch: Option<u64>) -> Result<(), WriteError> {
        let mut server = self.0.borrow_mut();
        if server.away {
            return Err(WriteError::NoAnswer("injected".to_owned()));
        }
        if server.state.frozen && epoch.is_none() {
            return Err(WriteError::Frozen);
        }
        if server.domains.contains_key(&domain.domain) {
            return Err(WriteError::Conflict);
        }
        server.domains.insert(domain.domain.clone(), domain.clone());
        Ok(())
    }

    async fn domain(&self, name: &str) -> Result<Option<LedgerDomain>, ReadError> {
        self.read(|server| server.domains.get(name).cloned())
    }
}

impl Backend for Memory {
    fn history(&self) -> &History {
        &self.1
    }

    fn has_unique_versions(&self) -> bool {
        true
    }

    async fn create(&self, spec: &ClaimSpec, epoch: Option<u64>) -> Result<Versions, WriteError> {
        self.write(Write::Create(spec.clone()), epoch.is_some())
    }

    async fn get(&self, name: &str) -> Result<Option<Claim>, ReadError> {
        self.0.borrow_mut().gets += 1;
        self.read(|server| {
            let claim = server.claims.get(name).cloned();
            let is_unreadable = server.unreadable.contains(name);
            claim.map(|claim| if is_unreadable { Claim::unreadable(name, claim.versions) } else { claim })
        })
    }

    async fn replace(&self, spec: &ClaimSpec, read: &Versions, epoch: Option<u64>) -> Result<Versions, WriteError> {
        self.write(Write::Replace(spec.clone(), read.clone()), epoch.is_some())
    }

    async fn delete(&self, name: &str, read: &Versions) -> Result<(), WriteError> {
        // A delete returns the version that it deleted.
        self.send(Write::Delete(name.to_owned(), read.clone()), false).map(drop)
    }

    async fn list(&self, listing: Listing<'_>) -> Result<Vec<Claim>, ReadError> {
        let wanted = |claim: &Claim| match listing {
            Listing::Node(node) => claim.spec.holders.iter().any(|holder| holder.node == node),
            Listing::Persistent => claim.spec.is_persistent(),
            Listing::Conflict => claim.spec.state == ClaimState::Conflict,
            Listing::Domain(domain) => claim.spec.domain == domain,
            Listing::All => true,
        };
        self.0.borrow_mut().whole_lists += usize::from(matches!(listing, Listing::Domain(_) | Listing::All));
        self.read(|server| {
            let readable = server.claims.values().filter(|claim| !server.unreadable.contains(&claim.spec.name()));
            readable.filter(|claim| wanted(claim)).cloned().collect()
        })
    }

    async fn missing_nodes(&self) -> Result<Vec<String>, ReadError> {
        self.read(|server| server.missing.clone())
    }

    async fn is_missing(&self, node: &str) -> Result<bool, ReadError> {
        self.read(|server| server.missing.iter().any(|name| name == node))
    }

    fn unreadable(&self) -> Vec<(String, String)> {
        self.0.borrow().unreadable.iter().map(|name| (name.clone(), "injected".to_owned())).collect()
    }

    async fn taken(&self, domain: &str, spans: &[Span]) -> Result<Runs, ReadError> {
        self.0.borrow_mut().name_lists += 1;
        // Others may ask meanwhile.
        tokio::task::yield_now().await;
        let of_domain = |server: &Server| {
            let claims = server.claims.values().filter(|claim| claim.spec.domain == domain);
            claims.map(|claim| claim.spec.address).filter(|address| is_in(spans, *address)).collect()
        };
        self.read(of_domain)
    }

    async fn has_claims(&self, domain: &str) -> Result<bool, ReadError> {
        self.read(|server| server.claims.values().any(|claim| claim.spec.domain == domain))
    }

    async fn state(&self) -> Result<LedgerState, ReadError> {
        let mark = self.1.mark();
        let read = self.read(|server| (server.state, server.version)).inspect_err(|_unread| self.1.failed());
        let (state, revision) = read?;
        self.1.answered(mark, Position { revision, ..Position::default() }, NOW);
        Ok(state)
    }

    async fn set_state(&self, read: LedgerState, state: LedgerState) -> Result<(), WriteError> {
        let mut server = self.0.borrow_mut();
        if server.state != read {
            return Err(WriteError::Conflict);
        }
        server.state = state;
        server.version += 1;
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<LedgerNode>, ReadError> {
        self.read(|server| server.nodes.values().cloned().collect())
    }

    async fn agents(&self) -> Result<Vec<String>, ReadError> {
        self.read(|server| server.agents.clone())
    }

    async fn node(&self, node: &str) -> Result<Option<LedgerNode>, ReadError> {
        self.read(|server| server.nodes.get(node).cloned())
    }

    async fn change_node(&self, node: &str, mut change: impl FnMut(&mut LedgerNode)) -> Result<(), WriteError> {
        let mut server = self.0.borrow_mut();
        let record = server.nodes.entry(node.to_owned()).or_default();
        node.clone_into(&mut record.node);
        change(record);
        Ok(())
    }

    async fn suspects(&self) -> Result<Vec<String>, ReadError> {
        let fenced = |(name, node): (&String, &LedgerNode)| (!node.fenced_machines.is_empty()).then(|| name.clone());
        let suspects = |server: &Server| server.nodes.iter().filter_map(fenced).chain(server.tainted.clone()).collect();
        self.read(suspects)
    }

    async fn fence(&self, node: &str, machine_and_boot: (&str, &str)) -> Result<Fence, ReadError> {
        self.read(|server| {
            let tainted = server.tainted.iter().any(|name| name == node);
            fence::judge(server.nodes.get(node), machine_and_boot, tainted)
        })
    }

    async fn is_tainted(&self, node: &str) -> Result<bool, ReadError> {
        self.read(|server| server.tainted.iter().any(|name| name == node))
    }

    async fn persistent(&self, namespace: &str, name: &str) -> Result<Option<Persistent>, ReadError> {
        self.0.borrow_mut().owner_reads += 1;
        self.read(|server| server.persistent.get(&format!("{namespace}/{name}")).cloned())
    }

    async fn persistent_exists(&self, namespace: &str, name: &str, uid: &str) -> Result<bool, ReadError> {
        let claim = self.persistent(namespace, name).await?;
        Ok(claim.is_some_and(|claim| claim.uid == uid))
    }

    async fn set_persistent(
        &self,
        namespace: &str,
        name: &str,
        read: &Persistent,
        status: Status<'_>,
    ) -> Result<(), WriteError> {
        let mut server = self.0.borrow_mut();
        server.version += 1;
        let version = server.version.to_string();
        if server.refused.contains(&format!("{namespace}/{name}")) {
            return Err(WriteError::Refused("injected".to_owned()));
        }
        match server.persistent.get_mut(&format!("{namespace}/{name}")) {
            Some(current) if current == read => {
                let claimed = status.claimed.cloned().or_else(|| read.claimed.clone());
                let (ips, has_fault) = (status.ips.to_vec(), status.fault.is_some());
                *current = Persistent { ips, version, has_fault, claimed, ..read.clone() };
                Ok(())
            }
            _ => Err(WriteError::Conflict),
        }
    }

    async fn remembered(&self) -> Result<Option<Vec<Remembered>>, ReadError> {
        let remembered = |(key, of): (&String, &Persistent)| {
            let (namespace, name) = key.split_once('/')?;
            let (namespace, name) = (namespace.to_owned(), name.to_owned());
            Some(Remembered { namespace, name, uid: of.uid.clone(), ips: of.ips.clone(), claimed: of.claimed.clone()? })
        };
        self.read(|server| Some(server.persistent.iter().filter_map(remembered).collect()))
    }

    async fn keepers(&self) -> Result<Option<Keepers>, ReadError> {
        let keeping = |(key, of): (&String, &Persistent)| {
            let (namespace, name) = key.split_once('/')?;
            Some(((namespace.to_owned(), name.to_owned()), Keeping { uid: of.uid.clone(), ips: of.ips.clone() }))
        };
        self.read(|server| Some(server.persistent.iter().filter_map(keeping).collect()))
    }

    async fn kept_names(&self) -> Result<BTreeSet<String>, ReadError> {
        Ok(self.list(Listing::Persistent).await?.iter().map(|claim| claim.spec.name()).collect())
    }

    async fn pod_exists(&self, _namespace: &str, _name: &str, uid: &str) -> Result<bool, ReadError> {
        self.read(|server| server.pods.iter().any(|pod| pod == uid))
    }
}
