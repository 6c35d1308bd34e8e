//! Configuration of a node's programs: containerd, kubelet, and the configuration of the pods' default network.

use anyhow::Result;
use serde_json::{Value, json};

use super::node::Node;

/// The name of the default network's file.
pub(super) const DEFAULT_NETWORK: &str = "10-default.conflist";

/// containerd's configuration. Without `restrict_oom_score_adj` runc fails where nobody may lower that score.
pub(super) const CONTAINERD: &str = r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "weft.test/busybox:latest"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"#;

/// kubelet's configuration: control groups of either version, no limits that a shared machine would break.
pub(super) fn kubelet(node: &Node) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "address": node.address(),
        "healthzBindAddress": "127.0.0.1",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "cgroupRoot": node.cgroup(),
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
                         "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "makeIPTablesUtilChains": false,
        "resolvConf": "",
        // Trials change ConfigMaps that are mounted in pods; by default a node takes a minute.
        "syncFrequency": "5s",
        // Trials kill the agents, which must restart at once.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
    })
}

/// Writes the pods' default network: a bridge per node with its own prefix, as flannel's host-gw backend makes it.
pub(super) fn default_network(node: &Node) -> Result<()> {
    let conflist = json!({
        "cniVersion": "1.0.0", "name": "default", "plugins": [{
            "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": format!("10.244.{}.0/24", node.number())}]]}}],
    });
    node.write(&format!("/etc/cni/net.d/{DEFAULT_NETWORK}"), &conflist.to_string())
}
