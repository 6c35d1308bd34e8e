//! Converts a guest's values to native types. Everything here is hostile until checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::ConvertError;
use crate::bindings::delegate;
use crate::bindings::ipam::exports::weft::policy::ipam as export;
use crate::bindings::ipam::weft::policy::types as wit;
use crate::types as native;

pub(crate) fn address(address: wit::IpAddress) -> Result<IpAddr, ConvertError> {
    match address {
        wit::IpAddress::Ipv4(octets) => Ok(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::from(octets)))),
        wit::IpAddress::Ipv6(groups) => {
            let v6 = Ipv6Addr::from(<[u16; 8]>::from(groups));
            match v6.to_ipv4_mapped() {
                None => Ok(IpAddr::V6(v6)),
                Some(_v4) => Err(ConvertError::Mapped(IpAddr::V6(v6))),
            }
        }
    }
}

fn prefix(prefix: wit::IpPrefix) -> Result<IpNet, ConvertError> {
    let address = address(prefix.address)?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    IpNet::new(address, prefix.length).map_err(|_too_long| ConvertError::PrefixLength {
        address,
        length: prefix.length,
        max,
    })
}

/// Converts a range in a ledger query. It need not be declared, but must be a valid range.
pub(crate) fn range(range: wit::IpRange) -> Result<native::Range, ConvertError> {
    let subnet = prefix(range.subnet)?;
    let (first, last) = (address(range.first)?, address(range.last)?);
    if subnet != subnet.trunc() {
        return Err(ConvertError::HostBits(subnet));
    }
    let v4 = subnet.addr().is_ipv4();
    if first.is_ipv4() != v4 || last.is_ipv4() != v4 {
        return Err(ConvertError::MixedFamilies { subnet, first, last });
    }
    if first > last {
        return Err(ConvertError::Backwards { first, last });
    }
    Ok(native::Range { subnet, first, last, gateway: range.gateway.map(address).transpose()? })
}

fn route(route: wit::Route) -> Result<native::Route, ConvertError> {
    Ok(native::Route {
        dst: prefix(route.dst)?,
        gw: route.gw.map(address).transpose()?,
        mtu: route.mtu,
        advmss: route.advmss,
        priority: route.priority,
        table: route.table,
        scope: route.scope,
    })
}

fn dns(dns: wit::Dns) -> native::Dns {
    native::Dns { nameservers: dns.nameservers, domain: dns.domain, search: dns.search, options: dns.options }
}

fn wanted(wanted: wit::WantedAddress) -> Result<native::Wanted, ConvertError> {
    Ok(native::Wanted {
        candidates: wanted.candidates.into_iter().map(prefix).collect::<Result<_, _>>()?,
        gateway: wanted.gateway.map(address).transpose()?,
    })
}

pub(crate) fn decision(decision: wit::Decision) -> Result<native::Decision, ConvertError> {
    Ok(native::Decision {
        addresses: decision.addresses.into_iter().map(wanted).collect::<Result<_, _>>()?,
        routes: decision.routes.into_iter().map(route).collect::<Result<_, _>>()?,
        dns: decision.dns.map(dns),
        release: match decision.release {
            wit::ReleaseRule::Free => native::ReleaseRule::Free,
            wit::ReleaseRule::Cooldown(seconds) => native::ReleaseRule::Cooldown(seconds),
            wit::ReleaseRule::Keep(owner) => native::ReleaseRule::Keep(owner),
        },
        reason: decision.reason,
    })
}

pub(crate) fn denial(denial: wit::Denial) -> native::Denial {
    match denial {
        wit::Denial::Denied(text) => native::Denial::Denied(text),
        wit::Denial::Exhausted(text) => native::Denial::Exhausted(text),
        wit::Denial::InvalidConfig(text) => native::Denial::InvalidConfig(text),
        wit::Denial::TryAgain(text) => native::Denial::TryAgain(text),
    }
}

pub(crate) fn chosen(choice: delegate::Choice) -> native::Chosen {
    let pair = |pair: wit::Pair| (pair.key, pair.value);
    native::Chosen {
        name: choice.name,
        settings: choice.settings.into_iter().map(pair).collect(),
        reason: choice.reason,
    }
}

pub(crate) fn problem(problem: export::Problem) -> native::Problem {
    native::Problem { at: problem.at, message: problem.message }
}
