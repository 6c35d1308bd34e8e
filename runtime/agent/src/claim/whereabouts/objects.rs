//! whereabouts' objects: reads all allocations, and writes some.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Context as _;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use kube::core::{ApiResource, NotUsed, Object};
use kube::{Client, Error};
use serde::{Deserialize, Serialize};

use super::names;

/// An IPPool.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct PoolSpec {
    /// The range; allocations are offsets from the address as written here.
    pub(super) range: String,
    /// By offset from the first address.
    #[serde(default)]
    pub(super) allocations: BTreeMap<String, Allocation>,
}

/// One allocation of an IPPool.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Allocation {
    /// Id of the sandbox.
    #[serde(default)]
    pub(super) id: String,
    /// Namespace and name.
    #[serde(default)]
    pub(super) podref: String,
    /// Name of the interface.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) ifname: String,
}

/// An OverlappingRangeIPReservation.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct ReservationSpec {
    #[serde(default)]
    pub(super) podref: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) ifname: String,
}

pub(super) type PoolObject = Object<PoolSpec, NotUsed>;
pub(super) type ReservationObject = Object<ReservationSpec, NotUsed>;

/// An address that whereabouts has allocated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AllocatedAddress {
    /// Empty for networks without `network_name`.
    pub(super) network: String,
    pub(super) address: IpNet,
    pub(super) allocation: Allocation,
    /// The object with the allocation.
    pub(super) object: String,
}

/// How the text of a claim's object begins if it is a reservation.
pub(super) const RESERVATION: &str = "OverlappingRangeIPReservation";

/// whereabouts' objects at one time.
#[derive(Debug, Default)]
pub(super) struct ReadObjects {
    pub(super) given: Vec<AllocatedAddress>,
    /// Network of each readable pool, by `IPPool NAME`.
    pub(super) pools: BTreeMap<String, String>,
    /// Whether the API server knows reservations.
    pub(super) reservations: bool,
    pub(super) unreadable: Vec<String>,
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: "whereabouts.cni.cncf.io".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "whereabouts.cni.cncf.io/v1alpha1".to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

pub(super) fn pools(client: &Client, namespace: &str) -> Api<PoolObject> {
    Api::namespaced_with(client.clone(), namespace, &resource("IPPool", "ippools"))
}

pub(super) fn reservations(client: &Client, namespace: &str) -> Api<ReservationObject> {
    let resource = resource(RESERVATION, "overlappingrangeipreservations");
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// Creates a new pool.
pub(super) fn new_pool(network: &str, range: &str) -> PoolObject {
    let spec = PoolSpec { range: range.to_owned(), allocations: BTreeMap::new() };
    Object::new(&names::of_pool(network, range), &resource("IPPool", "ippools"), spec)
}

/// Creates a new reservation.
pub(super) fn new_reservation(network: &str, address: IpAddr, spec: ReservationSpec) -> ReservationObject {
    let resource = resource(RESERVATION, "overlappingrangeipreservations");
    Object::new(&names::of_address(network, address), &resource, spec)
}

/// Returns every pool with its network, sorted by name. A cluster that never had whereabouts has none.
pub(super) async fn all_pools(client: &Client, namespace: &str) -> anyhow::Result<Vec<(Option<String>, PoolObject)>> {
    let nodes: Api<Node> = Api::all(client.clone());
    let nodes = nodes.list_metadata(&ListParams::default()).await.context("nodes cannot be listed")?;
    let nodes: Vec<String> = nodes.items.into_iter().filter_map(|node| node.metadata.name).collect();
    let listed = match pools(client, namespace).list(&ListParams::default()).await {
        Ok(listed) => listed.items,
        Err(Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error).context("IPPools of whereabouts cannot be listed"),
    };
    let of_pool = |pool: PoolObject| {
        let name = pool.metadata.name.clone().unwrap_or_default();
        (names::network_of_pool(&name, &pool.spec.range, &nodes), pool)
    };
    Ok(listed.into_iter().map(of_pool).collect())
}

/// Returns everything that whereabouts has allocated.
pub(super) async fn read(client: &Client, namespace: &str) -> anyhow::Result<ReadObjects> {
    let mut said = ReadObjects::default();
    let mut networks = vec![String::new()];
    for (network, pool) in all_pools(client, namespace).await? {
        let name = pool.metadata.name.unwrap_or_default();
        let range = pool.spec.range.parse::<IpNet>().ok();
        let (Some(network), Some(range)) = (network, range) else {
            said.unreadable.push(format!("IPPool {name}: its range {:?} does not fit its name", pool.spec.range));
            continue;
        };
        networks.push(network.clone());
        said.pools.insert(format!("IPPool {name}"), network.clone());
        for (offset, allocation) in pool.spec.allocations {
            let object = format!("IPPool {name}");
            match offset.parse().ok().and_then(|offset| address_at(range, offset)) {
                Some(address) => {
                    said.given.push(AllocatedAddress { network: network.clone(), address, allocation, object })
                }
                None => said.unreadable.push(format!("{object}: {offset:?} is not a place in {}", pool.spec.range)),
            }
        }
    }
    networks.sort();
    networks.dedup();
    let listed = match reservations(client, namespace).list(&ListParams::default()).await {
        Ok(listed) => {
            said.reservations = true;
            listed.items
        }
        Err(Error::Api(status)) if status.code == 404 => Vec::new(),
        Err(error) => return Err(error).context("reservations of whereabouts cannot be listed"),
    };
    for reservation in listed {
        let name = reservation.metadata.name.unwrap_or_default();
        let object = format!("{RESERVATION} {name}");
        let Some((network, address)) = names::of_reservation(&name, &networks) else {
            said.unreadable.push(format!("{object}: its name is not an address"));
            continue;
        };
        // The pool contains more: the sandbox and the prefix.
        if said.given.iter().any(|given| given.network == network && given.address.addr() == address) {
            continue;
        }
        let ReservationSpec { podref, ifname } = reservation.spec;
        let allocation = Allocation { id: String::new(), podref, ifname };
        said.given.push(AllocatedAddress { network, address: address.into(), allocation, object });
    }
    Ok(said)
}

/// Returns the address at an offset from the first one, if it is in the subnet.
fn address_at(range: IpNet, offset: u64) -> Option<IpNet> {
    let address = match range.addr() {
        IpAddr::V4(first) => IpAddr::from(u32::from(first).checked_add(u32::try_from(offset).ok()?)?.to_be_bytes()),
        IpAddr::V6(first) => IpAddr::from(u128::from(first).checked_add(offset.into())?.to_be_bytes()),
    };
    range.contains(&address).then(|| IpNet::new(address, range.prefix_len()).ok()).flatten()
}

/// Returns the offset of an address from the first one; `None` if it is not in the rest of the subnet.
pub(super) fn offset(range: IpNet, address: IpAddr) -> Option<u64> {
    match (range.addr(), address) {
        _ if !range.contains(&address) => None,
        (IpAddr::V4(first), IpAddr::V4(address)) => u32::from(address).checked_sub(first.into()).map(u64::from),
        (IpAddr::V6(first), IpAddr::V6(address)) => u64::try_from(u128::from(address).checked_sub(first.into())?).ok(),
        _ => None,
    }
}

/// Returns the cluster's pods by namespace and name: uid and node.
pub(super) async fn all_pods(client: &Client) -> anyhow::Result<BTreeMap<String, (String, String)>> {
    let pods: Api<Pod> = Api::all(client.clone());
    let listed = pods.list(&ListParams::default()).await.context("pods cannot be listed")?;
    let known = |pod: Pod| {
        let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
        let name = format!("{}/{}", pod.metadata.namespace?, pod.metadata.name?);
        Some((name, (pod.metadata.uid?, node)))
    };
    Ok(listed.items.into_iter().filter_map(known).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_count_from_the_address_that_the_range_is_written_with() {
        let range = |text: &str| text.parse::<IpNet>().unwrap();
        for (net, distance, address) in
            [("10.0.0.0/24", 7, "10.0.0.7/24"), ("10.0.0.5/24", 2, "10.0.0.7/24"), ("fd00::/64", 16, "fd00::10/64")]
        {
            let found = address_at(range(net), distance).unwrap();
            assert_eq!((found, offset(range(net), found.addr())), (range(address), Some(distance)));
        }
        assert_eq!(address_at(range("10.0.0.0/24"), 300), None);
        assert_eq!(address_at(range("10.0.0.0/24"), 18_446_463_705_355_360_228), None);
        assert_eq!(offset(range("10.0.0.5/24"), "10.0.0.1".parse().unwrap()), None);
    }
}
