//! Errors in a pod's networks.

use super::network::NetworkError;
use super::selection::SelectionError;
use crate::agent::status::{Event, EventKind};
use crate::cni::{CniError, code};

/// An error in a pod's networks.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PodError {
    /// An annotation is wrong.
    #[error(transparent)]
    Selection(#[from] SelectionError),
    /// A network's configuration is wrong.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The default network does not exist (yet). It is never replaced by another.
    #[error("the default network is not ready: {why}")]
    DefaultNotReady {
        /// What is missing.
        why: String,
    },
    /// The annotation for the default network must name exactly one.
    #[error("annotation {} names {count} networks; it must name one", super::selection::DEFAULT_NETWORK)]
    DefaultCount {
        /// How many it names.
        count: usize,
    },
    /// The runtime wants another name for the default network's interface.
    #[error(
        "annotation {}: interface {asked:?}: the default network's interface is {ifname:?}; leave \"interface\" out",
        super::selection::DEFAULT_NETWORK
    )]
    DefaultInterface {
        /// What the annotation asks for.
        asked: String,
        /// `CNI_IFNAME`.
        ifname: String,
    },
    /// The definition does not exist.
    #[error("cannot find a network-attachment-definition ({name}) in namespace ({namespace}): {why}")]
    NotFound {
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
        /// What the API server says.
        why: String,
    },
    /// The definition has no configuration, and no file on the node has its name.
    #[error(
        "NetworkAttachmentDefinition {definition} has no config, and no file in {dir} has the name {name:?}; write one or \
         set spec.config"
    )]
    NoFile {
        /// Its full name.
        definition: String,
        /// Its name.
        name: String,
        /// The directory that was searched.
        dir: String,
    },
    /// The definition's namespace does not admit the pod.
    #[error(
        "pods of namespace {pod_namespace:?} may not use NetworkAttachmentDefinition {definition}: namespaceIsolation is \
         on; add {namespace:?} to globalNamespaces or copy the definition"
    )]
    Isolated {
        /// The pod's namespace.
        pod_namespace: String,
        /// The definition's full name.
        definition: String,
        /// The definition's namespace.
        namespace: String,
    },
    /// The definition names files or servers, and its namespace is not the operator's.
    #[error(
        "NetworkAttachmentDefinition {definition} may not set {key:?}, because it names files or servers of the node's \
         operator; move it to namespace {trusted:?}, or add {namespace:?} to trustedNamespaces of weft-pod's configuration"
    )]
    Untrusted {
        /// The key, with its path.
        key: String,
        /// The definition's full name.
        definition: String,
        /// The definition's namespace.
        namespace: String,
        /// `multusNamespace`.
        trusted: String,
    },
    /// A request that no plugin of the network supports.
    #[error(
        "network {network}: the pod requests {key:?}, but no plugin of the network declares the capability \
         {capability:?}; add it to \"capabilities\" of the plugin that implements it, or remove the request"
    )]
    Incapable {
        /// The network, as the status names it.
        network: String,
        /// The key of the annotation.
        key: &'static str,
        /// The capability.
        capability: &'static str,
    },
    /// Two attachments have the same interface name.
    #[error("network {network}: interface {ifname:?} is already used by network {by}")]
    NameTaken {
        /// The network, as the status names it.
        network: String,
        /// The interface's name.
        ifname: String,
        /// The attachment that has it.
        by: String,
    },
    /// Two attachments request the pod's default route.
    #[error("network {network}: network {by} already requests default-route; only one attachment can have it")]
    DefaultRouteTaken {
        /// The network, as the status names it.
        network: String,
        /// The other one.
        by: String,
    },
    /// The devices of the pod could not be read.
    #[error("network {network}: cannot read the devices of resource {resource:?}: {why}")]
    Devices {
        /// The network, as the status names it.
        network: String,
        /// The resource.
        resource: String,
        /// What is wrong.
        why: String,
    },
    /// The configuration of the runtime is wrong.
    #[error(transparent)]
    Cni(#[from] CniError),
}

impl PodError {
    /// Returns the CNI error code.
    #[must_use]
    pub fn code(&self) -> u32 {
        match self {
            Self::DefaultNotReady { .. } | Self::Devices { .. } => code::TRY_AGAIN,
            Self::Cni(error) => error.code,
            Self::Selection(_)
            | Self::Network(_)
            | Self::DefaultCount { .. }
            | Self::DefaultInterface { .. }
            | Self::NotFound { .. }
            | Self::NoFile { .. }
            | Self::Isolated { .. }
            | Self::Untrusted { .. }
            | Self::Incapable { .. }
            | Self::NameTaken { .. }
            | Self::DefaultRouteTaken { .. } => code::INVALID_CONFIG,
        }
    }

    /// Returns the event for the pod's owner.
    #[must_use]
    pub fn event(&self) -> Event {
        let reason = if matches!(self, Self::NotFound { .. }) { "NoNetworkFound" } else { "NetworksInvalid" };
        Event { kind: EventKind::Warning, reason: reason.to_owned(), message: self.to_string() }
    }
}
