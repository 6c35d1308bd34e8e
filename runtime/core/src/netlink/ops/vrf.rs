//! VRFs of the container, and the links in them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

use rtnetlink::LinkVrf;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};

use super::address::restore_addresses;
use super::sbr::{Placed, restore_main_routes, table_of};
use super::{Operation, Session};
use crate::netlink::Executor;
use crate::netlink::check::{Difference, LaterChanges, StepDifference};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::inverse::Inverse;
use crate::netlink::rtnl::{Address, DEFAULT_TABLE, Link, Lookup, Rtnl, change, in_table};
use crate::plan::{Family, JoinVrf, LinkRef, Plan, Side};

/// `default`, `main` and `local`, which a VRF cannot use.
const RESERVED_TABLES: std::ops::RangeInclusive<u32> = 253..=DEFAULT_TABLE + 1;

/// The steps of the wait for local routes, as in the reference plugin: they double from 10 ms, 2.55 s in all.
const FIRST_STEP: Duration = Duration::from_millis(10);
const STEPS: u32 = 8;

impl Operation for JoinVrf {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.join_vrf(self)
    }

    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        executor.leave_vrf(plan, self)
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        found.extend(executor.check_vrf(self)?.map(Difference::Step));
        Ok(())
    }
}

impl Session<'_> {
    pub(super) fn join_vrf(&mut self, op: &JoinVrf) -> Result<(), NetlinkError> {
        let _lock = self.executor.lock_container(op)?;
        let vrf = self.ensure_vrf(op)?;
        let table = vrf.vrf_table.unwrap_or_default();
        let link = LinkRef::container(op.link.as_str());
        let index = self.free_index(&link)?;
        let made = self.is_made(&link);
        let rtnl = self.rtnl(&link)?;
        let doing = || format!("cmdAdd failed: failed getting ipv6 addresses for {}", op.link);
        let before = rtnl.addresses(index, Some(Family::V6)).doing(doing)?;
        let routes = rtnl.main_routes(index)?;
        if !made {
            let addresses = before.iter().map(|address| address.message.clone()).collect();
            self.log(format!("put the routes of {link} back"), restore_main_routes(index, routes.clone()));
            let inverse = restore_addresses(Side::Container, addresses, Vec::new());
            self.log(format!("put the addresses of {link} back"), inverse);
        }
        let back = change(index).nocontroller().build();
        self.log(format!("take {link} out of {}", op.vrf), Inverse::set_link(Side::Container, back));
        let rtnl = self.rtnl(&link)?;
        let doing = || format!("cmdAdd failed: could not set vrf {} as master of {}", op.vrf, op.link);
        rtnl.set_link(change(index).controller(vrf.index).build()).doing(doing)?;
        if let Some(known) = self.links.get_mut(&link) {
            known.master = Some(vrf.index);
        }
        let rtnl = self.rtnl(&link)?;
        keep_addresses(rtnl, index, before, op)?;
        wait_local_routes(rtnl, index, table)?;
        // The kernel makes connected IPv4 routes, in the right table.
        let own = |message: &RouteMessage| {
            message.header.address_family == AddressFamily::Inet && message.header.protocol == RouteProtocol::Kernel
        };
        for Placed { message, .. } in routes.into_iter().filter(|route| !own(&route.message)) {
            let doing = || format!("cmdAdd failed: could not restore a route of {} in table {table}", op.link);
            rtnl.replace_route(in_table(message, table)).doing(doing)?;
        }
        Ok(())
    }

    /// Returns the index of a link without a master.
    fn free_index(&mut self, link: &LinkRef) -> Result<u32, NetlinkError> {
        let index = self.index(link)?;
        let doing = || format!("cmdAdd failed: could not get link by name {}", link.name);
        let rtnl = self.rtnl(link)?;
        let found = rtnl.link(Lookup::Index(index)).doing(doing)?;
        let found = found.ok_or_else(|| NetlinkError::NoLink { link: link.clone() })?;
        let Some(master) = found.master else { return Ok(index) };
        let named = rtnl.link(Lookup::Index(master)).doing(doing)?;
        let master = named.map_or_else(|| format!("interface {master}"), |named| named.name);
        Err(NetlinkError::HasMaster { link: link.name.clone(), master })
    }

    fn ensure_vrf(&mut self, op: &JoinVrf) -> Result<Link, NetlinkError> {
        let link = LinkRef::container(op.vrf.as_str());
        let rtnl = self.rtnl(&link)?;
        let doing = || format!("cmdAdd failed: could not add VRF {}", op.vrf);
        if let Some(found) = rtnl.link(Lookup::Name(&op.vrf)).doing(doing)? {
            let name = op.vrf.clone();
            return match (found.vrf_table, op.table) {
                _ if found.kind != "vrf" => Err(NetlinkError::NotAVrf { name }),
                (Some(table), Some(want)) if table != want => Err(NetlinkError::OtherTable { name, table }),
                _ => Ok(found),
            };
        }
        let table = match op.table {
            Some(table) => table,
            None => free_table(&rtnl.links(None).doing(doing)?)?,
        };
        let announced = rtnl.create_link(LinkVrf::new(&op.vrf, table).up().build()).doing(doing)?;
        let found = match announced {
            Some(found) => Some(found),
            None => rtnl.link(Lookup::Name(&op.vrf)).doing(doing)?,
        };
        let found = found.ok_or(NetlinkError::NoLink { link })?;
        let index = found.index;
        let inverse = Inverse::from_action(move |executor| {
            let _lock = executor.lock_container(&"deleting a VRF")?;
            executor.delete_idle_vrf(index, None)
        });
        self.log(format!("delete VRF {}", op.vrf), inverse);
        Ok(Link { vrf_table: Some(table), ..found })
    }
}

/// Returns the first table that no VRF uses.
fn free_table(links: &[Link]) -> Result<u32, NetlinkError> {
    let taken: BTreeSet<u32> = links.iter().filter_map(|link| link.vrf_table).collect();
    let free = |table: &u32| !taken.contains(table) && !RESERVED_TABLES.contains(table);
    (1..u32::MAX).find(free).ok_or(NetlinkError::NoTable)
}

/// Joining takes the link down for a moment, and global IPv6 addresses are only kept with `keep_addr_on_down`.
fn keep_addresses(rtnl: &Rtnl, index: u32, before: Vec<Address>, op: &JoinVrf) -> Result<(), NetlinkError> {
    let doing = || format!("cmdAdd failed: failed getting ipv6 new addresses for {}", op.link);
    let after = rtnl.addresses(index, Some(Family::V6)).doing(doing)?;
    let lost = before.into_iter().filter(|address| !after.iter().any(|there| there.net == address.net));
    for address in lost.filter(|address| is_global(address.net.addr())) {
        let doing = || format!("cmdAdd failed: could not restore address {} to {} @ {}", address.net, op.link, op.vrf);
        rtnl.restore_address(address.message).doing(doing)?;
    }
    Ok(())
}

/// The kernel recreates its own link-local address.
fn is_global(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if !address.is_unicast_link_local())
}

/// Waits for local routes: until they exist, the kernel refuses routes that prefer the address as source, or that use a
/// gateway in its network.
fn wait_local_routes(rtnl: &Rtnl, index: u32, table: u32) -> Result<(), NetlinkError> {
    let doing = || "cmdAdd failed: failed to list the routes of the VRF";
    let addresses = rtnl.addresses(index, Some(Family::V6)).doing(doing)?;
    let wanted: Vec<IpAddr> =
        addresses.into_iter().map(|address| address.net.addr()).filter(|address| is_global(*address)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let (mut step, mut waited) = (FIRST_STEP, Duration::ZERO);
    for attempt in 0..=STEPS {
        let routes = rtnl.routes(Family::V6, Some(table), None).doing(doing)?;
        let missing = wanted.iter().find(|address| !routes.iter().any(|route| is_local(route, table, **address)));
        let Some(missing) = missing else { return Ok(()) };
        if attempt == STEPS {
            return Err(NetlinkError::NoLocalRoute { address: *missing, table, millis: waited.as_millis() });
        }
        sleep(step);
        waited += step;
        step *= 2;
    }
    Ok(())
}

fn is_local(message: &RouteMessage, table: u32, address: IpAddr) -> bool {
    message.header.kind == RouteType::Local
        && table_of(message) == table
        && message.attributes.contains(&RouteAttribute::Destination(address.into()))
}

impl Executor {
    /// Takes a link out of a VRF, and deletes the VRF after its last link.
    pub(super) fn leave_vrf(&self, plan: &Plan, op: &JoinVrf) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(Side::Container) else { return Ok(()) };
        let doing = || format!("failed to lookup VRF {}", op.vrf);
        let _lock = self.lock_container(op)?;
        let Some(vrf) = rtnl.link(Lookup::Name(&op.vrf)).doing(doing)?.filter(|vrf| vrf.kind == "vrf") else {
            return Ok(());
        };
        let link = self.find_again(plan, &LinkRef::container(op.link.as_str()))?;
        let slave = link.filter(|link| link.master == Some(vrf.index)).map(|link| link.index);
        if let Some(index) = slave {
            let doing = || format!("resetMaster: could reset master to {}", op.link);
            rtnl.set_link(change(index).nocontroller().build()).doing(doing)?;
        }
        self.delete_idle_vrf(vrf.index, slave)
    }

    /// Deletes a VRF of the container unless it has slaves other than `leaving`. The caller holds the lock.
    pub(super) fn delete_idle_vrf(&self, index: u32, leaving: Option<u32>) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(Side::Container) else { return Ok(()) };
        let slaves = rtnl.links(Some(index)).doing(|| "failed to list the links of a VRF")?;
        if slaves.iter().any(|slave| Some(slave.index) != leaving) {
            return Ok(());
        }
        rtnl.delete_link(index).map(drop).doing(|| "failed to delete a VRF")
    }

    fn check_vrf(&self, op: &JoinVrf) -> Result<Option<StepDifference>, NetlinkError> {
        let Some(vrf) = self.look(&LinkRef::container(op.vrf.as_str()))?.filter(|vrf| vrf.kind == "vrf") else {
            return Ok(Some(StepDifference::NoVrf { name: op.vrf.clone() }));
        };
        let member =
            self.look(&LinkRef::container(op.link.as_str()))?.is_some_and(|link| link.master == Some(vrf.index));
        Ok((!member).then(|| StepDifference::NotInVrf { name: op.link.clone(), vrf: op.vrf.clone() }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use rtnetlink::packet_route::link::LinkMessage;

    use super::*;

    fn vrf(table: Option<u32>) -> Link {
        Link { vrf_table: table, ..Link::read(LinkMessage::default()) }
    }

    #[test]
    fn a_new_vrf_gets_the_first_free_table() {
        assert_eq!(free_table(&[]).unwrap(), 1);
        assert_eq!(free_table(&[vrf(Some(1)), vrf(None), vrf(Some(3))]).unwrap(), 2);
        let many: Vec<_> = (1..=252).map(|table| vrf(Some(table))).collect();
        assert_eq!(free_table(&many).unwrap(), 256, "not default, main or local");
        let many: Vec<_> = (1..=999).map(|table| vrf(Some(table))).collect();
        assert_eq!(free_table(&many).unwrap(), 1000);
    }
}
