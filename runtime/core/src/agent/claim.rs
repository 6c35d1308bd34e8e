//! The service `claim`: the cluster ledger. `weft` has written an intent into the node's store; the agent, which reads the same
//! store, asks the cluster.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use weft_host_abi::types::RangeSet;

use super::Service;

/// The service.
#[derive(Debug, Clone, Copy)]
pub struct ClusterClaims;

impl Service for ClusterClaims {
    const NAME: &'static str = "claim";
    const VERSION: u32 = 1;
    type Request = ClaimRequest;
    type Reply = ClaimReply;
}

/// What the agent is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimRequest {
    /// Claims one candidate of each want of an intent.
    Grant {
        /// The intent.
        nonce: String,
        /// How many addresses a cell of the domain has, as the network says; 0 where it does not.
        #[serde(default)]
        cell_size: u32,
    },
    /// What the cluster says about an IPAMClaim, read live.
    Persistent {
        /// The cluster ledger, as in the intent.
        ledger: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The IPAMClaim of a pod's interface whose policy keeps its addresses. It is made where it is not there yet.
    Keep {
        /// The cluster ledger, as in the intent.
        ledger: String,
        /// The pod's namespace.
        namespace: String,
        /// The pod's name, by which it is known when it comes back.
        pod: String,
        /// Its uid.
        uid: String,
        /// The network.
        network: String,
        /// The interface.
        interface: String,
    },
    /// What an AddressPool declares. It may be some seconds old.
    Pool {
        /// The cluster ledger, as in the intent.
        ledger: String,
        /// Its name.
        name: String,
    },
    /// One more cell of a domain in block mode with addresses of some spans: for this machine, or one that all claim from. One that is
    /// there already is as good, if the caller does not know it.
    Cell {
        /// What is looked for.
        want: CellWant,
        /// First addresses of cells that the caller knows.
        known: Vec<IpAddr>,
    },
    /// What others have in a domain, in runs of neighbours, as far as they touch the given spans. It may be stale.
    Taken {
        /// The cluster ledger, as in the intent.
        ledger: String,
        /// The domain.
        domain: String,
        /// First and last address of each span.
        spans: Vec<(IpAddr, IpAddr)>,
    },
}

/// Block mode, as a pool declares it: the machines of a domain have whole cells of addresses, and give them out by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// How many addresses a cell has: a power of two.
    pub size: u32,
    /// Where all cells are taken no address is borrowed from a shared one.
    #[serde(default)]
    pub strict: bool,
}

/// A cell that an ADD needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellWant {
    /// The cluster ledger, as in the intent.
    pub ledger: String,
    /// The domain.
    pub domain: String,
    /// How many addresses a cell of the domain has.
    pub size: u32,
    /// The pool that it is for; empty where there is none.
    pub pool: String,
    /// All claim from it, instead of this machine alone.
    pub shared: bool,
    /// First and last address of each span.
    pub spans: Vec<(IpAddr, IpAddr)>,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimReply {
    /// Every want has an address; which ones is in the store.
    Granted,
    /// All candidates of a want are somebody else's.
    Lost {
        /// Its place in the intent.
        want: usize,
        /// Addresses that turned out to be taken, and by whom.
        taken: Vec<(IpAddr, String)>,
    },
    /// An IPAMClaim.
    Persistent {
        /// Its uid.
        uid: String,
        /// Its addresses with prefix lengths; empty before its first use.
        ips: Vec<String>,
    },
    /// The IPAMClaim that keeps addresses.
    Kept {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
        /// Its addresses with prefix lengths; empty before its first use.
        ips: Vec<String>,
    },
    /// An AddressPool.
    Pool {
        /// Its domain.
        domain: String,
        /// Its ranges, without what it excludes.
        sets: Vec<RangeSet>,
        /// How long neighbours may take to answer, in milliseconds, where they are to be asked for its addresses.
        #[serde(default)]
        probe_ms: Option<u32>,
        /// It is in block mode.
        blocks: Option<Blocks>,
    },
    /// This machine has a cell that the caller did not know; which one is in the store.
    Cell,
    /// Shared cells with addresses of the spans, and what is claimed in them, both as first and last addresses.
    Shared {
        /// The cells.
        cells: Vec<(IpAddr, IpAddr)>,
        /// What is taken.
        taken: Vec<(IpAddr, IpAddr)>,
    },
    /// No cell with addresses of the spans is left.
    NoCell,
    /// First and last address of runs that are taken.
    Taken(Vec<(IpAddr, IpAddr)>),
}
