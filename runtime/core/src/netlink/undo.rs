//! The undo log: exact inverses of what ops did, and the carrying out of them, last first.

use std::collections::BTreeSet;

use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{BridgeVlanInfo, LinkMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::rule::RuleMessage;
use rtnetlink::packet_route::tc::{TcHandle, TcMessage};

use super::conntrack::{self, Flows};
use super::device::Taken;
use super::error::{Doing, NetlinkError, UndoError};
use super::nft::Added;
use super::ops::Placed;
use super::presence::Presence;
use super::rtnl::{Address, Lookup, change, port_flags};
use super::sysctl::{Confs, Of};
use super::{Applied, Executor, firewalld};
use crate::plan::{FirewalldSource, HostPort, Mac, Side};

/// One entry of the log.
#[derive(Debug)]
pub(super) struct Logged {
    /// What it takes back, for errors.
    pub(super) what: String,
    pub(super) inverse: Inverse,
    /// Leave it alone if others came.
    pub(super) unless: Option<Newcomers>,
}

/// The inverse of something that was done.
#[derive(Debug)]
pub(super) enum Inverse {
    /// Bring a device back to the host that was moved into the container.
    Device(Box<Taken>),
    /// Delete a link that was made. Only the host's are named here: the other end of a veth pair goes with it.
    DeleteLink { side: Side, index: u32 },
    /// Take a link down, and off it the addresses that came with its being up (loopback's `127.0.0.1`).
    LinkDown { side: Side, index: u32, before: Vec<IpNet> },
    /// Write link attributes back.
    SetLink { side: Side, message: Box<LinkMessage> },
    /// Give a bridge without ports the MAC back that it had before ours joined it: the kernel leaves it all zeros.
    BridgeMac { index: u32, mac: Mac },
    /// Write a port's bridge and flags back.
    Port { index: u32, master: Option<u32>, hairpin: bool, isolated: bool },
    /// Give a port the VLANs back that it had.
    Vlans { index: u32, before: Vec<BridgeVlanInfo> },
    /// Remove an address that was added.
    RemoveAddress { side: Side, message: AddressMessage },
    /// Put addresses back that were removed, in order, and the routes that went with them.
    RestoreAddresses { side: Side, addresses: Vec<AddressMessage>, routes: Vec<RouteMessage> },
    /// Remove a route that was added.
    RemoveRoute { side: Side, message: RouteMessage },
    /// Put a route back that was removed.
    RestoreRoute { side: Side, message: RouteMessage },
    /// Write old values back, in order.
    Sysctls { side: Side, old: Vec<(String, String)> },
    /// Remove a rule of the container that was added.
    DeleteRule { message: Box<RuleMessage> },
    /// Remove the routes of a container link from a table that had none.
    EmptyTable { index: u32, table: u32 },
    /// Make the routes of a container link in the main table what they were.
    MainRoutes { index: u32, routes: Vec<Placed> },
    /// Delete a VRF of the container that was made, unless others use it.
    DeleteIdleVrf { index: u32 },
    /// Remove a queueing discipline of a host link that was added.
    RemoveQdisc { index: u32, parent: TcHandle },
    /// Put a queueing discipline of a host link back that was in the way.
    RestoreQdisc { message: Box<TcMessage> },
    /// Put the ingress hook of a host link back, and where it redirected to.
    RestoreIngress { index: u32, targets: Vec<u32> },
    /// Remove nftables elements and rules that were added, and parts that were made and are empty again.
    Elements(Added),
    /// Forget the flows that came to these ports meanwhile.
    Flows(Vec<HostPort>),
    /// Remove a source from a zone of firewalld.
    Firewalld(FirewalldSource),
}

/// How to tell whether another attachment may have come to rely on a shared thing since it was changed.
#[derive(Debug, Clone)]
pub(super) struct Newcomers {
    /// Another ADD was going on at the time of the change: it may have looked at the thing right afterwards, and be done
    /// by now. Its link may be older than the change.
    company: bool,
    /// Look at this bridge's ports only.
    bridge: Option<u32>,
    /// Links that were there at the time of the change; whoever started after it has one that is not.
    pub(super) known: BTreeSet<u32>,
}

impl Executor {
    /// Takes back what `apply` did, last first. What cannot be taken back is reported; the rest is gone on with.
    pub fn undo(&mut self, applied: Applied) -> Vec<UndoError> {
        self.roll_back(applied.log)
    }

    pub(super) fn roll_back(&mut self, log: Vec<Logged>) -> Vec<UndoError> {
        let mut leftovers = Vec::new();
        for Logged { what, inverse, unless } in log.into_iter().rev() {
            let outcome = match unless.map_or(Ok(false), |newcomers| self.any(&newcomers)) {
                Ok(true) => Ok(()),
                Ok(false) => self.perform(inverse),
                Err(cause) => Err(cause),
            };
            leftovers.extend(outcome.err().map(|cause| UndoError { what, cause }));
        }
        leftovers
    }

    /// Notes who is there now, before something shared is changed.
    pub(super) fn newcomers(&self, bridge: Option<u32>) -> Result<Newcomers, NetlinkError> {
        let links = self.host.links(bridge).doing(|| "failed to list links")?;
        Ok(Newcomers { company: self.has_company(), bridge, known: links.iter().map(|link| link.index).collect() })
    }

    /// The same for a bridge that was just made: any port is a newcomer.
    pub(super) fn newcomers_to(&self, bridge: u32) -> Newcomers {
        Newcomers { company: false, bridge: Some(bridge), known: BTreeSet::new() }
    }

    fn any(&self, newcomers: &Newcomers) -> Result<bool, NetlinkError> {
        if newcomers.company || self.has_company() {
            return Ok(true);
        }
        let links = self.host.links(newcomers.bridge).doing(|| "failed to list links")?;
        Ok(links.iter().any(|link| !newcomers.known.contains(&link.index)))
    }

    fn has_company(&self) -> bool {
        self.presence.as_ref().is_some_and(Presence::has_company)
    }

    fn perform(&mut self, inverse: Inverse) -> Result<(), NetlinkError> {
        match inverse {
            Inverse::Elements(added) => self.nft()?.undo(&added),
            Inverse::Flows(ports) => {
                conntrack::forget(ports.iter(), Flows::Here);
                Ok(())
            }
            Inverse::Firewalld(source) => firewalld::remove(&source),
            Inverse::Sysctls { side, old } => self.write_back(side, old),
            Inverse::BridgeMac { index, mac } => self.restore_bridge_mac(index, mac),
            Inverse::Device(taken) => self.bring_back(&taken),
            Inverse::Vlans { index, before } => self.restore_vlans(index, before),
            Inverse::DeleteLink { side, .. }
            | Inverse::LinkDown { side, .. }
            | Inverse::SetLink { side, .. }
            | Inverse::RemoveAddress { side, .. }
            | Inverse::RestoreAddresses { side, .. }
            | Inverse::RemoveRoute { side, .. }
            | Inverse::RestoreRoute { side, .. } => self.perform_on(side, inverse),
            Inverse::Port { .. } => self.perform_on(Side::Host, inverse),
            step => self.perform_step(step),
        }
    }

    /// The inverses that are one or two requests on one socket. A thing whose link is gone needs nothing.
    fn perform_on(&self, side: Side, inverse: Inverse) -> Result<(), NetlinkError> {
        let Some(rtnl) = self.rtnl(side) else { return Ok(()) };
        let outcome = match inverse {
            Inverse::DeleteLink { index, .. } => rtnl.delete_link(index).map(drop),
            Inverse::SetLink { message, .. } => rtnl.set_link(*message),
            Inverse::LinkDown { index, before, .. } => {
                let new = |address: &Address| !before.contains(&address.net);
                rtnl.set_link(change(index).down().build()).and_then(|()| rtnl.addresses(index, None)).and_then(|now| {
                    now.into_iter().filter(new).try_for_each(|address| rtnl.delete_address(address.message).map(drop))
                })
            }
            Inverse::Port { index, master, hairpin, isolated } => {
                let joined = change(index).controller(master.unwrap_or(0)).build();
                rtnl.set_link(joined).and_then(|()| match master {
                    Some(_) => rtnl.set_link(port_flags(index, hairpin, isolated)),
                    None => Ok(()),
                })
            }
            Inverse::RemoveAddress { message, .. } => rtnl.delete_address(message).map(drop),
            Inverse::RestoreAddresses { addresses, routes, .. } => {
                let mut outcome = addresses.into_iter().try_for_each(|message| rtnl.restore_address(message));
                for message in routes {
                    // The kernel has made its own routes again by now.
                    outcome = outcome.and(match rtnl.add_route(message) {
                        Err(fault) if fault.is_exists() => Ok(()),
                        other => other,
                    });
                }
                outcome
            }
            Inverse::RemoveRoute { message, .. } => rtnl.delete_route(message).map(drop),
            Inverse::RestoreRoute { message, .. } => rtnl.add_route(message),
            _ => Ok(()),
        };
        match outcome {
            Err(fault) if fault.is_absent() => Ok(()),
            other => other.doing(|| "the kernel refused"),
        }
    }

    fn write_back(&self, side: Side, old: Vec<(String, String)>) -> Result<(), NetlinkError> {
        let of_links = old.iter().all(|(key, _value)| Confs::has(key));
        let write = move |of: Of<'_>| {
            let mut first = Ok(());
            for (key, value) in old {
                match of.write(&key, &value) {
                    Err(error) if !error.is_not_found() => first = first.and(Err(error)),
                    _ => {}
                }
            }
            first
        };
        match (side, &self.container) {
            (Side::Host, _) => write(Of::Own),
            (Side::Container, Some(container)) if of_links => write(Of::Other(&container.confs)),
            (Side::Container, Some(container)) => container.netns.run_inside(move || write(Of::Own))?,
            (Side::Container, None) => Ok(()),
        }
    }

    /// With other ports the kernel has already gone back to the MAC from before.
    fn restore_bridge_mac(&self, index: u32, mac: Mac) -> Result<(), NetlinkError> {
        let doing = || "failed to restore the MAC address of the bridge";
        let Some(found) = self.host.link(Lookup::Index(index)).doing(doing)? else { return Ok(()) };
        if found.mac == Some(mac) || !self.host.links(Some(index)).doing(doing)?.is_empty() {
            return Ok(());
        }
        self.host.set_link(change(index).address(mac.0.to_vec()).build()).doing(doing)
    }

    /// Whether a link is there.
    pub(super) fn exists(&self, side: Side, lookup: Lookup<'_>) -> Result<bool, NetlinkError> {
        match self.rtnl(side) {
            Some(rtnl) => Ok(rtnl.link(lookup).doing(|| "failed to lookup a link")?.is_some()),
            None => Ok(false),
        }
    }
}
