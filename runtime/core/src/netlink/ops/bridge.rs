//! Bridges, their ports, and the MAC address of a bridge.

use std::collections::BTreeMap;

use rtnetlink::packet_route::link::{InfoBridge, LinkMessage};
use rtnetlink::{LinkBridge, LinkMessageBuilder};

use super::sysctls::restore_sysctls;
use super::{Operation, Session};
use crate::netlink::check::{Difference, LaterChanges};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::inverse::Inverse;
use crate::netlink::rtnl::{Link, Lookup, change, high_mac, port_flags};
use crate::netlink::{Executor, sysctl};
use crate::plan::{LinkInfo, LinkRef, Mac, Op, Side};

/// How often a bridge may disappear between "it exists" and reading it.
const ATTEMPTS: usize = 4;

/// Makes sure that a bridge of the host exists.
pub(super) struct Ensure<'a> {
    pub(super) name: &'a str,
    pub(super) mtu: Option<u32>,
    pub(super) vlan_filtering: bool,
    pub(super) promisc: bool,
}

/// Makes a link of the host a port of a bridge.
pub(super) struct Port<'a> {
    pub(super) link: &'a str,
    pub(super) bridge: &'a str,
    pub(super) hairpin: bool,
    pub(super) isolated: bool,
}

/// Fixes the MAC of a bridge.
pub(super) struct PinMac<'a> {
    pub(super) link: &'a str,
}

impl Operation for Ensure<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.ensure_bridge(self.name, self.mtu, self.vlan_filtering, self.promisc)
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        executor.check_bridge(self.name, self.promisc, found)
    }
}

impl Operation for Port<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.bridge_port(self.link, self.bridge, self.hairpin, self.isolated)
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        executor.check_port(self.link, self.bridge, (self.hairpin, self.isolated), found)
    }
}

impl Operation for PinMac<'_> {
    /// Runs last: it has no inverse.
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.pins.push((session.at, self.link.to_owned()));
        Ok(())
    }

    fn changes_links(&self) -> bool {
        false
    }
}

impl Session<'_> {
    pub(super) fn ensure_bridge(
        &mut self,
        name: &str,
        mtu: Option<u32>,
        vlan_filtering: bool,
        promisc: bool,
    ) -> Result<(), NetlinkError> {
        let doing = || {
            format!(
                "failed to create bridge {name:?}: could not add {name:?}{}",
                if vlan_filtering { " with VLAN filtering" } else { "" }
            )
        };
        for _attempt in 0..ATTEMPTS {
            // It nearly always exists, and a lookup is cheaper than a refused request.
            if let Some(link) = self.executor.host.link(Lookup::Name(name)).doing(doing)? {
                return self.use_bridge(name, link, promisc);
            }
            let message = Self::new_bridge(name, mtu, vlan_filtering, promisc);
            match self.executor.host.create_link(message) {
                Ok(announced) => return self.note_bridge(name, announced),
                // Another ADD has just made it.
                Err(fault) if fault.is_exists() => {}
                Err(fault) => return Err(fault.doing(doing())),
            }
        }
        Err(NetlinkError::NoLink { link: LinkRef::host(name) })
    }

    fn new_bridge(name: &str, mtu: Option<u32>, vlan_filtering: bool, promisc: bool) -> LinkMessage {
        let mut builder: LinkMessageBuilder<LinkBridge> = LinkBridge::new(name).up();
        if promisc {
            builder = builder.promiscuous(true);
        }
        if let Some(mtu) = mtu {
            builder = builder.mtu(mtu);
        }
        if vlan_filtering {
            builder = builder.append_info_data(InfoBridge::VlanFiltering(true));
        }
        // A MAC assigned by the kernel follows the ports, and udev may overwrite it (`MACAddressPolicy`).
        builder.address(high_mac().0.to_vec()).build()
    }

    fn note_bridge(&mut self, name: &str, announced: Option<Link>) -> Result<(), NetlinkError> {
        let link = LinkRef::host(name);
        let found = match announced {
            Some(found) => found,
            None => self.link(&link)?.clone(),
        };
        // Do not undo it if another ADD has a port on it, or is about to add one.
        let unless = self.executor.newcomers_to(found.index);
        let inverse = Inverse::delete_link(Side::Host, found.index);
        self.log_shared(format!("delete bridge {name}"), inverse, unless);
        self.made(link, found);
        // A container must not become the host's router by sending advertisements (CVE-2020-10749). The key is missing
        // if the kernel has no IPv6.
        sysctl::write(&accept_ra(name), "0").ok();
        // It must not prevent the host from using an address by answering duplicate address detection, which also takes
        // a second or two. Detection begins with the first port (`addrconf_notify` in
        // <https://elixir.bootlin.com/linux/v6.12/source/net/ipv6/addrconf.c>).
        sysctl::write(&format!("ipv6/conf/{name}/accept_dad"), "0").ok();
        Ok(())
    }

    /// Prepares an existing bridge: up and, if requested, promiscuous.
    fn use_bridge(&mut self, name: &str, found: Link, promisc: bool) -> Result<(), NetlinkError> {
        if found.kind != "bridge" {
            return Err(NetlinkError::NotABridge { name: name.to_owned() });
        }
        let index = found.index;
        let (raise, promisc) = (!found.up, promisc && !found.promisc);
        if let Some(mac) = found.mac.filter(is_usable) {
            let inverse = Inverse::from_action(move |executor| executor.restore_bridge_mac(index, mac));
            self.log(format!("restore the MAC address of {name}"), inverse);
        }
        self.links.insert(LinkRef::host(name), found);
        if raise || promisc {
            let unless = self.executor.newcomers(Some(index))?;
            let (mut there, mut back) = (change(index), change(index));
            if raise {
                (there, back) = (there.up(), back.down());
            }
            if promisc {
                (there, back) = (there.promiscuous(true), back.promiscuous(false));
            }
            self.executor.host.set_link(there.build()).doing(|| format!("failed to set {name:?} UP"))?;
            let inverse = Inverse::set_link(Side::Host, back.build());
            self.log_shared(format!("restore the flags of {name}"), inverse, unless);
        }
        // The same as for a new one. If the key cannot be read or written, the kernel has no IPv6.
        let key = accept_ra(name);
        if let Ok(Some(old)) = sysctl::read(&key)
            && old != "0"
        {
            let unless = self.executor.newcomers(Some(index))?;
            if sysctl::write(&key, "0").is_ok() {
                let inverse = restore_sysctls(Side::Host, vec![(key, old)]);
                self.log_shared(format!("restore accept_ra of {name}"), inverse, unless);
            }
        }
        Ok(())
    }

    pub(super) fn bridge_port(
        &mut self,
        name: &str,
        bridge: &str,
        hairpin: bool,
        isolated: bool,
    ) -> Result<(), NetlinkError> {
        let doing = || format!("failed to connect {name:?} to bridge {bridge}");
        let port = LinkRef::host(name);
        let master = self.index(&LinkRef::host(bridge))?;
        let made = self.is_made(&port);
        let found = self.link(&port)?.clone();
        let index = found.index;
        if found.master != Some(master) {
            self.executor.host.set_link(change(index).controller(master).build()).doing(doing)?;
        }
        // A new port has neither flag.
        let (hairpin_now, isolated_now) =
            if found.master == Some(master) && !made { (found.hairpin, found.isolated) } else { (false, false) };
        if !made {
            let inverse = restore_port(&found);
            self.log(format!("take {name} off {bridge}"), inverse);
        }
        if (hairpin, isolated) != (hairpin_now, isolated_now) {
            let message = port_flags(index, hairpin, isolated);
            self.executor.host.set_link(message).doing(|| format!("failed to set the port flags of {name:?}"))?;
        }
        self.links.insert(port, Link { master: Some(master), hairpin, isolated, ..found });
        Ok(())
    }

    /// Returns the index of the bridge of which the plan will make this link a port, if it is known already.
    pub(super) fn planned_bridge(&self, name: &str) -> Option<u32> {
        let bridge = self.plan.ops.iter().find_map(|op| match op {
            Op::BridgePort { link, bridge, .. } if link == name => Some(bridge),
            _ => None,
        })?;
        self.links.get(&LinkRef::host(bridge.as_str())).map(|bridge| bridge.index)
    }

    /// Fixes the MAC addresses of shared links. Runs after everything else, because a MAC that was written once can be
    /// overwritten but never follows the ports again.
    pub(super) fn pin_macs(
        &mut self,
        mut links: BTreeMap<LinkRef, LinkInfo>,
    ) -> Result<BTreeMap<LinkRef, LinkInfo>, (usize, NetlinkError)> {
        for (at, name) in std::mem::take(&mut self.pins) {
            let link = LinkRef::host(name);
            let now = links.get(&link).and_then(|info| info.mac);
            let mac = self.pin_mac(&link, now).map_err(|error| (at, error))?;
            if let (Some(info), Some(mac)) = (links.get_mut(&link), mac) {
                info.mac = Some(mac);
            }
        }
        Ok(links)
    }

    /// Writes a bridge's MAC unless it was written before. Returns the new MAC if it changed.
    ///
    /// The kernel does not report whether a bridge's MAC was written. But as long as it was not, it is the lowest of
    /// its ports' MACs. So a port of ours with a lower MAC proves that it was. Bridges made here get a high MAC, so
    /// that the proof works from the second ADD on. This saves a message and, more importantly, the neighbour table:
    /// every write of a MAC, even of the same one, drops all known neighbours of the bridge.
    fn pin_mac(&mut self, link: &LinkRef, now: Option<Mac>) -> Result<Option<Mac>, NetlinkError> {
        let before = self.link(link)?.clone();
        // Only a bridge's MAC follows its ports.
        if self.is_made(link) || before.kind != "bridge" {
            return Ok(None);
        }
        let index = before.index;
        let now = match now {
            Some(mac) => Some(mac),
            None => self
                .executor
                .host
                .link(Lookup::Index(index))
                .doing(|| format!("failed to lookup {link}"))?
                .and_then(|found| found.mac),
        };
        let below = |port: &Link| port.master == Some(index) && port.mac < now;
        if self.links.values().any(|port| port.mac.is_some() && below(port)) {
            return Ok(None);
        }
        // Use the MAC from before our port joined, so that neighbours of the bridge need not learn a new one.
        let Some(mac) = before.mac.filter(is_usable).or(now.filter(is_usable)) else {
            return Err(NetlinkError::NoMac { link: link.name.clone(), mac: now });
        };
        let message = change(index).address(mac.0.to_vec()).build();
        self.executor.host.set_link(message).doing(|| format!("failed to set the MAC address of {:?}", link.name))?;
        Ok(Some(mac))
    }
}

/// A bridge without ports has an all-zero MAC.
fn is_usable(mac: &Mac) -> bool {
    mac.0 != [0; 6]
}

fn accept_ra(name: &str) -> String {
    format!("ipv6/conf/{name}/accept_ra")
}

impl Executor {
    /// With other ports, the kernel has already restored the previous MAC.
    fn restore_bridge_mac(&self, index: u32, mac: Mac) -> Result<(), NetlinkError> {
        let doing = || "failed to restore the MAC address of the bridge";
        let Some(found) = self.host.link(Lookup::Index(index)).doing(doing)? else { return Ok(()) };
        if found.mac == Some(mac) || !self.host.links(Some(index)).doing(doing)?.is_empty() {
            return Ok(());
        }
        self.host.set_link(change(index).address(mac.0.to_vec()).build()).doing(doing)
    }
}

/// Returns the inverse that restores a port's bridge and flags.
fn restore_port(before: &Link) -> Inverse {
    let Link { index, master, hairpin, isolated, .. } = *before;
    Inverse::request(Side::Host, move |rtnl| {
        rtnl.set_link(change(index).controller(master.unwrap_or(0)).build())?;
        match master {
            Some(_) => rtnl.set_link(port_flags(index, hairpin, isolated)),
            None => Ok(()),
        }
    })
}

impl Executor {
    fn check_bridge(&self, name: &str, promisc: bool, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        let name = name.to_owned();
        match self.look(&LinkRef::host(name.as_str()))? {
            None => found.push(Difference::NoBridge { name }),
            Some(link) if link.kind != "bridge" => found.push(Difference::NotABridge { name }),
            Some(link) if promisc && !link.promisc => found.push(Difference::Promisc { name }),
            Some(_) => {}
        }
        Ok(())
    }

    fn check_port(
        &self,
        link: &str,
        bridge: &str,
        flags: (bool, bool),
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        // A missing link is reported by the op that made it.
        let (Some(port), Some(master)) = (self.look(&LinkRef::host(link))?, self.look(&LinkRef::host(bridge))?) else {
            return Ok(());
        };
        if port.master != Some(master.index) {
            found.push(Difference::NotAPort { link: link.to_owned(), bridge: bridge.to_owned() });
        } else if (port.hairpin, port.isolated) != flags {
            found.push(Difference::PortFlags { link: link.to_owned() });
        }
        Ok(())
    }
}
