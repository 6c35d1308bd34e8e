//! The rights that the agent needs, as `deploy/kubernetes/rbac.yaml` and `rbac-ledger.yaml` grant them; a test compares
//! them. `docs/agent.md` explains each.

/// Verbs on a resource of a group. A resource may be a subresource, as in `pods/status`.
pub type Right = (&'static str, &'static str, &'static [&'static str]);

/// The rights that every agent needs.
pub const RIGHTS: &[Right] = &[
    ("", "pods", &["get", "list", "watch"]),
    ("", "namespaces", &["get", "list", "watch"]),
    ("", "nodes", &["get", "list", "watch"]),
    ("", "pods/status", &["patch"]),
    ("", "events", &["create", "patch"]),
    ("k8s.cni.cncf.io", "network-attachment-definitions", &["get", "list", "watch"]),
    ("resource.k8s.io", "resourceclaims", &["get"]),
    ("resource.k8s.io", "resourceslices", &["list"]),
];

/// The further rights for the cluster ledger.
pub const LEDGER_RIGHTS: &[Right] = &[
    ("k8s.cni.cncf.io", "ipamclaims", &["get", "list", "create"]),
    ("k8s.cni.cncf.io", "ipamclaims/status", &["update"]),
    ("ipam.weft.dev", "addressclaims", &["get", "list", "create", "update", "delete"]),
    ("ipam.weft.dev", "addressblocks", &["get", "list", "create", "update", "delete"]),
    ("ipam.weft.dev", "ledgerdomains", &["get", "create"]),
    ("ipam.weft.dev", "addresspools", &["get"]),
    ("ipam.weft.dev", "ledgerstates", &["get", "list", "create", "update"]),
    ("ipam.weft.dev", "ledgernodes", &["get", "create", "update"]),
];
