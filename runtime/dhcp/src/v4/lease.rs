//! A lease, and the meaning of its options for a container.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{Message, option};
use crate::{Millis, names};

/// The default if the server says nothing.
const DEFAULT_SECONDS: u32 = 3_600;
/// A lease without end.
const INFINITE: u32 = u32::MAX;

/// A lease. A storage format: add fields with `#[serde(default)]`, never rename.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The server that gave it.
    pub server: Ipv4Addr,
    /// The source of its answer: the MAC address of the server or its relay.
    pub server_mac: Option<[u8; 6]>,
    /// When it was requested.
    pub obtained: Millis,
    /// T1; `None` if the lease has no end.
    pub renew: Option<Millis>,
    /// T2.
    pub rebind: Option<Millis>,
    /// Its end.
    pub expires: Option<Millis>,
    /// All options of the server's answer.
    pub options: BTreeMap<u8, Vec<u8>>,
}

impl Lease {
    /// Returns the lease of an acknowledgement to a request that was sent at `asked`.
    pub(super) fn from_ack(ack: &Message, server: Ipv4Addr, server_mac: Option<[u8; 6]>, asked: Millis) -> Self {
        let seconds = |code: u8| {
            let octets: Option<[u8; 4]> = ack.options.get(&code).and_then(|value| value.as_slice().try_into().ok());
            octets.map(u32::from_be_bytes)
        };
        let length = seconds(option::LEASE_TIME).unwrap_or(DEFAULT_SECONDS);
        let (mut renew, mut rebind, mut expires) = (None, None, None);
        if length != INFINITE {
            let after = |seconds: u64| Some(asked.saturating_add(seconds));
            let end = u64::from(length) * 1_000;
            let t2 = seconds(option::REBINDING_TIME).map(|t2| u64::from(t2) * 1_000).filter(|t2| *t2 > 0 && *t2 < end);
            let t2 = t2.unwrap_or(end * 85 / 100);
            let t1 = seconds(option::RENEWAL_TIME).map(|t1| u64::from(t1) * 1_000).filter(|t1| *t1 > 0 && *t1 <= t2);
            (renew, rebind, expires) = (after(t1.unwrap_or((end / 2).min(t2))), after(t2), after(end));
        }
        let options = ack.options.clone();
        Self { address: ack.yiaddr, server, server_mac, obtained: asked, renew, rebind, expires, options }
    }

    /// Returns address and prefix length; `None` if the server gave no or an invalid subnet mask.
    #[must_use]
    pub fn network(&self) -> Option<Ipv4Net> {
        let mask: Ipv4Addr = self.addresses(option::SUBNET_MASK).first().copied()?;
        Ipv4Net::with_netmask(self.address, mask).ok()
    }

    /// Returns the first router.
    #[must_use]
    pub fn router(&self) -> Option<Ipv4Addr> {
        self.addresses(option::ROUTERS).first().copied()
    }

    /// Returns routes as (destination, next hop); a destination on the link has no next hop. Classless routes (option
    /// 121) replace all others (RFC 3442); otherwise there are the static ones and a default route through the first
    /// router.
    #[must_use]
    pub fn routes(&self) -> Vec<(Ipv4Net, Option<Ipv4Addr>)> {
        if let Some(bytes) = self.options.get(&option::CLASSLESS_ROUTES) {
            return classless(bytes);
        }
        let pairs = self.addresses(option::STATIC_ROUTES);
        let mut routes: Vec<_> = pairs
            .chunks_exact(2)
            // RFC 2132: 0.0.0.0 is not a valid destination here.
            .filter(|pair| !pair[0].is_unspecified())
            .filter_map(|pair| Some((Ipv4Net::new(pair[0], class_prefix(pair[0])?).ok()?.trunc(), Some(pair[1]))))
            .collect();
        routes.extend(self.router().map(|router| (Ipv4Net::default(), Some(router))));
        routes
    }

    /// Returns the name servers.
    #[must_use]
    pub fn name_servers(&self) -> Vec<Ipv4Addr> {
        self.addresses(option::DNS_SERVERS)
    }

    /// Returns the domain.
    #[must_use]
    pub fn domain(&self) -> Option<String> {
        self.options.get(&option::DOMAIN_NAME).and_then(|bytes| names::read_domain(bytes))
    }

    /// Returns the search list.
    #[must_use]
    pub fn search(&self) -> Vec<String> {
        self.options.get(&option::DOMAIN_SEARCH).and_then(|bytes| names::read(bytes)).unwrap_or_default()
    }

    fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let bytes = self.options.get(&code).map(Vec::as_slice).unwrap_or_default();
        bytes.chunks_exact(4).map(|four| Ipv4Addr::new(four[0], four[1], four[2], four[3])).collect()
    }
}

/// RFC 3442: prefix length, as many octets of the destination as it covers, next hop. A malformed route ends the list.
fn classless(mut bytes: &[u8]) -> Vec<(Ipv4Net, Option<Ipv4Addr>)> {
    let mut routes = Vec::new();
    while let [length, rest @ ..] = bytes {
        let significant = usize::from(*length).div_ceil(8);
        let Some((destination, rest)) = rest.split_at_checked(significant).filter(|_| *length <= 32) else { break };
        let [a, b, c, d, after @ ..] = rest else { break };
        let mut octets = [0; 4];
        octets[..significant].copy_from_slice(destination);
        let Ok(net) = Ipv4Net::new(octets.into(), *length) else { break };
        let router = Ipv4Addr::new(*a, *b, *c, *d);
        routes.push((net.trunc(), Some(router).filter(|router| !router.is_unspecified())));
        bytes = after;
    }
    routes
}

/// Returns the prefix length of a destination's class, as in the stock daemon; `None` for multicast and reserved ones.
fn class_prefix(destination: Ipv4Addr) -> Option<u8> {
    match destination.octets()[0] {
        0..=127 => Some(8),
        128..=191 => Some(16),
        192..=223 => Some(24),
        _ => None,
    }
}
