//! Checks a node's credentials at its API server, and kubelet's answers: once, for a person (`weftctl doctor`).
//!
//! Invariants: nothing is changed; every request has a time limit; unanswered requests are distinguished from problems.

mod rights;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Client, Resource};
use tokio::runtime::Builder;
use tokio::time::timeout;

pub use self::rights::{LEDGER_RIGHTS, RIGHTS, Right};
use crate::cluster::{ClusterError, NadObject, Source, client, nad_resource};
use crate::devices::Devices;

/// Time limit of one request.
const LIMIT: Duration = Duration::from_secs(10);

/// A resource that is not built into Kubernetes: group, version, plural.
pub type Defined = (&'static str, &'static str, &'static str);

/// The resource of networks.
pub const NETWORKS: Defined = ("k8s.cni.cncf.io", "v1", "network-attachment-definitions");

/// The additional resources of a cluster ledger in Kubernetes.
pub const LEDGER: &[Defined] = &[
    ("k8s.cni.cncf.io", "v1alpha1", "ipamclaims"),
    ("ipam.weft.dev", "v1alpha1", "addressclaims"),
    ("ipam.weft.dev", "v1alpha1", "addressblocks"),
    ("ipam.weft.dev", "v1alpha1", "ledgerdomains"),
    ("ipam.weft.dev", "v1alpha1", "addresspools"),
    ("ipam.weft.dev", "v1alpha1", "ledgerstates"),
    ("ipam.weft.dev", "v1alpha1", "ledgernodes"),
];

/// Why no request is possible.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The credentials cannot be used.
    #[error("cannot use the credentials: {0}")]
    Credentials(String),
    /// The API server does not accept them.
    #[error("the API server does not accept the credentials: {0}")]
    Unknown(String),
    /// No answer.
    #[error("{0}")]
    Unreachable(String),
    /// The event loop does not start.
    #[error("cannot start the event loop: {0}")]
    Loop(#[from] std::io::Error),
}

/// A NetworkAttachmentDefinition.
#[derive(Debug, Clone)]
pub struct Definition {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// Its configuration, if it has one.
    pub config: Option<String>,
}

/// The answers of the API server.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// Its version.
    pub version: String,
    /// The user of the credentials.
    pub user: String,
    /// Missing rights, as in `list pods`; or why they are unknown.
    pub denied: Result<Vec<String>, String>,
    /// ConfigMaps that networks name and the agent may not read, as NAMESPACE/NAME; or why they are unknown.
    pub unreadable: Result<Vec<String>, String>,
    /// Resources of [`NETWORKS`] and [`LEDGER`] that are not served, each with the served versions of its group.
    pub undefined: Vec<(Defined, Vec<String>)>,
    /// Whether a Node with the given name exists; or why that is unknown.
    pub node: Option<Result<bool, String>>,
    /// All networks; or why they are unknown.
    pub definitions: Result<Vec<Definition>, String>,
}

/// Queries the API server.
///
/// # Errors
/// No request is possible.
pub fn inspect(source: &Source, node: Option<&str>) -> Result<Inspected, InspectError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = client(source).await.map_err(InspectError::Credentials)?;
        let version = ask("read the version", client.apiserver_version()).await.map_err(unanswered)?;
        let user = user(&client).await?;
        let node = match node {
            Some(name) => Some(has_node(&client, name).await),
            None => None,
        };
        let definitions = definitions(&client).await;
        Ok(Inspected {
            version: version.git_version,
            user,
            denied: denied(&client).await,
            unreadable: unreadable(&client, definitions.as_deref().unwrap_or_default()).await,
            undefined: undefined(&client).await,
            node,
            definitions,
        })
    })
}

/// Returns how many pods kubelet's podresources socket lists.
///
/// # Errors
/// The socket does not exist, or does not answer.
pub fn podresources(kubelet: &Path) -> Result<usize, String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    let devices = Devices::new(kubelet);
    runtime.block_on(async {
        let late = |_elapsed| format!("no answer within {} s", LIMIT.as_secs());
        timeout(LIMIT, devices.pods()).await.map_err(late)?
    })
}

async fn ask<T>(what: &str, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ClusterError> {
    match timeout(LIMIT, request).await {
        Ok(answer) => answer.map_err(|error| ClusterError::from_kube(what, error)),
        Err(_elapsed) => Err(ClusterError::Late { what: what.to_owned(), limit: LIMIT }),
    }
}

fn unanswered(error: ClusterError) -> InspectError {
    match error.http_code() {
        Some(401) => InspectError::Unknown(error.chain()),
        _ => InspectError::Unreachable(error.chain()),
    }
}

/// Returns the user of the credentials. Servers before 1.28 do not report it.
async fn user(client: &Client) -> Result<String, InspectError> {
    let api: Api<SelfSubjectReview> = Api::all(client.clone());
    let (params, review) = (PostParams::default(), SelfSubjectReview::default());
    match ask("say whose credentials these are", api.create(&params, &review)).await {
        Ok(review) => {
            let info = review.status.and_then(|status| status.user_info);
            Ok(info.and_then(|info| info.username).unwrap_or_default())
        }
        Err(error) if matches!(error.http_code(), Some(403 | 404)) => Ok("somebody".to_owned()),
        Err(error) => Err(unanswered(error)),
    }
}

async fn denied(client: &Client) -> Result<Vec<String>, String> {
    let mut denied = Vec::new();
    for (group, resource, verbs) in RIGHTS.iter().chain(LEDGER_RIGHTS) {
        let (name, part) = resource.split_once('/').map_or((*resource, None), |(name, part)| (name, Some(part)));
        for verb in *verbs {
            let attributes = ResourceAttributes {
                group: Some((*group).to_owned()),
                resource: Some(name.to_owned()),
                subresource: part.map(str::to_owned),
                verb: Some((*verb).to_owned()),
                ..ResourceAttributes::default()
            };
            if !is_granted(client, attributes).await? {
                denied.push(format!("{verb} {resource}{}{group}", if group.is_empty() { "" } else { "." }));
            }
        }
    }
    Ok(denied)
}

/// Returns the ConfigMaps of `configmap://` references that may not be read.
async fn unreadable(client: &Client, definitions: &[Definition]) -> Result<Vec<String>, String> {
    let named: BTreeSet<(&str, &str)> =
        definitions.iter().filter_map(|definition| definition.config.as_deref()).flat_map(config_maps).collect();
    let mut unreadable = Vec::new();
    for (namespace, name) in named {
        let attributes = ResourceAttributes {
            group: Some(String::new()),
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            resource: Some("configmaps".to_owned()),
            verb: Some("get".to_owned()),
            ..ResourceAttributes::default()
        };
        if !is_granted(client, attributes).await? {
            unreadable.push(format!("{namespace}/{name}"));
        }
    }
    Ok(unreadable)
}

/// Returns namespace and name of every ConfigMap in a configuration's text.
fn config_maps(config: &str) -> impl Iterator<Item = (&str, &str)> {
    config.split("configmap://").skip(1).filter_map(|rest| {
        let mut parts = rest.split(['/', '"', '@']);
        Some((parts.next()?, parts.next()?)).filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
    })
}

async fn is_granted(client: &Client, attributes: ResourceAttributes) -> Result<bool, String> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let answer = ask("say what is granted", api.create(&PostParams::default(), &review)).await;
    Ok(answer.map_err(|error| error.chain())?.status.is_some_and(|status| status.allowed))
}

async fn undefined(client: &Client) -> Vec<(Defined, Vec<String>)> {
    let mut undefined = Vec::new();
    for defined in std::iter::once(&NETWORKS).chain(LEDGER) {
        let (group, version, plural) = *defined;
        let group_version = format!("{group}/{version}");
        let served = ask("list resources", client.list_api_group_resources(&group_version)).await;
        if !served.is_ok_and(|list| list.resources.iter().any(|resource| resource.name == plural)) {
            undefined.push((*defined, versions(client, group).await));
        }
    }
    undefined
}

/// Returns the served versions of a group.
async fn versions(client: &Client, group: &str) -> Vec<String> {
    let groups = ask("list groups", client.list_api_groups()).await;
    let its = groups.into_iter().flat_map(|list| list.groups).filter(|one| one.name == group);
    its.flat_map(|one| one.versions).map(|version| version.version).collect()
}

async fn has_node(client: &Client, name: &str) -> Result<bool, String> {
    let api: Api<PartialObjectMeta<Node>> = Api::all(client.clone());
    let found = ask(&format!("read node {name}"), api.get_opt(name)).await;
    found.map(|node| node.is_some()).map_err(|error| error.chain())
}

async fn definitions(client: &Client) -> Result<Vec<Definition>, String> {
    let api: Api<NadObject> = Api::all_with(client.clone(), &nad_resource());
    let what = "list NetworkAttachmentDefinitions";
    let mut definitions = Vec::new();
    let mut params = ListParams::default().limit(500);
    loop {
        let list = ask(what, api.list(&params)).await.map_err(|error| error.chain())?;
        definitions.extend(list.items.into_iter().map(|object| {
            let (namespace, name) = (object.meta().namespace.clone(), object.meta().name.clone());
            let name = format!("{}/{}", namespace.unwrap_or_default(), name.unwrap_or_default());
            Definition { name, config: object.spec.and_then(|spec| spec.config) }
        }));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(definitions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_maps_of_a_text_are_found() {
        let text = r#"{"plugins": [{"ipam": {"policy": "configmap://infra/policies/rack.wasm@sha256:aa"}},
            {"monitor": {"policy": "configmap://team/x.y"}}, {"note": "configmap://"}]}"#;
        assert_eq!(config_maps(text).collect::<Vec<_>>(), [("infra", "policies"), ("team", "x.y")]);
    }
}
