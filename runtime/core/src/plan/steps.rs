//! A plan: the ordered ops of one attachment, and properties of the whole.

use serde::{Deserialize, Serialize};

use super::{AgentLease, LinkRef, Op, ResultShape};

/// The ops that the host executes for one attachment, and the shape of its CNI result.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// In the order in which they are applied; teardown uses the reverse order.
    pub ops: Vec<Op>,
    /// Identifies the container's namespace (`netlink::netns_identity`): its path may lead to another one later.
    #[serde(default)]
    pub container: Option<String>,
    /// The cookie of that namespace (`netlink::netns_cookie`): the kernel gives the inode of an ended namespace to the
    /// next one. `None` in entries of older versions, and on kernels without cookies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u64>,
    /// The index of the link that the plan makes in the container, or of the device that it moves there. It is chosen
    /// in advance, so that the journal knows the link before it exists. `None` for a veth pair, which is identified by
    /// its end on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_index: Option<u32>,
    /// The links that existed before the plan and that teardown changes, with their indexes at ADD: another link may
    /// have the name later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<FoundLink>,
    /// The result to print after all ops are applied.
    #[serde(default)]
    pub result: ResultShape,
    /// The `ifalias` of the links it makes, which marks them as weft's (`netlink::label`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The lease that the agent holds, or may hold, for the attachment. It is requested through the plan's link, and
    /// DEL gives it back while the link exists.
    #[serde(default)]
    pub lease: Option<AgentLease>,
}

/// A link that existed before a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundLink {
    /// Its name at ADD.
    pub link: LinkRef,
    /// Its index, which it keeps when it is renamed.
    pub index: u32,
}

impl Plan {
    /// Returns an index for [`Plan::link_index`] from random numbers: far above the indexes that kernels assign
    /// themselves.
    #[must_use]
    pub fn chosen_index(random: [u8; 3]) -> u32 {
        let [i, j, k] = random;
        u32::from_be_bytes([1, i, j, k])
    }

    /// Returns whether a plan, and not the kernel, chose the index of a link.
    #[must_use]
    pub fn is_chosen_index(index: u32) -> bool {
        index.to_be_bytes()[0] == 1
    }

    /// Returns what is left to do of this plan after `done` was applied. Both come from the same configuration and
    /// host, so an op in both is the same thing.
    #[must_use]
    pub fn remaining_after(&self, done: &Self) -> Self {
        let ops = self.ops.iter().filter(|op| !done.ops.contains(op)).cloned().collect();
        Self { ops, ..self.clone() }
    }

    /// Returns the names of things in this plan that other attachments may need too (for example an nftables element
    /// for an address). Teardown keeps a thing that another journal entry names as well. A name that begins with
    /// [`EXCLUSIVE`](super::EXCLUSIVE) is the opposite: two entries never hold it at once.
    #[must_use]
    pub fn shared_names(&self) -> Vec<String> {
        self.ops.iter().filter_map(Op::shared_name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::LinkRef;
    use super::*;

    #[test]
    fn remaining_after_returns_ops_that_were_not_applied() {
        let up = Op::LinkUp { link: LinkRef::container("eth0") };
        let port = Op::WaitPort { link: "veth0".to_owned() };
        let pin = Op::PinMac { link: "br0".to_owned() };
        let done = Plan { ops: vec![port.clone(), up.clone()], ..Plan::default() };
        let full = Plan { ops: vec![port, pin.clone(), up], container: Some("4:7".to_owned()), ..Plan::default() };
        assert_eq!(full.remaining_after(&done), Plan { ops: vec![pin], ..full.clone() });
        assert_eq!(full.remaining_after(&Plan::default()), full);
    }

    #[test]
    fn plans_of_before_leases_are_read() {
        let plan: Plan = serde_json::from_str(r#"{"ops": []}"#).unwrap_or_default();
        assert_eq!(plan.lease, None);
    }
}
