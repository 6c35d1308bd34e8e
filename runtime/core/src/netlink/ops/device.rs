//! Moving a device of the host into the container.

use std::fs;

use nix::errno::Errno;
use rtnetlink::packet_route::route::RouteProtocol;

use super::Session;
use crate::netlink::device::{Taken, relocation};
use crate::netlink::error::{Doing, Fault, NetlinkError};
use crate::netlink::rtnl::{Link, Lookup, change};
use crate::netlink::sysctl;
use crate::netlink::undo::Inverse;
use crate::plan::{Family, LinkRef, Op, TakeDevice};

/// What the kernel keeps for each link, and makes anew where the link arrives.
const TREES: [&str; 4] = ["ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh"];

impl Session<'_> {
    /// Two messages: the mark by which the device is found wherever it gets to, and then the move, which also renames it: the
    /// container may have a link of its old name, and the host one of its new one.
    pub(super) fn take_device(&mut self, op: &TakeDevice) -> Result<(), NetlinkError> {
        let netns = self.container_fd(&Op::TakeDevice(op.clone()))?;
        let (near, far) = (LinkRef::host(op.device.as_str()), op.link());
        let before = self.link(&near)?.clone();
        let renaming = || format!("failed to move link failed to rename device {:?} to {:?}", op.device, op.name);
        if self.rtnl(&far)?.link(Lookup::Name(&op.name)).doing(renaming)?.is_some() {
            return Err(Fault::Refused(Errno::EEXIST, None).doing(renaming()));
        }
        let index = before.index;
        let taken = self.remember_device(op, before)?;
        self.log(format!("bring {} back", op.device), Inverse::Device(Box::new(taken)));
        let marking = || format!("failed to set alias to {:?}", op.device);
        self.executor.host.set_link(change(index).alias(op.device.as_str()).build()).doing(marking)?;
        let moving = || format!("failed to move link {:?}", op.device);
        self.executor.host.set_link(relocation(index, netns, &op.name)).doing(moving)?;
        self.links.remove(&near);
        // Its index may be another one there.
        let found = self.link(&far)?.clone();
        // What it gets from here on stays behind when it is moved back.
        self.made(far, Link { up: false, ..found });
        Ok(())
    }

    fn remember_device(&self, op: &TakeDevice, before: Link) -> Result<Taken, NetlinkError> {
        let doing = || format!("failed to list what is on {:?}", op.device);
        let host = &self.executor.host;
        let addresses = host.addresses(before.index, None).doing(doing)?;
        let mut routes = Vec::new();
        if before.up {
            for family in [Family::V4, Family::V6] {
                let listed = host.routes(family, None, Some(before.index)).doing(doing)?;
                // The kernel makes its own again when the addresses are back.
                routes.extend(listed.into_iter().filter(|route| route.header.protocol != RouteProtocol::Kernel));
            }
        }
        let addresses = addresses.into_iter().map(|address| address.message).collect();
        Ok(Taken { op: op.clone(), before, addresses, routes, sysctls: link_sysctls(&op.device)? })
    }
}

/// All sysctls of a link of the host that can be read.
fn link_sysctls(name: &str) -> Result<Vec<(String, String)>, NetlinkError> {
    let mut all = Vec::new();
    for tree in TREES {
        // A kernel without IPv6 has half of them.
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
