//! Finds pods that run without the networks they request, because another CNI configuration made their sandbox.
//!
//! That happens if weft's configuration is not the first in the runtime's directory, for example after a reboot in
//! which another vendor's installer was faster (multus#1387). The pod runs with only its default network, and nobody
//! would notice.
//!
//! Only active if `weftctl install --kubernetes` made weft the runtime's plugin: under Multus, other plugins may make
//! all networks of a pod.
//!
//! Invariant: a pod is reported only after two rounds at least a grace period apart, and a live read which says that it
//! does not use the host's network.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weft_core::pod::NETWORKS;

use super::pods::PodName;
use super::runtime::Sandboxes;
use crate::cluster::Pod;

/// A sandbox that weft did not make, of a pod that requests networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspect {
    /// Its container id.
    pub(super) sandbox: String,
    /// Its pod.
    pub(super) pod: PodName,
    /// The annotation.
    pub(super) networks: String,
}

/// The state of a suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Seen, but not for long enough.
    Since(Instant),
    /// Its pod runs without its networks.
    Missing,
    /// It needs no networks: it uses the host's network.
    Cleared,
}

/// The suspects of a node, across rounds.
#[derive(Debug, Default)]
pub(super) struct Audit(BTreeMap<String, State>);

impl Audit {
    /// Takes the results of a round. Returns the suspects that have lasted for the grace period and must be read live.
    pub(super) fn look(&mut self, suspects: &[Suspect], now: Instant, grace: Duration) -> Vec<Suspect> {
        self.0.retain(|sandbox, _| suspects.iter().any(|suspect| suspect.sandbox == *sandbox));
        let mut due = Vec::new();
        for suspect in suspects {
            match self.0.entry(suspect.sandbox.clone()).or_insert(State::Since(now)) {
                State::Since(since) if now.duration_since(*since) >= grace => due.push(suspect.clone()),
                State::Since(_) | State::Missing | State::Cleared => {}
            }
        }
        due
    }

    /// Records the result of the live read. Returns whether it is new.
    pub(super) fn decide(&mut self, sandbox: &str, missing: bool) -> bool {
        let state = if missing { State::Missing } else { State::Cleared };
        self.0.insert(sandbox.to_owned(), state) != Some(state) && missing
    }

    /// Returns how many pods run without their networks.
    pub(super) fn missing(&self) -> usize {
        self.0.values().filter(|state| **state == State::Missing).count()
    }
}

/// Returns ready sandboxes that are younger than weft's store on this node and not in its journal, of pods that request
/// networks.
pub(super) fn suspects(
    sandboxes: &Sandboxes,
    known: &BTreeSet<&str>,
    installed: Duration,
    pod: impl Fn(&PodName) -> Option<std::rc::Rc<Pod>>,
) -> Vec<Suspect> {
    let unknown = sandboxes.ready().filter(|(id, listed)| !known.contains(id.as_str()) && listed.created > installed);
    let suspect = |(id, listed): (&String, &super::runtime::Listed)| {
        let object = pod(&listed.pod).filter(|object| object.has_uid(&listed.pod.uid) && !object.deleting)?;
        let networks = object.annotations.get(NETWORKS).map(|text| text.trim()).unwrap_or_default();
        let asks = !networks.is_empty() && networks != "[]";
        asks.then(|| Suspect { sandbox: id.clone(), pod: listed.pod.clone(), networks: networks.to_owned() })
    };
    unknown.filter_map(suspect).collect()
}

/// Returns when weft was installed on this node, since 1970: the creation time of its store. Older sandboxes are not
/// its own. If the file system does not record it, returns the current time.
pub(super) fn installed(store: &Path) -> Duration {
    let made = std::fs::metadata(store).and_then(|meta| meta.created()).unwrap_or_else(|_unknown| SystemTime::now());
    made.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspect(sandbox: &str) -> Suspect {
        let pod = PodName { namespace: "ns".to_owned(), name: sandbox.to_owned(), uid: "u".to_owned() };
        Suspect { sandbox: sandbox.to_owned(), pod, networks: "storage".to_owned() }
    }

    #[test]
    fn a_pod_is_named_once_and_only_after_the_grace() {
        let (start, grace) = (Instant::now(), Duration::from_secs(60));
        let mut audit = Audit::default();
        let both = [suspect("a"), suspect("b")];
        assert_eq!(audit.look(&both, start, grace), []);
        assert_eq!(audit.look(&both, start + grace / 2, grace), []);
        assert_eq!(audit.look(&both, start + grace, grace), both);
        assert!(audit.decide("a", true), "the first time");
        assert!(!audit.decide("b", false), "on the host's network");
        assert_eq!(audit.missing(), 1);
        assert_eq!(audit.look(&both, start + grace * 2, grace), [], "both are decided");
        // Gone, or repaired by a new sandbox.
        assert_eq!(audit.look(&[suspect("b")], start + grace * 3, grace), []);
        assert_eq!(audit.missing(), 0);
        assert_eq!(audit.look(&[suspect("a")], start + grace * 4, grace), [], "seen anew");
    }
}
