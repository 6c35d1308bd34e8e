//! Inspects the existing parts of the base. A part may be missing, or somebody may have deleted its rules but not its
//! chains and sets (`nft flush table inet weft`). The kernel counts the uses of a chain, so one query per chain
//! suffices.

use std::collections::{BTreeMap, BTreeSet};

use super::table::Item;
use super::{Nft, Part, answer};
use crate::netlink::fault::Fault;
use crate::plan::Op;

/// A defect of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Its first chain does not exist.
    Missing,
    /// Some of its rules were deleted.
    Emptied,
}

impl Part {
    /// Returns the parts that an op needs.
    pub(super) fn needed_by(op: &Op) -> &'static [Self] {
        match op {
            Op::Masquerade { .. } => &[Self::Masquerade],
            Op::HostPort(port) if port.conditions.is_empty() => &[Self::HostPorts],
            Op::HostPort(_) => &[Self::HostPorts, Self::Conditional],
            Op::IngressPolicy(_) => &[Self::Ingress],
            Op::RouteLocalnet(_) => &[Self::Localnet],
            Op::MacSpoofCheck { .. } => &[Self::SpoofCheck],
            _ => &[],
        }
    }
}

impl Nft {
    /// Returns the defects of these parts; complete parts are omitted.
    pub(super) fn survey(&mut self, parts: &BTreeSet<Part>) -> Result<BTreeMap<Part, Condition>, Fault> {
        let chains: Vec<(Part, Item, u32)> = parts
            .iter()
            .flat_map(|part| part.chain_questions().into_iter().map(move |(item, uses)| (*part, item, uses)))
            .collect();
        let questions: Vec<Item> = chains.iter().map(|(_, item, _)| item.clone()).collect();
        let found = self.socket.ask_each(&questions, |message| answer::chain(message).uses)?;
        let mut wrong = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for ((part, _, uses), found) in chains.into_iter().zip(found) {
            let is_first = seen.insert(part);
            match found {
                None if is_first => drop(wrong.insert(part, Condition::Missing)),
                Some(found) if found >= uses => {}
                _ => drop(wrong.entry(part).or_insert(Condition::Emptied)),
            }
        }
        Ok(wrong)
    }
}
