//! AddressPools behind an API server, and reads of claims and pods that only need metadata.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{self, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use k8s_openapi::jiff::Timestamp;
use kube::Error;
use kube::api::{Api, ListParams, PostParams};
use kube::core::Object;
use weft_core::agent::status::{Event, EventKind};
use weft_core::ledger::remote::{Runs, Span, is_in};

use super::answers::{read, written};
use super::contract::{ReadError, WriteError};
use super::kubernetes::{CONFIG_HASH, Kubernetes, NoClient};
use super::kubernetes_objects::{ClaimObject, DOMAIN_LABEL, resource};
use super::readable::Readable;
use crate::Log;
use crate::claim::object::address_of;
use crate::claim::pool::{Pool, PoolSpec, PoolStatus};
use crate::events::{self, Subject};

/// Maximum names in one answer.
const NAMES: u32 = 2000;
/// Maximum complete objects in one answer.
pub(super) const OBJECTS: u32 = 500;

type PoolObject = Object<PoolSpec, PoolStatus>;
type ReadPool = Object<Readable<PoolSpec>, PoolStatus>;

impl Kubernetes {
    fn pools_api(&self) -> Result<Api<PoolObject>, NoClient> {
        Ok(Api::all_with(self.client()?, &resource("AddressPool", "addresspools")))
    }

    /// Returns one pool.
    pub(in crate::claim) async fn pool(&self, name: &str) -> Result<Option<Pool>, ReadError> {
        Ok(read(self.pools_api()?.get_opt(name)).await?.map(pool))
    }

    /// Returns all pools that can be read; none if the API server does not know the resource.
    pub(in crate::claim) async fn pools(&self) -> Result<Vec<Pool>, ReadError> {
        let pools: Api<ReadPool> = Api::all_with(self.client()?, &resource("AddressPool", "addresspools"));
        let params = ListParams::default();
        let list = async {
            match pools.list(&params).await {
                Err(Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
                list => list.map(|list| list.items),
            }
        };
        let listed = read(list).await?.into_iter().filter_map(|object| {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            let spec = self.unread.sort_out(name, object.spec)?;
            Some(pool(PoolObject { types: object.types, metadata: object.metadata, spec, status: object.status }))
        });
        Ok(listed.collect())
    }

    /// Writes the status of a pool that was read.
    pub(in crate::claim) async fn set_pool_status(&self, of: &Pool, status: &PoolStatus) -> Result<(), WriteError> {
        let mut object = Object::new(&of.name, &resource("AddressPool", "addresspools"), of.spec.clone());
        object.metadata.resource_version = Some(of.version.clone());
        object.status = Some(status.clone());
        written(self.pools_api()?.replace_status(&of.name, &PostParams::default(), &object)).await.map(drop)
    }

    /// Sends an event about a pool. It is only a hint, so a failure is logged once, and that is all.
    pub(in crate::claim) async fn tell_of_pool(&self, of: &Pool, (reason, text): (&str, &str), now: Timestamp) {
        // An object without a namespace has its events in this one.
        let namespace = "default".to_owned();
        let subject = Subject { kind: "AddressPool", namespace, name: of.name.clone(), uid: of.uid.clone() };
        let event = Event { kind: EventKind::Warning, reason: reason.to_owned(), message: text.to_owned() };
        let object = events::object("", format!("{}.{:x}", of.name, now.as_nanosecond()), &subject, event, now);
        let sent = async {
            let events: Api<v1::Event> = Api::namespaced(self.client()?, &subject.namespace);
            written(events.create(&PostParams::default(), &object)).await
        };
        if let Err(error) = sent.await {
            Log.info(&format!("the event {reason} about AddressPool {} cannot be sent: {error}", of.name));
        }
    }

    /// Returns the uids of all pods; for static pods, also those that their nodes use.
    pub(in crate::claim) async fn pod_uids(&self) -> Result<BTreeSet<String>, ReadError> {
        let pods: Api<Pod> = Api::all(self.client()?);
        let mut params = ListParams::default().limit(NAMES);
        let mut uids = BTreeSet::new();
        loop {
            let page = read(pods.list_metadata(&params)).await?;
            for meta in page.items.into_iter().map(|item| item.metadata) {
                uids.extend(meta.annotations.and_then(|mut annotations| annotations.remove(CONFIG_HASH)));
                uids.extend(meta.uid);
            }
            match next(&page.metadata) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(uids),
            }
        }
    }

    /// Lists the names of claims with a label.
    pub(super) async fn names(&self, label: &str) -> Result<BTreeSet<String>, ReadError> {
        let mut names = BTreeSet::new();
        let every = |name| {
            names.insert(name);
            false
        };
        self.some_name(label, NAMES, every).await?;
        Ok(names)
    }

    /// Passes the names of claims with a label to `found`, page by page, until it accepts one. Returns whether it did.
    /// Only metadata is read.
    pub(super) async fn some_name(
        &self,
        label: &str,
        page: u32,
        mut found: impl FnMut(String) -> bool,
    ) -> Result<bool, ReadError> {
        let claims: Api<ClaimObject> = self.claims()?;
        let mut params = ListParams::default().labels(label).limit(page);
        loop {
            let page = read(claims.list_metadata(&params)).await?;
            if page.items.into_iter().filter_map(|item| item.metadata.name).any(&mut found) {
                return Ok(true);
            }
            match next(&page.metadata) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(false),
            }
        }
    }

    /// Returns the taken addresses of a domain in some spans. Names contain them, so no claim's content is read.
    pub(super) async fn taken_addresses(&self, domain: &str, spans: &[Span]) -> Result<Runs, ReadError> {
        let mut taken = Runs::default();
        let every = |name: String| {
            taken.extend(address_of(domain, &name).filter(|address| is_in(spans, *address)));
            false
        };
        self.some_name(&format!("{DOMAIN_LABEL}={domain}"), NAMES, every).await?;
        Ok(taken)
    }
}

/// Returns the token for the rest of a list.
pub(super) fn next(page: &ListMeta) -> Option<String> {
    page.continue_.clone().filter(|token| !token.is_empty())
}

fn pool(object: PoolObject) -> Pool {
    Pool {
        name: object.metadata.name.unwrap_or_default(),
        uid: object.metadata.uid.unwrap_or_default(),
        version: object.metadata.resource_version.unwrap_or_default(),
        generation: object.metadata.generation.unwrap_or_default(),
        spec: object.spec,
        status: object.status.unwrap_or_default(),
    }
}
