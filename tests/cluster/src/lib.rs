//! `weft-pod` with its environment: an agent, plugins of other vendors, an API server, nodes.
//!
//! ```text
//! fake      a plugin that writes down how it is called and answers by rules
//! api       pods, definitions and their status, as the tests change and read them
//! standin   an agent and an API server in one process, for tests of weft-pod alone
//! pods      one node with weft-pod: sandboxes, calls as containerd makes them
//! scene     one pod of such a node, and the cluster that knows it
//! grpc      a kubelet or a runtime that gives one answer
//! chart     the chart of `deploy/`, by Helm
//! kube      a real Kubernetes with weft on it
//! api_server  what every API server of the tests is started with
//! control_plane  etcd and a kube-apiserver of their own
//! golden    recorded cases of Multus, replayed and compared
//! ```

pub mod api;
pub mod api_server;
pub mod chart;
pub mod control_plane;
pub mod fake;
pub mod golden;
pub mod grpc;
pub mod kube;
pub mod pods;
pub mod scene;
pub mod standin;
