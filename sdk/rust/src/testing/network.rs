//! A network in memory, with weft's behaviour around a policy.

use std::collections::BTreeMap;
use std::fmt;

use super::verify::Rules;
use super::{ModelLedger, request};
use crate::{
    ClaimState, Denial, IpAddress, IpPrefix, Ledger, Pod, Policy, RangeSet, ReleaseRule, Request, WantedAddress,
};

/// A network with a policy, a configuration, ranges and a ledger. The rules are weft's: an address outside the declared
/// ranges, another gateway, a route that nobody declared and the like are errors; the first free candidate is claimed.
/// `weftctl policy test` also knows the delegate, which puts gateways on the host.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// The claims.
    pub ledger: ModelLedger,
    /// The time of the next request, in seconds since 1970.
    pub now: u64,
    /// The routes that `ipam.routes` of the configuration declares, each with its next hop, if it has one. A decision may have
    /// them, and default routes.
    pub declared_routes: Vec<(IpPrefix, Option<IpAddress>)>,
    /// `grants.routes` of the network: prefixes inside which the policy may make its own routes.
    pub opened_routes: Vec<IpPrefix>,
    config: String,
    range_sets: Vec<RangeSet>,
    attachments: BTreeMap<String, (Vec<IpPrefix>, ReleaseRule)>,
    resting: Vec<(u64, IpPrefix)>,
}

/// Why an ADD failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The policy refused.
    Denied(Denial),
    /// weft does not accept the policy's decision.
    Unusable(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(denial) => write!(f, "{denial:?}"),
            Self::Unusable(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Refused {}

// === impl Network ===

impl Network {
    /// Creates a network with this `ipam` object and these ranges.
    #[must_use]
    pub fn new(config: &str, range_sets: Vec<RangeSet>) -> Self {
        Self { config: config.to_owned(), range_sets, ..Self::default() }
    }

    /// Creates the request of a new pod in namespace `default`: container `c-POD`, interface `eth0`, with the claims
    /// that are kept for it.
    #[must_use]
    pub fn request(&self, pod: &str) -> Request {
        let mut request = request(&self.config, self.range_sets.clone());
        request.attachment.container_id = format!("c-{pod}");
        request.identities =
            vec![format!("pod:default/{pod}/eth0"), format!("uid:uid-{pod}/eth0"), format!("container:c-{pod}/eth0")];
        request.pod = Some(Pod {
            namespace: "default".into(),
            name: pod.into(),
            uid: format!("uid-{pod}"),
            labels: Vec::new(),
            annotations: Vec::new(),
        });
        let ours = |owner: &String| request.identities.contains(owner) || *owner == request.attachment.container_id;
        request.held = self.ledger.claims().filter(|claim| ours(&claim.owner)).cloned().collect();
        request.now = self.now;
        request
    }

    /// ADD: asks the policy, verifies its decision, and claims.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing is claimed then.
    pub fn add<P: Policy>(&mut self, request: &Request) -> Result<Vec<IpPrefix>, Refused> {
        self.free_rested();
        let decision = P::allocate(request, &self.ledger).map_err(Refused::Denied)?;
        self.rules().verify(request, &decision).map_err(Refused::Unusable)?;
        let mut claimed = Vec::new();
        for wanted in &decision.addresses {
            claimed.push(self.free(request, wanted, &claimed).map_err(Refused::Unusable)?);
        }
        let owner = &request.attachment.container_id;
        for address in &claimed {
            self.ledger.claim(address.address, owner, ClaimState::Active);
        }
        self.attachments.insert(owner.clone(), (claimed.clone(), decision.release));
        Ok(claimed)
    }

    /// DEL: releases the addresses by the decision's rule. Ignores unknown containers.
    pub fn del(&mut self, container: &str) {
        let Some((addresses, rule)) = self.attachments.remove(container) else { return };
        for prefix in addresses {
            match &rule {
                ReleaseRule::Free => self.ledger.release(prefix.address),
                ReleaseRule::Keep(owner) => self.ledger.claim(prefix.address, owner, ClaimState::Kept),
                ReleaseRule::Cooldown(seconds) => {
                    self.ledger.claim(prefix.address, container, ClaimState::Cooldown);
                    self.resting.push((self.now + u64::from(*seconds), prefix));
                }
            }
        }
    }

    /// Frees the addresses that have rested long enough.
    fn free_rested(&mut self) {
        for (until, prefix) in std::mem::take(&mut self.resting) {
            if until <= self.now {
                self.ledger.release(prefix.address);
            } else {
                self.resting.push((until, prefix));
            }
        }
    }

    fn rules(&self) -> Rules<'_> {
        let (declared, opened) = (&self.declared_routes, &self.opened_routes);
        Rules { sets: &self.range_sets, declared, opened, ledger: &self.ledger }
    }

    /// Returns the first candidate that is free, or kept for this attachment.
    fn free(&self, request: &Request, wanted: &WantedAddress, claimed: &[IpPrefix]) -> Result<IpPrefix, String> {
        let free = |candidate: &&IpPrefix| {
            !claimed.contains(candidate)
                && self
                    .ledger
                    .claimed_by(candidate.address)
                    .is_none_or(|claim| claim.state == ClaimState::Kept && request.identities.contains(&claim.owner))
        };
        wanted.candidates.iter().find(free).copied().ok_or_else(|| "every candidate is taken".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{logged, set};
    use crate::{Decision, Dns, Problem, Route, pool};

    /// Always keeps the address; `config` selects the address that it returns wrongly.
    struct Scripted;

    impl Policy for Scripted {
        fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial> {
            crate::log::info("asked");
            let mut addresses: Vec<_> =
                pool::pick(request, &[0], ledger)?.into_iter().map(|pick| pick.wanted).collect();
            if let Ok(lie) = request.config.parse() {
                addresses[0].candidates = vec![lie];
            }
            let release = match request.config.as_str() {
                "rest" => ReleaseRule::Cooldown(60),
                _ => ReleaseRule::Keep(request.identities[0].clone()),
            };
            Ok(Decision { addresses, routes: Vec::new(), dns: None, release, reason: String::new() })
        }

        fn validate(_config: &str) -> Vec<Problem> {
            Vec::new()
        }

        fn config_schema() -> String {
            "{}".to_owned()
        }
    }

    fn add(network: &mut Network, pod: &str) -> Result<String, Refused> {
        let request = network.request(pod);
        network.add::<Scripted>(&request).map(|addresses| addresses[0].to_string())
    }

    #[test]
    fn a_kept_address_comes_back_to_its_pod_alone() {
        let mut network = Network::new("", vec![set(&["10.1.0.0/29"])]);
        assert_eq!(add(&mut network, "a").expect("free"), "10.1.0.2/29");
        network.del("c-a");
        assert_eq!(add(&mut network, "b").expect("free"), "10.1.0.3/29");
        assert_eq!(add(&mut network, "a").expect("kept"), "10.1.0.2/29");
        assert_eq!(logged(), ["info: asked"; 3]);
        assert!(logged().is_empty());
    }

    #[test]
    fn an_address_rests() {
        let mut network = Network::new("rest", vec![set(&["10.1.0.2-10.1.0.2@10.1.0.0/29"])]);
        assert_eq!(add(&mut network, "a").expect("free"), "10.1.0.2/29");
        network.del("c-a");
        assert!(matches!(add(&mut network, "b"), Err(Refused::Denied(Denial::Exhausted(_)))));
        network.now += 60;
        assert_eq!(add(&mut network, "b").expect("rested"), "10.1.0.2/29");
    }

    /// Returns the decision that `lie` makes of a sound one, in which `a` has the first address.
    fn refuses_altered(lie: fn(&mut Decision)) -> impl Fn(&mut Network) -> Result<(), String> {
        move |network: &mut Network| {
            let request = network.request("b");
            let mut decision = Scripted::allocate(&request, &network.ledger).expect("an address");
            lie(&mut decision);
            network.rules().verify(&request, &decision)
        }
    }

    fn ip(text: &str) -> IpAddress {
        text.parse().expect("an address")
    }

    fn route(dst: &str, gw: Option<&str>) -> Route {
        let (dst, gw) = (dst.parse().expect("a prefix"), gw.map(ip));
        Route { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }

    /// A change of a sound decision, and a word of its refusal.
    type Lie = (fn(&mut Decision), &'static str);

    const LIES: &[Lie] = &[
        (|decision| decision.addresses[0].gateway = Some(ip("10.1.0.2")), "another gateway"),
        (|decision| decision.addresses.push(decision.addresses[0].clone()), "for two addresses"),
        (|decision| decision.addresses.clear(), "has no address"),
        (|decision| decision.addresses[0].candidates.clear(), "no candidates"),
        (|decision| decision.release = ReleaseRule::Keep("pod:kube-system/x".to_owned()), "not an identity"),
        (|decision| decision.routes.push(route("169.254.169.254/32", None)), "neither declared"),
        (|decision| decision.routes.push(route("10.96.0.0/16", None)), "neither declared"),
        (|decision| decision.routes.push(route("0.0.0.0/0", Some("10.1.0.2"))), "next hop 10.1.0.2"),
        (|decision| decision.routes.push(route("10.128.0.0/9", Some("10.1.0.9"))), "next hop 10.1.0.9"),
        (|decision| decision.routes.push(route("0.0.0.0/0", Some("fd00::1"))), "another family"),
        (
            |decision| {
                let (nameservers, search) = (vec!["evil.example".to_owned()], Vec::new());
                decision.dns = Some(Dns { nameservers, domain: None, search, options: Vec::new() });
            },
            "evil.example",
        ),
    ];

    #[test]
    fn what_an_add_refuses_is_refused() {
        let mut network = Network::new("", vec![set(&["10.1.0.0/24"])]);
        let net = |text: &str| text.parse::<IpPrefix>().expect("a prefix");
        network.declared_routes = vec![(net("10.96.0.0/12"), Some(ip("10.1.0.9"))), (net("10.128.0.0/9"), None)];
        add(&mut network, "a").expect("free");
        for (lie, word) in LIES {
            let text = refuses_altered(*lie)(&mut network).expect_err(word);
            assert!(text.contains(word), "{word}: {text}");
        }
        let sound: [fn(&mut Decision); 4] = [
            |_decision| (),
            |decision| decision.routes.push(route("0.0.0.0/0", Some("10.1.0.1"))),
            |decision| decision.routes.push(route("10.96.0.0/12", Some("10.1.0.9"))),
            |decision| decision.routes.push(route("10.128.0.0/9", None)),
        ];
        for honest in sound {
            refuses_altered(honest)(&mut network).expect("it is declared");
        }
        network.opened_routes = vec![net("169.254.0.0/16")];
        refuses_altered(|decision| decision.routes.push(route("169.254.169.254/32", None)))(&mut network)
            .expect("it is opened");
    }

    #[test]
    fn a_range_without_a_gateway_leads_to_nobodys_address() {
        let mut network = Network::new("", vec![set(&["10.1.0.8-10.1.0.15@10.1.0.0/24"])]);
        network.range_sets[0].ranges[0].gateway = None;
        add(&mut network, "a").expect("free");
        refuses_altered(|decision| decision.addresses[0].gateway = Some(ip("10.1.0.1")))(&mut network)
            .expect("nobody has it");
        for lie in
            [(|decision| decision.addresses[0].gateway = Some(ip("10.1.0.8"))) as fn(&mut Decision), |decision| {
                decision.addresses[0].gateway = Some(ip("10.2.0.1"))
            }]
        {
            refuses_altered(lie)(&mut network).expect_err("a pod has it, or it is out of reach");
        }
    }

    #[test]
    fn lies_are_found() {
        for (lie, word) in [
            ("10.2.0.2/24", "none of the declared ranges"),
            ("10.1.0.2/24", "prefix length"),
            ("10.1.0.1/29", "gateway"),
            ("2001:db8::1/64", "none of the declared ranges"),
        ] {
            let mut network = Network::new(lie, vec![set(&["10.1.0.0/29"])]);
            let refused = add(&mut network, "a").expect_err(lie);
            assert!(matches!(&refused, Refused::Unusable(text) if text.contains(word)), "{lie}: {refused}");
            assert_eq!(network.ledger.claims().count(), 0);
        }
    }
}
