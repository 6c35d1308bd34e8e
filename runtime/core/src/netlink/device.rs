//! Devices of the host that containers get: found, taken back when an ADD fails, given back by DEL.
//!
//! A device is known by its alias, which is its name on the host from before it leaves until it is back, or else by its hardware
//! address. So it is found wherever it is: under its name in the container; on the host under whatever name, when the container's
//! namespace ended and the kernel gave it back.

use std::fmt::Write;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};

use super::error::{Doing, Fault, NetlinkError};
use super::netns::OWN;
use super::rtnl::{Link, Lookup, Rtnl, change};
use super::sysfs::{Sysfs, Target};
use super::{Executor, sysctl};
use crate::plan::{DeviceLink, DeviceQuery, FoundDevice, LinkRef, TakeDevice};

/// A namespace ends in the background; how long a physical device is waited for.
const HOMECOMING: Duration = Duration::from_secs(5);
const HOMECOMING_STEP: Duration = Duration::from_millis(20);

/// A device that was taken, and all that the host had on it. Moving it loses everything but its MTU and MAC.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) op: TakeDevice,
    pub(super) before: Link,
    pub(super) addresses: Vec<AddressMessage>,
    pub(super) routes: Vec<RouteMessage>,
    pub(super) sysctls: Vec<(String, String)>,
}

/// Finds the device that a query means.
pub(super) fn find(host: &Rtnl, query: &DeviceQuery) -> Result<FoundDevice, NetlinkError> {
    let doing = || "failed to find host device: failed to list node links";
    let found = match Sysfs::new(Path::new("/")).resolve(query) {
        Err(text) => return Ok(FoundDevice::Missing(text)),
        Ok(Target::UserSpace) => return Ok(FoundDevice::UserSpace),
        Ok(Target::Name(name)) => match host.link(Lookup::Name(&name)).doing(doing)? {
            Some(link) => Ok(link),
            None => Err("Link not found"),
        },
        Ok(Target::Hardware(address)) => {
            let mut links = host.links(None).doing(doing)?.into_iter();
            links.find(|link| link.hardware == address).ok_or("failed to find physical interface")
        }
        Ok(Target::AnyOf(names)) => {
            let links = host.links(None).doing(doing)?;
            let mut named = names.iter().filter_map(|name| links.iter().find(|link| link.name == *name));
            named.next().cloned().ok_or("failed to find physical interface")
        }
    };
    Ok(match found {
        Ok(link) => FoundDevice::Link(describe(link)),
        Err(text) => FoundDevice::Missing(format!("failed to find host device: {text}")),
    })
}

fn describe(link: Link) -> DeviceLink {
    DeviceLink {
        hardware: hardware(&link),
        mac: link.mac,
        mtu: link.mtu,
        promiscuous: link.promisc,
        all_multicast: link.allmulti,
        tx_queue_length: link.tx_queue_length,
        alias: link.alias,
        physical: link.kind.is_empty(),
        name: link.name,
    }
}

/// What tells a link from others: the address that is burnt in, or else the one it has.
fn hardware(link: &Link) -> Option<String> {
    let octets = if link.permanent.is_empty() { &link.hardware } else { &link.permanent };
    let mut text = String::new();
    for (at, octet) in octets.iter().enumerate() {
        let colon = if at == 0 { "" } else { ":" };
        // Writing into a string cannot fail.
        write!(text, "{colon}{octet:02x}").ok();
    }
    Some(text).filter(|text| !text.is_empty())
}

/// Whether this link is the device that was taken.
pub(super) fn is_taken(op: &TakeDevice, link: &Link) -> bool {
    let by_alias = link.alias.as_ref().is_some_and(|alias| op.device.is_empty() || *alias == op.device);
    by_alias || (op.hardware.is_some() && hardware(link) == op.hardware)
}

/// The message that moves a link to another namespace and gives it its name there. It arrives down, and keeps its index where
/// that is free.
pub(super) fn relocation(index: u32, netns: i32, name: &str) -> LinkMessage {
    change(index).setns_by_fd(netns).name(name).build()
}

impl Executor {
    /// DEL: the device goes home, from wherever it is, and gets back what it had: name, alias, MTU, MAC. It stays down.
    pub(super) fn return_device(&self, op: &TakeDevice) -> Result<(), NetlinkError> {
        let Some(container) = self.container.as_ref().map(|container| &container.rtnl) else {
            return self.await_homecoming(op);
        };
        let doing = || format!("failed to find {:?}", op.name);
        if let Some(found) = container.link(Lookup::Name(&op.name)).doing(doing)? {
            if is_taken(op, &found) {
                let original = self.original_name(op, &found)?;
                return self.send_home(op, &found, &original, None);
            }
            if op.device.is_empty() {
                return Err(NetlinkError::NoAlias { link: op.name.clone() });
            }
        }
        self.settle_in(op).map(drop)
    }

    /// The name it had on the host.
    fn original_name(&self, op: &TakeDevice, found: &Link) -> Result<String, NetlinkError> {
        let known = Some(&op.device).filter(|name| !name.is_empty());
        let name = known.or(found.alias.as_ref()).cloned();
        name.ok_or_else(|| NetlinkError::NoAlias { link: op.name.clone() })
    }

    /// Moves a device from the container to the host; back to the index it had there, where that is known.
    fn send_home(&self, op: &TakeDevice, found: &Link, original: &str, index: Option<u32>) -> Result<(), NetlinkError> {
        let Some(container) = self.container.as_ref().map(|container| &container.rtnl) else { return Ok(()) };
        let moving = || format!("failed to move {original:?} to host netns");
        // Checked first: the kernel would move it and then refuse the name.
        if self.host.link(Lookup::Name(original)).doing(moving)?.is_some() {
            return Err(Fault::Refused(Errno::EEXIST, None).doing(moving()));
        }
        let host = File::open(OWN).doing(|| format!("failed to open {OWN}"))?;
        let plain = relocation(found.index, host.as_raw_fd(), original);
        let mut message = plain.clone();
        message.attributes.extend(index.and_then(|index| i32::try_from(index).ok()).map(LinkAttribute::NewIfIndex));
        let outcome = match container.set_link(message) {
            // Another link has got the index meanwhile. It is nice to have, no more.
            Err(fault) if index.is_some() && fault.errno() == Some(Errno::EBUSY) => container.set_link(plain),
            outcome => outcome,
        };
        match outcome {
            // It went meanwhile.
            Err(fault) if fault.is_absent() => return Ok(()),
            other => other.doing(moving)?,
        }
        match self.host.link(Lookup::Name(original)).doing(moving)? {
            Some(home) => self.tidy(op, &home, original),
            None => Ok(()),
        }
    }

    /// Waits for a device that the kernel brings back, and gives it its name. Links that were made ended with the namespace.
    fn await_homecoming(&self, op: &TakeDevice) -> Result<(), NetlinkError> {
        let deadline = Instant::now() + HOMECOMING;
        while !self.settle_in(op)? && op.physical && Instant::now() < deadline {
            sleep(HOMECOMING_STEP);
        }
        Ok(())
    }

    /// Gives a device that is on the host its name back; whether it was there.
    fn settle_in(&self, op: &TakeDevice) -> Result<bool, NetlinkError> {
        if op.device.is_empty() {
            return Ok(true);
        }
        let doing = || format!("failed to restore {:?} to original name {:?}", op.name, op.device);
        let links = self.host.links(None).doing(doing)?;
        let marked = |link: &&Link| link.alias.as_deref() == Some(op.device.as_str()) && is_same(op, link);
        let Some(found) = links.iter().find(marked) else {
            // Back already, or never away.
            return Ok(links.iter().any(|link| link.name == op.device && is_same(op, link)));
        };
        if found.name != op.device {
            // A link can only be renamed while it is down, before Linux 6.2.
            self.host.set_link(change(found.index).down().build()).doing(doing)?;
            self.host.set_link(change(found.index).name(op.device.as_str()).build()).doing(doing)?;
        }
        self.tidy(op, found, &op.device)?;
        Ok(true)
    }

    /// Puts back what else a device had. Its alias must go, since that marks it as taken; MTU and MAC are a courtesy, which no
    /// device may turn into a DEL that never succeeds.
    fn tidy(&self, op: &TakeDevice, home: &Link, original: &str) -> Result<(), NetlinkError> {
        let doing = || format!("failed to restore the alias of {original:?}");
        self.host.set_link(change(home.index).alias(op.alias.as_deref().unwrap_or_default()).build()).doing(doing)?;
        if let Some(mtu) = op.mtu.filter(|mtu| *mtu != home.mtu) {
            self.host.set_link(change(home.index).mtu(mtu).build()).ok();
        }
        if let Some(mac) = op.mac.filter(|mac| Some(*mac) != home.mac) {
            self.host.set_link(change(home.index).address(mac.0.to_vec()).build()).ok();
        }
        Ok(())
    }

    /// Undo: the device is again what it was on the host, at whichever point taking it ended.
    pub(super) fn bring_back(&self, taken: &Taken) -> Result<(), NetlinkError> {
        let Taken { op, before, addresses, routes, sysctls } = taken;
        if let Some(container) = self.container.as_ref().map(|container| &container.rtnl) {
            // Under its new name, or, where the kernel moved it and then refused that, under its old one.
            for name in [&op.name, &op.device] {
                let found = container.link(Lookup::Name(name)).doing(|| format!("failed to find {name:?}"))?;
                if let Some(found) = found.filter(|found| is_taken(op, found)) {
                    self.send_home(op, &found, &op.device, Some(before.index))?;
                    break;
                }
            }
        }
        let doing = || format!("failed to restore {:?}", op.device);
        let home = self.host.link(Lookup::Name(&op.device)).doing(doing)?;
        let index = home.ok_or_else(|| NetlinkError::NoLink { link: LinkRef::host(op.device.as_str()) })?.index;
        self.host.set_link(change(index).alias(before.alias.as_deref().unwrap_or_default()).build()).doing(doing)?;
        for (key, value) in sysctls {
            // Some keys are only there to be read.
            if sysctl::read(key)?.is_some_and(|now| now != *value) {
                sysctl::write(key, value).ok();
            }
        }
        if let Some(master) = before.master {
            self.host.set_link(change(index).controller(master).build()).doing(doing)?;
        }
        if before.up {
            self.host.set_link(change(index).up().build()).doing(doing)?;
        }
        for message in addresses {
            let mut message = message.clone();
            message.header.index = index;
            self.host.restore_address(message).doing(doing)?;
        }
        for message in routes {
            match self.host.add_route(on_link(message.clone(), index)) {
                // The kernel has made its own routes again by now.
                Err(fault) if fault.is_exists() => {}
                other => other.doing(doing)?,
            }
        }
        Ok(())
    }
}

/// Whether a link of the host that has the right alias or name is that device, and not another that was called so.
fn is_same(op: &TakeDevice, link: &Link) -> bool {
    op.hardware.is_none() || hardware(link) == op.hardware
}

fn on_link(mut message: RouteMessage, index: u32) -> RouteMessage {
    for attribute in &mut message.attributes {
        if let RouteAttribute::Oif(oif) = attribute {
            *oif = index;
        }
    }
    message
}
