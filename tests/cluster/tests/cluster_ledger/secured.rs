//! An etcd with certificates, users and passwords.

use anyhow::{Context, Result, ensure};
use weft_kit::dhcp::wait;
use weft_kit::sandbox;

use super::cluster::Cluster;
use super::ends::added;
use super::world::{Node, PATIENCE, Pod};

/// An agent that etcd refuses allocates nothing, and reports the reason.
pub(crate) fn locked_out(cluster: &mut Cluster) -> Result<()> {
    let (node, pod) = (Node::new(cluster, 1)?, Pod::new("one")?);
    let named = cluster.data().with_file_name("named.pem").display().to_string();
    let wrong = |key: &str, value: Option<&str>| -> Result<String> {
        let mut conf = node.conf();
        let ledger = conf["ipam"]["ledger"].as_object_mut().context("a ledger")?;
        match value {
            Some(value) => ledger.insert(key.to_owned(), value.into()),
            None => ledger.remove(key),
        };
        if value == Some(named.as_str()) {
            ledger.insert("keyFile".to_owned(), named.replace(".pem", ".key").into());
        }
        let error = node.run_call(&node.call("ADD", &pod, &conf))?.error()?;
        let left = node.leftovers()?;
        ensure!(left.is_empty() && cluster.claims()?.is_empty(), "{key}: left {left:?}");
        Ok(format!("{error:?}"))
    };
    let password = sandbox::scratch().join("wrong-password");
    std::fs::write(&password, "guessed")?;
    let password = password.display().to_string();
    for (key, value, says) in [
        ("passwordFile", Some(password.as_str()), "authentication failed"),
        ("username", Some("nobody"), "authentication failed"),
        ("username", None, "etcd"),
        ("caFile", None, "certificate"),
        ("certFile", Some("/nonexistent"), "certFile"),
        ("certFile", Some(named.as_str()), "common name"),
        ("prefix", Some("/registry"), "permission denied"),
    ] {
        let said = wrong(key, value)?;
        ensure!(said.contains(says), "{key} {value:?}: {said}");
    }
    node.add(&pod)?;
    node.del(&pod)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))
}

/// etcd forgets its tokens when it ends.
pub(crate) fn token_renewed(cluster: &mut Cluster) -> Result<()> {
    let (node, pod, other) = (Node::new(cluster, 1)?, Pod::new("one")?, Pod::new("two")?);
    let first = node.add(&pod)?;
    cluster.kill();
    cluster.start()?;
    let second = added(&node, &other)?;
    ensure!(first != second, "{first} was given out twice");
    node.del(&pod)?;
    node.del(&other)?;
    wait(PATIENCE, "no claim", || Ok(cluster.claims()?.is_empty()))
}
