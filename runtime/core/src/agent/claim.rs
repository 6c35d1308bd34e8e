//! Service `claim`: the cluster ledger. `weft` has written an intent into the node's store; the agent reads the same
//! store and asks the cluster.

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

/// A request to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimRequest {
    /// Claims one candidate of each want of an intent.
    Grant {
        /// The intent.
        nonce: String,
        /// How many addresses a cell of the domain has, according to the network; 0 if it does not say.
        #[serde(default)]
        cell_size: u32,
        /// The AddressPool that the addresses are drawn from; empty if the network has its own ranges.
        #[serde(default)]
        pool: String,
    },
    /// Reads an IPAMClaim live from the cluster.
    Persistent {
        /// The cluster ledger, as in the intent.
        ledger: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Returns the IPAMClaim of a pod's interface whose policy keeps its addresses. It is made if it does not exist
    /// yet.
    Keep {
        /// The cluster ledger, as in the intent.
        ledger: String,
        /// The pod's namespace.
        namespace: String,
        /// The pod's name, which identifies it when it returns.
        pod: String,
        /// Its uid.
        uid: String,
        /// The network.
        network: String,
        /// The interface.
        interface: String,
    },
    /// Returns the declarations of an AddressPool. They may be some seconds old.
    Pool {
        /// The cluster ledger, as in the intent.
        ledger: String,
        /// Its name.
        name: String,
    },
    /// Requests one more cell of a domain in block mode with addresses from some spans: for this machine, or a shared
    /// one. An existing cell is also returned, if the caller does not know it.
    Cell {
        /// The wanted cell.
        want: CellWant,
        /// First addresses of cells that the caller knows.
        known: Vec<IpAddr>,
    },
    /// Returns what others have in a domain, as runs of consecutive addresses that touch the given spans. It may be
    /// stale.
    Taken {
        /// The cluster ledger, as in the intent.
        ledger: String,
        /// The domain.
        domain: String,
        /// First and last address of each span.
        spans: Vec<(IpAddr, IpAddr)>,
    },
}

/// Block mode, as a pool declares it: the machines of a domain own whole cells of addresses, and allocate them by
/// themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocks {
    /// How many addresses a cell has: a power of two.
    pub size: u32,
    /// Whether borrowing an address from a shared cell is forbidden when all cells are taken.
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
    /// The pool that it is for; empty if there is none.
    pub pool: String,
    /// Whether all machines claim from it, instead of this machine alone.
    pub shared: bool,
    /// First and last address of each span.
    pub spans: Vec<(IpAddr, IpAddr)>,
}

/// An answer of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimReply {
    /// Every want has an address; the store has the addresses.
    Granted,
    /// All candidates of a want belong to somebody else.
    Lost {
        /// The index of the want in the intent.
        want: usize,
        /// Addresses that turned out to be taken, with their holders.
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
        /// Its ranges, without its exclusions.
        sets: Vec<RangeSet>,
        /// Milliseconds to wait for neighbours to answer a probe for its addresses, if they are to be probed.
        #[serde(default)]
        probe_ms: Option<u32>,
        /// Set if it is in block mode.
        blocks: Option<Blocks>,
    },
    /// This machine has a cell that the caller did not know; the store has its addresses.
    Cell,
    /// Shared cells with addresses of the spans, and the taken addresses in them; both as first and last addresses.
    Shared {
        /// The cells.
        cells: Vec<(IpAddr, IpAddr)>,
        /// The taken addresses.
        taken: Vec<(IpAddr, IpAddr)>,
    },
    /// No cell with addresses of the spans is left.
    NoCell,
    /// First and last address of each taken run.
    Taken(Vec<(IpAddr, IpAddr)>),
}
