//! Addresses: of the container's links, and of shared links of the host.

use ipnet::IpNet;

use super::Session;
use crate::netlink::error::{Doing, NetlinkError};
use crate::netlink::rtnl::{Address, address_message, overlap};
use crate::netlink::undo::{Inverse, Newcomers};
use crate::plan::{Family, LinkRef, Side};

impl Session<'_> {
    pub(super) fn add_address(&mut self, link: &LinkRef, address: IpNet) -> Result<(), NetlinkError> {
        let index = self.index(link)?;
        let message = address_message(index, address);
        let doing = || format!("failed to add IP addr {address} to {:?}", link.name);
        self.rtnl(link)?.add_address(message.clone()).doing(doing)?;
        if !self.is_made(link) {
            let inverse = Inverse::RemoveAddress { side: link.side, message };
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
        // Whoever comes from now on may use the address as its gateway. On a VLAN's veth that is any new link.
        let unless = if self.is_made(&link) {
            None
        } else {
            let bridge = Some(index).filter(|_| self.links.get(&link).is_some_and(|found| found.kind == "bridge"));
            Some(self.executor.newcomers(bridge)?)
        };
        if !in_the_way.is_empty() {
            self.displace(&link, index, in_the_way, unless.clone())?;
        }
        let message = address_message(index, address);
        match self.executor.host.add_address(message.clone()) {
            // Another ADD was faster.
            Err(fault) if fault.is_exists() => return Ok(()),
            other => other.doing(|| format!("could not add IP address to {name:?}"))?,
        }
        if let Some(unless) = unless {
            let inverse = Inverse::RemoveAddress { side: Side::Host, message };
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
            let inverse = Inverse::RestoreAddresses { side: Side::Host, addresses, routes };
            self.log_shared(format!("put the addresses of {link} back"), inverse, unless);
        }
        for address in addresses {
            let doing = || format!("could not remove IP address {} from {:?}", address.net, link.name);
            self.executor.host.delete_address(address.message.clone()).doing(doing)?;
        }
        Ok(())
    }
}
