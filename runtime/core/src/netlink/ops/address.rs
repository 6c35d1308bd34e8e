//! Addresses: of the container's links, and of shared links of the host.

use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::route::RouteMessage;

use super::{Operation, Session};
use crate::netlink::Executor;
use crate::netlink::check::{Difference, Since};
use crate::netlink::error::{Doing, NetlinkError};
use crate::netlink::rtnl::{Address, DEFAULT_TABLE, RouteSpec, address_message, overlap, without_detection};
use crate::netlink::undo::{Inverse, Newcomers};
use crate::plan::{Family, LinkRef, Side};

/// An address of a container link.
pub(super) struct Add<'a> {
    pub(super) link: &'a LinkRef,
    pub(super) address: IpNet,
}

/// An address of a link that attachments share.
pub(super) struct Ensure<'a> {
    pub(super) link: &'a str,
    pub(super) address: IpNet,
    pub(super) force: bool,
}

impl Operation for Add<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.add_address(self.link, self.address)
    }

    fn check(&self, executor: &mut Executor, since: &Since, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        executor.check_address(self.link, self.address, Some(since), found)
    }
}

impl Operation for Ensure<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.ensure_address(self.link, self.address, self.force)
    }

    fn check(&self, executor: &mut Executor, _since: &Since, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        executor.check_address(&LinkRef::host(self.link), self.address, None, found)
    }
}

impl Session<'_> {
    pub(super) fn add_address(&mut self, link: &LinkRef, address: IpNet) -> Result<(), NetlinkError> {
        let index = self.index(link)?;
        let message = address_message(index, address);
        let doing = || format!("failed to add IP addr {address} to {:?}", link.name);
        self.rtnl(link)?.add_address(message.clone()).doing(doing)?;
        if !self.is_made(link) {
            let inverse = remove_address(link.side, message);
            self.log(format!("remove address {address} from {link}"), inverse);
        }
        Ok(())
    }

    /// The rules of the reference bridge: the very same address is enough; any other IPv4 one, or an overlapping IPv6
    /// one, is in the way.
    pub(super) fn ensure_address(&mut self, name: &str, address: IpNet, force: bool) -> Result<(), NetlinkError> {
        let link = LinkRef::host(name);
        let index = self.index(&link)?;
        let family = Family::of(address.addr());
        let host = &self.executor.host;
        let listed =
            host.addresses(index, Some(family)).doing(|| format!("could not get list of IP addresses of {name:?}"))?;
        if listed.iter().any(|there| there.net == address) {
            return Ok(());
        }
        let in_the_way: Vec<Address> =
            listed.into_iter().filter(|there| family == Family::V4 || overlap(there.net, address)).collect();
        if !in_the_way.is_empty() && !force {
            return Err(NetlinkError::OtherAddress { link: name.to_owned(), address });
        }
        // A container that comes from now on may use the address as its gateway. On a VLAN's veth that is any new link.
        let unless = if self.is_made(&link) {
            None
        } else {
            let bridge = Some(index).filter(|_| self.links.get(&link).is_some_and(|found| found.kind == "bridge"));
            Some(self.executor.newcomers(bridge)?)
        };
        if !in_the_way.is_empty() {
            self.displace(&link, index, in_the_way, unless.clone())?;
        }
        let mut message = address_message(index, address);
        // Detection takes a second or two, in which the gateway does not answer. Nobody is there yet who could have the address.
        if family == Family::V6
            && self.is_made(&link)
            && self.links.get(&link).is_some_and(|found| found.kind == "bridge")
        {
            message = without_detection(message);
        }
        match self.executor.host.add_address(message.clone()) {
            // Another ADD was faster.
            Err(fault) if fault.is_exists() => return Ok(()),
            other => other.doing(|| format!("could not add IP address to {name:?}"))?,
        }
        if let Some(unless) = unless {
            let inverse = remove_address(Side::Host, message);
            self.log_shared(format!("remove address {address} from {name}"), inverse, unless);
        }
        Ok(())
    }

    /// Removes addresses that are in the way. The kernel drops routes with them (those of an IPv4 subnet, those that
    /// prefer the address as source), so both are kept for undo.
    fn displace(
        &mut self,
        link: &LinkRef,
        index: u32,
        addresses: Vec<Address>,
        unless: Option<Newcomers>,
    ) -> Result<(), NetlinkError> {
        let Some(family) = addresses.first().map(|address| Family::of(address.net.addr())) else { return Ok(()) };
        let host = &self.executor.host;
        let routes = host.routes(family, None, Some(index)).doing(|| format!("failed to list the routes of {link}"))?;
        // All of the family, since deleting a primary IPv4 address may take its secondaries along.
        let before = host.addresses(index, Some(family)).doing(|| format!("failed to list the addresses of {link}"))?;
        if let Some(unless) = unless {
            let addresses = before.into_iter().map(|address| address.message).collect();
            let inverse = restore_addresses(Side::Host, addresses, routes);
            self.log_shared(format!("put the addresses of {link} back"), inverse, unless);
        }
        for address in addresses {
            let doing = || format!("could not remove IP address {} from {:?}", address.net, link.name);
            self.executor.host.delete_address(address.message.clone()).doing(doing)?;
        }
        Ok(())
    }
}

/// Removes an address that was added.
fn remove_address(side: Side, message: AddressMessage) -> Inverse {
    Inverse::request(side, move |rtnl| rtnl.delete_address(message).map(drop))
}

/// Puts addresses back that were removed, in order, and the routes that went with them.
pub(super) fn restore_addresses(side: Side, addresses: Vec<AddressMessage>, routes: Vec<RouteMessage>) -> Inverse {
    Inverse::request(side, move |rtnl| {
        let mut outcome = addresses.into_iter().try_for_each(|message| rtnl.restore_address(message));
        for message in routes {
            // The kernel has made its own routes again by now.
            outcome = outcome.and(match rtnl.add_route(message) {
                Err(fault) if fault.is_exists() => Ok(()),
                other => other,
            });
        }
        outcome
    })
}

impl Executor {
    fn check_address(
        &self,
        link: &LinkRef,
        address: IpNet,
        routed: Option<&Since>,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        // A missing link is reported by its own op; the address is missing either way.
        let doing = || format!("failed to list the addresses of {link}");
        let (Some(rtnl), Some(there)) = (self.rtnl(link.side), self.look(link)?) else {
            found.push(Difference::Address { address, link: link.clone() });
            return Ok(());
        };
        let family = Family::of(address.addr());
        let addresses = rtnl.addresses(there.index, Some(family)).doing(doing)?;
        if !addresses.iter().any(|one| one.net == address) {
            found.push(Difference::Address { address, link: link.clone() });
        } else if let Some(since) = routed {
            let routes =
                rtnl.routes(family, since.table(link, DEFAULT_TABLE), None).doing(|| "failed to list routes")?;
            let network = address.trunc();
            // The network of a host address has no route of its own in IPv4.
            let host = address.prefix_len() == address.max_prefix_len();
            if !host && !routes.iter().filter_map(RouteSpec::read).any(|route| route.dst == network) {
                found.push(Difference::NoGatewayRoute { network });
            }
        }
        Ok(())
    }
}
