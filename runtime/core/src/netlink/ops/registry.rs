//! Maps each op to its file, one line each.

use super::operation::Operation;
use super::{address, bridge, children, filter, link, route, sysctls, vlan, wait};
use crate::plan::Op;

/// Returns the executor's interface to an op of a plan.
pub(in crate::netlink) fn operation(op: &Op) -> Box<dyn Operation + '_> {
    match op {
        Op::EnsureBridge { name, mtu, vlan_filtering, promisc } => {
            Box::new(bridge::Ensure { name, mtu: *mtu, vlan_filtering: *vlan_filtering, promisc: *promisc })
        }
        Op::CreateVeth { container, host, mtu, mac } => Box::new(link::Veth { container, host, mtu: *mtu, mac: *mac }),
        Op::CreateMacvlan { name, parent, mac, .. } => Box::new(children::Macvlan { op, name, parent, mac: *mac }),
        Op::CreateIpvlan(op) => Box::new(op),
        Op::CreateVlan(op) => Box::new(op),
        Op::CreateDummy(op) => Box::new(op),
        Op::CreateTap(op) => Box::new(op),
        Op::TakeDevice(op) => Box::new(op),
        Op::BridgePort { link, bridge, hairpin, isolated } => {
            Box::new(bridge::Port { link, bridge, hairpin: *hairpin, isolated: *isolated })
        }
        Op::BridgeVlans { link, drop_existing, pvid, tagged } => {
            Box::new(vlan::Port { link, drop_existing: *drop_existing, pvid: *pvid, tagged })
        }
        Op::EnsureVlanGateway { bridge, vlan, name, peer, drop_existing } => {
            Box::new(vlan::Gateway { bridge, vlan: *vlan, name, peer, drop_existing: *drop_existing })
        }
        Op::Sysctl { .. } | Op::EnableIpv6 { .. } => Box::new(sysctls::Write(op)),
        Op::TuneSysctl(op) => Box::new(op),
        Op::AddAddress { link, address } => Box::new(address::Add { link, address: *address }),
        Op::EnsureAddress { link, address, force, beside } => {
            Box::new(address::Ensure { link, address: *address, force: *force, beside })
        }
        Op::LinkUp { link } => Box::new(link::Up { link }),
        Op::WaitAddresses { link } => Box::new(wait::Addresses { link }),
        Op::ProbeAddresses(op) => Box::new(op),
        Op::WaitPort { link } => Box::new(wait::Port { link }),
        Op::AddRoute { link, route, src, existing_ok } => {
            Box::new(route::Add { link, route, src: *src, existing_ok: *existing_ok })
        }
        Op::DropConnectedRoute { link, dst } => Box::new(route::DropConnected { link, dst: *dst }),
        Op::DropDefaultRoutes { link, family } => Box::new(route::DropDefaults { link, family: *family }),
        Op::PinMac { link } => Box::new(bridge::PinMac { link }),
        Op::Forwarding { family } => Box::new(sysctls::Forwarding(*family)),
        Op::Masquerade { .. } | Op::MacSpoofCheck { .. } | Op::HostPort(_) | Op::Accept(_) | Op::IngressPolicy(_) => {
            Box::new(filter::Elements)
        }
        Op::RouteLocalnet(op) => Box::new(op),
        Op::FirewalldSource(op) => Box::new(op),
        Op::ForgetNeighbours(op) => Box::new(op),
        Op::Announce { link, addresses } => Box::new(link::Announce { link, addresses }),
        Op::TuneLink(op) => Box::new(op),
        Op::SourceRoutes(op) => Box::new(op),
        Op::JoinVrf(op) => Box::new(op),
        Op::LimitRate(op) => Box::new(op),
        Op::CreateIfb(op) => Box::new(op),
        Op::RedirectIngress(op) => Box::new(op),
    }
}
