//! Addresses: conversions between the contract's form, the standard library's and texts, and arithmetic for allocators.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::{IpAddress, IpPrefix, IpRange};

/// A text that is not an address, or not an address with a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseError;

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an address")
    }
}

impl std::error::Error for ParseError {}

impl From<IpAddr> for IpAddress {
    /// An IPv4-mapped IPv6 address becomes the IPv4 address: the contract has only one name for it.
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::Ipv4(v4.octets().into()),
            IpAddr::V6(v6) => Self::Ipv6(v6.segments().into()),
        }
    }
}

impl From<IpAddress> for IpAddr {
    fn from(address: IpAddress) -> Self {
        match address {
            IpAddress::Ipv4(octets) => Self::V4(Ipv4Addr::from(<[u8; 4]>::from(octets))),
            IpAddress::Ipv6(groups) => Self::V6(Ipv6Addr::from(<[u16; 8]>::from(groups))),
        }
    }
}

impl fmt::Display for IpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for IpAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.parse::<IpAddr>().map(Self::from).map_err(|_bad| ParseError)
    }
}

impl FromStr for IpPrefix {
    type Err = ParseError;

    /// Parses CIDR notation; host bits are kept.
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (address, length) = text.split_once('/').ok_or(ParseError)?;
        let address: IpAddr = address.parse().map_err(|_bad| ParseError)?;
        if length.is_empty() || length.len() > 3 || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseError);
        }
        let mut length: u8 = length.parse().map_err(|_bad| ParseError)?;
        if address.is_ipv6() && address.to_canonical().is_ipv4() {
            // ::ffff:10.0.0.1/120 means the IPv4 network 10.0.0.0/24.
            length = length.checked_sub(96).ok_or(ParseError)?;
        }
        let prefix = Self { address: address.into(), length };
        if length > bits(prefix.address) { Err(ParseError) } else { Ok(prefix) }
    }
}

/// Returns the number of bits of an address.
#[must_use]
pub fn bits(address: IpAddress) -> u8 {
    match address {
        IpAddress::Ipv4(_) => 32,
        IpAddress::Ipv6(_) => 128,
    }
}

/// Returns whether two addresses have the same family.
#[must_use]
pub fn same_family(a: IpAddress, b: IpAddress) -> bool {
    bits(a) == bits(b)
}

/// Returns an address as a number. Only compare numbers within one family.
#[must_use]
pub fn number(address: IpAddress) -> u128 {
    match IpAddr::from(address) {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// Returns the address of `family`'s family with this number, if there is one.
#[must_use]
pub fn from_number(number: u128, family: IpAddress) -> Option<IpAddress> {
    match family {
        IpAddress::Ipv4(_) => u32::try_from(number).ok().map(|number| IpAddr::from(Ipv4Addr::from(number)).into()),
        // Built from its groups, not through `From`: a mapped address must not turn into IPv4 in the middle of a range.
        IpAddress::Ipv6(_) => Some(IpAddress::Ipv6(Ipv6Addr::from(number).segments().into())),
    }
}

/// Returns the next address, unless this is the last of its family.
#[must_use]
pub fn next(address: IpAddress) -> Option<IpAddress> {
    from_number(number(address).checked_add(1)?, address)
}

/// Returns the previous address, unless this is the first of its family.
#[must_use]
pub fn previous(address: IpAddress) -> Option<IpAddress> {
    from_number(number(address).checked_sub(1)?, address)
}

/// Returns a mask with ones in the host part. A length beyond the family's counts as a single address.
fn host_mask(prefix: IpPrefix) -> u128 {
    let bits = bits(prefix.address);
    match bits.saturating_sub(prefix.length) {
        0 => 0,
        host => u128::MAX >> (128 - u32::from(host)),
    }
}

/// Returns the network's base address.
#[must_use]
pub fn network(prefix: IpPrefix) -> IpAddress {
    from_number(number(prefix.address) & !host_mask(prefix), prefix.address).unwrap_or(prefix.address)
}

/// Returns the network's last address (for IPv4, its broadcast address).
#[must_use]
pub fn last(prefix: IpPrefix) -> IpAddress {
    from_number(number(prefix.address) | host_mask(prefix), prefix.address).unwrap_or(prefix.address)
}

/// Returns whether an address lies in a network.
#[must_use]
pub fn contains(prefix: IpPrefix, address: IpAddress) -> bool {
    same_family(prefix.address, address) && network(prefix) == network(IpPrefix { address, length: prefix.length })
}

/// Returns whether an address lies in a range.
#[must_use]
pub fn in_range(range: &IpRange, address: IpAddress) -> bool {
    same_family(range.first, address) && (number(range.first)..=number(range.last)).contains(&number(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddress {
        text.parse().expect("address")
    }

    fn net(text: &str) -> IpPrefix {
        text.parse().expect("prefix")
    }

    #[test]
    fn texts_round_trip() {
        for text in ["10.1.0.5/24", "0.0.0.0/0", "2001:db8::7/64", "::/0", "ffff::/128"] {
            assert_eq!(net(text).to_string(), text);
        }
        assert_eq!(net("::ffff:10.1.0.5/120"), net("10.1.0.5/24"));
        assert_eq!(ip("::ffff:10.1.0.5"), ip("10.1.0.5"));
    }

    #[test]
    fn bad_prefixes_are_refused() {
        for text in
            ["10.1.0.5", "10.1.0.5/", "10.1.0.5/33", "10.1.0.5/+8", "10.1.0/24", "::/129", "::ffff:10.0.0.1/64", "/8"]
        {
            assert_eq!(text.parse::<IpPrefix>(), Err(ParseError), "{text}");
        }
    }

    #[test]
    fn address_arithmetic() {
        assert_eq!(next(ip("10.1.0.255")), Some(ip("10.1.1.0")));
        assert_eq!(next(ip("255.255.255.255")), None);
        assert_eq!(next(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")), None);
        assert_eq!(previous(ip("::")), None);
        assert_eq!((network(net("10.1.2.3/16")), last(net("10.1.2.3/16"))), (ip("10.1.0.0"), ip("10.1.255.255")));
        assert_eq!((network(net("10.1.2.3/32")), last(net("10.1.2.3/32"))), (ip("10.1.2.3"), ip("10.1.2.3")));
        assert_eq!((network(net("10.1.2.3/0")), last(net("10.1.2.3/0"))), (ip("0.0.0.0"), ip("255.255.255.255")));
        assert_eq!(last(net("2001:db8::/64")), ip("2001:db8::ffff:ffff:ffff:ffff"));
        assert_eq!(last(net("::/0")), ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        assert!(contains(net("10.1.0.0/24"), ip("10.1.0.255")) && !contains(net("10.1.0.0/24"), ip("10.1.1.0")));
        assert!(!contains(net("0.0.0.0/0"), ip("::1")), "families do not mix");
    }
}
