//! CHECK of forwarding, of what is in nftables, and of what is more to host ports and firewalls.

use super::Difference;
use crate::netlink::error::NetlinkError;
use crate::netlink::{Executor, firewalld, nft, sysctl};
use crate::plan::{Family, FirewalldSource, Op, RouteLocalnet};

impl Executor {
    pub(super) fn check_filters(&mut self, op: &Op, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        if !self.nft()?.has(&nft::Content::of([op]))? {
            found.push(Difference::Elements { op: op.to_string() });
        }
        Ok(())
    }

    pub(super) fn check_route_localnet(
        &self,
        route: &RouteLocalnet,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        let Some((_link, key)) = self.localnet_switch(route.address)? else { return Ok(()) };
        if sysctl::read(&key)?.is_some_and(|value| value != "1") {
            found.push(Difference::Sysctl { key, want: "1".to_owned() });
        }
        Ok(())
    }

    pub(super) fn check_firewalld(
        &self,
        source: &FirewalldSource,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        if !firewalld::has(source)? {
            found.push(Difference::NoSource { address: source.address, zone: source.zone.clone() });
        }
        Ok(())
    }
}

pub(super) fn check_forwarding(family: Family, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
    let key = match family {
        Family::V4 => "ipv4/ip_forward",
        Family::V6 => "ipv6/conf/all/forwarding",
    };
    if sysctl::read(key)?.as_deref() != Some("1") {
        found.push(Difference::Forwarding { family });
    }
    Ok(())
}
