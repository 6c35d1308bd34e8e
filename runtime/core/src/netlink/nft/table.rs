//! Tables and the parts of ours, by name.

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableMessage};

use super::socket::Item;
use crate::netlink::error::NetlinkError;
use crate::plan::Family;

/// A table by its family; ours are called `weft`, those of `iptables` `filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::netlink) enum Table {
    /// Masquerading, host ports, ingress policies.
    Inet,
    /// Source MAC checks.
    Bridge,
    /// The one of `iptables`.
    Filter4,
    /// The one of `ip6tables`.
    Filter6,
}

/// A part of the base, made as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::netlink) enum Part {
    Masquerade,
    HostPorts,
    Ingress,
    SpoofCheck,
}

// === impl Part ===

impl Part {
    /// Where it is.
    pub(super) fn table(self) -> Table {
        match self {
            Self::SpoofCheck => Table::Bridge,
            Self::Masquerade | Self::HostPorts | Self::Ingress => Table::Inet,
        }
    }

    pub(super) fn foreign(self) -> NetlinkError {
        let table = self.table();
        NetlinkError::ForeignTable { family: table.family_name(), name: table.name() }
    }
}

// === impl Table ===

impl Table {
    /// The one of `iptables` or `ip6tables`.
    pub(super) fn filter(family: Family) -> Self {
        match family {
            Family::V4 => Self::Filter4,
            Family::V6 => Self::Filter6,
        }
    }

    /// As `nft` calls the family.
    pub(super) fn family_name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
            Self::Filter4 => "ip",
            Self::Filter6 => "ip6",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Inet | Self::Bridge => "weft",
            Self::Filter4 | Self::Filter6 => "filter",
        }
    }

    /// The request to make it where it is missing.
    pub(super) fn creation(self) -> Item {
        Item { table: self, message: NfTablesMessage::NewTable(self.message()), flags: NLM_F_CREATE }
    }

    /// The request to delete it with all that is in it.
    pub(super) fn deletion(self) -> Item {
        Item { table: self, message: NfTablesMessage::DeleteTable(self.message()), flags: 0 }
    }

    /// The request that asks whether it is there.
    pub(super) fn question(self) -> Item {
        Item { table: self, message: NfTablesMessage::GetTable(self.message()), flags: 0 }
    }

    fn message(self) -> TableMessage {
        TableMessage { attributes: vec![TableAttribute::Name(self.name().to_owned())] }
    }
}
