//! Properties that only links of one kind have, as far as CHECK compares them.

use rtnetlink::packet_route::link::{InfoData, InfoIpVlan, InfoVlan, IpVlanMode};

use crate::plan::IpvlanMode;

/// A kind-specific property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::netlink) enum Child {
    /// The mode of an ipvlan, if weft knows it.
    Ipvlan(Option<IpvlanMode>),
    /// The id of a VLAN.
    Vlan(u16),
}

impl Child {
    pub(super) fn read(data: &InfoData) -> Option<Self> {
        match data {
            InfoData::IpVlan(infos) => infos.iter().find_map(|info| match info {
                InfoIpVlan::Mode(mode) => Some(Self::Ipvlan(match mode {
                    IpVlanMode::L2 => Some(IpvlanMode::L2),
                    IpVlanMode::L3 => Some(IpvlanMode::L3),
                    IpVlanMode::L3S => Some(IpvlanMode::L3s),
                    _ => None,
                })),
                _ => None,
            }),
            InfoData::Vlan(infos) => infos.iter().find_map(|info| match info {
                InfoVlan::Id(id) => Some(Self::Vlan(*id)),
                _ => None,
            }),
            _ => None,
        }
    }
}
