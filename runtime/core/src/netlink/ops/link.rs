//! Links of the container: makes veth pairs, brings links up, announces them. `children` has children of a parent.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, State};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::{Operation, Session};
use crate::netlink::check::{Difference, LaterChanges, Made};
use crate::netlink::error::NetlinkError;
use crate::netlink::fault::Doing;
use crate::netlink::inverse::Inverse;
use crate::netlink::locate::Wanted;
use crate::netlink::rtnl::{Link, Lookup, change, random_mac};
use crate::netlink::sysctl::SysctlNamespace;
use crate::netlink::{Executor, sysctl};
use crate::plan::{LinkRef, Mac, Plan, Side};

/// The numbers of queues of a link.
const TX: fn(u32) -> LinkAttribute = LinkAttribute::NumTxQueues;
const RX: fn(u32) -> LinkAttribute = LinkAttribute::NumRxQueues;

/// A veth pair.
pub(super) struct Veth<'a> {
    pub(super) container: &'a str,
    pub(super) host: &'a str,
    pub(super) mtu: Option<u32>,
    pub(super) mac: Option<Mac>,
}

/// Brings a link up.
pub(super) struct Up<'a> {
    pub(super) link: &'a LinkRef,
}

/// Announces the addresses of a link to neighbours.
pub(super) struct Announce<'a> {
    pub(super) link: &'a str,
    pub(super) addresses: &'a [IpAddr],
}

impl Operation for Veth<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.create_veth(self.container, self.host, self.mtu, self.mac)
    }

    /// Deletes the pair by the host's end if it exists: its name is random and thus unique, and it finds the pair even
    /// if the container's end was renamed or moved. Without it, the pair is gone, or somebody has renamed that end, in
    /// which case its label identifies it. A pair with no or another label belongs to another attachment that uses the
    /// same namespace.
    fn tear_down(&self, executor: &mut Executor, plan: &Plan) -> Result<(), NetlinkError> {
        if executor.delete_host_link(self.host, "veth")? {
            return Ok(());
        }
        if let Some(label) = &plan.label {
            return executor.delete_labelled_pair(self.container, label);
        }
        executor.delete_container_link(&Wanted { name: self.container, index: None, kind: "veth", parent: None })
    }

    fn check(
        &self,
        executor: &mut Executor,
        since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        executor.check_veth(self.container, self.host, since.mac(self.container, self.mac), found)
    }
}

impl Operation for Up<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.link_up(self.link)
    }

    /// Only loopback comes up without being made by the plan; other links are gone by now.
    fn tear_down(&self, executor: &mut Executor, _plan: &Plan) -> Result<(), NetlinkError> {
        if self.link.name == "lo" { executor.link_down(self.link) } else { Ok(()) }
    }

    fn check(
        &self,
        executor: &mut Executor,
        _since: &LaterChanges,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        executor.check_up(self.link, found)
    }
}

impl Operation for Announce<'_> {
    fn apply(&self, session: &mut Session<'_>) -> Result<(), NetlinkError> {
        session.announce(&LinkRef::container(self.link), self.addresses)
    }

    fn changes_links(&self) -> bool {
        false
    }
}

impl Session<'_> {
    /// Makes both ends with one message, each in its namespace, and puts the host's end on its bridge: a move would
    /// cost a grace period. The host's end is the primary one, because only that may have a master and is announced to
    /// us.
    pub(super) fn create_veth(
        &mut self,
        container: &str,
        host: &str,
        mtu: Option<u32>,
        mac: Option<Mac>,
    ) -> Result<(), NetlinkError> {
        let netns = self.container_fd(&format!("creating {container}"))?;
        let peer: LinkMessageBuilder<LinkUnspec> = LinkUnspec::new_with_name(container).setns_by_fd(netns);
        let main = LinkVeth::new(host, container).up().address(random_mac().0.to_vec());
        // Without a number, the kernel makes a pair of queues per processor and then disables all but one, at both
        // ends, which waits for two RCU grace periods: a tenth of the duration of an ADD.
        let (mut peer, mut main) = ([TX, RX].into_iter()).fold((peer, main), |(peer, main), queues| {
            (peer.append_extra_attribute(queues(1)), main.append_extra_attribute(queues(1)))
        });
        if let Some(mtu) = mtu {
            (peer, main) = (peer.mtu(mtu), main.mtu(mtu));
        }
        if let Some(mac) = mac {
            peer = peer.address(mac.0.to_vec());
        }
        let master = self.planned_bridge(host);
        if let Some(index) = master {
            main = main.controller(index);
        }
        let message = main.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build();
        let (near, far) = (LinkRef::host(host), LinkRef::container(container));
        let announced = match self.executor.host.create_link(message) {
            Ok(announced) => announced,
            Err(fault) if fault.is_exists() => {
                return Err(NetlinkError::VethExists { container: container.to_owned(), host: host.to_owned() });
            }
            Err(fault) => return Err(fault.doing("failed to make veth pair")),
        };
        let mut found = match announced {
            Some(found) => found,
            None => self.link(&near)?.clone(),
        };
        // Once it is made it must be undone, whatever comes next.
        self.log(format!("delete {host}"), Inverse::delete_link(Side::Host, found.index));
        // The announcement was sent before it joined the bridge.
        found.master = master;
        if let Some(index) = found.other {
            self.made(
                far,
                Link {
                    index,
                    name: container.to_owned(),
                    mac,
                    up: false,
                    master: None,
                    other: Some(found.index),
                    ..found.clone()
                },
            );
        } else {
            self.made.insert(far);
        }
        self.made(near, found);
        // As for bridges: the host must ignore the container's router advertisements.
        sysctl::write(&format!("ipv6/conf/{host}/accept_ra"), "0").ok();
        Ok(())
    }

    pub(super) fn link_up(&mut self, link: &LinkRef) -> Result<(), NetlinkError> {
        let made = self.is_made(link);
        let found = self.link(link)?;
        let (index, up) = (found.index, found.up);
        if up {
            return Ok(());
        }
        let doing = || format!("failed to set {:?} UP", link.name);
        let rtnl = self.rtnl(link)?;
        let before = if made { Vec::new() } else { rtnl.addresses(index, None).doing(doing)? };
        rtnl.set_link(change(index).up().build()).doing(doing)?;
        if let Some(found) = self.links.get_mut(link) {
            found.up = true;
        }
        if !made {
            let before = before.into_iter().map(|address| address.net).collect();
            self.log(format!("take {link} down"), set_down_inverse(link.side, index, before));
        }
        Ok(())
    }

    /// Makes the kernel announce the link's addresses: gratuitous ARP for each IPv4 one, unsolicited neighbour
    /// advertisements for the IPv6 ones.
    ///
    /// The kernel does so whenever a MAC is written, even the same one, if the two `*_notify` keys are set. A packet
    /// socket of our own could send the same frames, but closing it costs an RCU grace period (8 to 16 ms, while the
    /// whole ADD takes less than two). Best effort: a peer with an old entry learns the new one eventually.
    pub(super) fn announce(&mut self, link: &LinkRef, addresses: &[IpAddr]) -> Result<(), NetlinkError> {
        if addresses.is_empty() {
            return Ok(());
        }
        let index = self.index(link)?;
        let mac = match self.link(link)?.mac {
            Some(mac) => Some(mac),
            None => self
                .rtnl(link)?
                .link(Lookup::Index(index))
                .doing(|| format!("failed to lookup {link}"))?
                .and_then(|found| found.mac),
        };
        let (Some(mac), Some(container)) = (mac, &self.executor.container) else { return Ok(()) };
        let keys = [format!("ipv4/conf/{}/arp_notify", link.name), format!("ipv6/conf/{}/ndisc_notify", link.name)];
        let of = SysctlNamespace::Other(&container.confs);
        let off = keys.iter().filter(|key| matches!(of.read(key), Ok(Some(value)) if value == "0"));
        let switched: Vec<_> = off.filter(|key| of.write(key, "1").is_ok()).collect();
        container.rtnl.set_link(change(index).address(mac.0.to_vec()).build()).ok();
        for key in switched {
            of.write(key, "0").ok();
        }
        Ok(())
    }

    pub(super) fn container_fd(&self, op: &impl ToString) -> Result<i32, NetlinkError> {
        let container = self.executor.container.as_ref();
        container
            .map(|container| container.netns.raw_fd())
            .ok_or_else(|| NetlinkError::NoContainer { op: op.to_string() })
    }
}

/// Returns an operational state as the reference plugins print it.
pub(super) fn state_name(state: State) -> String {
    match state {
        State::Unknown => "unknown".to_owned(),
        State::NotPresent => "not-present".to_owned(),
        State::Down => "down".to_owned(),
        State::LowerLayerDown => "lower-layer-down".to_owned(),
        State::Testing => "testing".to_owned(),
        State::Dormant => "dormant".to_owned(),
        State::Up => "up".to_owned(),
        other => other.to_string(),
    }
}

/// Returns the inverse that takes a link down and removes the addresses that appeared when it came up (loopback's
/// `127.0.0.1`).
fn set_down_inverse(side: Side, index: u32, before: Vec<IpNet>) -> Inverse {
    Inverse::request(side, move |rtnl| {
        rtnl.set_link(change(index).down().build())?;
        let now = rtnl.addresses(index, None)?;
        let new = now.into_iter().filter(|address| !before.contains(&address.net));
        new.into_iter().try_for_each(|address| rtnl.delete_address(address.message).map(drop))
    })
}

impl Executor {
    fn check_up(&self, link: &LinkRef, found: &mut Vec<Difference>) -> Result<(), NetlinkError> {
        match self.look(link)? {
            Some(there) if there.up => {}
            Some(_) => found.push(Difference::Down { link: link.clone() }),
            None => found.push(Difference::NoLink { link: link.clone() }),
        }
        Ok(())
    }

    fn check_veth(
        &self,
        container: &str,
        host: &str,
        mac: Option<Mac>,
        found: &mut Vec<Difference>,
    ) -> Result<(), NetlinkError> {
        // Identified by its other end.
        let made = Made { kind: "veth", index: None, mac };
        let far = self.check_container_link(&LinkRef::container(container), &made, found)?;
        let near = self.look(&LinkRef::host(host))?.filter(|near| near.kind == "veth");
        match (near, far) {
            (None, _) => found.push(Difference::NoHostLink { name: host.to_owned(), bridge: None }),
            (Some(near), Some(far)) if near.other != Some(far.index) || far.other != Some(near.index) => {
                found.push(Difference::NotPeers { container: container.to_owned(), host: host.to_owned() });
            }
            _ => {}
        }
        Ok(())
    }
}

impl Executor {
    fn link_down(&self, link: &LinkRef) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(link.side) else { return Ok(()) };
        let doing = || format!("failed to set {:?} down", link.name);
        let Some(found) = rtnl.link(Lookup::Name(&link.name)).doing(doing)? else { return Ok(()) };
        match rtnl.set_link(change(found.index).down().build()) {
            Err(fault) if fault.is_absent() => Ok(()),
            other => other.doing(doing),
        }
    }
}
