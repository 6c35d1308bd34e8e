//! A cluster ledger in Kubernetes objects of the group `ipam.weft.dev`.
//!
//! Only POST, PUT and DELETE with uid and resourceVersion are used: server-side apply would create or update. There are
//! no ownerReferences: Kubernetes' garbage collector would free an address while its link is still up, because the Pod
//! object is deleted before the CNI DEL.
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions>

use std::collections::BTreeSet;
use std::rc::Rc;

use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::{ApiResource, NotUsed, Object, ObjectMeta};
use sha2::{Digest, Sha256};
use weft_core::ledger::remote::{Runs, Span, Versions};

use super::answers::{created, read, written};
use super::contract::{Backend, Fence, Keepers, Listing, ReadError, Status, WriteError};
use super::pool::{OBJECTS, next};
use super::{fence, freeze, ipam_claim};
use crate::claim::history::{History, Mark, Position};
use crate::claim::object::{Claim, ClaimSpec, ClaimState, LedgerNode, LedgerState, Persistent};
use crate::claim::remembered::Remembered;

/// The API group.
pub const GROUP: &str = "ipam.weft.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";
/// Label of a claim, one per holder: this prefix and a hash of the holder's node, whose name may be too long for a
/// label.
const NODE_LABEL: &str = "ipam.weft.dev/node-";
/// Label of a claim that outlives its holders, and its value.
const OWNER_LABEL: &str = "ipam.weft.dev/owner";
const PERSISTENT: &str = "IPAMClaim";
/// Label of a claim in conflict with a host on the wire, and its value.
const STATE_LABEL: &str = "ipam.weft.dev/state";
const CONFLICT: &str = "Conflict";
/// Label of a claim: the pool that it was drawn from.
const POOL_LABEL: &str = "ipam.weft.dev/pool";
const LONGEST_LABEL: usize = 63;
/// Label of a claim: the number of its holders, which a column of `kubectl get` cannot count.
const HOLDERS_LABEL: &str = "ipam.weft.dev/holders";
/// Label of a claim: its domain.
pub(super) const DOMAIN_LABEL: &str = "ipam.weft.dev/domain";
/// Annotation of a re-assertion: its epoch. In a freeze, the admission policy in `deploy/crds` admits only these.
pub(super) const EPOCH: &str = "ipam.weft.dev/epoch";
/// The name of the only LedgerState.
const STATE: &str = "cluster";
/// The label of the DaemonSet's pods.
const AGENTS: &str = "app.kubernetes.io/name=weft";
/// The taint of a node that is powered off.
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#node-kubernetes-io-out-of-service>
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// The annotation with the real uid of a static pod, whose mirror has another one.
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#kubernetes-io-config-hash>
pub(super) const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// How many times to try a change of a shared object.
const TRIES: usize = 10;

pub(super) type ClaimObject = Object<ClaimSpec, NotUsed>;
type StateObject = Object<LedgerState, NotUsed>;
type NodeObject = Object<LedgerNode, NotUsed>;

/// Returns a client with the newest credentials.
pub type ClientSource = Rc<dyn Fn() -> Result<Client, String>>;

/// A cluster ledger behind an API server.
#[derive(Clone)]
pub struct Kubernetes {
    client: ClientSource,
    history: Rc<History>,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").finish_non_exhaustive()
    }
}

pub(super) fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: GROUP.to_owned(),
        version: VERSION.to_owned(),
        api_version: format!("{GROUP}/{VERSION}"),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

impl Kubernetes {
    /// Creates a ledger behind a client. The client's own retries are harmless: an uncertain outcome is read again.
    #[must_use]
    pub fn new(client: ClientSource) -> Self {
        Self { client, history: Rc::default() }
    }

    pub(super) fn client(&self) -> Result<Client, NoClient> {
        (self.client)().map_err(NoClient)
    }

    pub(super) fn claims(&self) -> Result<Api<ClaimObject>, NoClient> {
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

/// Returns the label of a node: the first 128 bits of its name's SHA-256 in hex.
pub(super) fn node_label(node: &str) -> String {
    let hash = Sha256::digest(node.as_bytes());
    hash.iter().take(16).fold(NODE_LABEL.to_owned(), |label, octet| format!("{label}{octet:02x}"))
}

/// Returns whether the node is marked as powered off.
fn is_tainted(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.is_some_and(|taints| taints.iter().any(|taint| taint.key == OUT_OF_SERVICE))
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let is_true = |condition: &NodeCondition| condition.type_ == "Ready" && condition.status == "True";
    conditions.is_some_and(|conditions| conditions.iter().any(is_true))
}

/// Returns a claim as an object. Field management is disabled, because it would double the object's size.
fn object(spec: &ClaimSpec, read: Option<&Versions>, epoch: Option<u64>) -> ClaimObject {
    let mut labels = vec![(DOMAIN_LABEL.to_owned(), spec.domain.clone())];
    if spec.is_persistent() {
        labels.push((OWNER_LABEL.to_owned(), PERSISTENT.to_owned()));
    }
    if spec.state == ClaimState::Conflict {
        labels.push((STATE_LABEL.to_owned(), CONFLICT.to_owned()));
    }
    // A label's value has at most 63 characters. Longer names are in `spec` only.
    if !spec.pool.is_empty() && spec.pool.len() <= LONGEST_LABEL {
        labels.push((POOL_LABEL.to_owned(), spec.pool.clone()));
    }
    labels.push((HOLDERS_LABEL.to_owned(), spec.holders.len().to_string()));
    labels.extend(spec.holders.iter().map(|holder| (node_label(&holder.node), String::new())));
    let resource = resource("AddressClaim", "addressclaims");
    let mut object = Object::new(&spec.name(), &resource, spec.clone());
    object.metadata = ObjectMeta {
        labels: Some(labels.into_iter().collect()),
        annotations: epoch.map(|epoch| [(EPOCH.to_owned(), epoch.to_string())].into()),
        managed_fields: Some(vec![Default::default()]),
        uid: read.map(|read| read.uid.clone()),
        resource_version: read.map(|read| read.version.clone()),
        ..object.metadata
    };
    object
}

pub(super) fn versions(meta: &ObjectMeta) -> Versions {
    Versions { uid: meta.uid.clone().unwrap_or_default(), version: meta.resource_version.clone().unwrap_or_default() }
}

fn position(version: Option<&String>) -> Position {
    // A version that is not a number is not compared.
    let revision = version.and_then(|version| version.parse().ok()).unwrap_or(0);
    Position { revision, ..Position::default() }
}

fn claim(object: ClaimObject) -> Claim {
    let versions = versions(&object.metadata);
    Claim { spec: object.spec, versions, deleting: object.metadata.deletion_timestamp.is_some() }
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
        Ok(read(self.claims()?.get_opt(name)).await?.map(claim))
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
        let (claims, mut listed) = (self.claims()?, Vec::new());
        loop {
            let page = read(claims.list(&params)).await?;
            let token = next(&page.metadata);
            listed.extend(page.items.into_iter().map(claim));
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
        let records = read(self.nodes()?.list(&ListParams::default())).await?;
        let fenced = records.items.into_iter().filter(|record| !record.spec.fenced_machines.is_empty());
        let mut names: Vec<String> = fenced.map(|record| record.spec.node).collect();
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
        written(ipam_claim::put(&claims, &next)).await.map(drop)
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
