//! Which journal entries nobody will send a DEL for. Pure: signs in, candidates out.
//!
//! The rules, each conservative, for an address freed too early is worse than one freed too late:
//!
//! - the network namespace is gone: nothing can use the links any more;
//! - or the runtime answers, and does not list the sandbox, and the entry is a pod's and old enough that its ADD is over: a
//!   runtime lists a sandbox only after its ADD (containerd: `sandboxStore.Add` comes last in `RunPodSandbox`);
//! - or a live read says that the pod is gone, and the runtime answers and does not list the sandbox as ready. A pod that is
//!   gone from the API frees nothing alone: its containers may still run.
//!
//! Each must hold at two looks at least a grace apart, and at every look between them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_host_abi::types::Attachment;

/// An entry of a runtime that has not finished its ADD may be this old.
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
    /// Its name in metrics and logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::NetnsGone => "netns-gone",
            Self::SandboxGone => "sandbox-gone",
            Self::PodGone => "pod-gone",
        }
    }
}

/// What the runtime says about a sandbox.
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

/// What is known of an entry at one look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signs {
    /// A namespace file is at its path. `None`: the entry has no path, or it could not be looked at.
    pub(super) netns: Option<bool>,
    /// What the runtime says.
    pub(super) sandbox: Sandbox,
    /// The entry names a pod.
    pub(super) of_pod: bool,
    /// A live read says that the pod is gone.
    pub(super) pod_gone: bool,
    /// How old the entry is.
    pub(super) age: Duration,
}

/// Why this entry looks abandoned at this look.
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
    /// Takes one whole look; returns what has looked abandoned for the grace, at two looks or more.
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

    /// How many entries are candidates.
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
    fn what_lives_is_never_a_candidate() {
        for pod_gone in [true, false] {
            for netns in [Some(true), None] {
                // A pod deleted from the API while its sandbox runs.
                assert_eq!(reason(&signs(netns, Sandbox::Ready, pod_gone, OLD)), None);
                // The runtime is away.
                assert_eq!(reason(&signs(netns, Sandbox::Unknown, pod_gone, OLD)), None);
            }
        }
        // Its ADD may still be under way.
        assert_eq!(reason(&signs(Some(true), Sandbox::Unlisted, false, SETTLED / 2)), None);
        // Not a pod's: podman, Nomad, a person.
        let foreign = Signs { of_pod: false, ..signs(Some(true), Sandbox::Unlisted, true, OLD) };
        assert_eq!(reason(&foreign), None);
    }

    #[test]
    fn each_reason_has_its_signs() {
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
        // It came back in between: it starts anew.
        assert!(candidates.look(Vec::new(), at(60), grace).is_empty());
        assert!(candidates.look(one("a"), at(61), grace).is_empty());
        assert!(candidates.look(one("a"), at(120), grace).is_empty());
        assert_eq!(candidates.look(one("a"), at(121), grace), one("a"));
        assert_eq!(candidates.len(), 1);
        // A grace of nothing still takes two looks.
        let mut candidates = Candidates::default();
        assert!(candidates.look(one("b"), at(0), Duration::ZERO).is_empty());
        assert_eq!(candidates.look(one("b"), at(0), Duration::ZERO), one("b"));
    }
}
