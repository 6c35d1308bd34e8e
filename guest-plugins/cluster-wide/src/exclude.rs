//! The `exclude` key: addresses and networks that are never handed out.

use weft_allocator::conf::{Object, problem};
use weft_sdk::address::{contains, last, next};
use weft_sdk::{IpAddress, IpPrefix, Problem};

/// What is never handed out.
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
    /// Whether an address is excluded.
    pub(crate) fn contains(&self, address: IpAddress) -> bool {
        self.0.iter().any(|network| contains(*network, address))
    }

    /// The address itself, or the first one after what excludes it. None at the end of the family.
    pub(crate) fn skip(&self, mut address: IpAddress) -> Option<IpAddress> {
        while let Some(network) = self.0.iter().find(|network| contains(**network, address)) {
            address = next(last(*network))?;
        }
        Some(address)
    }
}
