//! The `exclude` key: addresses and networks that are never allocated, and a ledger view in which they are taken.

use weft_allocator::conf::{Object, problem};
use weft_sdk::address::{contains, in_range, last, next};
use weft_sdk::{Claim, ClaimState, IpAddress, IpPrefix, IpRange, LastClaim, Ledger, Problem, RangeUsage};

/// The excluded addresses.
#[derive(Debug, Default)]
pub(crate) struct Excluded(Vec<IpPrefix>);

/// Reads it.
pub(crate) fn read(ipam: &Object<'_>) -> Result<Excluded, Problem> {
    let mut excluded = Vec::new();
    for (index, text) in ipam.text_list("exclude")?.into_iter().enumerate() {
        let network = text.parse().ok().or_else(|| {
            let address: IpAddress = text.parse().ok()?;
            Some(IpPrefix { address, length: weft_sdk::address::bits(address) })
        });
        excluded.push(network.ok_or_else(|| {
            let at = format!("{}/{index}", ipam.place("exclude"));
            problem(at, format!("{text:?} is neither an address nor a network in CIDR notation"))
        })?);
    }
    Ok(Excluded(excluded))
}

impl Excluded {
    /// Returns whether an address is excluded.
    fn contains(&self, address: IpAddress) -> bool {
        self.0.iter().any(|network| contains(*network, address))
    }

    /// Returns the address itself, or the first one after its exclusion. `None` at the end of the family.
    fn skip(&self, mut address: IpAddress) -> Option<IpAddress> {
        while let Some(network) = self.0.iter().find(|network| contains(**network, address)) {
            address = next(last(*network))?;
        }
        Some(address)
    }
}

/// The ledger view.
pub(crate) struct Without<'a> {
    pub(crate) ledger: &'a dyn Ledger,
    pub(crate) excluded: Excluded,
}

impl Ledger for Without<'_> {
    fn claimed_by(&self, address: IpAddress) -> Option<Claim> {
        if self.excluded.contains(address) {
            let owner = "excluded by the network's configuration".to_owned();
            return Some(Claim { address, owner, ifname: String::new(), state: ClaimState::Active });
        }
        self.ledger.claimed_by(address)
    }

    fn next_free(&self, range: &IpRange, start: IpAddress) -> Option<IpAddress> {
        let mut from = start;
        loop {
            let free = self.ledger.next_free(range, from)?;
            let allowed = self.excluded.skip(free)?;
            if allowed == free {
                return Some(free);
            }
            from = Some(allowed).filter(|allowed| in_range(range, *allowed))?;
        }
    }

    fn usage(&self, range: &IpRange) -> RangeUsage {
        self.ledger.usage(range)
    }

    fn last_claimed(&self, range: &IpRange) -> Option<LastClaim> {
        self.ledger.last_claimed(range)
    }

    fn held_by(&self, owner: &str) -> Vec<Claim> {
        self.ledger.held_by(owner)
    }
}
