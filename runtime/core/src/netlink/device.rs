//! Devices of the host that containers get: finds them, takes them back when an ADD fails, and returns them in DEL.
//!
//! A device gets an index chosen by weft when it leaves the host (`IFLA_NEW_IFINDEX`, Linux 5.13), keeps it wherever it
//! is free, and gets its old one back on the host. Neither the container nor the end of its namespace changes the
//! index, whereas the container can set name, alias and MAC address. If no index was recorded (a plan of an older
//! version, an older kernel), the hardware address identifies a device. If nothing was recorded (another plugin's
//! device), its alias does, which is its name on the host.

use std::fmt::Write;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::utsname::uname;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};

use super::error::NetlinkError;
use super::fault::{Doing, Fault};
use super::locate::{LinkLocation, Match};
use super::netns::OWN;
use super::rtnl::{Link, Lookup, Rtnl, change};
use super::sysfs::{Sysfs, Target};
use super::{Executor, sysctl};
use crate::plan::{DeviceLink, DeviceQuery, FoundDevice, LinkRef, TakeDevice};

/// How long to wait for a physical device: namespaces end in the background.
const HOMECOMING: Duration = Duration::from_secs(5);
const HOMECOMING_STEP: Duration = Duration::from_millis(20);

/// A device that was taken, with its complete state on the host. Moving it loses everything except its MTU and MAC.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) op: TakeDevice,
    /// Its chosen index.
    pub(super) index: Option<u32>,
    pub(super) before: Link,
    pub(super) addresses: Vec<AddressMessage>,
    pub(super) routes: Vec<RouteMessage>,
    pub(super) sysctls: Vec<(String, String)>,
}

/// Finds the device of a query.
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
        index: link.index,
        kind: link.kind,
        name: link.name,
    }
}

/// Returns the address that identifies a link: its permanent one, otherwise its current one.
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

/// Returns whether this link is the taken device. `index` is its chosen index.
pub(super) fn is_taken(op: &TakeDevice, index: Option<u32>, link: &Link) -> bool {
    if op.kind.as_ref().is_some_and(|kind| *kind != link.kind) {
        return false;
    }
    let same_hardware = op.hardware.is_some() && hardware(link) == op.hardware;
    match index {
        // A permanent address must match too; any other address may have been changed.
        Some(index) if link.index == index => link.permanent.is_empty() || op.hardware.is_none() || same_hardware,
        Some(_) if !link.permanent.is_empty() => same_hardware,
        // A kernel that ignores the index of a move lets the device keep its old one, if that is free.
        Some(_) => !supports_index_on_move() && same_hardware && Some(link.index) == op.host_index,
        None => {
            let by_alias = link.alias.as_ref().is_some_and(|alias| op.device.is_empty() || *alias == op.device);
            by_alias || same_hardware
        }
    }
}

/// Returns whether the kernel supports `IFLA_NEW_IFINDEX` (5.13 and later). Older kernels ignore it.
fn supports_index_on_move() -> bool {
    let Ok(system) = uname() else { return true };
    let release = system.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    numbers.next().zip(numbers.next()).is_none_or(|version| version >= (5, 13))
}

/// Returns the message that moves a link to another namespace and renames it there. It arrives down, with the new
/// index, otherwise with its own if that is free.
pub(super) fn relocation(index: u32, netns: i32, name: &str, new_index: Option<u32>) -> LinkMessage {
    let mut message = change(index).setns_by_fd(netns).name(name).build();
    message.attributes.extend(new_index.and_then(|index| i32::try_from(index).ok()).map(LinkAttribute::NewIfIndex));
    message
}

impl Executor {
    /// DEL: returns the device to the host, from wherever it is, and restores its name, alias, MTU and MAC. It stays
    /// down.
    pub(super) fn return_device(&self, op: &TakeDevice, index: Option<u32>) -> Result<(), NetlinkError> {
        let Some(container) = self.container.as_ref().map(|container| &container.rtnl) else {
            return self.wait_for_return_to_host(op, index);
        };
        if let Some(found) = find_inside(container, op, index, &[&op.name])? {
            let original = self.original_name(op, &found)?;
            return self.send_home(op, &found, &original, op.host_index);
        }
        if op.device.is_empty() && container.link(Lookup::Name(&op.name)).doing(|| finding(op))?.is_some() {
            return Err(NetlinkError::NoAlias { link: op.name.clone() });
        }
        if self.restore_name_on_host(op, index)? {
            return Ok(());
        }
        let Some(index) = index else { return Ok(()) };
        // Its index may differ there, but not its kind or permanent address.
        let fits = |link: &Link, _host| {
            let is_it = is_taken(op, Some(link.index), link) && (link.index == index || op.hardware == hardware(link));
            if is_it { Match::Whole } else { Match::No }
        };
        match self.locate_elsewhere(&op.name, index, &fits)? {
            LinkLocation::Elsewhere(..) => Err(NetlinkError::MovedOn { link: op.name.clone(), certain: true }),
            LinkLocation::Unclear => Err(NetlinkError::MovedOn { link: op.name.clone(), certain: false }),
            LinkLocation::Here(_) | LinkLocation::Gone => Ok(()),
        }
    }

    /// Returns the name it had on the host.
    fn original_name(&self, op: &TakeDevice, found: &Link) -> Result<String, NetlinkError> {
        let known = Some(&op.device).filter(|name| !name.is_empty());
        let name = known.or(found.alias.as_ref()).cloned();
        name.ok_or_else(|| NetlinkError::NoAlias { link: op.name.clone() })
    }

    /// Moves a device from the container to the host, with its former index if that is known.
    fn send_home(&self, op: &TakeDevice, found: &Link, original: &str, index: Option<u32>) -> Result<(), NetlinkError> {
        let Some(container) = self.container.as_ref().map(|container| &container.rtnl) else { return Ok(()) };
        let moving = || format!("failed to move {original:?} to host netns");
        // Check this first: the kernel would move it and then refuse the name.
        if self.host.link(Lookup::Name(original)).doing(moving)?.is_some() {
            return Err(Fault::Refused(Errno::EEXIST, None).doing(moving()));
        }
        let host = File::open(OWN).doing(|| format!("failed to open {OWN}"))?;
        let home = |index| relocation(found.index, host.as_raw_fd(), original, index);
        let outcome = match container.set_link(home(index)) {
            // Another link has the index by now. Restoring it is optional.
            Err(fault) if index.is_some() && fault.errno() == Some(Errno::EBUSY) => container.set_link(home(None)),
            outcome => outcome,
        };
        match outcome {
            // It disappeared meanwhile.
            Err(fault) if fault.is_absent() => return Ok(()),
            other => other.doing(moving)?,
        }
        match self.host.link(Lookup::Name(original)).doing(moving)? {
            Some(home) => self.tidy(op, &home, original),
            None => Ok(()),
        }
    }

    /// Waits for a device that the kernel returns to the host, and restores its name. Virtual links ended with the
    /// namespace.
    fn wait_for_return_to_host(&self, op: &TakeDevice, index: Option<u32>) -> Result<(), NetlinkError> {
        let deadline = Instant::now() + HOMECOMING;
        while !self.restore_name_on_host(op, index)? && op.physical && Instant::now() < deadline {
            sleep(HOMECOMING_STEP);
        }
        Ok(())
    }

    /// Restores the name of a device on the host. Returns whether it was found.
    fn restore_name_on_host(&self, op: &TakeDevice, index: Option<u32>) -> Result<bool, NetlinkError> {
        if op.device.is_empty() {
            return Ok(true);
        }
        let doing = || format!("failed to restore {:?} to original name {:?}", op.name, op.device);
        let Some(found) = self.find_on_host(op, index).doing(doing)? else { return Ok(false) };
        if found.index != index.unwrap_or_default()
            && found.name == op.device
            && found.alias.as_ref() != Some(&op.device)
        {
            // It is back already, or never left.
            return Ok(true);
        }
        if found.name != op.device {
            // A link can only be renamed while it is down, before Linux 6.2.
            self.host.set_link(change(found.index).down().build()).doing(doing)?;
            self.host.set_link(change(found.index).name(op.device.as_str()).build()).doing(doing)?;
        }
        self.tidy(op, &found, &op.device)?;
        Ok(true)
    }

    /// Finds a device on the host: by its index, its name, or its alias.
    fn find_on_host(&self, op: &TakeDevice, index: Option<u32>) -> Result<Option<Link>, Fault> {
        if let Some(index) = index
            && let Some(found) = self.host.link(Lookup::Index(index))?.filter(|link| is_taken(op, Some(index), link))
        {
            return Ok(Some(found));
        }
        let named = self.host.link(Lookup::Name(&op.device))?.filter(|link| is_same(op, link));
        if named.as_ref().is_some_and(|link| link.alias.as_ref() == Some(&op.device)) {
            return Ok(named);
        }
        let marked = |link: &Link| link.alias.as_ref() == Some(&op.device) && is_same(op, link);
        Ok(self.host.links(None)?.into_iter().find(marked).or(named))
    }

    /// Restores a device's other properties. Its alias must be removed, because it marks the device as taken. MTU and
    /// MAC are restored if possible; a failure must not make every DEL fail.
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

    /// Undo: restores the device's state on the host, at whatever point taking it was interrupted.
    pub(super) fn bring_back(&self, taken: &Taken) -> Result<(), NetlinkError> {
        let Taken { op, index, before, addresses, routes, sysctls } = taken;
        if let Some(container) = self.container.as_ref().map(|container| &container.rtnl) {
            // Under its new name, or, if the kernel moved it and then refused the new name, under its old one.
            if let Some(found) = find_inside(container, op, *index, &[&op.name, &op.device])? {
                self.send_home(op, &found, &op.device, Some(before.index))?;
            }
        }
        let doing = || format!("failed to restore {:?}", op.device);
        let home = self.host.link(Lookup::Name(&op.device)).doing(doing)?;
        let index = home.ok_or_else(|| NetlinkError::NoLink { link: LinkRef::host(op.device.as_str()) })?.index;
        self.host.set_link(change(index).alias(before.alias.as_deref().unwrap_or_default()).build()).doing(doing)?;
        for (key, value) in sysctls {
            // Some keys are read-only.
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
                // The kernel has already recreated its own routes.
                Err(fault) if fault.is_exists() => {}
                other => other.doing(doing)?,
            }
        }
        Ok(())
    }
}

/// Finds a taken device in the container: by its index, otherwise by one of these names.
fn find_inside(
    container: &Rtnl,
    op: &TakeDevice,
    index: Option<u32>,
    names: &[&str],
) -> Result<Option<Link>, NetlinkError> {
    let by_index = index.map(Lookup::Index);
    for lookup in by_index.into_iter().chain(names.iter().map(|name| Lookup::Name(name))) {
        let found = container.link(lookup).doing(|| finding(op))?;
        if let Some(found) = found.filter(|found| is_taken(op, index, found)) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn finding(op: &TakeDevice) -> String {
    format!("failed to find {:?}", op.name)
}

/// Returns whether a host link with the right alias or name is that device, and not another one with the same name.
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
