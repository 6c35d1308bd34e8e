//! `weft-pod`'s own configuration, with Multus' keys. Pure.

use std::path::PathBuf;

use serde_json::Value;

use crate::agent::pod::References;
use crate::cni::{CniError, Object, Version, code};

/// The directory of network files, unless `confDir` names another. Multus' default.
pub const CONF_DIR: &str = "/etc/cni/multus/net.d";

/// The key of the agent's socket; our own.
const AGENT_SOCKET: &str = "agentSocket";

/// The key of namespaces whose definitions may name files and servers; our own.
const TRUSTED: &str = "trustedNamespaces";

/// Keys that belong to CNI.
const OF_CNI: &[&str] =
    &["cniVersion", "name", "type", "capabilities", "runtimeConfig", "prevResult", "args", "disableCheck", "disableGC"];

/// Keys that mean something here.
pub(super) const KEYS: &[&str] = &[
    "clusterNetwork",
    "defaultNetworks",
    "delegates",
    "confDir",
    "binDir",
    "multusNamespace",
    "systemNamespaces",
    "namespaceIsolation",
    "globalNamespaces",
    TRUSTED,
    "readinessindicatorfile",
    AGENT_SOCKET,
    "externalPlugins",
    "pluginTimeoutSeconds",
    "statusDeadlineMs",
];

/// Keys of Multus that count only for what Multus left on the node (`multus_del`).
pub(super) const OF_KEPT_MULTUS: &[&str] = &["cniDir", "daemonSocketDir"];

/// Harmless keys of Multus without a meaning here: the places of its credentials and its log, and the options of its
/// daemon. `docs/weft-pod.md` lists the replacements.
pub(super) const WITHOUT_MEANING: &[&str] = &[
    "kubeconfig",
    "logFile",
    "logLevel",
    "logToStderr",
    "logOptions",
    "retryDeleteOnError",
    "chrootDir",
    "socketDir",
    "cniConfigDir",
    "multusConfigFile",
    "multusAutoconfigDir",
    "multusMasterCNI",
    "forceCNIVersion",
    "overrideNetworkName",
    "metricsPort",
    "enablePprof",
    "connectionLimit",
    "perNodeCertificate",
];

/// A reference to a network in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkRef {
    /// A NetworkAttachmentDefinition in `multusNamespace`, or else the `name` in a file of `confDir`.
    Name(String),
    /// A file, or a directory of which the first file is used.
    Path(PathBuf),
}

impl NetworkRef {
    fn new(text: &str) -> Self {
        if text.contains('/') { Self::Path(PathBuf::from(text)) } else { Self::Name(text.to_owned()) }
    }

    fn name(&self) -> Option<String> {
        match self {
            Self::Name(name) => Some(name.clone()),
            Self::Path(_) => None,
        }
    }
}

/// The networks that every pod gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Networks {
    /// `clusterNetwork`, then `defaultNetworks`.
    Named {
        /// The default network.
        cluster: NetworkRef,
        /// Additional ones; pods of system namespaces do not get them.
        further: Vec<NetworkRef>,
    },
    /// `delegates`: inline configurations; the first is the default network.
    Inline(Vec<Value>),
}

/// The settings of `weft-pod`.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The version of the configuration and of the answer.
    pub version: Version,
    /// The networks that every pod gets.
    pub networks: Networks,
    /// Where network configurations are looked up by name.
    pub conf_dir: PathBuf,
    /// Where plugins are looked up before CNI_PATH.
    pub bin_dir: PathBuf,
    /// Where definitions without a namespace are looked up.
    pub namespace: String,
    /// Namespaces whose pods get no further default networks and no status.
    pub system_namespaces: Vec<String>,
    /// Whether a pod may use only definitions of its own namespace and of `global_namespaces`.
    pub namespace_isolation: bool,
    /// Namespaces that every pod may use despite isolation.
    pub global_namespaces: Vec<String>,
    /// Namespaces whose definitions may name the node's files and servers, besides `namespace`. `"*"` is all.
    pub trusted_namespaces: Vec<String>,
    /// A file that exists once the default network is ready.
    pub readiness_file: Option<PathBuf>,
    /// The agent's socket.
    pub agent_socket: PathBuf,
    /// Plugins that are executed as programs although weft has one of that name.
    pub external_plugins: Vec<String>,
    /// How long an external plugin may take.
    pub plugin_timeout_seconds: u64,
    /// How long an ADD waits until the status annotation is written.
    pub status_deadline_ms: u64,
    /// Warnings for a person.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Parses the configuration on stdin.
    ///
    /// # Errors
    /// Code 7: a key has the wrong type, or no default network is named.
    pub fn read(object: &Object, version: Version) -> Result<Self, CniError> {
        let invalid = |why: String| CniError::new(code::INVALID_CONFIG, why);
        let mistyped = |error: crate::cni::Mistyped| invalid(error.to_string());
        let text = |key: &str| Ok::<_, CniError>(object.text(key).map_err(mistyped)?.map(ToOwned::to_owned));
        let path =
            |key: &str, fallback: &str| Ok::<_, CniError>(PathBuf::from(text(key)?.unwrap_or(fallback.to_owned())));
        let list = |key: &str| object.strings(key).map_err(mistyped);
        let number = |key: &str, other: u64| Ok::<_, CniError>(object.u64(key).map_err(mistyped)?.unwrap_or(other));

        let delegates = object.list("delegates").map_err(mistyped)?.unwrap_or_default();
        let networks = match text("clusterNetwork")? {
            Some(cluster) => Networks::Named {
                cluster: NetworkRef::new(&cluster),
                further: list("defaultNetworks")?
                    .unwrap_or_default()
                    .iter()
                    .map(|name| NetworkRef::new(name))
                    .collect(),
            },
            None if delegates.is_empty() => {
                let why = "no default network: set \"clusterNetwork\" to the name of a NetworkAttachmentDefinition or to \
                           the path of a CNI configuration, or put the configuration into \"delegates\"";
                return Err(invalid(why.to_owned()));
            }
            None => Networks::Inline(delegates.to_vec()),
        };
        let mut warnings = Vec::new();
        if matches!(networks, Networks::Named { .. }) && !delegates.is_empty() {
            warnings.push("delegates has no effect, because clusterNetwork names the default network".to_owned());
        }
        if matches!(networks, Networks::Inline(_)) && object.list("defaultNetworks").map_err(mistyped)?.is_some() {
            warnings.push("defaultNetworks has no effect, because there is no clusterNetwork".to_owned());
        }
        for key in object.keys().filter(|key| !is_known(key)) {
            warnings.push(format!("key {key:?} of the configuration is unknown and has no effect"));
        }
        if object.text("auxiliaryCNIChainName").map_err(mistyped)?.is_some() {
            let instead = "list the plugins of that chain in the network's own configuration";
            warnings.push(format!("auxiliaryCNIChainName has no effect: {instead}"));
        }
        Ok(Self {
            version,
            networks,
            conf_dir: path("confDir", CONF_DIR)?,
            bin_dir: path("binDir", "/opt/cni/bin")?,
            namespace: text("multusNamespace")?.unwrap_or_else(|| "kube-system".to_owned()),
            system_namespaces: list("systemNamespaces")?
                .filter(|list| !list.is_empty())
                .unwrap_or_else(|| vec!["kube-system".to_owned()]),
            namespace_isolation: object.bool("namespaceIsolation").map_err(mistyped)?.unwrap_or(false),
            global_namespaces: match text("globalNamespaces")? {
                None => vec!["default".to_owned()],
                Some(list) => list.split(',').map(|name| name.trim().to_owned()).collect(),
            },
            trusted_namespaces: list(TRUSTED)?.unwrap_or_default(),
            readiness_file: text("readinessindicatorfile")?.map(PathBuf::from),
            agent_socket: path(AGENT_SOCKET, crate::agent::SOCKET)?,
            external_plugins: list("externalPlugins")?.unwrap_or_default(),
            plugin_timeout_seconds: number("pluginTimeoutSeconds", 120)?.max(1),
            status_deadline_ms: number("statusDeadlineMs", 3000)?,
            warnings,
        })
    }

    /// Returns what the agent looks up besides the pod's annotations.
    #[must_use]
    pub fn references(&self) -> References {
        let (cluster_network, default_networks) = match &self.networks {
            Networks::Named { cluster, further } => {
                (cluster.name(), further.iter().filter_map(NetworkRef::name).collect())
            }
            Networks::Inline(_) => (None, Vec::new()),
        };
        References { cluster_network, default_networks, namespace: self.namespace.clone() }
    }

    /// Returns whether pods of a namespace get neither `defaultNetworks` nor a status.
    #[must_use]
    pub fn is_system(&self, namespace: &str) -> bool {
        self.system_namespaces.iter().any(|system| system == namespace)
    }

    /// Returns whether the definitions of a namespace are the operator's. `globalNamespaces` says who uses definitions,
    /// not who writes them.
    #[must_use]
    pub fn trusts(&self, namespace: &str) -> bool {
        self.namespace == namespace
            || self.trusted_namespaces.iter().any(|trusted| trusted == "*" || trusted == namespace)
    }

    /// Returns whether a pod of a namespace may use a definition of another.
    #[must_use]
    pub fn may_use(&self, pod_namespace: &str, namespace: &str) -> bool {
        !self.namespace_isolation
            || pod_namespace == namespace
            || self.global_namespaces.iter().any(|global| global == namespace)
    }
}

fn is_known(key: &str) -> bool {
    let is = |known: &&str| known.eq_ignore_ascii_case(key);
    key.starts_with("cni.dev/")
        || [OF_CNI, KEYS, OF_KEPT_MULTUS, WITHOUT_MEANING].iter().any(|keys| keys.iter().any(is))
        || key.eq_ignore_ascii_case("auxiliaryCNIChainName")
}
