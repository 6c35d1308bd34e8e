//! Host ports that the stock `portmap` mapped before the node was switched to weft: both would claim the port, and the
//! first rule that matches a packet decides.
//!
//! Its backends store them in `CNI-HOSTPORT-DNAT` of table `nat` (`iptables`; one rule for up to 15 ports, which jumps
//! to a chain of the container) and in the tables `cni_hostport` (nftables). The tables of `iptables-legacy` are not
//! visible.

use std::collections::BTreeSet;

use super::answer::{FoundRule, PortMatch};
use super::base::chain_question;
use super::bytes::octets;
use super::listing::Listing;
use super::{Nft, Table};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::{Doing, Fault};
use crate::plan::{Family, HostPort};

/// Chain of the `iptables` backend.
const DNAT: &str = "CNI-HOSTPORT-DNAT";

/// Chains of the nftables backend: for all addresses, and for one.
const CHAINS: [&str; 2] = ["hostports", "hostip_hostports"];

impl Nft {
    /// Refuses ports that a container of the stock plugin uses.
    pub(in crate::netlink) fn refuse_stock_ports(&mut self, ports: &[&HostPort]) -> Result<(), NetlinkError> {
        let families: BTreeSet<bool> = ports.iter().map(|port| port.to.is_ipv4()).collect();
        for is_ipv4 in families {
            let own: Vec<&HostPort> = ports.iter().copied().filter(|port| port.to.is_ipv4() == is_ipv4).collect();
            let family = if is_ipv4 { Family::V4 } else { Family::V6 };
            if let Some((port, by)) = self.stock_port(family, &own).doing(|| "failed to look for rules of portmap")? {
                return Err(NetlinkError::StockPort { port: format!("{}/{}", port.host_port, port.protocol), by });
            }
        }
        Ok(())
    }

    /// Returns the first of these ports that a rule of the stock plugin matches, and the rule's comment.
    fn stock_port<'a>(
        &mut self,
        family: Family,
        ports: &[&'a HostPort],
    ) -> Result<Option<(&'a HostPort, String)>, Fault> {
        let (nat, own) = match family {
            Family::V4 => (Table::Nat4, Table::StockHostPorts4),
            Family::V6 => (Table::Nat6, Table::StockHostPorts6),
        };
        let questions = [(nat, DNAT), (own, CHAINS[0]), (own, CHAINS[1])];
        let items: Vec<_> = questions.iter().map(|(table, chain)| chain_question(*table, chain)).collect();
        let there = self.socket.ask_each(&items, |_answer| ())?;
        let mut listing = Listing::new(&mut self.socket);
        for ((table, chain), _) in questions.into_iter().zip(there).filter(|(_, there)| there.is_some()) {
            let rules = listing.rules(table, chain)?.to_vec();
            for rule in rules {
                let Some(port) = ports.iter().find(|port| rule.ports.is_about(port)) else { continue };
                if table == own || chain_has_port(&mut listing, table, &rule, port)? {
                    return Ok(Some((port, rule.tag.unwrap_or_else(|| format!("a rule of chain {chain}")))));
                }
            }
        }
        Ok(None)
    }
}

/// Returns whether the container's chain has the port too: the rule that jumps there names all ports, for any address.
fn chain_has_port(listing: &mut Listing<'_>, table: Table, rule: &FoundRule, port: &HostPort) -> Result<bool, Fault> {
    let Some(chain) = &rule.jump else { return Ok(true) };
    Ok(listing.rules(table, chain)?.iter().any(|rule| rule.jump.is_none() && rule.ports.is_about(port)))
}

impl PortMatch {
    /// Returns whether a packet for the port may match.
    fn is_about(&self, port: &HostPort) -> bool {
        let same_address = match (&self.address, port.host_ip) {
            (Some(theirs), Some(ours)) => *theirs == octets(ours),
            _ => true,
        };
        self.ports.contains(&port.host_port)
            && self.protocol.is_none_or(|protocol| protocol == port.protocol)
            && same_address
    }
}
