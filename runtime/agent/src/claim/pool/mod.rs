//! Pools: named ranges in the cluster, and their fill level.
//!
//! An AddressPool declares ranges for every network that names it. It is not a lock: the create of an address's claim
//! decides who has the address, whatever a pool says. So a pool that is read some seconds late, or counted some minutes
//! late, causes no duplicate.

mod count;
mod status;
mod view;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::{Instant, timeout};
use weft_core::agent::claim::{Blocks, ClaimReply};
use weft_core::agent::{Fault, Refusal};
use weft_core::conf::{ConfError, DuplicatesConf, pool_sets};
use weft_host_abi::types::RangeSet;

pub use count::Usage;
pub(super) use status::{PoolCount, PoolStatus, count_pools};
pub use view::{CellsView, PoolReach, PoolView, look_at_pools};

use super::any::AnyBackend;
use super::backend::ReadError;

/// How long an agent uses a pool that it has read.
const FRESH: Duration = Duration::from_secs(5);

/// How long to wait for a pool in block mode that is already known.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The declarations of an AddressPool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolSpec {
    /// Addresses conflict only within a domain. Never changes.
    pub domain: String,
    /// The ranges.
    pub ranges: Vec<PoolRange>,
    /// Addresses and subnets that are never allocated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Whether to probe neighbours for an address before it is used, as in a network's configuration.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub duplicates: Value,
    /// Block mode: the machines of the domain own whole cells of addresses. Never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Blocks>,
    /// A Node that is deleted counts as a fence for what was drawn from this pool.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reclaim_deleted_nodes: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A range, with host-local's keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRange {
    /// The subnet.
    pub subnet: String,
    /// First address; the one after the network's if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_start: Option<String>,
    /// Last address; the one before the broadcast address if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_end: Option<String>,
    /// Never allocated; the subnet's first address if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Its set; that of its family if `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
}

/// An AddressPool that was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The version that was read.
    pub version: String,
    /// Incremented by every change of `spec`.
    pub generation: i64,
    /// Its declarations.
    pub spec: PoolSpec,
    /// What the controller last wrote.
    pub status: PoolStatus,
}

impl PoolSpec {
    /// Returns how many milliseconds to wait for neighbours to answer a probe for its addresses, if they are to be
    /// probed.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn probe_ms(&self) -> Result<Option<u32>, ConfError> {
        Ok(DuplicatesConf::of_pool(&self.duplicates)?.map(|duplicates| duplicates.wait_ms))
    }

    /// Returns its range sets, without its exclusions.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn sets(&self) -> Result<Vec<RangeSet>, ConfError> {
        let ranges: Vec<Value> = self.ranges.iter().map(PoolRange::to_value).collect();
        pool_sets(&ranges, &self.exclude)
    }
}

impl PoolRange {
    fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// Pools that this agent has read recently, so that a thousand pods do not read one a thousand times.
#[derive(Debug, Default)]
pub(super) struct KnownPools(RefCell<BTreeMap<String, (Instant, Pool)>>);

impl KnownPools {
    /// Returns the declarations of a pool.
    pub(super) async fn declared(&self, backend: &AnyBackend, name: &str) -> Result<ClaimReply, Refusal> {
        let known = self.0.borrow().get(name).cloned();
        let pool = match known {
            Some((read, pool)) if read.elapsed() < FRESH => pool,
            known => {
                let found = read_again(backend, name, known.map(|(_read, pool)| pool)).await;
                let found = found.map_err(|error| Refusal::new(Fault::Unavailable, error.to_string()))?;
                let missing = || {
                    let text =
                        format!("AddressPool {name:?} does not exist; create it, or correct \"pool\" of the network");
                    Refusal::new(Fault::Unavailable, text)
                };
                let pool = found.ok_or_else(missing)?;
                self.0.borrow_mut().insert(name.to_owned(), (Instant::now(), pool.clone()));
                pool
            }
        };
        let unusable = |error| Refusal::new(Fault::Request, format!("AddressPool {name:?}: {error}"));
        let sets = pool.spec.sets().map_err(unusable)?;
        let probe_ms = pool.spec.probe_ms().map_err(unusable)?;
        Ok(ClaimReply::Pool { domain: pool.spec.domain, sets, probe_ms, blocks: pool.spec.blocks })
    }
}

/// Reads a pool. In block mode, a pool that was read before is used if the cluster does not answer at once: this
/// machine can allocate from its cells without it.
async fn read_again(backend: &AnyBackend, name: &str, known: Option<Pool>) -> Result<Option<Pool>, ReadError> {
    let Some(known) = known.filter(|pool| pool.spec.blocks.is_some()) else { return backend.pool(name).await };
    match timeout(AT_ONCE, backend.pool(name)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(_)) | Err(_) => Ok(Some(known)),
    }
}
