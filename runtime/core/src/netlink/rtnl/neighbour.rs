//! Neighbour entries of a link, and the forwarding database of a bridge.

use std::net::IpAddr;

use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{ChangeMode, Rtnl};
use crate::netlink::fault::Fault;
use crate::plan::Mac;

impl Rtnl {
    /// Deletes a link's learned neighbour entry for an address.
    pub(in crate::netlink) fn forget_neighbour(&self, index: u32, address: IpAddr) -> Result<(), Fault> {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = index;
        let (family, address) = match address {
            IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
        };
        message.header.family = family;
        message.attributes = vec![NeighbourAttribute::Destination(address)];
        self.forget(message.clone(), message)
    }

    /// Deletes a bridge's learned entry for a MAC, except on `port`.
    pub(in crate::netlink) fn forget_port_of(&self, bridge: u32, mac: Mac, port: Option<u32>) -> Result<(), Fault> {
        let mac = NeighbourAttribute::LinkLayerAddress(mac.0.to_vec());
        let mut question = NeighbourMessage::default();
        question.header.family = AddressFamily::Bridge;
        question.attributes = vec![NeighbourAttribute::Controller(bridge), mac.clone()];
        let found = match self.look(question)? {
            Some(found) if Some(found.header.ifindex) != port => found,
            _ => return Ok(()),
        };
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = found.header.ifindex;
        message.header.flags = NeighbourFlags::Controller;
        let vlan = found.attributes.iter().filter(|attribute| matches!(attribute, NeighbourAttribute::Vlan(_)));
        message.attributes = vlan.cloned().chain([mac]).collect();
        self.delete(message)
    }

    fn forget(&self, question: NeighbourMessage, message: NeighbourMessage) -> Result<(), Fault> {
        match self.look(question)? {
            Some(_) => self.delete(message),
            None => Ok(()),
        }
    }

    /// Returns the entry, unless an administrator or the link itself made it.
    fn look(&self, question: NeighbourMessage) -> Result<Option<NeighbourMessage>, Fault> {
        let found = match self.get(RouteNetlinkMessage::GetNeighbour(question)) {
            Ok(RouteNetlinkMessage::NewNeighbour(found)) => found,
            Ok(_) => return Ok(None),
            Err(fault) if fault.is_absent() => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let made = matches!(found.header.state, NeighbourState::Permanent | NeighbourState::Noarp);
        Ok((!made).then_some(found))
    }

    fn delete(&self, message: NeighbourMessage) -> Result<(), Fault> {
        match self.change(RouteNetlinkMessage::DelNeighbour(message), ChangeMode::Set) {
            Err(fault) if fault.is_absent() => Ok(()),
            other => other,
        }
    }
}
