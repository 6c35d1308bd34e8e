//! The static parts: their sets, chains and rules. Here are all of them in the syntax of `nft`:
//!
//! ```text
//! table inet weft {
//!   set masq4       { type ipv4_addr; }
//!   set masq6       { type ipv6_addr; }
//!   set masq4_local { type ipv4_addr . ipv4_addr; flags interval; }
//!   set masq6_local { type ipv6_addr . ipv6_addr; flags interval; }
//!   map hostport4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
//!   map hostport6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
//!   map hostip4   { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
//!   map hostip6   { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }
//!   set hostport_snat4 {
//!     type inet_proto . ipv4_addr . inet_service . inet_service . ipv4_addr; flags interval;
//!   }
//!   set hostport_snat6 {
//!     type inet_proto . ipv6_addr . inet_service . inet_service . ipv6_addr; flags interval;
//!   }
//!   set isolated    { type ifname . ifname; }
//!   set same_bridge { type ifname . ifname; }
//!   set guarded     { type ifname; }
//!   chain postrouting {
//!     type nat hook postrouting priority srcnat; policy accept;
//!     ip daddr 224.0.0.0/4 return
//!     ip6 daddr ff00::/8 return
//!     ip saddr . ip daddr @masq4_local return
//!     ip saddr @masq4 masquerade
//!     ip6 saddr . ip6 daddr @masq6_local return
//!     ip6 saddr @masq6 masquerade
//!   }
//!   chain hostports_prerouting {
//!     type nat hook prerouting priority dstnat; policy accept;
//!     fib daddr type local jump hostports
//!   }
//!   chain hostports_output {
//!     type nat hook output priority -100; policy accept;
//!     fib daddr type local jump hostports
//!   }
//!   chain hostports_postrouting {
//!     type nat hook postrouting priority 99; policy accept;
//!     ct status dnat jump hostports_snat
//!   }
//!   chain hostports_conditional {
//!   }
//!   chain hostports {
//!     jump hostports_conditional
//!     dnat ip to ip daddr . meta l4proto . th dport map @hostip4
//!     dnat ip to meta l4proto . th dport map @hostport4
//!     dnat ip6 to ip6 daddr . meta l4proto . th dport map @hostip6
//!     dnat ip6 to meta l4proto . th dport map @hostport6
//!   }
//!   chain hostports_snat {
//!     meta l4proto tcp meta l4proto . ip daddr . tcp dport . ct original proto-dst . ip saddr @hostport_snat4 masquerade
//!     meta l4proto udp meta l4proto . ip daddr . udp dport . ct original proto-dst . ip saddr @hostport_snat4 masquerade
//!     meta l4proto sctp meta l4proto . ip daddr . sctp dport . ct original proto-dst . ip saddr @hostport_snat4 masquerade
//!     meta l4proto tcp meta l4proto . ip6 daddr . tcp dport . ct original proto-dst . ip6 saddr @hostport_snat6 masquerade
//!     meta l4proto udp meta l4proto . ip6 daddr . udp dport . ct original proto-dst . ip6 saddr @hostport_snat6 masquerade
//!     meta l4proto sctp meta l4proto . ip6 daddr . sctp dport . ct original proto-dst . ip6 saddr @hostport_snat6 masquerade
//!   }
//!   chain forward {
//!     type filter hook forward priority filter; policy accept;
//!     jump admin
//!     iifname . oifname @isolated drop
//!     iifname . oifname @same_bridge accept
//!     iifname @guarded oifname @guarded drop
//!   }
//!   chain admin {
//!   }
//!   chain localnet {
//!     type filter hook prerouting priority raw; policy accept;
//!     iifname != "lo" ip saddr 127.0.0.0/8 drop
//!     iifname != "lo" ip daddr 127.0.0.0/8 drop
//!   }
//! }
//! table bridge weft {
//!   set spoof_ports { type ifname; }
//!   set spoof_macs  { type ifname . ether_addr; }
//!   chain prerouting {
//!     type filter hook prerouting priority -300; policy accept;
//!     iifname @spoof_ports iifname . ether saddr != @spoof_macs drop
//!   }
//! }
//! ```
//!
//! The first host port with conditions makes this part, and a chain for the port (`ports`):
//!
//! ```text
//! table inet weft {
//!   map conditional_ports { type inet_proto . inet_service : verdict; }
//!   chain conditional_prerouting {
//!     type nat hook prerouting priority dstnat - 1; policy accept;
//!     fib daddr type local jump conditional
//!   }
//!   chain conditional_output {
//!     type nat hook output priority -101; policy accept;
//!     fib daddr type local jump conditional
//!   }
//!   chain conditional {
//!     meta l4proto . th dport vmap @conditional_ports
//!   }
//! }
//! ```
//!
//! `localnet` replaces the kernel's rule that no packet with such an address may come in through a link.
//! `route_localnet` disables that rule for links of containers, which could then reach services that listen only on
//! 127.0.0.1. The chain comes before connection tracking, so answers to packets that the host sent from 127.0.0.1 pass:
//! they are translated later.
//!
//! A part is made when the first attachment needs it, completely or not at all: creating its first chain fails if
//! somebody else has made it meanwhile. So a table of an older weft gets the parts that it lacks. A part that changes
//! in a later version gets another name for its first chain. `hostports_conditional` contains rules that older versions
//! made, and `admin` those of the operator, which weft never changes.

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, InetHookNumber, ListAttribute, MetaKey, NfTablesMessage, Register,
    RuleAttribute, RuleMessage,
};

use super::base_rules::{
    ADMIN, CONDITIONAL, ingress_rules, localnet_rules, masquerading, redirecting, snat_rules, spoof_rule,
};
use super::expr::{End, Rule, for_this_host, jump, meta, port, verdict_by, was_redirected};
use super::set::{
    BY_PORT, GUARDED, HOSTIP4, HOSTIP6, HOSTPORT4, HOSTPORT6, ISOLATED, MASQ4, MASQ4_LOCAL, MASQ6, MASQ6_LOCAL,
    SAME_BRIDGE, SNAT4, SNAT6, SPOOF_MACS, SPOOF_PORTS, SetSpec,
};
use super::table::Item;
use super::{Part, Table};

const BY_CONDITION: &str = "conditional";
const HOSTPORTS: &str = "hostports";
const HOSTPORTS_SNAT: &str = "hostports_snat";

/// Policy of a base chain: `NF_ACCEPT`.
const POLICY_ACCEPT: u32 = 1;

/// A chain of a part.
struct Chain {
    name: &'static str,
    /// Type, hook and priority of a base chain.
    hook: Option<(&'static str, InetHookNumber, i32)>,
    rules: Vec<Rule>,
    /// How many rules of the part jump to it.
    jumps: u32,
}

// === impl Part ===

impl Part {
    /// Returns its sets.
    pub(super) fn sets(self) -> &'static [SetSpec] {
        match self {
            Self::Masquerade => &[MASQ4, MASQ6, MASQ4_LOCAL, MASQ6_LOCAL],
            Self::SpoofCheck => &[SPOOF_PORTS, SPOOF_MACS],
            Self::HostPorts => &[HOSTPORT4, HOSTPORT6, HOSTIP4, HOSTIP6, SNAT4, SNAT6],
            Self::Conditional => &[BY_PORT],
            Self::Ingress => &[ISOLATED, SAME_BRIDGE, GUARDED],
            Self::Localnet => &[],
        }
    }

    /// Returns the names of its chains.
    pub(super) fn chain_names(self) -> impl Iterator<Item = &'static str> {
        self.chains().into_iter().map(|chain| chain.name)
    }

    /// Returns the chains in which others put rules.
    pub(super) fn open_chains(self) -> &'static [&'static str] {
        match self {
            Self::HostPorts => &[CONDITIONAL],
            Self::Ingress => &[ADMIN],
            Self::Masquerade | Self::Conditional | Self::SpoofCheck | Self::Localnet => &[],
        }
    }

    /// Returns whether its content shows that somebody uses it. An attachment that needs `localnet` and finds it adds
    /// nothing to it: it only sets `route_localnet`, and relies on the chain from then on.
    pub(super) fn shows_users(self) -> bool {
        !self.sets().is_empty() || !self.open_chains().is_empty()
    }

    /// Returns the request that asks whether it exists.
    pub(super) fn question(self) -> Item {
        let name = self.chains().first().map(|chain| chain.name).unwrap_or_default();
        chain_question(self.table(), name)
    }

    /// Returns the requests for each of its chains, with the number of uses if the chain is as weft made it: its own
    /// rules and the jumps to it. In open chains, rules of others are added.
    pub(super) fn chain_questions(self) -> Vec<(Item, u32)> {
        let uses = |chain: &Chain| chain.jumps + u32::try_from(chain.rules.len()).unwrap_or(u32::MAX);
        self.chains().iter().map(|chain| (chain_question(self.table(), chain.name), uses(chain))).collect()
    }

    /// Returns the requests that restore its rules after somebody deleted them. Chains and sets still exist; the
    /// contents of open chains are kept.
    pub(super) fn rules_again(self) -> Vec<Item> {
        let table = self.table();
        let chains = self.chains();
        let emptied = chains.iter().filter(|chain| !chain.rules.is_empty()).map(|chain| flush_item(table, chain.name));
        let mut items: Vec<Item> = emptied.collect();
        for chain in chains {
            items.extend(chain.rules.into_iter().map(|rule| rule_item(table, chain.name, rule)));
        }
        items
    }

    /// Returns the requests that make it in a table that may exist. They fail if the part exists, because rules would
    /// be duplicated otherwise.
    pub(super) fn items(self) -> Vec<Item> {
        let exclusive = NLM_F_CREATE | NLM_F_EXCL;
        let table = self.table();
        let mut items = vec![table.creation()];
        items.extend(self.sets().iter().map(|set| set.creation(exclusive)));
        // Rules jump to chains, so make all chains first.
        let chains = self.chains();
        // An operator may have made `admin` already.
        let flags = |chain: &Chain| if chain.name == ADMIN { NLM_F_CREATE } else { exclusive };
        items.extend(chains.iter().map(|chain| chain.creation(table, flags(chain))));
        for chain in chains {
            items.extend(chain.rules.into_iter().map(|rule| rule_item(table, chain.name, rule)));
        }
        items
    }

    /// Returns the requests that delete it.
    pub(super) fn deletions(self) -> Vec<Item> {
        let table = self.table();
        let names: Vec<&'static str> = self.chain_names().collect();
        let rules = names.iter().map(|name| flush_item(table, name));
        let chains =
            names.iter().map(|name| chain_item(table, NfTablesMessage::DeleteChain(chain_name(table, name)), 0));
        rules.chain(chains).chain(self.sets().iter().map(SetSpec::deletion)).collect()
    }

    fn chains(self) -> Vec<Chain> {
        let base =
            |name, kind, hook, priority, rules| Chain { name, hook: Some((kind, hook, priority)), rules, jumps: 0 };
        let plain = |name, rules, jumps| Chain { name, hook: None, rules, jumps };
        let for_host = |chain| vec![[for_this_host(), vec![jump(chain)]].concat()];
        match self {
            Self::Masquerade => {
                vec![base("postrouting", "nat", InetHookNumber::PostRouting, 100, masquerading())]
            }
            // The bridge family uses the same hook numbers as the inet family.
            Self::SpoofCheck => {
                vec![base("prerouting", "filter", InetHookNumber::PreRouting, -300, vec![spoof_rule()])]
            }
            Self::HostPorts => {
                let redirected = vec![[was_redirected(), vec![jump(HOSTPORTS_SNAT)]].concat()];
                vec![
                    base("hostports_prerouting", "nat", InetHookNumber::PreRouting, -100, for_host(HOSTPORTS)),
                    base("hostports_output", "nat", InetHookNumber::LocalOut, -100, for_host(HOSTPORTS)),
                    // It comes before chains that masquerade by source: the first one with a verdict decides.
                    base("hostports_postrouting", "nat", InetHookNumber::PostRouting, 99, redirected),
                    plain(CONDITIONAL, Vec::new(), 1),
                    plain(HOSTPORTS, redirecting(), 2),
                    plain(HOSTPORTS_SNAT, snat_rules(), 1),
                ]
            }
            // Before the maps: the first chain that translates a connection decides.
            Self::Conditional => {
                let by_port = vec![
                    meta(MetaKey::L4Proto, Register::Reg1),
                    port(End::Destination, Register::Reg32_01),
                    verdict_by(&BY_PORT),
                ];
                vec![
                    base("conditional_prerouting", "nat", InetHookNumber::PreRouting, -101, for_host(BY_CONDITION)),
                    base("conditional_output", "nat", InetHookNumber::LocalOut, -101, for_host(BY_CONDITION)),
                    plain(BY_CONDITION, vec![by_port], 2),
                ]
            }
            Self::Ingress => {
                vec![
                    base("forward", "filter", InetHookNumber::Forward, 0, ingress_rules()),
                    plain(ADMIN, Vec::new(), 1),
                ]
            }
            Self::Localnet => {
                vec![base("localnet", "filter", InetHookNumber::PreRouting, -300, localnet_rules())]
            }
        }
    }
}

impl Chain {
    fn creation(&self, table: Table, flags: u16) -> Item {
        let mut message = chain_name(table, self.name);
        if let Some((kind, hook, priority)) = self.hook {
            message.attributes.extend([
                ChainAttribute::Hook(vec![Hook::Number(hook.into()), Hook::Priority(i32::cast_unsigned(priority))]),
                ChainAttribute::Policy(POLICY_ACCEPT),
                ChainAttribute::Type(kind.to_owned()),
            ]);
        }
        chain_item(table, NfTablesMessage::NewChain(message), flags)
    }
}

/// Returns the request that makes a chain without a hook, if it is missing.
pub(super) fn plain_chain(table: Table, name: &str) -> Item {
    chain_item(table, NfTablesMessage::NewChain(chain_name(table, name)), NLM_F_CREATE)
}

/// Returns the request for a chain.
pub(super) fn chain_question(table: Table, name: &str) -> Item {
    chain_item(table, NfTablesMessage::GetChain(chain_name(table, name)), 0)
}

/// Returns the request that deletes all rules of a chain.
fn flush_item(table: Table, chain: &str) -> Item {
    let attributes = vec![RuleAttribute::Table(table.name().to_owned()), RuleAttribute::Chain(chain.to_owned())];
    Item { table, message: NfTablesMessage::DeleteRule(RuleMessage { attributes }), flags: 0 }
}

pub(super) fn chain_item(table: Table, message: NfTablesMessage, flags: u16) -> Item {
    Item { table, message, flags }
}

pub(super) fn chain_name(table: Table, name: &str) -> ChainMessage {
    let attributes = vec![ChainAttribute::Table(table.name().to_owned()), ChainAttribute::Name(name.to_owned())];
    ChainMessage { attributes }
}

fn rule_item(table: Table, chain: &str, rule: Rule) -> Item {
    let attributes = vec![
        RuleAttribute::Table(table.name().to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(rule.into_iter().map(ListAttribute::from).collect()),
    ];
    let message = NfTablesMessage::NewRule(RuleMessage { attributes });
    Item { table, message, flags: NLM_F_CREATE | NLM_F_APPEND }
}
