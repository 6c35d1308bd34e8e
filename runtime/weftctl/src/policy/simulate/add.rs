//! One ADD on a cluster ledger, as in weft: the policy decides with this node's knowledge, the ledger is asked for one
//! candidate after the other, and an ADD that loses them all asks the policy again, from the second time on with a list
//! of the ledger.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_core::attach::{ASKS, CANDIDATES, LIST_AFTER};
use weft_core::facts;
use weft_core::ledger::remote::Runs;
use weft_core::policy::Verified;
use weft_host_abi::types::{Attachment, Denial, Node, ReleaseRule, Request, RequestSource, Requested};

use super::cluster::{Cluster, NodeLedger};
use super::measure::Tally;
use super::run::Subject;
use super::workload::{Life, SECOND, Time};

/// The start of the simulation, in seconds since 1970.
const BEGIN: u64 = 1_700_000_000;

/// The next step of an ADD.
#[derive(Debug)]
pub(super) enum Step {
    /// Wait for an answer of the ledger.
    Answer,
    Granted,
    /// Refused: the kind of refusal, and its text.
    Refused(&'static str, String),
}

/// The context of an event.
pub(super) struct Here<'a> {
    pub(super) subject: Subject<'a>,
    pub(super) life: &'a Life,
    pub(super) node: &'a Node,
    /// Sizes of the range sets.
    pub(super) sizes: &'a [u64],
    pub(super) ledger: &'a mut NodeLedger,
    pub(super) cluster: &'a mut Cluster,
    pub(super) tally: &'a mut Tally,
    pub(super) now: Time,
    /// Whether the pool is being filled: only the addresses count.
    pub(super) filling: bool,
}

#[derive(Debug, Default)]
pub(super) struct Add {
    /// Addresses that others turned out to have.
    others: Runs,
    /// Addresses kept for the pod's name, which cannot be replaced.
    kept: Vec<IpNet>,
    asked: u32,
    /// Candidates of each wanted address, IPv4 first.
    wants: Vec<Vec<IpNet>>,
    before: Vec<Vec<IpNet>>,
    /// The indexes of the current want and candidate.
    at: (usize, usize),
    listing: bool,
    taken: Vec<IpAddr>,
    pub(super) granted: Vec<IpNet>,
    pub(super) release: ReleaseRule,
    pub(super) conflicts: u64,
}

// === impl Here ===

impl Here<'_> {
    pub(super) fn attachment(&self) -> Attachment {
        Attachment {
            network: self.subject.network.name.clone(),
            container_id: self.life.container.clone(),
            ifname: "eth0".to_owned(),
        }
    }

    fn request(&self, kept: &[IpNet]) -> Request {
        let (attachment, network) = (self.attachment(), self.subject.network);
        let identities = facts::identities(&attachment, Some(&self.life.pod));
        let owners: Vec<&str> = identities.iter().chain([&attachment.container_id]).map(String::as_str).collect();
        let named = network.ipam.as_ref().map(|ipam| ipam.requested.clone()).unwrap_or_default();
        let kept = kept.iter().map(|net| Requested {
            text: net.to_string(),
            address: Some(net.addr()),
            length: Some(net.prefix_len()),
            source: RequestSource::RuntimeConfig,
        });
        Request {
            held: self.ledger.held(&owners),
            requested: named.into_iter().chain(kept).collect(),
            seed: facts::seed(self.node, &attachment),
            identities,
            pod: Some(self.life.pod.clone()),
            node: self.node.clone(),
            mac: None,
            cni_args: Vec::new(),
            range_sets: self.subject.sets.to_vec(),
            resolver: None,
            config: self.subject.config.to_owned(),
            cni_version: network.version.to_string(),
            now: BEGIN + self.now / SECOND,
            attachment,
        }
    }
}

// === impl Add ===

impl Add {
    /// Asks the policy, and records the candidates.
    pub(super) fn decide(&mut self, here: &mut Here<'_>) -> Step {
        let verified = match self.ask(here) {
            Ok(verified) => verified,
            Err((kind, why)) => return Step::Refused(kind, why),
        };
        let keeps = matches!(verified.release, ReleaseRule::Keep(_));
        if keeps && self.kept.is_empty() {
            self.kept = here.cluster.kept_addresses(&here.life.pod.name);
            if !self.kept.is_empty() {
                return self.decide(here);
            }
        }
        self.wants =
            verified.wants.iter().map(|want| want.candidates.iter().map(|(net, _range)| *net).collect()).collect();
        for want in &mut self.wants {
            want.retain(|net| self.kept.is_empty() || self.kept.contains(net));
            want.truncate(CANDIDATES);
        }
        if self.wants.iter().any(Vec::is_empty) {
            return Step::Refused("refused", "it does not offer the addresses that are kept for the pod".to_owned());
        }
        self.wants.sort_by_key(|want| want.iter().any(|net| net.addr().is_ipv6()));
        self.release = verified.release;
        self.at = (0, 0);
        self.noted(|address| here.ledger.count_pending(address));
        Step::Answer
    }

    fn ask(&self, here: &mut Here<'_>) -> Result<Verified, (&'static str, String)> {
        let request = here.request(&self.kept);
        let (policy, limits) = (here.subject.policy, here.subject.limits);
        let called = policy.allocate(&request, here.ledger.view(&self.others), limits);
        if !here.filling {
            here.tally.calls += 1;
            here.tally.fuel += called.evidence.fuel;
        }
        let decision = match called.outcome {
            Ok(Ok(decision)) => decision,
            Ok(Err(denial)) => return Err(denied(denial)),
            Err(failure) => return Err(("error", format!("{:#}", anyhow::Error::from(failure)))),
        };
        let ledger = &here.ledger;
        let judged =
            here.subject.rules.judge(policy.name(), &request, &decision, &mut |gateway| Ok(ledger.is_claimed(gateway)));
        judged.map(|judged| judged.verified).map_err(|error| ("refused", error.chain()))
    }

    /// Handles an answer of the ledger.
    pub(super) fn answer(&mut self, here: &mut Here<'_>) -> Step {
        if std::mem::take(&mut self.listing) {
            self.others = here.cluster.listed();
            return self.decide(here);
        }
        let (want, candidate) = self.at;
        let Some(net) = self.wants.get(want).and_then(|want| want.get(candidate)).copied() else {
            return Step::Refused("refused", "its decision contains no address".to_owned());
        };
        let full = here.tenth();
        let Some(reuse) = here.cluster.create(net.addr(), &here.life.pod.name, here.now) else {
            here.tally.tenths[full].conflicts += 1;
            self.conflicts += 1;
            self.taken.push(net.addr());
            self.at.1 += 1;
            let more = self.wants.get(want).is_some_and(|want| self.at.1 < want.len());
            return if more { Step::Answer } else { self.handle_lost_want(here) };
        };
        here.tally.tenths[full].claims += 1;
        if !here.filling {
            here.tally.reuses.extend(reuse);
        }
        self.granted.push(net);
        self.at = (want + 1, 0);
        if self.at.0 < self.wants.len() {
            return Step::Answer;
        }
        self.noted(|address| here.ledger.uncount_pending(address));
        Step::Granted
    }

    /// Handles a want whose candidates all belong to somebody else.
    fn handle_lost_want(&mut self, here: &mut Here<'_>) -> Step {
        self.give_up(here);
        self.taken.drain(..).for_each(|address| self.others.insert(address));
        self.asked += 1;
        if !self.kept.is_empty() {
            return Step::Refused("refused", "the addresses that are kept for the pod are in use".to_owned());
        }
        if self.before == self.wants {
            return Step::Refused("repeats", "it offers the same addresses again, and they are taken".to_owned());
        }
        if self.asked >= ASKS {
            return Step::Refused("contended", format!("it lost the race for every address {ASKS} times"));
        }
        self.before = std::mem::take(&mut self.wants);
        if self.asked == LIST_AFTER {
            if !here.filling {
                here.tally.lists += 1;
            }
            self.listing = true;
            return Step::Answer;
        }
        self.decide(here)
    }

    /// Gives back granted addresses, and drops the recorded ones.
    fn give_up(&mut self, here: &mut Here<'_>) {
        for net in self.granted.drain(..) {
            here.cluster.delete(net.addr());
        }
        self.noted(|address| here.ledger.uncount_pending(address));
    }

    fn noted(&self, mut each: impl FnMut(IpAddr)) {
        self.wants.iter().flatten().for_each(|net| each(net.addr()));
    }
}

impl Here<'_> {
    /// Returns how full the fullest set is, in tenths.
    fn tenth(&self) -> usize {
        let full = |(taken, size): (&u64, &u64)| taken.saturating_mul(10) / size.max(&1);
        let fullest = self.cluster.taken().iter().zip(self.sizes).map(full).max().unwrap_or_default();
        usize::try_from(fullest).unwrap_or(9).min(9)
    }
}

fn denied(denial: Denial) -> (&'static str, String) {
    match denial {
        Denial::Denied(text) => ("denied", text),
        Denial::Exhausted(text) => ("exhausted", text),
        Denial::InvalidConfig(text) => ("invalid-config", text),
        Denial::TryAgain(text) => ("try-again", text),
    }
}
