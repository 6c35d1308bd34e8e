//! The participants of a run, and its possible faults.

use crate::rules::Rules;

/// One ADD, with its own sandbox and nonce. Its number is its nonce.
#[derive(Debug, Clone, Copy)]
pub struct Add {
    /// The pod; two ADDs of one pod model a retry.
    pub pod: usize,
    /// The node it runs on.
    pub node: usize,
    /// The owner of its address: the pod, or an IPAMClaim that several pods may name.
    pub owner: usize,
}

/// How often each fault may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Faults {
    /// An ADD is killed.
    pub kill: u8,
    /// An answer is lost.
    pub lose: u8,
    /// A request is executed twice.
    pub double: u8,
    /// A node goes down and comes back.
    pub reboot: u8,
    /// It comes back with an empty store.
    pub reimage: u8,
    /// A node's store is moved away while its pods run.
    pub wipe: u8,
    /// etcd is restored from a snapshot.
    pub restore: u8,
    /// A node is declared fenced while it runs.
    pub false_fence: u8,
}

/// Who freezes the ledger after a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freezer {
    /// A person, before the restored API server takes a request.
    Person,
    /// The agents, each when it notices.
    Agents,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The ADDs.
    pub adds: Vec<Add>,
    /// The number of nodes.
    pub nodes: usize,
    /// The number of addresses.
    pub addresses: usize,
    /// IPAMClaims own the addresses.
    pub ipam_claims: bool,
    /// All nodes have the name of the first.
    pub one_name: bool,
    /// Who freezes the ledger after a restore.
    pub freezer: Freezer,
    /// Reports a link without its claim, not only the duplicate that follows from it.
    pub report_unclaimed: bool,
    /// The faults.
    pub faults: Faults,
    /// The rules in force.
    pub rules: Rules,
}

impl Scenario {
    /// Returns a run without faults, with all rules; each ADD is (pod, node, owner).
    #[must_use]
    pub fn new(adds: &[(usize, usize, usize)], nodes: usize, addresses: usize) -> Self {
        Self {
            adds: adds.iter().map(|&(pod, node, owner)| Add { pod, node, owner }).collect(),
            nodes,
            addresses,
            ipam_claims: false,
            one_name: false,
            freezer: Freezer::Person,
            report_unclaimed: true,
            faults: Faults::default(),
            rules: Rules::ALL,
        }
    }

    /// Returns the same with faults.
    #[must_use]
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = faults;
        self
    }

    /// Returns the same with addresses that IPAMClaims own.
    #[must_use]
    pub fn ipam_claims(mut self) -> Self {
        self.ipam_claims = true;
        self
    }

    /// Returns the same on machines that all have one node's name.
    #[must_use]
    pub fn one_name(mut self) -> Self {
        self.one_name = true;
        self
    }

    /// Returns the same, but only duplicate addresses break it.
    #[must_use]
    pub fn let_unclaimed_pass(mut self) -> Self {
        self.report_unclaimed = false;
        self
    }

    /// Returns the same with agents that notice a restore themselves.
    #[must_use]
    pub fn agents_freeze(mut self) -> Self {
        self.freezer = Freezer::Agents;
        self
    }

    /// Returns the same without a rule.
    #[must_use]
    pub fn without_rule(mut self, rule: crate::rules::Rule) -> Self {
        self.rules = self.rules.without(rule);
        self
    }
}
