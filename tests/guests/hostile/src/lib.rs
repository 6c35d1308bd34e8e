//! Gives the wrong answer that `lie` in its configuration selects; each lie is different.

use weft_sdk::address::{next, number};
use weft_sdk::{
    Decision, Denial, Dns, IpAddress, IpPrefix, IpRange, Ledger, Policy, Problem, ReleaseRule, Request, Route,
    WantedAddress,
};

struct Hostile;

/// Longer than any readable text.
const HUGE: usize = 4 << 20;

impl Policy for Hostile {
    fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial> {
        let range = request.range_sets[0].ranges[0];
        match configured_lie(&request.config) {
            "outside" => Ok(decision_of(address(203, 0, 113, 7), &range)),
            "family" => Ok(decision_of(IpAddress::Ipv6((0xfd00, 0, 0, 0, 0, 0, 0, 7)), &range)),
            "gateway" => Ok(decision_of(range.gateway.unwrap_or(range.first), &range)),
            "gateway-of-a-pod" => Ok(by_gateway(Some(address(10, 77, 0, 2)), &range)),
            "gateway-of-the-next-pod" => Ok(by_gateway(Some(address(10, 77, 0, 3)), &range)),
            "no-gateway" => Ok(by_gateway(None, &range)),
            "no-gateway-twice" => {
                let mut decision = by_gateway(None, &range);
                let other = request.range_sets[0].ranges[1].subnet.length;
                decision.addresses[0].candidates.push(IpPrefix { address: address(10, 78, 0, 9), length: other });
                Ok(decision)
            }
            "network" => Ok(decision_of(range.subnet.address, &range)),
            "taken" => Ok(decision_of(address(10, 77, 0, 2), &range)),
            "length" => {
                let mut decision = decision_of(address(10, 77, 0, 9), &range);
                decision.addresses[0].candidates[0].length = 8;
                Ok(decision)
            }
            "twice" => {
                let mut decision = decision_of(address(10, 77, 0, 9), &range);
                decision.addresses.push(decision.addresses[0].clone());
                Ok(decision)
            }
            "nothing" => {
                let mut decision = decision_of(range.last, &range);
                decision.addresses.clear();
                Ok(decision)
            }
            "no-candidates" => {
                let mut decision = decision_of(range.last, &range);
                decision.addresses[0].candidates.clear();
                Ok(decision)
            }
            "thief" => {
                let mut decision = decision_of(address(10, 77, 0, 9), &range);
                decision.release = ReleaseRule::Keep("pod:kube-system/somebody-else".to_owned());
                Ok(decision)
            }
            "route" => {
                let mut decision = decision_of(address(10, 77, 0, 9), &range);
                let dst = IpPrefix { address: address(169, 254, 169, 254), length: 32 };
                let route = Route { dst, gw: None, mtu: None, advmss: None, priority: None, table: None, scope: None };
                decision.routes.push(route);
                Ok(decision)
            }
            "next-hop" => {
                let mut decision = decision_of(address(10, 77, 0, 9), &range);
                let (dst, gw) = (IpPrefix { address: address(0, 0, 0, 0), length: 0 }, address(10, 77, 0, 2));
                let route =
                    Route { dst, gw: Some(gw), mtu: None, advmss: None, priority: None, table: None, scope: None };
                decision.routes.push(route);
                Ok(decision)
            }
            "name-server" => {
                let mut decision = decision_of(address(10, 77, 0, 9), &range);
                let nameservers = vec!["evil.example".to_owned()];
                decision.dns = Some(Dns { nameservers, domain: None, search: Vec::new(), options: Vec::new() });
                Ok(decision)
            }
            "trap" => panic!("on purpose"),
            "loop" => endless(number(range.first)),
            "busy" => {
                std::hint::black_box(busy(number(range.first)));
                Ok(decision_of(address(10, 77, 0, 9), &range))
            }
            "memory" => allocate_forever(),
            "stack" => Ok(decision_of(deeper(range.first, &range), &range)),
            "huge-reason" => {
                let mut decision = decision_of(address(10, 77, 0, 9), &range);
                decision.reason = "x".repeat(HUGE);
                Ok(decision)
            }
            "huge-denial" => Err(Denial::Denied("y".repeat(HUGE))),
            "control-characters" => Err(Denial::Denied("first line\nsecond \u{1b}[31mline\u{0}".to_owned())),
            "many-questions" => {
                for _ in 0..10_000_000_u32 {
                    std::hint::black_box(ledger.usage(&range));
                }
                Ok(decision_of(range.last, &range))
            }
            _honest => {
                let free = ledger.next_free(&range, next(range.first).unwrap_or(range.first));
                free.map(|free| decision_of(free, &range))
                    .ok_or_else(|| Denial::Exhausted("hostile: nothing is free".to_owned()))
            }
        }
    }

    fn validate(_config: &str) -> Vec<Problem> {
        Vec::new()
    }

    fn config_schema() -> String {
        r#"{"type": "object"}"#.to_owned()
    }
}

/// Returns the value of `"lie"`. A parser would be most of this component.
fn configured_lie(config: &str) -> &str {
    let rest = config.split_once("\"lie\"").map_or("", |(_, rest)| rest);
    rest.split('"').nth(1).unwrap_or("")
}

fn address(a: u8, b: u8, c: u8, d: u8) -> IpAddress {
    IpAddress::Ipv4((a, b, c, d))
}

fn decision_of(address: IpAddress, range: &IpRange) -> Decision {
    let candidate = IpPrefix { address, length: range.subnet.length };
    Decision {
        addresses: vec![WantedAddress { candidates: vec![candidate], gateway: range.gateway }],
        routes: Vec::new(),
        dns: None,
        release: ReleaseRule::Free,
        reason: "a lie".to_owned(),
    }
}

/// A valid address with another gateway than its range's.
fn by_gateway(gateway: Option<IpAddress>, range: &IpRange) -> Decision {
    let mut decision = decision_of(address(10, 77, 0, 9), range);
    decision.addresses[0].gateway = gateway;
    decision
}

fn endless(start: u128) -> ! {
    let mut n = start;
    loop {
        n = std::hint::black_box(n.wrapping_mul(3).wrapping_add(1));
    }
}

/// Uses more fuel than the default limit, and ends.
fn busy(start: u128) -> u128 {
    let mut n = start;
    for _ in 0..20_000_000_u32 {
        n = std::hint::black_box(n.wrapping_mul(3).wrapping_add(1));
    }
    n
}

fn allocate_forever() -> ! {
    let mut all = Vec::new();
    loop {
        all.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&all);
    }
}

fn deeper(address: IpAddress, range: &IpRange) -> IpAddress {
    let frame = std::hint::black_box([0_u8; 4096]);
    let below = std::hint::black_box(deeper as fn(IpAddress, &IpRange) -> IpAddress)(address, range);
    if frame[0] == 1 { address } else { below }
}

weft_sdk::policy!(Hostile);
