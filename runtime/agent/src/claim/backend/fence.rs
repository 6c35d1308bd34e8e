//! `fence`: when the holders of a machine count as dead.
//!
//! A fence refers to the boots before it. The agent of a new boot ends a person's fence (`record`). The taint
//! `out-of-service` stays until a person removes it, which Kubernetes asks for only after the node has recovered. So
//! the taint counts only while the node is not ready, and never for a boot that began under it.

use super::contract::Fence;
use crate::claim::object::LedgerNode;

/// Decides about holders of one machine in one boot. `tainted`: the Node of this machine has the taint and is not ready.
pub(super) fn judge(record: Option<&LedgerNode>, (machine, boot_id): (&str, &str), tainted: bool) -> Fence {
    let by_person = record.is_some_and(|record| record.fenced_machines.iter().any(|fenced| fenced == machine));
    let is_later_boot =
        record.is_some_and(|record| record.outlives_taint && record.machine == machine && record.boot_id == boot_id);
    if by_person || tainted && !is_later_boot { Fence::Fenced } else { Fence::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taint_fences_the_boots_before_it() {
        let record = |boot_id: &str, outlives_taint| LedgerNode {
            machine: "m".into(),
            boot_id: boot_id.into(),
            outlives_taint,
            ..LedgerNode::default()
        };
        let judge = |record: &LedgerNode, boot_id| judge(Some(record), ("m", boot_id), true);
        assert_eq!(judge(&record("1", false), "1"), Fence::Fenced);
        // It has booted under the taint.
        assert_eq!(judge(&record("2", true), "2"), Fence::None);
        assert_eq!(judge(&record("2", true), "1"), Fence::Fenced);
        // The taint was removed since, and is there again.
        assert_eq!(judge(&record("2", false), "2"), Fence::Fenced);
        assert_eq!(super::judge(None, ("m", "1"), true), Fence::Fenced);
        assert_eq!(super::judge(Some(&record("2", true)), ("other", "2"), true), Fence::Fenced);
        assert_eq!(super::judge(Some(&record("1", false)), ("m", "1"), false), Fence::None);
    }

    #[test]
    fn a_persons_fence_holds_until_the_agent_ends_it() {
        let record = LedgerNode { fenced_machines: vec!["m".into()], outlives_taint: true, ..LedgerNode::default() };
        assert_eq!(judge(Some(&record), ("m", "1"), false), Fence::Fenced);
        assert_eq!(judge(Some(&record), ("other", "1"), false), Fence::None);
    }
}
