//! Caches the rules of chains: one transaction lists a chain only once, however many of its rules exist.

use std::collections::BTreeMap;

use super::Table;
use super::answer::FoundRule;
use super::socket::Socket;
use crate::netlink::fault::Fault;

/// The chains listed so far.
pub(super) struct Listing<'a> {
    socket: &'a mut Socket,
    chains: BTreeMap<(Table, String), Vec<FoundRule>>,
}

impl<'a> Listing<'a> {
    pub(super) fn new(socket: &'a mut Socket) -> Self {
        Self { socket, chains: BTreeMap::new() }
    }

    /// Returns the socket, for other queries.
    pub(super) fn socket(&mut self) -> &mut Socket {
        self.socket
    }

    /// Returns the rules of a chain in order; none if the chain does not exist.
    pub(super) fn rules(&mut self, table: Table, chain: &str) -> Result<&[FoundRule], Fault> {
        let key = (table, chain.to_owned());
        if !self.chains.contains_key(&key) {
            let rules = self.socket.rules(table, chain)?;
            self.chains.insert(key.clone(), rules);
        }
        Ok(self.chains.get(&key).map(Vec::as_slice).unwrap_or_default())
    }
}
