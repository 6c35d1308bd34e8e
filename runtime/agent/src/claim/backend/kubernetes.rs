//! A cluster ledger in Kubernetes objects of the group `ipam.weft.dev`.
//!
//! Only POST, PUT and DELETE with uid and resourceVersion are used: server-side apply would create or update. There are
//! no ownerReferences: Kubernetes' garbage collector would free an address while its link is still up, because the Pod
//! object is deleted before the CNI DEL.
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>

use std::collections::BTreeSet;
use std::rc::Rc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::{NotUsed, Object, ObjectMeta};
use weft_core::ledger::remote::{Runs, Span, Versions};

use super::answers::{created, read, written};
use super::contract::{Backend, Fence, Keepers, Listing, ReadError, Status, WriteError};
use super::kubernetes_objects::{
    CONFLICT, ClaimObject, DOMAIN_LABEL, OWNER_LABEL, PERSISTENT, ReadClaim, STATE_LABEL, claim, is_ready, is_tainted,
    listed_claim, node_label, object, position, resource, versions,
};
use super::pool::{OBJECTS, next};
use super::readable::{Readable, Unread};
use super::{fence, freeze, ipam_claim};
use crate::claim::history::{History, Mark, Position};
use crate::claim::object::{Claim, ClaimSpec, LedgerNode, LedgerState, Persistent};
use crate::claim::remembered::Remembered;

/// The name of the only LedgerState.
const STATE: &str = "cluster";
/// The label of the DaemonSet's pods.
const AGENTS: &str = "app.kubernetes.io/name=weft";
/// The annotation with the real uid of a static pod, whose mirror has another one.
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-config-hash>
pub(super) const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// How many times to try a change of a shared object.
const TRIES: usize = 10;

type StateObject = Object<LedgerState, NotUsed>;
type NodeObject = Object<LedgerNode, NotUsed>;
type ReadNode = Object<Readable<LedgerNode>, NotUsed>;

/// Returns a client with the newest credentials.
pub type ClientSource = Rc<dyn Fn() -> Result<Client, String>>;

/// A cluster ledger behind an API server.
#[derive(Clone)]
pub struct Kubernetes {
    client: ClientSource,
    history: Rc<History>,
    pub(super) unread: Rc<Unread>,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// Creates a ledger behind a client. The client's own retries are harmless: an uncertain outcome is read again.
    #[must_use]
    pub fn new(client: ClientSource) -> Self {
        Self { client, history: Rc::default(), unread: Rc::default() }
    }

    pub(super) fn client(&self) -> Result<Client, NoClient> {
        (self.client)().map_err(NoClient)
    }

    pub(super) fn claims(&self) -> Result<Api<ClaimObject>, NoClient> {
        Ok(Api::all_with(self.client()?, &resource("AddressClaim", "addressclaims")))
    }

    fn claims_to_read(&self) -> Result<Api<ReadClaim>, NoClient> {
        Ok(Api::all_with(self.client()?, &resource("AddressClaim", "addressclaims")))
    }

    /// Sends a create that is never executed, whatever the API server answers.
    pub(super) async fn dry_create(&self, spec: &ClaimSpec) -> Result<(), WriteError> {
        let (claims, object) = (self.claims()?, object(spec, None, None));
        let params = PostParams { dry_run: true, ..PostParams::default() };
        created(claims.create(&params, &object)).await.map(drop)
    }

    /// Compares the result of a write with what was known before it was sent. A resourceVersion is etcd's revision, a
    /// number: <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>.
    pub(super) fn wrote(
        &self,
        mark: Mark,
        read: Option<&Versions>,
        answer: Result<ObjectMeta, WriteError>,
    ) -> Result<Versions, WriteError> {
        let versions = answer.map(|meta| versions(&meta));
        match &versions {
            // An update that changes nothing is not written.
            Ok(versions) if read == Some(versions) => {}
            Ok(versions) => {
                let at = Position { wrote: true, ..position(Some(&versions.version)) };
                self.history.answered(mark, at, crate::claim::now());
            }
            Err(WriteError::NoAnswer(_)) => self.history.failed(),
            Err(_) => {}
        }
        versions
    }

    fn states(&self) -> Result<Api<StateObject>, NoClient> {
        Ok(Api::all_with(self.client()?, &resource("LedgerState", "ledgerstates")))
    }

    /// Lists the records of agents that can be read.
    async fn recorded_nodes(&self) -> Result<Vec<LedgerNode>, ReadError> {
        let records: Api<ReadNode> = Api::all_with(self.client()?, &resource("LedgerNode", "ledgernodes"));
        let records = read(records.list(&ListParams::default())).await?.items.into_iter();
        let sorted_out =
            |record: ReadNode| self.unread.sort_out(record.metadata.name.as_deref().unwrap_or_default(), record.spec);
        Ok(records.filter_map(sorted_out).collect())
    }

    fn nodes(&self) -> Result<Api<NodeObject>, NoClient> {
        Ok(Api::all_with(self.client()?, &resource("LedgerNode", "ledgernodes")))
    }
}

/// There are no credentials, so nothing was sent.
pub(super) struct NoClient(String);

impl From<NoClient> for WriteError {
    fn from(error: NoClient) -> Self {
        Self::Refused(error.0)
    }
}

impl From<NoClient> for ReadError {
    fn from(error: NoClient) -> Self {
        Self(error.0)
    }
}

impl Backend for Kubernetes {
    fn history(&self) -> &History {
        &self.history
    }

    fn has_unique_versions(&self) -> bool {
        true
    }

    async fn create(&self, spec: &ClaimSpec, epoch: Option<u64>) -> Result<Versions, WriteError> {
        let (claims, object, mark) = (self.claims()?, object(spec, None, epoch), self.history.mark());
        let made = created(claims.create(&PostParams::default(), &object)).await;
        self.wrote(mark, None, made.map(|object| object.metadata))
    }

    async fn get(&self, name: &str) -> Result<Option<Claim>, ReadError> {
        // Without resourceVersion this is a quorum read.
        Ok(read(self.claims_to_read()?.get_opt(name)).await?.map(|object| claim(name, object)))
    }

    async fn replace(&self, spec: &ClaimSpec, read: &Versions, epoch: Option<u64>) -> Result<Versions, WriteError> {
        let (claims, name, object) = (self.claims()?, spec.name(), object(spec, Some(read), epoch));
        let mark = self.history.mark();
        let made = written(claims.replace(&name, &PostParams::default(), &object)).await;
        self.wrote(mark, Some(read), made.map(|object| object.metadata))
    }

    async fn delete(&self, name: &str, read: &Versions) -> Result<(), WriteError> {
        let preconditions = Preconditions { uid: Some(read.uid.clone()), resource_version: Some(read.version.clone()) };
        let params = DeleteParams::default().preconditions(preconditions);
        written(self.claims()?.delete(name, &params)).await.map(drop)
    }

    async fn list(&self, listing: Listing<'_>) -> Result<Vec<Claim>, ReadError> {
        // From the API server's cache: later writes carry the listed versions. Long lists come in pages instead.
        let (short, long) = (ListParams::default().match_any(), ListParams::default().limit(OBJECTS));
        let mut params = match listing {
            Listing::Node(node) => short.labels(&node_label(node)),
            Listing::Conflict => short.labels(&format!("{STATE_LABEL}={CONFLICT}")),
            Listing::Persistent => long.labels(&format!("{OWNER_LABEL}={PERSISTENT}")),
            Listing::Domain(domain) => long.labels(&format!("{DOMAIN_LABEL}={domain}")),
            Listing::All => long,
        };
        let (claims, mut listed) = (self.claims_to_read()?, Vec::new());
        loop {
            let page = read(claims.list(&params)).await?;
            let token = next(&page.metadata);
            listed.extend(page.items.into_iter().filter_map(|object| listed_claim(object, &self.unread)));
            match token {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(listed),
            }
        }
    }

    async fn taken(&self, domain: &str, spans: &[Span]) -> Result<Runs, ReadError> {
        self.taken_addresses(domain, spans).await
    }

    async fn has_claims(&self, domain: &str) -> Result<bool, ReadError> {
        self.some_name(&format!("{DOMAIN_LABEL}={domain}"), 1, |_name| true).await
    }

    async fn state(&self) -> Result<LedgerState, ReadError> {
        // Use a list: only a list returns the revision of the whole ledger. Without resourceVersion it does not come
        // from a cache.
        let (states, params, mark) = (self.states()?, ListParams::default(), self.history.mark());
        let list = async {
            match states.list(&params).await {
                // The API server does not know the resource.
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                list => list.map(Some),
            }
        };
        let list = read(list).await.inspect_err(|_unread| self.history.failed())?;
        let Some(list) = list else { return Ok(LedgerState::default()) };
        self.history.answered(mark, position(list.metadata.resource_version.as_ref()), crate::claim::now());
        let state = list.items.into_iter().find(|state| state.metadata.name.as_deref() == Some(STATE));
        Ok(state.map(|state| state.spec).unwrap_or_default())
    }

    async fn set_state(&self, from: LedgerState, state: LedgerState) -> Result<(), WriteError> {
        let current = written(self.states()?.get_opt(STATE)).await?;
        let mut object = Object::new(STATE, &resource("LedgerState", "ledgerstates"), state);
        match current {
            None if from == LedgerState::default() => {
                created(self.states()?.create(&PostParams::default(), &object)).await?;
            }
            Some(current) if current.spec == from => {
                object.metadata = current.metadata;
                written(self.states()?.replace(STATE, &PostParams::default(), &object)).await?;
            }
            _ => return Err(WriteError::Conflict),
        }
        if state.frozen { freeze::wait_until_enforced(self).await } else { Ok(()) }
    }

    async fn missing_nodes(&self) -> Result<Vec<String>, ReadError> {
        let records = self.recorded_nodes().await?;
        let mut missing: BTreeSet<String> = records.into_iter().map(|record| record.node).collect();
        let nodes: Api<Node> = Api::all(self.client()?);
        let mut params = ListParams::default().limit(OBJECTS);
        loop {
            let page = read(nodes.list_metadata(&params)).await?;
            for name in page.items.into_iter().filter_map(|node| node.metadata.name) {
                missing.remove(&name);
            }
            match next(&page.metadata) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(missing.into_iter().collect()),
            }
        }
    }

    async fn is_missing(&self, node: &str) -> Result<bool, ReadError> {
        let nodes: Api<Node> = Api::all(self.client()?);
        Ok(read(nodes.get_opt(node)).await?.is_none())
    }

    fn unreadable(&self) -> Vec<(String, String)> {
        self.unread.take()
    }

    async fn nodes(&self) -> Result<Vec<LedgerNode>, ReadError> {
        let nodes = read(self.nodes()?.list(&ListParams::default())).await?;
        Ok(nodes.items.into_iter().map(|node| node.spec).collect())
    }

    async fn agents(&self) -> Result<Vec<String>, ReadError> {
        let pods: Api<Pod> = Api::all(self.client()?);
        let listed = read(pods.list(&ListParams::default().labels(AGENTS))).await?.items;
        Ok(listed.into_iter().filter_map(|pod| pod.spec?.node_name).collect())
    }

    async fn node(&self, node: &str) -> Result<Option<LedgerNode>, ReadError> {
        Ok(read(self.nodes()?.get_opt(node)).await?.map(|record| record.spec))
    }

    async fn change_node(&self, node: &str, mut change: impl FnMut(&mut LedgerNode)) -> Result<(), WriteError> {
        for _try in 0..TRIES {
            let current = written(self.nodes()?.get_opt(node)).await?;
            let mut spec = current.as_ref().map(|current| current.spec.clone()).unwrap_or_default();
            node.clone_into(&mut spec.node);
            change(&mut spec);
            let mut object = Object::new(node, &resource("LedgerNode", "ledgernodes"), spec);
            let outcome = match current {
                None => created(self.nodes()?.create(&PostParams::default(), &object)).await,
                Some(current) => {
                    object.metadata = current.metadata;
                    written(self.nodes()?.replace(node, &PostParams::default(), &object)).await
                }
            };
            match outcome {
                Err(WriteError::Conflict) => {}
                other => return other.map(drop),
            }
        }
        Err(WriteError::Conflict)
    }

    async fn suspects(&self) -> Result<Vec<String>, ReadError> {
        let fenced = self.recorded_nodes().await?.into_iter().filter(|record| !record.fenced_machines.is_empty());
        let mut names: Vec<String> = fenced.map(|record| record.node).collect();
        let nodes: Api<Node> = Api::all(self.client()?);
        let tainted = read(nodes.list(&ListParams::default().match_any())).await?.items.into_iter().filter(is_tainted);
        names.extend(tainted.filter_map(|node| node.metadata.name));
        names.sort();
        names.dedup();
        Ok(names)
    }

    async fn fence(&self, node: &str, (machine, boot_id): (&str, &str)) -> Result<Fence, ReadError> {
        let nodes: Api<Node> = Api::all(self.client()?);
        // First the Node: an agent that starts afterwards may still write its record.
        let object = read(nodes.get_opt(node)).await?;
        let record = self.node(node).await?;
        let Some(object) = object else { return Ok(fence::judge(record.as_ref(), (machine, boot_id), false)) };
        let tainted = is_tainted(&object) && !is_ready(&object);
        // The taint refers to the machine that the Node object describes, and to no other machine with that name.
        let described = object.status.and_then(|status| status.node_info).map(|info| info.system_uuid);
        let same = described.is_some_and(|described| described.eq_ignore_ascii_case(machine))
            || record.as_ref().is_some_and(|record| record.machine == machine);
        Ok(fence::judge(record.as_ref(), (machine, boot_id), tainted && same))
    }

    async fn is_tainted(&self, node: &str) -> Result<bool, ReadError> {
        let nodes: Api<Node> = Api::all(self.client()?);
        Ok(read(nodes.get_opt(node)).await?.is_some_and(|object| is_tainted(&object)))
    }

    async fn persistent(&self, namespace: &str, name: &str) -> Result<Option<Persistent>, ReadError> {
        let claims = ipam_claim::api(self.client()?, namespace);
        Ok(read(claims.get_opt(name)).await?.as_ref().and_then(ipam_claim::read))
    }

    async fn persistent_exists(&self, namespace: &str, name: &str, uid: &str) -> Result<bool, ReadError> {
        let claims = ipam_claim::api(self.client()?, namespace);
        let found = read(claims.get_opt(name)).await?;
        Ok(found.is_some_and(|object| object.metadata.uid.as_deref() == Some(uid)))
    }

    async fn set_persistent(
        &self,
        namespace: &str,
        name: &str,
        from: &Persistent,
        status: Status<'_>,
    ) -> Result<(), WriteError> {
        let claims = ipam_claim::api(self.client()?, namespace);
        let current = written(claims.get_opt(name)).await?.ok_or(WriteError::Conflict)?;
        let next = ipam_claim::with_status(current, from, status)?;
        written(ipam_claim::replace_status(&claims, &next)).await.map(drop)
    }

    async fn remembered(&self) -> Result<Option<Vec<Remembered>>, ReadError> {
        self.remembered_claims().await
    }

    async fn keepers(&self) -> Result<Option<Keepers>, ReadError> {
        self.keeping_claims().await
    }

    async fn kept_names(&self) -> Result<BTreeSet<String>, ReadError> {
        self.names(&format!("{OWNER_LABEL}={PERSISTENT}")).await
    }

    async fn pod_exists(&self, namespace: &str, name: &str, uid: &str) -> Result<bool, ReadError> {
        if namespace.is_empty() || name.is_empty() {
            return Ok(true);
        }
        let pods: Api<Pod> = Api::namespaced(self.client()?, namespace);
        let Some(pod) = read(pods.get_opt(name)).await? else { return Ok(false) };
        let config_hash = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(CONFIG_HASH));
        Ok(pod.metadata.uid.as_deref() == Some(uid) || config_hash.is_some_and(|hash| hash == uid))
    }
}
