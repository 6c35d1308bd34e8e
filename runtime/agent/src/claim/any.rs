//! The backend that a network's configuration names.

use std::collections::BTreeSet;

use serde::Deserialize;
use weft_core::ledger::remote::{Runs, Span, Versions};

use super::backend::etcd::{Etcd, EtcdConf, EtcdError, prefix};
use super::backend::kept::Keeper;
use super::backend::kubernetes::{ClientSource, Kubernetes};
use super::backend::{Backend, Cells, Fence, Keepers, Listing, ReadError, Status, WriteError};
use super::block::{Block, BlockSpec, LedgerDomain};
use super::history::History;
use super::object::{Claim, ClaimSpec, LedgerNode, LedgerState, Persistent};
use super::pool::Pool;
use super::remembered::Remembered;

/// A backend of either kind.
#[derive(Debug)]
pub enum AnyBackend {
    /// Kubernetes objects.
    Kubernetes(Kubernetes),
    /// Keys in etcd.
    Etcd(Box<Etcd>),
}

/// Why a configuration names no usable backend.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// It cannot be parsed.
    #[error("the ledger {text} cannot be read: {source}")]
    Conf {
        /// The configuration.
        text: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The agent has no Kubernetes client.
    #[error("this agent does not talk to an API server; start it with --kubeconfig or in a pod")]
    NoKubernetes,
    /// etcd.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Reach {
    Kubernetes,
    Etcd(EtcdConf),
}

/// Whether two configurations name the same ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sameness {
    /// They do: both name a server, and the prefix in it.
    Same,
    /// They may: only the prefix is the same. The servers may have got other names.
    Unknown,
    Other,
}

impl Sameness {
    /// Compares two texts that rows have as their ledger.
    pub(super) fn compare(one: &str, other: &str) -> Self {
        let read = |text: &str| serde_json::from_str(text).ok();
        match (read(one), read(other)) {
            _ if one == other => Self::Same,
            (Some(Reach::Kubernetes), Some(Reach::Kubernetes)) => Self::Same,
            (Some(Reach::Etcd(one)), Some(Reach::Etcd(other))) if prefix(&one) == prefix(&other) => {
                let server = |url: &String| url.trim_end_matches('/').to_owned();
                let servers: Vec<String> = one.endpoints.iter().map(server).collect();
                match other.endpoints.iter().any(|url| servers.contains(&server(url))) {
                    true => Self::Same,
                    false => Self::Unknown,
                }
            }
            _ => Self::Other,
        }
    }
}

impl AnyBackend {
    /// Creates the backend that a row's `ledger` names.
    ///
    /// # Errors
    /// See [`BackendError`].
    pub fn new(text: &str, kubernetes: Option<&ClientSource>) -> Result<Self, BackendError> {
        let conf = |source| BackendError::Conf { text: text.to_owned(), source };
        match serde_json::from_str(text).map_err(conf)? {
            Reach::Kubernetes => {
                let client = kubernetes.ok_or(BackendError::NoKubernetes)?;
                Ok(Self::Kubernetes(Kubernetes::new(ClientSource::clone(client))))
            }
            Reach::Etcd(conf) => Ok(Self::Etcd(Box::new(Etcd::new(&conf)?))),
        }
    }
}

impl AnyBackend {
    /// Returns an AddressPool from the API server's cache.
    ///
    /// # Errors
    /// The ledger has none, or cannot be read.
    pub async fn pool(&self, name: &str) -> Result<Option<Pool>, ReadError> {
        match self {
            Self::Kubernetes(backend) => backend.pool(name).await,
            Self::Etcd(_) => Err(ReadError("a ledger in etcd has no pools; give the network ranges".to_owned())),
        }
    }

    /// Returns the IPAMClaim of an interface that keeps its addresses.
    ///
    /// # Errors
    /// The ledger has no IPAMClaims, or cannot be read or written.
    pub async fn keep(&self, keeper: &Keeper) -> Result<Persistent, ReadError> {
        match self {
            Self::Kubernetes(backend) => backend.keep(keeper).await,
            Self::Etcd(_) => Err(ReadError(
                "a ledger in etcd keeps no addresses; use \"release\": \"free\" or a cooldown".to_owned(),
            )),
        }
    }
}

/// Calls the same method of either backend.
macro_rules! both {
    ($self:ident, $backend:ident => $call:expr) => {
        match $self {
            AnyBackend::Kubernetes($backend) => $call.await,
            AnyBackend::Etcd($backend) => $call.await,
        }
    };
}

impl Cells for AnyBackend {
    async fn create_block(&self, spec: &BlockSpec, epoch: Option<u64>) -> Result<Versions, WriteError> {
        both!(self, backend => backend.create_block(spec, epoch))
    }

    async fn block(&self, name: &str) -> Result<Option<Block>, ReadError> {
        both!(self, backend => backend.block(name))
    }

    async fn replace_block(&self, spec: &BlockSpec, read: &Versions) -> Result<Versions, WriteError> {
        both!(self, backend => backend.replace_block(spec, read))
    }

    async fn delete_block(&self, name: &str, read: &Versions) -> Result<(), WriteError> {
        both!(self, backend => backend.delete_block(name, read))
    }

    async fn blocks(&self, listing: Listing<'_>) -> Result<Vec<Block>, ReadError> {
        both!(self, backend => backend.blocks(listing))
    }

    async fn create_domain(&self, domain: &LedgerDomain, epoch: Option<u64>) -> Result<(), WriteError> {
        both!(self, backend => backend.create_domain(domain, epoch))
    }

    async fn domain(&self, name: &str) -> Result<Option<LedgerDomain>, ReadError> {
        both!(self, backend => backend.domain(name))
    }
}

impl Backend for AnyBackend {
    fn history(&self) -> &History {
        match self {
            Self::Kubernetes(backend) => backend.history(),
            Self::Etcd(backend) => backend.history(),
        }
    }

    fn has_unique_versions(&self) -> bool {
        match self {
            Self::Kubernetes(backend) => backend.has_unique_versions(),
            Self::Etcd(backend) => backend.has_unique_versions(),
        }
    }

    async fn create(&self, spec: &ClaimSpec, epoch: Option<u64>) -> Result<Versions, WriteError> {
        both!(self, backend => backend.create(spec, epoch))
    }

    async fn get(&self, name: &str) -> Result<Option<Claim>, ReadError> {
        both!(self, backend => backend.get(name))
    }

    async fn replace(&self, spec: &ClaimSpec, read: &Versions, epoch: Option<u64>) -> Result<Versions, WriteError> {
        both!(self, backend => backend.replace(spec, read, epoch))
    }

    async fn delete(&self, name: &str, read: &Versions) -> Result<(), WriteError> {
        both!(self, backend => backend.delete(name, read))
    }

    async fn list(&self, listing: Listing<'_>) -> Result<Vec<Claim>, ReadError> {
        both!(self, backend => backend.list(listing))
    }

    async fn missing_nodes(&self) -> Result<Vec<String>, ReadError> {
        both!(self, backend => backend.missing_nodes())
    }

    async fn is_missing(&self, node: &str) -> Result<bool, ReadError> {
        both!(self, backend => backend.is_missing(node))
    }

    fn unreadable(&self) -> Vec<(String, String)> {
        match self {
            Self::Kubernetes(backend) => backend.unreadable(),
            Self::Etcd(backend) => backend.unreadable(),
        }
    }

    async fn taken(&self, domain: &str, spans: &[Span]) -> Result<Runs, ReadError> {
        both!(self, backend => backend.taken(domain, spans))
    }

    async fn has_claims(&self, domain: &str) -> Result<bool, ReadError> {
        both!(self, backend => backend.has_claims(domain))
    }

    async fn state(&self) -> Result<LedgerState, ReadError> {
        both!(self, backend => backend.state())
    }

    async fn set_state(&self, read: LedgerState, state: LedgerState) -> Result<(), WriteError> {
        both!(self, backend => backend.set_state(read, state))
    }

    async fn nodes(&self) -> Result<Vec<LedgerNode>, ReadError> {
        both!(self, backend => backend.nodes())
    }

    async fn agents(&self) -> Result<Vec<String>, ReadError> {
        both!(self, backend => backend.agents())
    }

    async fn node(&self, node: &str) -> Result<Option<LedgerNode>, ReadError> {
        both!(self, backend => backend.node(node))
    }

    async fn change_node(&self, node: &str, change: impl FnMut(&mut LedgerNode)) -> Result<(), WriteError> {
        both!(self, backend => backend.change_node(node, change))
    }

    async fn suspects(&self) -> Result<Vec<String>, ReadError> {
        both!(self, backend => backend.suspects())
    }

    async fn fence(&self, node: &str, machine_and_boot: (&str, &str)) -> Result<Fence, ReadError> {
        both!(self, backend => backend.fence(node, machine_and_boot))
    }

    async fn is_tainted(&self, node: &str) -> Result<bool, ReadError> {
        both!(self, backend => backend.is_tainted(node))
    }

    async fn persistent(&self, namespace: &str, name: &str) -> Result<Option<Persistent>, ReadError> {
        both!(self, backend => backend.persistent(namespace, name))
    }

    async fn persistent_exists(&self, namespace: &str, name: &str, uid: &str) -> Result<bool, ReadError> {
        both!(self, backend => backend.persistent_exists(namespace, name, uid))
    }

    async fn set_persistent(
        &self,
        namespace: &str,
        name: &str,
        read: &Persistent,
        status: Status<'_>,
    ) -> Result<(), WriteError> {
        both!(self, backend => backend.set_persistent(namespace, name, read, status))
    }

    async fn remembered(&self) -> Result<Option<Vec<Remembered>>, ReadError> {
        both!(self, backend => backend.remembered())
    }

    async fn keepers(&self) -> Result<Option<Keepers>, ReadError> {
        both!(self, backend => backend.keepers())
    }

    async fn kept_names(&self) -> Result<BTreeSet<String>, ReadError> {
        both!(self, backend => backend.kept_names())
    }

    async fn pod_exists(&self, namespace: &str, name: &str, uid: &str) -> Result<bool, ReadError> {
        both!(self, backend => backend.pod_exists(namespace, name, uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_known_by_a_server_and_the_prefix() {
        let etcd = |endpoints: &str, rest: &str| format!(r#"{{"type":"etcd","endpoints":{endpoints}{rest}}}"#);
        let text = etcd(r#"["https://a:2379","https://b:2379"]"#, "");
        let kubernetes = r#"{"type":"kubernetes"}"#;
        for (other, sameness) in [
            (etcd(r#"["https://b:2379/","https://a:2379"]"#, ""), Sameness::Same),
            (
                etcd(r#"["https://c:2379","https://b:2379"]"#, r#","prefix":"/weft/ipam","username":"weft""#),
                Sameness::Same,
            ),
            (etcd(r#"["https://c:2379"]"#, ""), Sameness::Unknown),
            (etcd(r#"["https://a:2379"]"#, r#","prefix":"/lab""#), Sameness::Other),
            (kubernetes.to_owned(), Sameness::Other),
            ("{}".to_owned(), Sameness::Other),
        ] {
            assert_eq!(Sameness::compare(&text, &other), sameness, "{other}");
            assert_eq!(Sameness::compare(&other, &text), sameness, "{other}");
        }
        assert_eq!(Sameness::compare(kubernetes, kubernetes), Sameness::Same);
        assert_eq!(Sameness::compare("{}", "{}"), Sameness::Same);
    }
}
