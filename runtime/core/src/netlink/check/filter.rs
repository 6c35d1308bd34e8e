//! CHECK of what is more to host ports and firewalls than nftables.

use super::Difference;
use crate::netlink::error::NetlinkError;
use crate::netlink::{Executor, firewalld, sysctl};
use crate::plan::{FirewalldSource, RouteLocalnet};

impl Executor {
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
