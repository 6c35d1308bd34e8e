//! Pools: ranges that have a name in the cluster, and how full they are.
//!
//! An AddressPool declares ranges for every network that names it. It is no lock: the create of an address's claim decides who has
//! the address, whatever a pool says. So a pool that is read some seconds late, or counted some minutes late, gives nothing out
//! twice.

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

/// How long what an agent has read of a pool is used.
const FRESH: Duration = Duration::from_secs(5);

/// How long a pool in block mode that is known already is waited for.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What an AddressPool declares.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolSpec {
    /// Addresses clash only within a domain. Never changes.
    pub domain: String,
    /// The ranges.
    pub ranges: Vec<PoolRange>,
    /// Addresses and subnets that are never given out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Whether neighbours are asked for an address before it is given, as in a network's configuration.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub duplicates: Value,
    /// Block mode: the machines of the domain have whole cells of addresses. Never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Blocks>,
}

/// A range, with host-local's keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRange {
    /// The subnet.
    pub subnet: String,
    /// First address; that after the network's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_start: Option<String>,
    /// Last address; that before the broadcast address where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range_end: Option<String>,
    /// Never given out; the subnet's first address where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The set that it is in; that of its family where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
}

/// An AddressPool as it was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The version that was read.
    pub version: String,
    /// Grows with every change of `spec`.
    pub generation: i64,
    /// What it declares.
    pub spec: PoolSpec,
    /// What the controller has written last.
    pub status: PoolStatus,
}

impl PoolSpec {
    /// How long neighbours may take to answer, in milliseconds, where they are asked for its addresses.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn probe_ms(&self) -> Result<Option<u32>, ConfError> {
        Ok(DuplicatesConf::of_pool(&self.duplicates)?.map(|duplicates| duplicates.wait_ms))
    }

    /// Its range sets, without what it excludes.
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

/// Pools that this agent has read a moment ago, so that a thousand pods do not read one a thousand times.
#[derive(Debug, Default)]
pub(super) struct KnownPools(RefCell<BTreeMap<String, (Instant, Pool)>>);

impl KnownPools {
    /// Answers what a pool declares.
    pub(super) async fn declared(&self, backend: &AnyBackend, name: &str) -> Result<ClaimReply, Refusal> {
        let known = self.0.borrow().get(name).cloned();
        let pool = match known {
            Some((read, pool)) if read.elapsed() < FRESH => pool,
            known => {
                let found = read_again(backend, name, known.map(|(_read, pool)| pool)).await;
                let found = found.map_err(|error| Refusal::new(Fault::Unavailable, error.to_string()))?;
                let missing = || {
                    let text = format!("there is no AddressPool {name:?}; make it, or correct \"pool\" of the network");
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

/// Reads a pool. In block mode one that was read before will do where the cluster does not answer at once: what this machine has cells
/// for it gives out without it.
async fn read_again(backend: &AnyBackend, name: &str, known: Option<Pool>) -> Result<Option<Pool>, ReadError> {
    let Some(known) = known.filter(|pool| pool.spec.blocks.is_some()) else { return backend.pool(name).await };
    match timeout(AT_ONCE, backend.pool(name)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(_)) | Err(_) => Ok(Some(known)),
    }
}
