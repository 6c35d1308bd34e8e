//! Determines the journal entries for which nobody will send a DEL. Pure.
//!
//! The rules are conservative, because an address freed too early is worse than one freed too late:
//!
//! - the network namespace is gone: nothing can use the links any more;
//! - or the runtime answers, and does not list the sandbox, and the entry is a pod's and so old that its ADD is over: a
//!   runtime lists a sandbox only after its ADD (containerd: `sandboxStore.Add` comes last in `RunPodSandbox`);
//! - or a live read says that the pod is gone, and the runtime answers and does not list the sandbox as ready. A pod's
//!   absence from the API alone frees nothing: its containers may still run.
//!
//! Each rule must hold in two rounds at least a grace period apart, and in every round between them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_host_abi::types::Attachment;

/// An older entry's ADD is over: the runtime, which lists a sandbox only afterwards, has given up long before.
pub(super) const SETTLED: Duration = Duration::from_secs(600);

/// Why an entry is removed.
#[expect(clippy::enum_variant_names, reason = "each names what is gone")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// Its network namespace is gone.
    NetnsGone,
    /// The runtime does not list its sandbox.
    SandboxGone,
    /// Its pod is gone from the API, and its sandbox does not run.
    PodGone,
}

impl Reason {
    /// Returns its name in metrics and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NetnsGone => "netns-gone",
            Self::SandboxGone => "sandbox-gone",
            Self::PodGone => "pod-gone",
        }
    }
}

/// The runtime's answer about a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sandbox {
    /// No runtime answered.
    Unknown,
    /// It lists the sandbox as ready.
    Ready,
    /// It lists the sandbox as not ready.
    NotReady,
    /// It does not list the sandbox.
    Unlisted,
}

/// The signs of an entry in one round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signs {
    /// Whether a namespace exists at its path. `None`: the entry has no path, or the path could not be inspected.
    pub(super) netns: Option<bool>,
    /// The runtime's answer.
    pub(super) sandbox: Sandbox,
    /// Whether the entry names a pod.
    pub(super) of_pod: bool,
    /// Whether the pod is gone according to a live read.
    pub(super) pod_gone: bool,
    /// How long the entry has been there for certain: by the clock of the ADD, and by that of this process, because the
    /// time of day may be set forward.
    pub(super) age: Duration,
}

/// Returns why this entry looks abandoned in this round.
pub(super) fn reason(signs: &Signs) -> Option<Reason> {
    if signs.netns == Some(false) && signs.sandbox != Sandbox::Ready {
        return Some(Reason::NetnsGone);
    }
    if !signs.of_pod {
        return None;
    }
    match signs.sandbox {
        Sandbox::Unlisted if signs.age >= SETTLED => Some(Reason::SandboxGone),
        Sandbox::Unlisted | Sandbox::NotReady if signs.pod_gone => Some(Reason::PodGone),
        _ => None,
    }
}

/// Entries that looked abandoned, with the time of the first look.
#[derive(Debug, Default)]
pub(super) struct Candidates(BTreeMap<Attachment, Instant>);

impl Candidates {
    /// Takes the results of a whole round. Returns the entries that have looked abandoned for the grace period, in at
    /// least two rounds.
    pub(super) fn look(
        &mut self,
        seen: Vec<(Attachment, Reason)>,
        now: Instant,
        grace: Duration,
    ) -> Vec<(Attachment, Reason)> {
        let before = std::mem::take(&mut self.0);
        let mut due = Vec::new();
        for (attachment, reason) in seen {
            match before.get(&attachment) {
                Some(first) if now.duration_since(*first) >= grace => {
                    self.0.insert(attachment.clone(), *first);
                    due.push((attachment, reason));
                }
                Some(first) => {
                    self.0.insert(attachment, *first);
                }
                None => {
                    self.0.insert(attachment, now);
                }
            }
        }
        due
    }

    /// Returns the number of candidates.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Duration = Duration::from_secs(3_600);

    fn signs(netns: Option<bool>, sandbox: Sandbox, pod_gone: bool, age: Duration) -> Signs {
        Signs { netns, sandbox, of_pod: true, pod_gone, age }
    }

    #[test]
    fn live_entries_are_never_swept() {
        for pod_gone in [true, false] {
            for netns in [Some(true), None] {
                // A pod deleted from the API while its sandbox is running.
                assert_eq!(reason(&signs(netns, Sandbox::Ready, pod_gone, OLD)), None);
                // The runtime is away.
                assert_eq!(reason(&signs(netns, Sandbox::Unknown, pod_gone, OLD)), None);
            }
        }
        // Its ADD may still be under way.
        assert_eq!(reason(&signs(Some(true), Sandbox::Unlisted, false, SETTLED / 2)), None);
        // Not a pod's entry: podman, Nomad, a person.
        let foreign = Signs { of_pod: false, ..signs(Some(true), Sandbox::Unlisted, true, OLD) };
        assert_eq!(reason(&foreign), None);
    }

    #[test]
    fn each_sweep_reason_needs_its_evidence() {
        assert_eq!(reason(&signs(Some(false), Sandbox::Unknown, false, Duration::ZERO)), Some(Reason::NetnsGone));
        assert_eq!(reason(&signs(Some(true), Sandbox::Unlisted, false, OLD)), Some(Reason::SandboxGone));
        assert_eq!(reason(&signs(Some(true), Sandbox::NotReady, true, Duration::ZERO)), Some(Reason::PodGone));
        assert_eq!(reason(&signs(Some(true), Sandbox::NotReady, false, OLD)), None);
    }

    #[test]
    fn only_what_looks_abandoned_at_every_look_for_the_grace_is_due() {
        let of =
            |container: &str| Attachment { network: "n".into(), container_id: container.into(), ifname: "eth0".into() };
        let one = |container: &str| vec![(of(container), Reason::NetnsGone)];
        let (start, grace) = (Instant::now(), Duration::from_secs(60));
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut candidates = Candidates::default();
        assert!(candidates.look(one("a"), at(0), grace).is_empty());
        assert!(candidates.look(one("a"), at(59), grace).is_empty());
        // It came back in between, so the period starts over.
        assert!(candidates.look(Vec::new(), at(60), grace).is_empty());
        assert!(candidates.look(one("a"), at(61), grace).is_empty());
        assert!(candidates.look(one("a"), at(120), grace).is_empty());
        assert_eq!(candidates.look(one("a"), at(121), grace), one("a"));
        assert_eq!(candidates.len(), 1);
        // Even a grace period of zero takes two rounds.
        let mut candidates = Candidates::default();
        assert!(candidates.look(one("b"), at(0), Duration::ZERO).is_empty());
        assert_eq!(candidates.look(one("b"), at(0), Duration::ZERO), one("b"));
    }
}
