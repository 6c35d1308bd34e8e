//! Addresses of links.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{ChangeMode, Rtnl};
use crate::netlink::fault::Fault;
use crate::plan::Family;

/// An address according to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::netlink) struct Address {
    /// Address and prefix length.
    pub(in crate::netlink) net: IpNet,
    /// Whether duplicate address detection is still running.
    pub(in crate::netlink) tentative: bool,
    /// Whether detection found a duplicate.
    pub(in crate::netlink) duplicate: bool,
    /// The complete message, so that the address can be restored exactly.
    pub(in crate::netlink) message: AddressMessage,
}

/// Returns a message with an address of a link. Like `ip` and the reference plugins, adds the broadcast address for
/// IPv4.
pub(in crate::netlink) fn address_message(index: u32, net: IpNet) -> AddressMessage {
    match net {
        IpNet::V4(net) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
    }
}

/// Returns the same address with detection disabled (`IFA_F_NODAD`).
pub(in crate::netlink) fn without_detection(mut message: AddressMessage) -> AddressMessage {
    message.header.flags |= AddressHeaderFlags::Nodad;
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    message
}

// === impl Address ===

impl Address {
    fn read(message: AddressMessage) -> Option<Self> {
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        let (mut local, mut plain) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                // On a point-to-point link, IFA_ADDRESS is the peer's; otherwise IPv6 has no IFA_LOCAL.
                AddressAttribute::Local(address) => local = Some(*address),
                AddressAttribute::Address(address) => plain = Some(*address),
                AddressAttribute::Flags(wide) => flags = *wide,
                _ => {}
            }
        }
        let net = IpNet::new(local.or(plain)?, message.header.prefix_len).ok()?;
        let tentative = flags.contains(AddressFlags::Tentative);
        let duplicate = flags.contains(AddressFlags::Dadfailed);
        Some(Self { net, tentative, duplicate, message })
    }
}

// === impl Rtnl ===

impl Rtnl {
    /// Reads the addresses of a link, of one family or both.
    pub(in crate::netlink) fn addresses(&self, index: u32, family: Option<Family>) -> Result<Vec<Address>, Fault> {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.family = match family {
            Some(Family::V4) => AddressFamily::Inet,
            Some(Family::V6) => AddressFamily::Inet6,
            None => AddressFamily::Unspec,
        };
        let answers = match self.dump(RouteNetlinkMessage::GetAddress(message)) {
            // The link disappeared, so it has no addresses.
            Err(fault) if fault.is_absent() => return Ok(Vec::new()),
            other => other?,
        };
        let addresses = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == index => Address::read(message),
            _ => None,
        });
        Ok(addresses
            .filter(|address| family.is_none_or(|family| Family::from_ip(address.net.addr()) == family))
            .collect())
    }

    /// Adds an address.
    pub(in crate::netlink) fn add_address(&self, message: AddressMessage) -> Result<(), Fault> {
        self.change(RouteNetlinkMessage::NewAddress(message), ChangeMode::Create)
    }

    /// Restores an address exactly as it was read; an existing one is not an error.
    pub(in crate::netlink) fn restore_address(&self, message: AddressMessage) -> Result<(), Fault> {
        match self.add_address(message) {
            Err(fault) if fault.is_exists() => Ok(()),
            other => other,
        }
    }

    /// Removes an address. Returns `false` if it does not exist.
    pub(in crate::netlink) fn delete_address(&self, message: AddressMessage) -> Result<bool, Fault> {
        match self.change(RouteNetlinkMessage::DelAddress(message), ChangeMode::Set) {
            Ok(()) => Ok(true),
            Err(fault) if fault.is_absent() => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

/// Returns whether two networks overlap.
pub(in crate::netlink) fn overlap(a: IpNet, b: IpNet) -> bool {
    let covers = |net: &IpNet, address: IpAddr| net.contains(&address);
    covers(&a, b.network()) || covers(&b, a.network())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_networks() {
        let overlaps = |a: &str, b: &str| {
            let (a, b): (IpNet, IpNet) = (a.parse().unwrap_or_default(), b.parse().unwrap_or_default());
            assert_eq!(overlap(a, b), overlap(b, a));
            overlap(a, b)
        };
        assert!(overlaps("10.0.0.1/8", "10.9.0.1/16"));
        assert!(overlaps("fd00::1/64", "fd00::2/64"));
        assert!(!overlaps("10.0.0.1/24", "10.0.1.1/24"));
        assert!(!overlaps("10.0.0.1/8", "fd00::1/8"));
    }
}
