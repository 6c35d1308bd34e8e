//! The policy `{{name}}`: one address of each family that the network has ranges for. Pods with the label
//! `address=keep` get the same addresses when they return.

use weft_sdk::{Decision, Denial, Ledger, Policy, Problem, ReleaseRule, Request, pool};

struct Addresses;

impl Policy for Addresses {
    fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial> {
        let sets = pool::one_of_each_family(request);
        let picks = pool::pick(request, &sets, ledger)?;
        let reason = picks.iter().map(|pick| pick.reason.as_str()).collect::<Vec<_>>().join("; ");
        let addresses = picks.into_iter().map(|pick| pick.wanted).collect();
        Ok(Decision { addresses, routes: Vec::new(), dns: request.resolver.clone(), release: release(request), reason })
    }

    fn validate(_config: &str) -> Vec<Problem> {
        // `config` is the network's `ipam` object as JSON text; give the place of each problem as a JSON pointer.
        Vec::new()
    }

    fn config_schema() -> String {
        r#"{"type": "object", "required": ["ranges"], "properties": {"ranges": {"type": "array"}}}"#.to_owned()
    }
}

fn release(request: &Request) -> ReleaseRule {
    let keeps = request.pod.iter().flat_map(|pod| &pod.labels).any(|it| it.key == "address" && it.value == "keep");
    match request.identities.first() {
        Some(owner) if keeps => ReleaseRule::Keep(owner.clone()),
        _ => ReleaseRule::Free,
    }
}

weft_sdk::policy!(Addresses);

#[cfg(test)]
mod tests {
    use weft_sdk::testing::{Network, pairs, set};

    use super::Addresses;

    #[test]
    fn a_pod_comes_back_to_its_address() {
        let mut network = Network::new("{}", vec![set(&["10.77.0.0/29"])]);
        let mut add = |pod: &str, labels: &[(&str, &str)]| {
            let mut request = network.request(pod);
            request.pod.as_mut().expect("it has a pod").labels = pairs(labels);
            let addresses = network.add::<Addresses>(&request).expect("an address is free");
            network.del(&request.attachment.container_id);
            addresses[0].to_string()
        };
        let first = add("db-0", &[("address", "keep")]);
        assert_ne!(add("web-0", &[]), first);
        assert_eq!(add("db-0", &[("address", "keep")]), first);
    }
}
