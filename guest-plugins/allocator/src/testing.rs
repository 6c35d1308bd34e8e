//! A ledger in memory and a request to start from, for unit tests of policies on the host.

use std::cell::Cell;
use std::collections::BTreeMap;

use weft_sdk::address::{in_range, last, next, number, previous};
use weft_sdk::{
    Attachment, Claim, ClaimState, IpAddress, IpPrefix, IpRange, LastClaim, Ledger, Node, RangeSet, RangeUsage,
    Request, RequestSource, RequestedAddress,
};

/// A ledger in memory that counts the questions it is asked.
#[derive(Debug, Default)]
pub struct FakeLedger {
    claims: BTreeMap<(bool, u128), Claim>,
    last: Vec<IpAddress>,
    questions: Cell<u32>,
}

// === impl FakeLedger ===

impl FakeLedger {
    /// Makes a claim of any kind. An active one counts as the last in its range.
    pub fn claim(&mut self, address: IpAddress, owner: &str, state: ClaimState) {
        let ifname = if state == ClaimState::Active { "eth0" } else { "" };
        let claim = Claim { address, owner: owner.to_owned(), ifname: ifname.to_owned(), state };
        self.claims.insert(key(address), claim);
        if state == ClaimState::Active {
            self.last.push(address);
        }
    }

    /// Frees an address.
    pub fn release(&mut self, address: IpAddress) {
        self.claims.remove(&key(address));
    }

    /// Questions asked since the last call of this.
    pub fn questions(&self) -> u32 {
        self.questions.take()
    }

    fn asked(&self) {
        self.questions.set(self.questions.get() + 1);
    }
}

fn key(address: IpAddress) -> (bool, u128) {
    (matches!(address, IpAddress::Ipv6(_)), number(address))
}

impl Ledger for FakeLedger {
    fn claimed_by(&self, address: IpAddress) -> Option<Claim> {
        self.asked();
        self.claims.get(&key(address)).cloned()
    }

    fn next_free(&self, range: &IpRange, start: IpAddress) -> Option<IpAddress> {
        self.asked();
        let mut at = Some(if number(start) < number(range.first) { range.first } else { start });
        while let Some(address) = at.filter(|address| in_range(range, *address)) {
            if !self.claims.contains_key(&key(address)) {
                return Some(address);
            }
            at = next(address);
        }
        None
    }

    fn usage(&self, range: &IpRange) -> RangeUsage {
        self.asked();
        let taken = self.claims.values().filter(|claim| in_range(range, claim.address)).count() as u64;
        let size = number(range.last) - number(range.first) + 1;
        RangeUsage { size: u64::try_from(size).unwrap_or(u64::MAX), taken }
    }

    fn last_claimed(&self, range: &IpRange) -> Option<LastClaim> {
        self.asked();
        let last = self.last.iter().enumerate().rev().find(|(_sequence, address)| in_range(range, **address));
        last.map(|(sequence, address)| LastClaim { address: *address, sequence: sequence as u64 })
    }

    fn held_by(&self, owner: &str) -> Vec<Claim> {
        self.asked();
        self.claims.values().filter(|claim| claim.owner == owner).cloned().collect()
    }
}

/// A request of container `c1`, `eth0`, pod `ns/name`.
#[must_use]
pub fn request(config: &str, range_sets: Vec<RangeSet>) -> Request {
    Request {
        attachment: Attachment { network: "net".into(), container_id: "c1".into(), ifname: "eth0".into() },
        pod: None,
        node: Node { name: "node".into(), labels: Vec::new() },
        identities: vec!["pod:ns/name".into(), "container:c1".into()],
        requested: Vec::new(),
        mac: None,
        cni_args: Vec::new(),
        held: Vec::new(),
        range_sets,
        resolver: None,
        config: config.into(),
        cni_version: "1.1.0".into(),
        now: 0,
        seed: 0,
    }
}

/// An address somebody asked for.
#[must_use]
pub fn wish(text: &str, source: RequestSource) -> RequestedAddress {
    let prefix: Option<IpPrefix> = text.parse().ok();
    let address = prefix.map(|prefix| prefix.address).or_else(|| text.parse().ok());
    RequestedAddress { text: text.into(), address, length: prefix.map(|prefix| prefix.length), source }
}

/// `SUBNET`, `FIRST-LAST@SUBNET` or either with `!GATEWAY`, with the stock plugin's defaults.
///
/// # Panics
///
/// The text is none of them.
#[must_use]
pub fn range(text: &str) -> IpRange {
    let (text, gateway) = text.split_once('!').map_or((text, None), |(text, gateway)| (text, Some(gateway)));
    let (ends, subnet) = text.split_once('@').map_or((None, text), |(ends, subnet)| (Some(ends), subnet));
    let subnet: IpPrefix = subnet.parse().expect("a subnet");
    let whole_last = match subnet.address {
        IpAddress::Ipv4(_) => previous(last(subnet)),
        IpAddress::Ipv6(_) => Some(last(subnet)),
    };
    let ends = ends.map(|ends| ends.split_once('-').expect("two ends"));
    let ip = |text: &str| -> IpAddress { text.parse().expect("an address") };
    IpRange {
        subnet,
        first: ends.map_or_else(|| next(subnet.address).expect("an address"), |(first, _last)| ip(first)),
        last: ends.map_or_else(|| whole_last.expect("an address"), |(_first, last)| ip(last)),
        gateway: gateway.map_or_else(|| next(subnet.address), |gateway| Some(ip(gateway))),
    }
}

/// A set of ranges, each as for [`range`].
#[must_use]
pub fn set(ranges: &[&str]) -> RangeSet {
    RangeSet { name: None, ranges: ranges.iter().map(|text| range(text)).collect() }
}
