//! A DHCPv6 lease.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use super::{IaAddress, IaNa, Message};
use crate::Millis;

/// An infinite time.
const INFINITE: u32 = u32::MAX;

/// A lease. A storage format: add fields with `#[serde(default)]`, never rename.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub address: Ipv6Addr,
    /// DUID of the server that gave it.
    pub server: Vec<u8>,
    /// When it was requested.
    pub obtained: Millis,
    /// T1; `None` if the lease has no end.
    pub renew: Option<Millis>,
    /// T2.
    pub rebind: Option<Millis>,
    /// Its end.
    pub expires: Option<Millis>,
    /// Name servers.
    pub name_servers: Vec<Ipv6Addr>,
    /// Search list.
    pub search: Vec<String>,
}

impl Lease {
    pub(super) fn from_reply(reply: &Message, ia: &IaNa, given: &IaAddress, server: &[u8], asked: Millis) -> Self {
        let at = |seconds: u32| (seconds != INFINITE).then(|| asked.saturating_add(u64::from(seconds) * 1_000));
        // The client chooses the times if the server says 0, or sends invalid ones.
        let choose = |stated: u32, bound: u32, tenths: u64| match stated {
            INFINITE => INFINITE,
            0 => u32::try_from(u64::from(given.preferred.min(given.valid)) * tenths / 10).unwrap_or(bound).min(bound),
            stated => stated.min(bound),
        };
        let (t1, t2) = if given.valid == INFINITE {
            (if ia.t1 == 0 { INFINITE } else { ia.t1 }, if ia.t2 == 0 { INFINITE } else { ia.t2 })
        } else {
            let t2 = choose(ia.t2, given.valid, 8).min(given.valid);
            (choose(ia.t1, t2, 5).min(t2), t2)
        };
        Self {
            address: given.address,
            server: server.to_vec(),
            obtained: asked,
            renew: at(t1),
            rebind: at(t2),
            expires: at(given.valid),
            name_servers: reply.name_servers.clone(),
            search: reply.search.clone(),
        }
    }
}
