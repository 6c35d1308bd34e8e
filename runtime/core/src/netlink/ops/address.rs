//! Addresses: of the container's links, and of shared links of the host.

use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::route::RouteMessage;

use super::{Operation, Session};
use crate::netlink::Executor;
use crate::netlink::check::{Difference, LaterChanges};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::inverse::{Inverse, Newcomers};
use crate::netlink::rtnl::{Address, DEFAULT_TABLE, RouteSpec, address_message, overlap, without_detection};
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
    /// Other allowed addresses.
    pub(super) beside: &'a [IpNet],
}

impl Operation for Add<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.add_address(self.link, self.address)
    }

    fn check(
        &self,
        executor: &mut Executor,
        since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        executor.check_address(self.link, self.address, Some(since), found)
    }
}

impl Operation for Ensure<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.ensure_address(self)
    }

    fn preflight(&self, executor: &Executor) -> Result<(), NetlinkError> {
        let Some(link) = executor.look(&LinkRef::host(self.link))? else { return Ok(()) };
        match self.find(executor, link.index)? {
            Found::InTheWay(_) if !self.force => Err(self.other_address()),
            _ => Ok(()),
        }
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        executor.check_address(&LinkRef::host(self.link), self.address, None, found)
    }
}

/// Whether an address can be put on a link with other addresses.
enum Found {
    /// It exists already.
    There,
    /// It does not exist, and these conflict with it.
    InTheWay(Vec<Address>),
    /// It does not exist, and can be added.
    Nothing,
}

impl Ensure<'_> {
    /// The rules of the reference bridge: an identical address suffices; any other IPv4 address, or an overlapping IPv6
    /// one, conflicts. Ranges of one network have their gateways side by side, whereas the reference allows no second
    /// range on the bridge.
    fn find(&self, executor: &Executor, index: u32) -> Result<Found, NetlinkError> {
        let (name, family) = (self.link, Family::from_ip(self.address.addr()));
        let doing = || format!("could not get list of IP addresses of {name:?}");
        let listed = executor.host.addresses(index, Some(family)).doing(doing)?;
        if listed.iter().any(|there| there.net == self.address) {
            return Ok(Found::There);
        }
        let is_in_the_way = |there: &Address| {
            let overlaps = overlap(there.net, self.address);
            overlaps || (family == Family::V4 && !self.beside.contains(&there.net))
        };
        let in_the_way: Vec<Address> = listed.into_iter().filter(is_in_the_way).collect();
        Ok(if in_the_way.is_empty() { Found::Nothing } else { Found::InTheWay(in_the_way) })
    }

    fn other_address(&self) -> NetlinkError {
        NetlinkError::OtherAddress { link: self.link.to_owned(), address: self.address }
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

    fn ensure_address(&mut self, ask: &Ensure<'_>) -> Result<(), NetlinkError> {
        let (name, address) = (ask.link, ask.address);
        let link = LinkRef::host(name);
        let index = self.index(&link)?;
        let family = Family::from_ip(address.addr());
        let in_the_way = match ask.find(self.executor, index)? {
            Found::There => return Ok(()),
            Found::InTheWay(_) if !ask.force => return Err(ask.other_address()),
            Found::InTheWay(addresses) => addresses,
            Found::Nothing => Vec::new(),
        };
        // A later container may use the address as its gateway. On a VLAN's veth, any new link indicates one.
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
        // Detection takes a second or two, during which the gateway does not answer. No other host can have the address
        // yet.
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

    /// Removes conflicting addresses. The kernel drops routes with them (those of an IPv4 subnet, and those that prefer
    /// the address as source), so both are recorded for undo.
    fn displace(
        &mut self,
        link: &LinkRef,
        index: u32,
        addresses: Vec<Address>,
        unless: Option<Newcomers>,
    ) -> Result<(), NetlinkError> {
        let Some(family) = addresses.first().map(|address| Family::from_ip(address.net.addr())) else { return Ok(()) };
        let host = &self.executor.host;
        let routes = host.routes(family, None, Some(index)).doing(|| format!("failed to list the routes of {link}"))?;
        // Record all of the family, because deleting a primary IPv4 address may delete its secondaries, too.
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

/// Returns the inverse that removes an added address.
fn remove_address(side: Side, message: AddressMessage) -> Inverse {
    Inverse::request(side, move |rtnl| rtnl.delete_address(message).map(drop))
}

/// Returns the inverse that restores removed addresses in order, with the routes that disappeared with them.
pub(super) fn restore_addresses(side: Side, addresses: Vec<AddressMessage>, routes: Vec<RouteMessage>) -> Inverse {
    Inverse::request(side, move |rtnl| {
        let mut outcome = addresses.into_iter().try_for_each(|message| rtnl.restore_address(message));
        for message in routes {
            // The kernel has already recreated its own routes.
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
        routed: Option<&LaterChanges>,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        // A missing link is reported by its own op; the address is missing in any case.
        let doing = || format!("failed to list the addresses of {link}");
        let (Some(rtnl), Some(there)) = (self.rtnl(link.side), self.look(link)?) else {
            found.push(Difference::Address { address, link: link.clone() });
            return Ok(());
        };
        let family = Family::from_ip(address.addr());
        let addresses = rtnl.addresses(there.index, Some(family)).doing(doing)?;
        if !addresses.iter().any(|one| one.net == address) {
            found.push(Difference::Address { address, link: link.clone() });
        } else if let Some(since) = routed {
            let routes =
                rtnl.routes(family, since.table(link, DEFAULT_TABLE), None).doing(|| "failed to list routes")?;
            let network = address.trunc();
            // In IPv4, the network of a host address has no route of its own.
            let host = address.prefix_len() == address.max_prefix_len();
            if !host && !routes.iter().filter_map(RouteSpec::read).any(|route| route.dst == network) {
                found.push(Difference::NoGatewayRoute { network });
            }
        }
        Ok(())
    }
}
