//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{ChangeMode, Rtnl};
use crate::netlink::fault::Fault;
use crate::plan::Family;

/// The default table of routes.
pub(in crate::netlink) const DEFAULT_TABLE: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// A route to be made, or one that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::netlink) struct RouteSpec {
    /// Index of its outgoing link.
    pub(in crate::netlink) index: u32,
    pub(in crate::netlink) dst: IpNet,
    pub(in crate::netlink) gw: Option<IpAddr>,
    /// Preferred source address.
    pub(in crate::netlink) src: Option<IpAddr>,
    pub(in crate::netlink) priority: Option<u32>,
    pub(in crate::netlink) table: Option<u32>,
    pub(in crate::netlink) scope: Option<u8>,
    pub(in crate::netlink) mtu: Option<u32>,
    pub(in crate::netlink) advmss: Option<u32>,
}

/// Returns the message that describes a route.
pub(in crate::netlink) fn route_message(route: &RouteSpec) -> RouteMessage {
    let mut message = RouteMessage::default();
    let table = route.table.unwrap_or(DEFAULT_TABLE);
    message.header.address_family = if route.dst.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = route.dst.prefix_len();
    // Tables above 255 only fit the attribute.
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::from(route.scope.unwrap_or(0));
    message.header.kind = RouteType::Unicast;
    let attributes = &mut message.attributes;
    if table > u32::from(u8::MAX) {
        attributes.push(RouteAttribute::Table(table));
    }
    if route.dst.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(packed(route.dst.network())));
    }
    attributes.extend(route.gw.map(|gw| RouteAttribute::Gateway(packed(gw))));
    attributes.extend(route.src.map(|src| RouteAttribute::PrefSource(packed(src))));
    attributes.extend(route.priority.map(RouteAttribute::Priority));
    let metrics: Vec<_> =
        [route.mtu.map(RouteMetric::Mtu), route.advmss.map(RouteMetric::Advmss)].into_iter().flatten().collect();
    if !metrics.is_empty() {
        attributes.push(RouteAttribute::Metrics(metrics));
    }
    attributes.push(RouteAttribute::Oif(route.index));
    message
}

/// Returns the same route in another table.
pub(in crate::netlink) fn in_table(mut message: RouteMessage, table: u32) -> RouteMessage {
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    // Its age and use are set by the kernel.
    message
        .attributes
        .retain(|attribute| !matches!(attribute, RouteAttribute::Table(_) | RouteAttribute::CacheInfo(_)));
    message.attributes.push(RouteAttribute::Table(table));
    message
}

fn packed(address: IpAddr) -> RouteAddress {
    address.into()
}

// === impl RouteSpec ===

impl RouteSpec {
    /// Reads a unicast route; `None` for other types, and for multipath routes, which have no single link. A default
    /// route has no destination attribute.
    pub(in crate::netlink) fn read(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        let v4 = header.address_family == AddressFamily::Inet;
        if header.kind != RouteType::Unicast {
            return None;
        }
        let unspecified: IpAddr = if v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let mut dst = unspecified;
        let mut index = None;
        let (mut gw, mut src, mut priority, mut table) = (None, None, None, Some(u32::from(header.table)));
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => dst = unpacked(address)?,
                RouteAttribute::Gateway(address) => gw = unpacked(address),
                RouteAttribute::PrefSource(address) => src = unpacked(address),
                RouteAttribute::Priority(value) => priority = Some(*value),
                RouteAttribute::Table(value) => table = Some(*value),
                RouteAttribute::Oif(value) => index = Some(*value),
                RouteAttribute::MultiPath(hops) => index = index.or(hops.first().map(|hop| hop.interface_index)),
                _ => {}
            }
        }
        Some(Self {
            index: index?,
            dst: IpNet::new(dst, header.destination_prefix_length).ok()?,
            gw,
            src,
            priority,
            table,
            scope: Some(header.scope.into()),
            mtu: None,
            advmss: None,
        })
    }
}

fn unpacked(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

// === impl Rtnl ===

impl Rtnl {
    /// Reads the routes of a family, in one table or all, through one link or any.
    pub(in crate::netlink) fn routes(
        &self,
        family: Family,
        table: Option<u32>,
        index: Option<u32>,
    ) -> Result<Vec<RouteMessage>, Fault> {
        let mut message = RouteMessage::default();
        message.header.address_family = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        message.attributes.extend(table.map(RouteAttribute::Table));
        message.attributes.extend(index.map(RouteAttribute::Oif));
        let answers = match self.dump(RouteNetlinkMessage::GetRoute(message)) {
            // A table without routes does not exist; neither does a link that disappeared.
            Err(fault) if fault.is_absent() => return Ok(Vec::new()),
            other => other?,
        };
        let wanted = |message: &RouteMessage| {
            RouteSpec::read(message).is_none_or(|route| {
                index.is_none_or(|index| route.index == index) && table.is_none_or(|table| route.table == Some(table))
            })
        };
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => Some(message),
                _ => None,
            })
            .filter(wanted)
            .collect())
    }

    /// Returns the index of the link through which the host reaches an address; `None` if it has no route.
    pub(in crate::netlink) fn output_link(&self, address: Ipv4Addr) -> Result<Option<u32>, Fault> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = 32;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(address)));
        let answer = match self.get(RouteNetlinkMessage::GetRoute(message)) {
            Err(fault) if fault.is_no_route() => return Ok(None),
            other => other?,
        };
        let RouteNetlinkMessage::NewRoute(message) = answer else { return Ok(None) };
        Ok(message.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        }))
    }

    /// Adds a route beside existing ones; an identical one is refused. A listed message may be passed unchanged: the
    /// kernel does not accept its own flags (no carrier, offloaded) back, so only requested ones are sent.
    pub(in crate::netlink) fn add_route(&self, mut message: RouteMessage) -> Result<(), Fault> {
        message.header.flags &= RouteFlags::Onlink;
        self.change(RouteNetlinkMessage::NewRoute(message), ChangeMode::Append)
    }

    /// Like `add_route`, but after those with the same destination and priority.
    pub(in crate::netlink) fn add_route_behind(&self, mut message: RouteMessage) -> Result<(), Fault> {
        message.header.flags &= RouteFlags::Onlink;
        self.change(RouteNetlinkMessage::NewRoute(message), ChangeMode::Behind)
    }

    /// Adds a route, or replaces the one with the same destination and priority.
    pub(in crate::netlink) fn replace_route(&self, mut message: RouteMessage) -> Result<(), Fault> {
        message.header.flags &= RouteFlags::Onlink;
        self.change(RouteNetlinkMessage::NewRoute(message), ChangeMode::Replace)
    }

    /// Removes a route. Returns `false` if it does not exist.
    pub(in crate::netlink) fn delete_route(&self, message: RouteMessage) -> Result<bool, Fault> {
        match self.change(RouteNetlinkMessage::DelRoute(message), ChangeMode::Set) {
            Ok(()) => Ok(true),
            Err(fault) if fault.is_absent() => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(dst: &str, gw: Option<&str>, table: Option<u32>) -> Option<RouteSpec> {
        Some(RouteSpec {
            index: 7,
            dst: dst.parse().ok()?,
            gw: gw.map(str::parse).transpose().ok()?,
            src: None,
            priority: Some(5),
            table,
            scope: Some(253),
            mtu: None,
            advmss: None,
        })
    }

    /// A written route is read back unchanged.
    #[test]
    fn there_and_back() {
        for (dst, gw, table) in [
            ("0.0.0.0/0", Some("10.0.0.1"), Some(254)),
            ("10.1.0.0/16", None, Some(100)),
            ("::/0", Some("fd00::1"), Some(254)),
            ("fd00:5::/64", None, Some(70_000)),
        ] {
            let route = spec(dst, gw, table);
            let read = route.as_ref().and_then(|route| RouteSpec::read(&route_message(route)));
            assert!(route.is_some());
            assert_eq!(read, route);
        }
    }
}
