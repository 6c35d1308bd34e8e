//! weft's rules for decisions: what an ADD refuses (code 101), a test refuses.

use crate::address::{bits, contains, in_range, network as base, same_family};
use crate::{
    Decision, Dns, IpAddress, IpPrefix, IpRange, Ledger, RangeSet, ReleaseRule, Request, Route, WantedAddress,
};

use super::ModelLedger;

/// What a decision is verified against, besides its request.
pub(super) struct Rules<'a> {
    pub(super) sets: &'a [RangeSet],
    /// `ipam.routes`: destinations, each with its next hop.
    pub(super) declared: &'a [(IpPrefix, Option<IpAddress>)],
    /// `grants.routes`.
    pub(super) opened: &'a [IpPrefix],
    pub(super) ledger: &'a ModelLedger,
}

impl Rules<'_> {
    /// Returns why weft does not use a decision.
    pub(super) fn verify(&self, request: &Request, decision: &Decision) -> Result<(), String> {
        if decision.addresses.is_empty() {
            return Err("the decision has no address".to_owned());
        }
        for wanted in &decision.addresses {
            self.wanted(request, wanted)?;
        }
        no_address_twice(&decision.addresses)?;
        decision.routes.iter().try_for_each(|route| self.route(decision, route))?;
        decision.dns.iter().try_for_each(|dns| name_servers(request, dns))?;
        match &decision.release {
            ReleaseRule::Keep(owner) if !request.identities.contains(owner) => {
                Err(format!("the addresses are kept for {owner:?}, which is not an identity of this attachment"))
            }
            ReleaseRule::Keep(_) | ReleaseRule::Free | ReleaseRule::Cooldown(_) => Ok(()),
        }
    }

    fn wanted(&self, request: &Request, wanted: &WantedAddress) -> Result<(), String> {
        let first = wanted.candidates.first().ok_or("an address has no candidates")?;
        for candidate in &wanted.candidates {
            if !same_family(candidate.address, first.address) {
                return Err(format!("{first} and {candidate} are of two families in one address"));
            }
            let range = self.range(request, *candidate)?;
            self.gateway(*candidate, range, wanted.gateway)?;
        }
        Ok(())
    }

    fn ranges(&self) -> impl Iterator<Item = &IpRange> {
        self.sets.iter().flat_map(|set| &set.ranges)
    }

    /// Returns the declared range of a candidate. If there are several, the prefix length decides.
    fn range(&self, request: &Request, candidate: IpPrefix) -> Result<&IpRange, String> {
        if !is_unicast(candidate.address) {
            return Err(format!("{candidate} is no address for an interface"));
        }
        if crate::pool::is_gateway(request, candidate.address) {
            return Err(format!("{candidate} is a gateway"));
        }
        let holders = || self.ranges().filter(|range| in_range(range, candidate.address));
        if let Some(range) = holders().find(|range| range.subnet.length == candidate.length) {
            return Ok(range);
        }
        Err(match holders().next() {
            Some(range) => format!("{candidate} has not the prefix length of {}", range.subnet),
            None => format!("{candidate} is in none of the declared ranges"),
        })
    }

    fn gateway(&self, candidate: IpPrefix, range: &IpRange, gateway: Option<IpAddress>) -> Result<(), String> {
        let Some(gateway) = gateway.filter(|gateway| range.gateway != Some(*gateway)) else { return Ok(()) };
        if let Some(declared) = range.gateway {
            return Err(format!("{candidate} has another gateway than its range, {gateway} in place of {declared}"));
        }
        if !contains(range.subnet, gateway) || gateway == candidate.address {
            return Err(format!("{candidate} cannot have the gateway {gateway}"));
        }
        if self.ranges().any(|range| in_range(range, gateway)) || self.ledger.claimed_by(gateway).is_some() {
            return Err(format!("the gateway {gateway} of {candidate} is another pod's address, or can become one"));
        }
        Ok(())
    }

    fn route(&self, decision: &Decision, route: &Route) -> Result<(), String> {
        let dst = IpPrefix { address: base(route.dst), length: route.dst.length };
        let is_dst = |known: &IpPrefix| known.length == dst.length && base(*known) == dst.address;
        let opens = |prefix: &IpPrefix, address| contains(*prefix, address);
        let declared = self.declared.iter().any(|(known, _gw)| is_dst(known));
        let opened = self.opened.iter().any(|prefix| prefix.length <= dst.length && opens(prefix, dst.address));
        if dst.length != 0 && !declared && !opened {
            return Err(format!(
                "the route to {dst} is neither declared in \"ipam.routes\" nor opened in \"grants.routes\""
            ));
        }
        let Some(gw) = route.gw else { return Ok(()) };
        let of_decision = decision.addresses.iter().any(|wanted| wanted.gateway == Some(gw));
        let known = of_decision
            || self.ranges().any(|range| range.gateway == Some(gw))
            || self.declared.iter().any(|(known, declared)| is_dst(known) && *declared == Some(gw))
            || self.opened.iter().any(|prefix| opens(prefix, gw));
        match (same_family(gw, dst.address), known) {
            (true, true) => Ok(()),
            (false, _) => Err(format!("the route to {dst} has the next hop {gw}, which is of another family")),
            (true, false) => Err(format!("the next hop {gw} of the route to {dst} is no gateway of the network")),
        }
    }
}

/// The ledger would refuse the second claim.
fn no_address_twice(addresses: &[WantedAddress]) -> Result<(), String> {
    for (index, wanted) in addresses.iter().enumerate() {
        let others = addresses.iter().skip(index + 1).flat_map(|other| &other.candidates);
        for other in others {
            if wanted.candidates.iter().any(|candidate| candidate.address == other.address) {
                return Err(format!("{} is offered for two addresses at once", other.address));
            }
        }
    }
    Ok(())
}

fn name_servers(request: &Request, dns: &Dns) -> Result<(), String> {
    let resolver = request.resolver.as_ref().map(|dns| dns.nameservers.as_slice()).unwrap_or_default();
    let is_address = |server: &str| {
        let address = server.split_once('%').map_or(server, |(address, _zone)| address).parse::<IpAddress>();
        address.is_ok_and(|address| bits(address) == 128 || !server.contains('%'))
    };
    match dns.nameservers.iter().find(|server| !is_address(server) && !resolver.contains(server)) {
        Some(server) => Err(format!("the name server {server:?} is no address")),
        None => Ok(()),
    }
}

fn is_unicast(address: IpAddress) -> bool {
    let address = std::net::IpAddr::from(address);
    let broadcast = matches!(address, std::net::IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}
