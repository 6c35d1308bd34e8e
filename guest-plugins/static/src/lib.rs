//! The `static` policy: the addresses in the configuration, or those that the runtime names instead, with the stock
//! plugin's precedence and refusals.
//!
//! Unlike the stock plugin, which records nothing, it refuses an address that another attachment holds: the ledger
//! would refuse the claim anyway, and here the text can name the holder.

use weft_allocator::conf::{self, Object, object, problem};
use weft_sdk::address::contains;
use weft_sdk::{
    Claim, ClaimState, Decision, Denial, IpAddress, IpPrefix, Ledger, Policy, Problem, ReleaseRule, Request,
    RequestSource, WantedAddress,
};

struct Static;

/// An address and its gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Address {
    address: IpPrefix,
    gateway: Option<IpAddress>,
}

impl Policy for Static {
    fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial> {
        let config = conf::parse(&request.config).map_err(conf::invalid)?;
        let ipam = conf::top_object(&config).map_err(conf::invalid)?;
        let (addresses, why) = addresses(request, &ipam).map_err(conf::invalid)?;
        count(&addresses, &request.cni_version)?;
        for entry in &addresses {
            let claim = ledger.claimed_by(entry.address.address);
            if let Some(claim) = claim.filter(|claim| !kept_for_us(claim, request)) {
                return Err(Denial::Denied(taken_message(&claim)));
            }
        }
        let wanted = |entry: &Address| WantedAddress { candidates: vec![entry.address], gateway: entry.gateway };
        Ok(Decision {
            addresses: addresses.iter().map(wanted).collect(),
            routes: conf::routes(&ipam).map_err(conf::invalid)?,
            dns: conf::dns(&ipam).map_err(conf::invalid)?,
            release: ReleaseRule::Free,
            reason: format!("the addresses of {why}"),
        })
    }

    fn validate(config: &str) -> Vec<Problem> {
        check(config).unwrap_or_else(|problem| vec![problem])
    }

    fn config_schema() -> String {
        include_str!("schema.json").to_owned()
    }
}

/// Returns the effective addresses, and their source: `runtimeConfig` replaces `args`, which replace the rest.
fn addresses(request: &Request, ipam: &Object<'_>) -> Result<(Vec<Address>, &'static str), Problem> {
    let extra = from_cni_args(request)?;
    let args = requested(request, RequestSource::Args)?;
    let runtime = requested(request, RequestSource::RuntimeConfig)?;
    // As in the stock plugin, replaced addresses of the configuration are not even parsed.
    match (runtime.is_empty(), args.is_empty(), extra.is_empty()) {
        (false, _, _) => Ok((runtime, "runtimeConfig")),
        (true, false, _) => Ok((args, "args")),
        (true, true, true) => Ok((configured(ipam)?, "the configuration")),
        (true, true, false) => {
            Ok((configured(ipam)?.into_iter().chain(extra).collect(), "the configuration and CNI_ARGS"))
        }
    }
}

/// Reads `IP` and `GATEWAY` of `CNI_ARGS`, both lists. The stock plugin assigns a gateway only to these addresses,
/// because it reads the configured ones later.
fn from_cni_args(request: &Request) -> Result<Vec<Address>, Problem> {
    let argument = |key: &str| {
        let pair = request.cni_args.iter().rev().find(|pair| pair.key == key);
        pair.map(|pair| pair.value.as_str()).filter(|value| !value.is_empty())
    };
    let mut addresses = Vec::new();
    for text in argument("IP").into_iter().flat_map(|list| list.split(',')).map(str::trim) {
        let bad = |_bad| problem("", format!("the 'ip' field is expected to be in CIDR notation, got: '{text}'"));
        addresses.push(Address { address: text.parse().map_err(bad)?, gateway: None });
    }
    for item in argument("GATEWAY").into_iter().flat_map(|list| list.split(',')) {
        let bad = |_bad| problem("", format!("invalid gateway address: {item}"));
        let gateway: IpAddress = item.trim().parse().map_err(bad)?;
        for entry in addresses.iter_mut().filter(|entry| contains(entry.address, gateway)) {
            entry.gateway = Some(gateway);
        }
    }
    Ok(addresses)
}

/// Returns the addresses of `args.cni.ips` or `runtimeConfig.ips`; they have no gateways.
fn requested(request: &Request, source: RequestSource) -> Result<Vec<Address>, Problem> {
    let wishes = request.requested.iter().filter(|wish| wish.source == source);
    let address = |text: &str| {
        let bad = |_bad| problem("", format!("an entry in the 'ips' field is NOT in CIDR notation, got: '{text}'"));
        Ok(Address { address: text.parse().map_err(bad)?, gateway: None })
    };
    wishes.map(|wish| address(&wish.text)).collect()
}

/// Returns the `addresses` of the `ipam` object.
fn configured(ipam: &Object<'_>) -> Result<Vec<Address>, Problem> {
    let address = |(at, value)| {
        let entry = object(value, at)?;
        let text = entry.text("address")?.unwrap_or_default();
        let bad = |_bad| {
            let message = format!("the 'address' field is expected to be in CIDR notation, got: '{text}'");
            problem(entry.place("address"), message)
        };
        Ok(Address { address: text.parse().map_err(bad)?, gateway: entry.address("gateway")? })
    };
    ipam.list("addresses")?.into_iter().map(address).collect()
}

/// Before CNI 0.3.0 a result can only contain one address per family.
fn count(addresses: &[Address], cni_version: &str) -> Result<(), Denial> {
    let v4 = addresses.iter().filter(|entry| matches!(entry.address.address, IpAddress::Ipv4(_))).count();
    let v6 = addresses.len() - v4;
    if (v4 > 1 || v6 > 1) && ["", "0.1.0", "0.2.0"].contains(&cni_version) {
        let message = format!("CNI version {cni_version} does not support more than 1 address per family");
        return Err(Denial::InvalidConfig(message));
    }
    Ok(())
}

fn kept_for_us(claim: &Claim, request: &Request) -> bool {
    claim.state == ClaimState::Kept && request.identities.contains(&claim.owner)
}

fn taken_message(claim: &Claim) -> String {
    let Claim { address, owner, ifname, .. } = claim;
    match claim.state {
        ClaimState::Active => format!("{address} is in use by {owner} ({ifname})"),
        ClaimState::Cooldown => format!("{address} was released a moment ago and rests; try again later"),
        ClaimState::Kept => format!("{address} is kept for {owner}"),
    }
}

fn check(config: &str) -> Result<Vec<Problem>, Problem> {
    let config = conf::parse(config)?;
    let ipam = conf::top_object(&config)?;
    let problems = [configured(&ipam).err(), conf::routes(&ipam).err(), conf::dns(&ipam).err()];
    Ok(problems.into_iter().flatten().collect())
}

weft_sdk::policy!(Static);

#[cfg(test)]
mod tests;
