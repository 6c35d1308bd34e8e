//! Facts: everything in a policy's request that comes from the node and not from the configuration. Read only.
//!
//! Not here: links and routes (`netlink::Executor::observe`), claims (`ledger`).

mod cached;
mod file;
mod node;
mod pod;
mod resolver;

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use weft_host_abi::types::{Attachment, Node, Pod};

pub use cached::{CACHE_DIR, Cached, cached};
pub use file::{declared_file, resolver};
pub use node::{Isolation, isolation, node};
pub use pod::PodFacts;
pub use resolver::parse_resolver;

/// A fact that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The file that `ipam.resolvConf` names.
    #[error("cannot read resolvConf {path:?}; correct ipam.resolvConf or make the file readable")]
    Resolver {
        /// The path as configured.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that influences decisions.
    #[error("cannot read {path:?}; make it readable or name another file")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file that exists but must not influence decisions.
    #[error("cannot use {path:?}: {what}; {remedy}")]
    FileUnusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The node's file in the state directory.
    #[error("cannot parse {path:?}: it must be {{\"labels\": {{...}}}}; correct it or remove it")]
    Node {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The node's clock.
    #[error("the clock of this node is before 1970; set it")]
    Clock,
}

/// Returns the seconds since 1970.
///
/// # Errors
/// `FactsError::Clock` if the clock is before 1970.
pub fn now() -> Result<u64, FactsError> {
    SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_secs()).map_err(|_before_epoch| FactsError::Clock)
}

/// Returns the identities that the host attests for an attachment, the most permanent first. They decide which kept
/// addresses it may take, so they only contain what the runtime itself said, never a label or an annotation.
///
/// A pod with several attachments on a network has one identity per interface: without the interface name, its second
/// interface could take an address kept for its first.
#[must_use]
pub fn identities(attachment: &Attachment, pod: Option<&Pod>) -> Vec<String> {
    let ifname = &attachment.ifname;
    let mut identities = Vec::with_capacity(3);
    if let Some(pod) = pod {
        if !pod.namespace.is_empty() && !pod.name.is_empty() {
            identities.push(format!("pod:{}/{}/{ifname}", pod.namespace, pod.name));
        }
        if !pod.uid.is_empty() {
            identities.push(format!("uid:{}/{ifname}", pod.uid));
        }
    }
    identities.push(format!("container:{}/{ifname}", attachment.container_id));
    identities
}

/// Returns the seed that a policy gets instead of random numbers: always the same for the same attachment, but
/// different for two nodes or pods that start together.
#[must_use]
pub fn seed(node: &Node, attachment: &Attachment) -> u64 {
    let mut hash = Sha256::new();
    for part in [&node.name, &attachment.network, &attachment.container_id, &attachment.ifname] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut seed = [0_u8; 8];
    seed.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(container_id: &str, ifname: &str) -> Attachment {
        Attachment { network: "n".into(), container_id: container_id.into(), ifname: ifname.into() }
    }

    #[test]
    fn the_most_lasting_identity_comes_first() {
        let pod = Pod { namespace: "ns".into(), name: "web-0".into(), uid: "u1".into(), ..Pod::default() };
        let got = identities(&attachment("c1", "net1"), Some(&pod));
        assert_eq!(got, ["pod:ns/web-0/net1", "uid:u1/net1", "container:c1/net1"]);
        assert_eq!(identities(&attachment("c1", "net1"), None), ["container:c1/net1"]);
    }

    #[test]
    fn the_seed_depends_on_every_part_and_on_where_it_ends() {
        let node = Node { name: "n1".into(), labels: Vec::new() };
        let base = seed(&node, &attachment("ab", "c"));
        assert_eq!(base, seed(&node, &attachment("ab", "c")));
        assert_ne!(base, seed(&node, &attachment("a", "bc")));
        assert_ne!(base, seed(&Node { name: "n2".into(), labels: Vec::new() }, &attachment("ab", "c")));
    }
}
