//! Round robin over range sets, in the order of the stock host-local plugin, but answered from the ledger's index: a
//! handful of queries, however full the pool is.
//!
//! The walk starts after the last claimed address of the set, goes through all its ranges, wraps around, and ends where
//! it began, so that a released address is reused only after a full lap. Gateways are skipped. Unlike in the stock
//! plugin, no gateway of *any* declared range is allocated, not only that of the current range.

use crate::address::{from_number, in_range, next, number, same_family};
use crate::{
    Claim, ClaimState, Denial, IpAddress, IpPrefix, IpRange, LastClaim, Ledger, RangeSet, Request, RequestSource,
    RequestedAddress, WantedAddress,
};

/// How many addresses are offered for each wanted one: the host tries the next if another process has claimed the first
/// meanwhile.
pub const CANDIDATES: usize = 8;

/// A wanted address, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    /// Its candidates.
    pub wanted: WantedAddress,
    /// A phrase for the decision's reason.
    pub reason: String,
}

/// Picks one address from each of the range sets with these indexes, and serves every requested address.
///
/// # Errors
///
/// The stock plugin's refusals, with its messages.
pub fn pick(request: &Request, sets: &[usize], ledger: &dyn Ledger) -> Result<Vec<Pick>, Denial> {
    if sets.is_empty() {
        return Err(Denial::InvalidConfig("no IP ranges specified".to_owned()));
    }
    let mut requested = requested(&request.requested)?;
    let mut picks = Vec::new();
    for &index in sets {
        let Some(set) = request.range_sets.get(index) else { continue };
        let wish =
            requested.iter().position(|(address, _source)| contains(set, *address)).map(|at| requested.remove(at));
        let pool = Pool { request, set, ledger };
        let pick = match wish {
            Some((address, source)) => pool.requested(address, source),
            None => pool.pick_any(),
        };
        picks.push(pick.map_err(|denial| for_range(index, denial))?);
    }
    if requested.is_empty() {
        return Ok(picks);
    }
    let left: String = requested.iter().map(|(address, _source)| format!(" {address}")).collect();
    Err(Denial::Denied(format!("failed to allocate all requested IPs:{left}")))
}

/// Returns whether a set has a range with this address.
#[must_use]
pub fn contains(set: &RangeSet, address: IpAddress) -> bool {
    set.ranges.iter().any(|range| in_range(range, address))
}

/// Returns the number of addresses in a set, including gateways.
#[must_use]
pub fn size(set: &RangeSet) -> u128 {
    set.ranges.iter().map(range_size).fold(0, u128::saturating_add)
}

/// Returns the address at an index in a set, counted from 0 through all its ranges, and its range.
#[must_use]
pub fn at(set: &RangeSet, mut place: u128) -> Option<(IpAddress, &IpRange)> {
    for range in &set.ranges {
        let size = range_size(range);
        if place < size {
            return from_number(number(range.first).checked_add(place)?, range.first).map(|address| (address, range));
        }
        place -= size;
    }
    None
}

fn range_size(range: &IpRange) -> u128 {
    number(range.last).saturating_sub(number(range.first)).saturating_add(1)
}

/// Returns whether an address is the gateway of any declared range. The host never allows such an address to be
/// allocated.
#[must_use]
pub fn is_gateway(request: &Request, address: IpAddress) -> bool {
    let ranges = request.range_sets.iter().flat_map(|set| &set.ranges);
    ranges.filter_map(|range| range.gateway).any(|gateway| gateway == address)
}

/// For dual stack without rules: returns the index of the first range set of each family, in the operator's order.
#[must_use]
pub fn one_of_each_family(request: &Request) -> Vec<usize> {
    let mut sets: Vec<(usize, IpAddress)> = Vec::new();
    for (index, set) in request.range_sets.iter().enumerate() {
        let Some(first) = set.ranges.first().map(|range| range.first) else { continue };
        if !sets.iter().any(|(_index, other)| same_family(*other, first)) {
            sets.push((index, first));
        }
    }
    sets.into_iter().map(|(index, _first)| index).collect()
}

/// Returns the name of a set: `10.1.0.2-10.1.0.254,10.2.0.1-10.2.0.9`.
#[must_use]
pub fn name(set: &RangeSet) -> String {
    let ranges: Vec<String> = set.ranges.iter().map(|range| format!("{}-{}", range.first, range.last)).collect();
    ranges.join(",")
}

/// Returns every requested address once, in order.
fn requested(wishes: &[RequestedAddress]) -> Result<Vec<(IpAddress, RequestSource)>, Denial> {
    let mut addresses: Vec<(IpAddress, RequestSource)> = Vec::new();
    for wish in wishes {
        match wish.address {
            Some(address) if addresses.iter().any(|(known, _source)| *known == address) => {}
            Some(address) => addresses.push((address, wish.source)),
            // The stock plugin ignores an empty `IP=`, but not an empty entry of a list.
            None if wish.text.is_empty() && wish.source == RequestSource::CniArgs => {}
            None => return Err(Denial::InvalidConfig(unreadable(wish))),
        }
    }
    Ok(addresses)
}

fn unreadable(wish: &RequestedAddress) -> String {
    let text = &wish.text;
    match wish.source {
        RequestSource::CniArgs => {
            format!("ARGS: error parsing value of pair {:?}: invalid IP address {text}", format!("IP={text}"))
        }
        RequestSource::Args | RequestSource::RuntimeConfig if text.is_empty() => {
            "cannot understand ip: IP <nil> not v4 nor v6".to_owned()
        }
        RequestSource::Args | RequestSource::RuntimeConfig => format!("invalid IP address {text}"),
    }
}

fn for_range(index: usize, denial: Denial) -> Denial {
    let wrap = |text: String| format!("failed to allocate for range {index}: {text}");
    match denial {
        Denial::Denied(text) => Denial::Denied(wrap(text)),
        Denial::Exhausted(text) => Denial::Exhausted(wrap(text)),
        Denial::InvalidConfig(text) => Denial::InvalidConfig(wrap(text)),
        Denial::TryAgain(text) => Denial::TryAgain(wrap(text)),
    }
}

/// One range set of a request.
struct Pool<'a> {
    request: &'a Request,
    set: &'a RangeSet,
    ledger: &'a dyn Ledger,
}

// === impl Pool ===

impl Pool<'_> {
    /// Returns the requested address, or a refusal.
    fn requested(&self, address: IpAddress, source: RequestSource) -> Result<Pick, Denial> {
        if self.is_gateway(address) {
            return Err(Denial::Denied(format!("requested ip {address} is subnet's gateway")));
        }
        let free = self.ledger.claimed_by(address).is_none_or(|claim| self.is_kept_for_us(&claim));
        let Some(range) = self.set.ranges.iter().find(|range| in_range(range, address)).filter(|_range| free) else {
            let set = name(self.set);
            return Err(Denial::Denied(format!("requested IP address {address} is not available in range set {set}")));
        };
        let who = match source {
            RequestSource::CniArgs => "CNI_ARGS",
            RequestSource::Args => "args",
            RequestSource::RuntimeConfig => "runtimeConfig",
        };
        Ok(Pick {
            wanted: WantedAddress { candidates: vec![in_subnet(range, address)], gateway: range.gateway },
            reason: format!("{address} was requested by {who}"),
        })
    }

    /// Returns any address of the set.
    fn pick_any(&self) -> Result<Pick, Denial> {
        let attachment = &self.request.attachment;
        let ours = |claim: &&Claim| {
            claim.state == ClaimState::Active
                && claim.owner == attachment.container_id
                && claim.ifname == attachment.ifname
                && contains(self.set, claim.address)
        };
        if let Some(claim) = self.request.held.iter().find(ours) {
            return Err(Denial::Denied(format!(
                "{} has been allocated to {}, duplicate allocation is not allowed",
                claim.address, attachment.container_id
            )));
        }
        let last = self.last_claim();
        let (mut found, mut gateway) = (Vec::new(), None);
        self.add_kept(&mut found, &mut gateway);
        let kept = found.first().copied();
        self.add_in_order(last.as_ref(), &mut found, &mut gateway);
        let Some(first) = found.first() else {
            return Err(Denial::Exhausted(format!("no IP addresses available in range set: {}", name(self.set))));
        };
        let reason = match (kept, last) {
            (Some(_), _) => format!("{} was kept for this pod", first.address),
            (None, Some(last)) => format!("{} is the next free one after {}", first.address, last.address),
            (None, None) => format!("{} is the first free one", first.address),
        };
        Ok(Pick { wanted: WantedAddress { candidates: found, gateway }, reason })
    }

    /// Returns the last claim in the whole set.
    fn last_claim(&self) -> Option<LastClaim> {
        let claims = self.set.ranges.iter().filter_map(|range| self.ledger.last_claimed(range));
        claims.filter(|last| contains(self.set, last.address)).max_by_key(|last| last.sequence)
    }

    /// Adds addresses of the set that are kept for an identity of this attachment, which gets them back first.
    fn add_kept(&self, found: &mut Vec<IpPrefix>, gateway: &mut Option<IpAddress>) {
        for claim in self.request.held.iter().filter(|claim| self.is_kept_for_us(claim)) {
            let range = self.set.ranges.iter().find(|range| in_range(range, claim.address));
            if let Some(range) = range.filter(|_range| !self.is_gateway(claim.address)) {
                add_candidate(found, gateway, range, claim.address);
            }
        }
    }

    /// Adds free addresses in round-robin order, until there are enough or the lap is over.
    fn add_in_order(&self, last: Option<&LastClaim>, found: &mut Vec<IpPrefix>, gateway: &mut Option<IpAddress>) {
        for lap in laps(self.set, last) {
            let mut start = Some(lap.first);
            while let Some(from) = start {
                if found.len() >= CANDIDATES {
                    return;
                }
                if number(from) > number(lap.last) {
                    break;
                }
                if self.is_gateway(from) {
                    start = next(from);
                    continue;
                }
                let free = self.ledger.next_free(lap.range, from);
                let Some(free) = free.filter(|free| number(*free) <= number(lap.last)) else { break };
                start = next(free);
                if !self.is_gateway(free) && !add_candidate(found, gateway, lap.range, free) {
                    return;
                }
            }
        }
    }

    fn is_gateway(&self, address: IpAddress) -> bool {
        is_gateway(self.request, address)
    }

    fn is_kept_for_us(&self, claim: &Claim) -> bool {
        claim.state == ClaimState::Kept && self.request.identities.contains(&claim.owner)
    }
}

/// A piece of the walk: part of a range.
struct Lap<'a> {
    range: &'a IpRange,
    first: IpAddress,
    last: IpAddress,
}

/// Returns the walk in pieces: from after `last` to the end of its range, the other ranges, and up to `last` again.
fn laps<'a>(set: &'a RangeSet, last: Option<&LastClaim>) -> Vec<Lap<'a>> {
    let whole = |range: &'a IpRange| Lap { range, first: range.first, last: range.last };
    let home = last.and_then(|last| {
        set.ranges.iter().position(|range| in_range(range, last.address)).map(|index| (index, last.address))
    });
    let Some((index, last)) = home else { return set.ranges.iter().map(whole).collect() };
    let (before, from) = set.ranges.split_at(index);
    let Some((range, after)) = from.split_first() else { return Vec::new() };
    let mut laps = Vec::with_capacity(set.ranges.len() + 1);
    // `last` may be the last address of the family, which has no successor.
    laps.extend(next(last).map(|first| Lap { range, first, last: range.last }));
    laps.extend(after.iter().chain(before).map(whole));
    laps.push(Lap { range, first: range.first, last });
    laps
}

/// Adds a candidate. Returns false if its gateway differs from that of earlier ones: candidates share a gateway, so the
/// list ends.
fn add_candidate(
    found: &mut Vec<IpPrefix>,
    gateway: &mut Option<IpAddress>,
    range: &IpRange,
    address: IpAddress,
) -> bool {
    let candidate = in_subnet(range, address);
    if found.is_empty() {
        *gateway = range.gateway;
    } else if *gateway != range.gateway {
        return false;
    }
    if !found.contains(&candidate) {
        found.push(candidate);
    }
    true
}

/// Returns an address of a range, with the prefix length of the range's subnet.
#[must_use]
pub fn in_subnet(range: &IpRange, address: IpAddress) -> IpPrefix {
    IpPrefix { address, length: range.subnet.length }
}

#[cfg(test)]
mod tests;
