//! For tests on the host (feature `testing`): sample requests, a ledger in memory, and a [`Network`] that asks a
//! policy, verifies its decision like weft, and claims.
//!
//! ```
//! # use weft_sdk::{Decision, Denial, Ledger, Policy, Problem, ReleaseRule, Request, pool};
//! # struct First;
//! # impl Policy for First {
//! #     fn allocate(request: &Request, ledger: &dyn Ledger) -> Result<Decision, Denial> {
//! #         let addresses = pool::pick(request, &[0], ledger)?.into_iter().map(|pick| pick.wanted).collect();
//! #         Ok(Decision { addresses, routes: Vec::new(), dns: None, release: ReleaseRule::Free, reason: String::new() })
//! #     }
//! #     fn validate(_config: &str) -> Vec<Problem> { Vec::new() }
//! #     fn config_schema() -> String { "{}".to_owned() }
//! # }
//! use weft_sdk::testing::{Network, set};
//!
//! let mut network = Network::new("{}", vec![set(&["10.1.0.0/29"])]);
//! let request = network.request("web-0");
//! let addresses = network.add::<First>(&request).expect("an address");
//! assert_eq!(addresses[0].to_string(), "10.1.0.2/29");
//! network.del(&request.attachment.container_id);
//! assert_eq!(network.ledger.claims().count(), 0);
//! ```

mod ledger;
mod network;
mod verify;

pub use ledger::ModelLedger;
pub use network::{Network, Refused};

use crate::address::{last, next, previous};
use crate::choice::{Candidate, ChoiceRequest};
use crate::facts::FactSource;
use crate::{Attachment, IpAddress, IpPrefix, IpRange, Node, Pair, RangeSet, Request, RequestSource, RequestedAddress};

/// Sets the answers of [`facts`](crate::facts) on this thread.
pub fn set_facts(source: FactSource, namespace_labels: Vec<Pair>) {
    crate::facts::imp::set(source, namespace_labels);
}

/// Returns the lines logged on this thread since the last call, each after its level: `info: ...`.
#[must_use]
pub fn logged() -> Vec<String> {
    crate::log::imp::take()
}

/// Creates pairs (labels, annotations, CNI arguments) from texts.
#[must_use]
pub fn pairs(pairs: &[(&str, &str)]) -> Vec<Pair> {
    pairs.iter().map(|(key, value)| Pair { key: (*key).into(), value: (*value).into() }).collect()
}

/// Creates a choice request for container `c1`, `eth0`, without a pod.
#[must_use]
pub fn choice_request(config: &str, candidates: Vec<Candidate>) -> ChoiceRequest {
    let request = request(config, Vec::new());
    ChoiceRequest {
        attachment: request.attachment,
        pod: None,
        node: request.node,
        cni_args: Vec::new(),
        candidates,
        files: Vec::new(),
        config: request.config,
        cni_version: request.cni_version,
        now: 0,
        seed: 0,
    }
}

/// Creates a request of container `c1`, `eth0`, pod `ns/name`.
#[must_use]
pub fn request(config: &str, range_sets: Vec<RangeSet>) -> Request {
    Request {
        attachment: Attachment { network: "net".into(), container_id: "c1".into(), ifname: "eth0".into() },
        pod: None,
        node: Node { name: "node".into(), labels: Vec::new() },
        identities: vec!["pod:ns/name".into(), "container:c1".into()],
        requested: Vec::new(),
        mac: None,
        cni_args: Vec::new(),
        held: Vec::new(),
        range_sets,
        resolver: None,
        config: config.into(),
        cni_version: "1.1.0".into(),
        now: 0,
        seed: 0,
    }
}

/// Creates a requested address.
#[must_use]
pub fn wish(text: &str, source: RequestSource) -> RequestedAddress {
    let prefix: Option<IpPrefix> = text.parse().ok();
    let address = prefix.map(|prefix| prefix.address).or_else(|| text.parse().ok());
    RequestedAddress { text: text.into(), address, length: prefix.map(|prefix| prefix.length), source }
}

/// Parses `SUBNET`, `FIRST-LAST@SUBNET` or either with `!GATEWAY`, with the stock plugin's defaults.
///
/// # Panics
///
/// The text has another form.
#[must_use]
pub fn range(text: &str) -> IpRange {
    let (text, gateway) = text.split_once('!').map_or((text, None), |(text, gateway)| (text, Some(gateway)));
    let (ends, subnet) = text.split_once('@').map_or((None, text), |(ends, subnet)| (Some(ends), subnet));
    let subnet: IpPrefix = subnet.parse().expect("a subnet");
    let whole_last = match subnet.address {
        IpAddress::Ipv4(_) => previous(last(subnet)),
        IpAddress::Ipv6(_) => Some(last(subnet)),
    };
    let ends = ends.map(|ends| ends.split_once('-').expect("two ends"));
    let ip = |text: &str| -> IpAddress { text.parse().expect("an address") };
    IpRange {
        subnet,
        first: ends.map_or_else(|| next(subnet.address).expect("an address"), |(first, _last)| ip(first)),
        last: ends.map_or_else(|| whole_last.expect("an address"), |(_first, last)| ip(last)),
        gateway: gateway.map_or_else(|| next(subnet.address), |gateway| Some(ip(gateway))),
    }
}

/// Creates a set of ranges, each as for [`range`].
#[must_use]
pub fn set(ranges: &[&str]) -> RangeSet {
    RangeSet { name: None, ranges: ranges.iter().map(|text| range(text)).collect() }
}
