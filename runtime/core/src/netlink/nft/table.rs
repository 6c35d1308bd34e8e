//! Names of tables and of our parts, and the type of a request.

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableMessage};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

use crate::netlink::error::NetlinkError;
use crate::plan::Family;

/// A table. Ours are called `weft`; the others belong to `iptables` or to the stock `portmap`, whose tables are only
/// read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::netlink) enum Table {
    /// Masquerading, host ports, ingress policies.
    Inet,
    /// Source MAC checks.
    Bridge,
    /// `filter` of `iptables`.
    Filter4,
    /// `filter` of `ip6tables`.
    Filter6,
    /// `nat` of `iptables`.
    Nat4,
    /// `nat` of `ip6tables`.
    Nat6,
    /// The IPv4 table of the stock `portmap` with its nftables backend.
    StockHostPorts4,
    /// Its IPv6 table.
    StockHostPorts6,
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) table: Table,
    pub(super) message: NfTablesMessage,
    /// Flags besides `NLM_F_REQUEST`.
    pub(super) flags: u16,
}

/// A part of the base, made as a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::netlink) enum Part {
    Masquerade,
    HostPorts,
    Conditional,
    Ingress,
    Localnet,
    SpoofCheck,
}

// === impl Part ===

impl Part {
    /// Returns its table.
    pub(super) fn table(self) -> Table {
        match self {
            Self::SpoofCheck => Table::Bridge,
            Self::Masquerade | Self::HostPorts | Self::Conditional | Self::Ingress | Self::Localnet => Table::Inet,
        }
    }

    pub(super) fn foreign(self) -> NetlinkError {
        let table = self.table();
        NetlinkError::ForeignTable { family: table.family_name(), name: table.name() }
    }
}

// === impl Table ===

impl Table {
    /// Returns the table of `iptables` or `ip6tables`.
    pub(super) fn filter(family: Family) -> Self {
        match family {
            Family::V4 => Self::Filter4,
            Family::V6 => Self::Filter6,
        }
    }

    pub(super) fn family(self) -> NetfilterProtoFamily {
        match self {
            Self::Inet => NetfilterProtoFamily::Inet,
            Self::Bridge => NetfilterProtoFamily::Bridge,
            Self::Filter4 | Self::Nat4 | Self::StockHostPorts4 => NetfilterProtoFamily::IPv4,
            Self::Filter6 | Self::Nat6 | Self::StockHostPorts6 => NetfilterProtoFamily::IPv6,
        }
    }

    /// Returns the family's name in `nft`.
    pub(super) fn family_name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Bridge => "bridge",
            Self::Filter4 | Self::Nat4 | Self::StockHostPorts4 => "ip",
            Self::Filter6 | Self::Nat6 | Self::StockHostPorts6 => "ip6",
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Inet | Self::Bridge => "weft",
            Self::Filter4 | Self::Filter6 => "filter",
            Self::Nat4 | Self::Nat6 => "nat",
            Self::StockHostPorts4 | Self::StockHostPorts6 => "cni_hostport",
        }
    }

    /// Returns the request to make it if it is missing.
    pub(super) fn creation(self) -> Item {
        Item { table: self, message: NfTablesMessage::NewTable(self.message()), flags: NLM_F_CREATE }
    }

    /// Returns the request to delete it with all its contents.
    pub(super) fn deletion(self) -> Item {
        Item { table: self, message: NfTablesMessage::DeleteTable(self.message()), flags: 0 }
    }

    /// Returns the request that asks whether it exists.
    pub(super) fn question(self) -> Item {
        Item { table: self, message: NfTablesMessage::GetTable(self.message()), flags: 0 }
    }

    fn message(self) -> TableMessage {
        TableMessage { attributes: vec![TableAttribute::Name(self.name().to_owned())] }
    }
}

// === impl Item ===

impl Item {
    /// Returns the message to send.
    pub(super) fn message(&self) -> NetfilterMessage {
        NetfilterMessage::new(NetfilterHeader::new(self.table.family(), 0, 0), self.message.clone())
    }
}
