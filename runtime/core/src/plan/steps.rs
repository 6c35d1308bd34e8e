//! A plan: the ops of one attachment in their order, and what is known of them as a whole.

use serde::{Deserialize, Serialize};

use super::{AgentLease, Op, ResultShape};

/// The steps the host will do for one attachment, and what its CNI result will look like.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    /// In the order they are applied; teardown goes the other way.
    pub ops: Vec<Op>,
    /// What tells the container's namespace from others (`netlink::netns_identity`): a path may name another one later.
    #[serde(default)]
    pub container: Option<String>,
    /// The index that the link which the plan makes in the container gets, or the device that it moves there: chosen ahead, so
    /// that the journal knows the link before there is one. Not of a veth pair, which is known by its end on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link_index: Option<u32>,
    /// The result to print once all ops are applied.
    #[serde(default)]
    pub result: ResultShape,
    /// The `ifalias` of the links it makes, by which they are known as weft's (`netlink::label`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The agent holds a lease for the attachment, or may: it is asked for through the plan's link. DEL gives it back while
    /// the link is there.
    #[serde(default)]
    pub lease: Option<AgentLease>,
}

impl Plan {
    /// An index for [`Plan::link_index`], of random numbers: far above what kernels count up to by themselves.
    #[must_use]
    pub fn chosen_index(random: [u8; 3]) -> u32 {
        let [i, j, k] = random;
        u32::from_be_bytes([1, i, j, k])
    }

    /// Whether a plan has chosen the index of a link, and not the kernel.
    #[must_use]
    pub fn is_chosen_index(index: u32) -> bool {
        index.to_be_bytes()[0] == 1
    }

    /// What is left to do of this plan when `done` has been applied. Both come from the same conf and host, so an op of both
    /// is the same thing.
    #[must_use]
    pub fn beyond(&self, done: &Self) -> Self {
        let ops = self.ops.iter().filter(|op| !done.ops.contains(op)).cloned().collect();
        Self { ops, ..self.clone() }
    }

    /// Names of things of this plan that other attachments may need too (an nftables element for an address, say).
    /// Teardown leaves those alone that another journal entry names as well. A name that begins with [`EXCLUSIVE`](super::EXCLUSIVE) is the other
    /// way round: two entries never hold it at once.
    #[must_use]
    pub fn shared(&self) -> Vec<String> {
        self.ops.iter().filter_map(Op::shared).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::LinkRef;
    use super::*;

    #[test]
    fn what_is_beyond_a_plan_is_what_it_does_not_have() {
        let up = Op::LinkUp { link: LinkRef::container("eth0") };
        let port = Op::WaitPort { link: "veth0".to_owned() };
        let pin = Op::PinMac { link: "br0".to_owned() };
        let done = Plan { ops: vec![port.clone(), up.clone()], ..Plan::default() };
        let full = Plan { ops: vec![port, pin.clone(), up], container: Some("4:7".to_owned()), ..Plan::default() };
        assert_eq!(full.beyond(&done), Plan { ops: vec![pin], ..full.clone() });
        assert_eq!(full.beyond(&Plan::default()), full);
    }

    #[test]
    fn plans_of_before_leases_are_read() {
        let plan: Plan = serde_json::from_str(r#"{"ops": []}"#).unwrap_or_default();
        assert_eq!(plan.lease, None);
    }
}
