//! Moving a device of the host into the container.

use std::fs;

use nix::errno::Errno;
use rtnetlink::packet_route::route::RouteProtocol;

use super::{Operation, Session};
use crate::netlink::check::{Difference, LaterChanges};
use crate::netlink::device::{Taken, is_taken, relocation};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::{Doing, Fault};
use crate::netlink::inverse::Inverse;
use crate::netlink::rtnl::{Link, Lookup, change};
use crate::netlink::{Executor, sysctl};
use crate::plan::{Family, LinkRef, Op, Plan, TakeDevice};

/// Directories that the kernel keeps per link, and recreates when the link is moved.
const TREES: [&str; 4] = ["ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh"];

impl Operation for TakeDevice {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.take_device(self)
    }

    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        executor.return_device(self, plan.link_index)
    }

    fn check(
        &self,
        executor: &mut Executor,
        since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        executor.check_device(self, since.link_index(), found)
    }
}

impl Session<'_> {
    /// Sends two messages: the mark by which the device is found wherever it is, and then the move, which also renames
    /// it: the container may have a link with its old name, and the host one with its new name.
    pub(super) fn take_device(&mut self, op: &TakeDevice) -> Result<(), NetlinkError> {
        let netns = self.container_fd(&Op::TakeDevice(op.clone()))?;
        let (near, far) = (LinkRef::host(op.device.as_str()), op.link());
        let before = self.link(&near)?.clone();
        let renaming = || format!("failed to move link failed to rename device {:?} to {:?}", op.device, op.name);
        if self.rtnl(&far)?.link(Lookup::Name(&op.name)).doing(renaming)?.is_some() {
            return Err(Fault::Refused(Errno::EEXIST, None).doing(renaming()));
        }
        let (index, chosen) = (before.index, self.plan.link_index);
        let taken = self.remember_device(op, before)?;
        let inverse = Inverse::from_action(move |executor| executor.bring_back(&taken));
        self.log(format!("bring {} back", op.device), inverse);
        let marking = || format!("failed to set alias to {:?}", op.device);
        self.executor.host.set_link(change(index).alias(op.device.as_str()).build()).doing(marking)?;
        let moving = || format!("failed to move link {:?}", op.device);
        self.executor.host.set_link(relocation(index, netns, &op.name, chosen)).doing(moving)?;
        self.links.remove(&near);
        let found = self.arrived(op, &far)?;
        // Everything that it gets from here on disappears when it is moved back.
        self.made(far, Link { up: false, ..found });
        Ok(())
    }

    /// Returns the device in the container. Without `IFLA_NEW_IFINDEX`, the kernel has kept its index or assigned
    /// another.
    fn arrived(&mut self, op: &TakeDevice, link: &LinkRef) -> Result<Link, NetlinkError> {
        match self.made_link(link) {
            Ok(found) => Ok(found),
            Err(error) if !error.is_not_found() => Err(error),
            Err(_) => {
                let found = self.link(link)?.clone();
                if is_taken(op, self.plan.link_index, &found) {
                    return Ok(found);
                }
                Err(NetlinkError::NoLink { link: link.clone() })
            }
        }
    }

    fn remember_device(&self, op: &TakeDevice, before: Link) -> Result<Taken, NetlinkError> {
        let doing = || format!("failed to list what is on {:?}", op.device);
        let host = &self.executor.host;
        let addresses = host.addresses(before.index, None).doing(doing)?;
        let mut routes = Vec::new();
        if before.up {
            for family in [Family::V4, Family::V6] {
                let listed = host.routes(family, None, Some(before.index)).doing(doing)?;
                // The kernel recreates its own routes with the addresses.
                routes.extend(listed.into_iter().filter(|route| route.header.protocol != RouteProtocol::Kernel));
            }
        }
        let addresses = addresses.into_iter().map(|address| address.message).collect();
        let index = self.plan.link_index;
        Ok(Taken { op: op.clone(), index, before, addresses, routes, sysctls: link_sysctls(&op.device)? })
    }
}

/// Returns all readable sysctls of a link of the host.
fn link_sysctls(name: &str) -> Result<Vec<(String, String)>, NetlinkError> {
    let mut all = Vec::new();
    for tree in TREES {
        // Half of them are missing in a kernel without IPv6.
        let Ok(entries) = fs::read_dir(format!("/proc/sys/net/{tree}/{name}")) else { continue };
        for entry in entries {
            let entry = entry.doing(|| format!("failed to list /proc/sys/net/{tree}/{name}"))?;
            let key = format!("{tree}/{name}/{}", entry.file_name().to_string_lossy());
            // Some cannot be read while they have no value.
            if let Ok(Some(value)) = sysctl::read(&key) {
                all.push((key, value));
            }
        }
    }
    Ok(all)
}

impl Executor {
    fn check_device(
        &self,
        op: &TakeDevice,
        index: Option<u32>,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        if !self.look(&op.link())?.is_some_and(|there| is_taken(op, index, &there)) {
            found.push(Difference::NoContainerLink { name: op.name.clone() });
        }
        Ok(())
    }
}
