//! The rules of the static parts. `base` shows them in the syntax of `nft`.

use netlink_packet_netfilter::nftables::{MetaKey, Operator, Register, Verdict};

use super::expr::{
    DROP, End, Rule, address, compare, equal, ether_source, family_is, first_byte_of_destination6, jump, lookup, mask,
    masquerade, meta, original_port, port, protocol_is, redirect_by, verdict,
};
use super::set::{
    GUARDED, HOSTIP4, HOSTIP6, HOSTPORT4, HOSTPORT6, ISOLATED, MASQ4, MASQ4_LOCAL, MASQ6, MASQ6_LOCAL, SAME_BRIDGE,
    SNAT4, SNAT6, SPOOF_MACS, SPOOF_PORTS,
};
use crate::plan::{Family, Protocol};

/// The chain in which older versions put all rules with conditions.
pub(super) const CONDITIONAL: &str = "hostports_conditional";

/// The chain for the operator's own rules.
pub(super) const ADMIN: &str = "admin";

/// `IFNAMSIZ`.
const IFNAMSIZ: usize = 16;

fn of_family(family: Family, rest: Rule) -> Rule {
    [family_is(family), rest].concat()
}

pub(super) fn masquerading() -> Vec<Rule> {
    use Family::{V4, V6};
    let returns = || verdict(Verdict::Return);
    let source4 = || address(V4, End::Source, Register::Reg1);
    let target4 = address(V4, End::Destination, Register::Reg32_01);
    let source6 = || address(V6, End::Source, Register::Reg1);
    let target6 = address(V6, End::Destination, Register::Reg2);
    let multicast4 = vec![
        address(V4, End::Destination, Register::Reg1),
        mask(vec![0xf0, 0, 0, 0]),
        equal(vec![0xe0, 0, 0, 0]),
        returns(),
    ];
    let multicast6 = vec![first_byte_of_destination6(Register::Reg1), equal(vec![0xff]), returns()];
    vec![
        of_family(V4, multicast4),
        of_family(V6, multicast6),
        of_family(V4, vec![source4(), target4, lookup(&MASQ4_LOCAL, false), returns()]),
        of_family(V4, vec![source4(), lookup(&MASQ4, false), masquerade()]),
        of_family(V6, vec![source6(), target6, lookup(&MASQ6_LOCAL, false), returns()]),
        of_family(V6, vec![source6(), lookup(&MASQ6, false), masquerade()]),
    ]
}

pub(super) fn spoof_rule() -> Rule {
    vec![
        meta(MetaKey::Iifname, Register::Reg1),
        lookup(&SPOOF_PORTS, false),
        meta(MetaKey::Iifname, Register::Reg1),
        ether_source(Register::Reg2),
        lookup(&SPOOF_MACS, true),
        verdict(DROP),
    ]
}

/// The first map with the packet's key decides; a mapping for one address of the host precedes one for all.
pub(super) fn redirecting() -> Vec<Rule> {
    let by_address = |family, map, behind: (Register, Register)| {
        let key = vec![
            address(family, End::Destination, Register::Reg1),
            meta(MetaKey::L4Proto, behind.0),
            port(End::Destination, behind.1),
        ];
        of_family(family, [key, redirect_by(family, map)].concat())
    };
    // `dnat` itself only acts on packets of its family.
    let by_port = |family, map| {
        let key = vec![meta(MetaKey::L4Proto, Register::Reg1), port(End::Destination, Register::Reg32_01)];
        [key, redirect_by(family, map)].concat()
    };
    vec![
        vec![jump(CONDITIONAL)],
        by_address(Family::V4, &HOSTIP4, (Register::Reg32_01, Register::Reg32_02)),
        by_port(Family::V4, &HOSTPORT4),
        by_address(Family::V6, &HOSTIP6, (Register::Reg2, Register::Reg32_05)),
        by_port(Family::V6, &HOSTPORT6),
    ]
}

/// Matches connection tracking's record of the original destination, so that no packet mark is needed. There is one
/// rule per protocol, because `nft` only displays a port of the original direction if its protocol is known.
pub(super) fn snat_rules() -> Vec<Rule> {
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let rule = |family, protocol| {
        let (set, [b, c, d]) = match family {
            Family::V4 => (&SNAT4, [Register::Reg32_02, Register::Reg32_03, Register::Reg32_04]),
            Family::V6 => (&SNAT6, [Register::Reg32_05, Register::Reg32_06, Register::Reg32_07]),
        };
        let key = vec![
            meta(MetaKey::L4Proto, Register::Reg1),
            address(family, End::Destination, Register::Reg32_01),
            port(End::Destination, b),
            original_port(c),
            address(family, End::Source, d),
            lookup(set, false),
            masquerade(),
        ];
        [protocol_is(protocol), family_is(family), key].concat()
    };
    [Family::V4, Family::V6].into_iter().flat_map(|family| protocols.map(|protocol| rule(family, protocol))).collect()
}

/// Matches incoming packets with a source or destination in 127.0.0.0/8.
pub(super) fn localnet_rules() -> Vec<Rule> {
    let mut loopback = b"lo".to_vec();
    loopback.resize(IFNAMSIZ, 0);
    let rule = |end| {
        let outside = vec![meta(MetaKey::Iifname, Register::Reg1), compare(Operator::NotEqual, loopback.clone())];
        let local = vec![address(Family::V4, end, Register::Reg1), mask(vec![255, 0, 0, 0]), equal(vec![127, 0, 0, 0])];
        [outside, family_is(Family::V4), local, vec![verdict(DROP)]].concat()
    };
    vec![rule(End::Source), rule(End::Destination)]
}

pub(super) fn ingress_rules() -> Vec<Rule> {
    let both = || vec![meta(MetaKey::Iifname, Register::Reg1), meta(MetaKey::Oifname, Register::Reg2)];
    vec![
        vec![jump(ADMIN)],
        [both(), vec![lookup(&ISOLATED, false), verdict(DROP)]].concat(),
        [both(), vec![lookup(&SAME_BRIDGE, false), verdict(super::expr::ACCEPT)]].concat(),
        vec![
            meta(MetaKey::Iifname, Register::Reg1),
            lookup(&GUARDED, false),
            meta(MetaKey::Oifname, Register::Reg1),
            lookup(&GUARDED, false),
            verdict(DROP),
        ],
    ]
}
