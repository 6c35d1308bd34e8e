//! Converts native types to a guest's values.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::bindings::delegate;
use crate::bindings::ipam::weft::policy::types as wit;
use crate::types as native;

pub(crate) fn address(address: IpAddr) -> wit::IpAddress {
    match address {
        IpAddr::V4(v4) => wit::IpAddress::Ipv4(v4.octets().into()),
        IpAddr::V6(v6) => wit::IpAddress::Ipv6(v6.segments().into()),
    }
}

fn prefix(net: IpNet) -> wit::IpPrefix {
    wit::IpPrefix { address: address(net.addr()), length: net.prefix_len() }
}

fn range(range: &native::Range) -> wit::IpRange {
    wit::IpRange {
        subnet: prefix(range.subnet),
        first: address(range.first),
        last: address(range.last),
        gateway: range.gateway.map(address),
    }
}

fn range_set(set: &native::RangeSet) -> wit::RangeSet {
    wit::RangeSet { name: set.name.clone(), ranges: set.ranges.iter().map(range).collect() }
}

fn dns(dns: &native::Dns) -> wit::Dns {
    wit::Dns {
        nameservers: dns.nameservers.clone(),
        domain: dns.domain.clone(),
        search: dns.search.clone(),
        options: dns.options.clone(),
    }
}

pub(crate) fn pairs(pairs: &[(String, String)]) -> Vec<wit::Pair> {
    pairs.iter().map(|(key, value)| wit::Pair { key: key.clone(), value: value.clone() }).collect()
}

fn attachment(attachment: &native::Attachment) -> wit::Attachment {
    wit::Attachment {
        network: attachment.network.clone(),
        container_id: attachment.container_id.clone(),
        ifname: attachment.ifname.clone(),
    }
}

fn pod(pod: &native::Pod) -> wit::Pod {
    wit::Pod {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        labels: pairs(&pod.labels),
        annotations: pairs(&pod.annotations),
    }
}

fn node(node: &native::Node) -> wit::Node {
    wit::Node { name: node.name.clone(), labels: pairs(&node.labels) }
}

fn requested(requested: &native::Requested) -> wit::RequestedAddress {
    wit::RequestedAddress {
        text: requested.text.clone(),
        address: requested.address.map(address),
        length: requested.length,
        source: match requested.source {
            native::RequestSource::CniArgs => wit::RequestSource::CniArgs,
            native::RequestSource::Args => wit::RequestSource::Args,
            native::RequestSource::RuntimeConfig => wit::RequestSource::RuntimeConfig,
        },
    }
}

pub(crate) fn claim(claim: &native::ClaimInfo) -> wit::Claim {
    wit::Claim {
        address: address(claim.address),
        owner: claim.owner.clone(),
        ifname: claim.ifname.clone(),
        state: match claim.state {
            native::ClaimState::Active => wit::ClaimState::Active,
            native::ClaimState::Cooldown | native::ClaimState::Conflict => wit::ClaimState::Cooldown,
            native::ClaimState::Kept => wit::ClaimState::Kept,
        },
    }
}

pub(crate) fn request(request: &native::Request) -> wit::Request {
    wit::Request {
        attachment: attachment(&request.attachment),
        pod: request.pod.as_ref().map(pod),
        node: node(&request.node),
        identities: request.identities.clone(),
        requested: request.requested.iter().map(requested).collect(),
        mac: request.mac.clone(),
        cni_args: pairs(&request.cni_args),
        held: request.held.iter().map(claim).collect(),
        range_sets: request.range_sets.iter().map(range_set).collect(),
        resolver: request.resolver.as_ref().map(dns),
        config: request.config.clone(),
        cni_version: request.cni_version.clone(),
        now: request.now,
        seed: request.seed,
    }
}

pub(crate) fn candidate(candidate: &native::Candidate) -> delegate::Candidate {
    delegate::Candidate {
        name: candidate.name.clone(),
        config: candidate.config.clone(),
        settable: candidate.settable.clone(),
    }
}

fn file(file: &native::DeclaredFile) -> delegate::File {
    delegate::File { name: file.name.clone(), path: file.path.clone(), content: file.content.clone() }
}

pub(crate) fn choice_request(request: &native::ChoiceRequest) -> delegate::ChoiceRequest {
    delegate::ChoiceRequest {
        attachment: attachment(&request.attachment),
        pod: request.pod.as_ref().map(pod),
        node: node(&request.node),
        cni_args: pairs(&request.cni_args),
        candidates: request.candidates.iter().map(candidate).collect(),
        files: request.files.iter().map(file).collect(),
        config: request.config.clone(),
        cni_version: request.cni_version.clone(),
        now: request.now,
        seed: request.seed,
    }
}
