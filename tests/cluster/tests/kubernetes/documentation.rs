//! The example of `docs/kubernetes.md`, as it stands there.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use weft_cluster::kube::Cluster;
use weft_kit::containerd::IMAGE;

use super::{has_networks, running};

/// Applies the page's objects. Only the image is another one: the nodes have no registry.
pub(super) fn example(cluster: &mut Cluster) -> Result<()> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kubernetes.md");
    let page = std::fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
    let objects = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).context("no YAML there")?;
    let image = "image: busybox\n";
    ensure!(objects.contains(image), "the example has another image");
    let here = format!("image: {IMAGE}\n        imagePullPolicy: Never\n");
    cluster.kubectl().apply_text(&objects.replace(image, &here))?;
    let pods = running(cluster, 3)?;
    let mut addresses = BTreeSet::new();
    for pod in &pods {
        has_networks(pod, &[("default", "eth0"), ("default/storage", "net1")])?;
        let address = pod.address("net1")?;
        ensure!(address.starts_with("172.20."), "{}: {address}", pod.name);
        addresses.insert(address.to_owned());
    }
    ensure!(addresses.len() == pods.len(), "an address was given twice: {addresses:?}");
    for other in pods.iter().skip(1) {
        pods[0].ping("net1", other.address("net1")?)?;
    }
    // The pool stays: it may go when the controller has seen that nothing of it is in use.
    Ok(())
}
