//! Links: their properties, and the small messages that change them.

use rtnetlink::packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVrf, LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader,
    LinkInfo as Info, LinkMessage, State,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{LinkBridgePort, LinkUnspec};

use super::{ChangeMode, Child, Rtnl};
use crate::netlink::fault::Fault;
use crate::plan::{LinkInfo, Mac};
use crate::random;

/// A link according to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::netlink) struct Link {
    pub(in crate::netlink) index: u32,
    pub(in crate::netlink) name: String,
    /// Empty for a physical one.
    pub(in crate::netlink) kind: String,
    pub(in crate::netlink) mac: Option<Mac>,
    pub(in crate::netlink) mtu: u32,
    pub(in crate::netlink) up: bool,
    /// Whether it was switched on explicitly; `promiscuity` also counts bridges and captures that need it.
    pub(in crate::netlink) promisc: bool,
    pub(in crate::netlink) promiscuity: u32,
    pub(in crate::netlink) allmulti: bool,
    pub(in crate::netlink) tx_queue_length: u32,
    pub(in crate::netlink) state: State,
    /// Index of the bridge of which it is a port.
    pub(in crate::netlink) master: Option<u32>,
    /// `IFLA_LINK`: the other end of a veth, or the parent of a macvlan, possibly in another namespace.
    pub(in crate::netlink) other: Option<u32>,
    /// `IFLA_LINK_NETNSID`: the namespace of `other`, if it is not the link's own.
    pub(in crate::netlink) other_netns: Option<Nsid>,
    pub(in crate::netlink) hairpin: bool,
    pub(in crate::netlink) isolated: bool,
    pub(in crate::netlink) child: Option<Child>,
    /// `IFLA_GROUP`.
    pub(in crate::netlink) group: u32,
    /// `ifalias`.
    pub(in crate::netlink) alias: Option<String>,
    /// The hardware address, of any length.
    pub(in crate::netlink) hardware: Vec<u8>,
    /// The permanent hardware address, if any.
    pub(in crate::netlink) permanent: Vec<u8>,
    /// The routing table of a VRF.
    pub(in crate::netlink) vrf_table: Option<u32>,
}

/// A namespace, by its number in the socket's own namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::netlink) struct Nsid(pub(in crate::netlink) i32);

/// How to find a link.
#[derive(Debug, Clone, Copy)]
pub(in crate::netlink) enum Lookup<'a> {
    Name(&'a str),
    Index(u32),
}

/// Returns a message that only changes one link.
pub(in crate::netlink) fn change(index: u32) -> rtnetlink::LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_index(index)
}

/// Returns a message that sets the flags of a bridge port.
pub(in crate::netlink) fn port_flags(index: u32, hairpin: bool, isolated: bool) -> LinkMessage {
    LinkBridgePort::new(index).hairpin(hairpin).isolated(isolated).build()
}

/// Returns a random MAC for a link of the host. Given at creation, it is permanent, whereas udev may overwrite one that
/// the kernel assigns (`MACAddressPolicy=persistent`) at any time.
pub(in crate::netlink) fn random_mac() -> Mac {
    let mut octets: [u8; 6] = random::octets();
    // Locally administered, unicast; lower than all of `high_mac`'s.
    octets[0] = (octets[0] & 0x7c) | 0x02;
    Mac(octets)
}

/// Returns a random MAC for a bridge, higher than those of ports. See `pin_mac`.
pub(in crate::netlink) fn high_mac() -> Mac {
    let mut octets: [u8; 6] = random::octets();
    octets[0] = 0xfe;
    Mac(octets)
}

// === impl Link ===

impl Link {
    pub(in crate::netlink) fn read(message: LinkMessage) -> Self {
        let LinkHeader { index, flags, .. } = message.header;
        let mut link = Self {
            index,
            name: String::new(),
            kind: String::new(),
            mac: None,
            mtu: 0,
            up: flags.contains(LinkFlags::Up),
            promisc: flags.contains(LinkFlags::Promisc),
            promiscuity: 0,
            allmulti: flags.contains(LinkFlags::Allmulti),
            tx_queue_length: 0,
            state: State::Unknown,
            master: None,
            other: None,
            other_netns: None,
            hairpin: false,
            isolated: false,
            child: None,
            group: 0,
            alias: None,
            hardware: Vec::new(),
            permanent: Vec::new(),
            vrf_table: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(octets) => {
                    link.mac = <[u8; 6]>::try_from(octets.as_slice()).ok().map(Mac);
                    link.hardware = octets;
                }
                LinkAttribute::PermAddress(octets) => link.permanent = octets,
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias).filter(|alias| !alias.is_empty()),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Promiscuity(count) => link.promiscuity = count,
                LinkAttribute::TxQueueLen(length) => link.tx_queue_length = length,
                LinkAttribute::OperState(state) => link.state = state,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::Link(index) => link.other = Some(index),
                LinkAttribute::LinkNetNsId(id) => link.other_netns = Some(Nsid(id)),
                LinkAttribute::LinkInfo(infos) => link.read_info(infos),
                _ => {}
            }
        }
        link
    }

    fn read_info(&mut self, infos: Vec<Info>) {
        for info in infos {
            match info {
                Info::Kind(InfoKind::Other(kind)) => self.kind = kind,
                Info::Kind(kind) => self.kind = kind.to_string(),
                Info::Data(InfoData::Vrf(items)) => {
                    self.vrf_table = items.iter().find_map(|item| match item {
                        InfoVrf::TableId(table) => Some(*table),
                        _ => None,
                    });
                }
                Info::Data(data) => self.child = Child::read(&data),
                Info::PortData(InfoPortData::BridgePort(port)) => {
                    for item in port {
                        match item {
                            InfoBridgePort::HairpinMode(on) => self.hairpin = on,
                            InfoBridgePort::Isolated(on) => self.isolated = on,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Returns its properties for other modules.
    pub(in crate::netlink) fn info(&self, addresses: Vec<ipnet::IpNet>) -> LinkInfo {
        LinkInfo {
            index: self.index,
            mtu: self.mtu,
            mac: self.mac,
            kind: self.kind.clone(),
            up: self.up,
            promiscuous: self.promisc,
            all_multicast: self.allmulti,
            tx_queue_length: self.tx_queue_length,
            addresses,
        }
    }
}

// === impl Rtnl ===

impl Rtnl {
    /// Reads a link; `None` if it does not exist.
    pub(in crate::netlink) fn link(&self, lookup: Lookup<'_>) -> Result<Option<Link>, Fault> {
        let mut message = match lookup {
            Lookup::Name(name) => LinkUnspec::new_with_name(name),
            Lookup::Index(index) => LinkUnspec::new_with_index(index),
        };
        // The counters are more than half of the answer, and not needed.
        message = message.append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        match self.get(RouteNetlinkMessage::GetLink(message.build())) {
            Ok(RouteNetlinkMessage::NewLink(message)) => Ok(Some(Link::read(message))),
            Ok(_) => Err(Fault::Broken("no link for an answer")),
            Err(fault) if fault.is_absent() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Reads all links, or all ports of one bridge.
    pub(in crate::netlink) fn links(&self, master: Option<u32>) -> Result<Vec<Link>, Fault> {
        let mut message = LinkUnspec::new_with_index(0)
            .append_extra_attribute(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        if let Some(index) = master {
            message = message.controller(index);
        }
        let answers = self.dump(RouteNetlinkMessage::GetLink(message.build()))?;
        let links = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(Link::read(message)),
            _ => None,
        });
        Ok(links.filter(|link| master.is_none() || link.master == master).collect())
    }

    /// Reads the bridge side of all bridge ports, VLANs included.
    pub(in crate::netlink) fn bridge_ports(&self) -> Result<Vec<LinkMessage>, Fault> {
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan]));
        let answers = self.dump(RouteNetlinkMessage::GetLink(message))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(message),
                _ => None,
            })
            .collect())
    }

    /// Makes a link. Returns the new link if the kernel announces it.
    pub(in crate::netlink) fn create_link(&self, message: LinkMessage) -> Result<Option<Link>, Fault> {
        let answer = self.change_echo(RouteNetlinkMessage::NewLink(message), ChangeMode::Create)?;
        Ok(match answer {
            Some(RouteNetlinkMessage::NewLink(message)) => Some(Link::read(message)),
            _ => None,
        })
    }

    /// Changes a link.
    pub(in crate::netlink) fn set_link(&self, message: LinkMessage) -> Result<(), Fault> {
        // RTM_NEWLINK without NLM_F_CREATE does everything that RTM_SETLINK does, plus bridge port settings.
        self.change(RouteNetlinkMessage::NewLink(message), ChangeMode::Set)
    }

    /// Deletes a link. Returns `false` if it does not exist.
    pub(in crate::netlink) fn delete_link(&self, index: u32) -> Result<bool, Fault> {
        let message = LinkUnspec::new_with_index(index).build();
        match self.change(RouteNetlinkMessage::DelLink(message), ChangeMode::Set) {
            Ok(()) => Ok(true),
            Err(fault) if fault.is_absent() => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proof in `pin_mac` depends on this order.
    #[test]
    fn made_up_macs() {
        for _ in 0..200 {
            let (port, bridge) = (random_mac(), high_mac());
            for Mac([first, ..]) in [port, bridge] {
                assert_eq!(first & 0x03, 0x02, "locally administered, unicast");
            }
            assert!(port < bridge);
        }
        assert_ne!(random_mac(), random_mac());
    }
}
