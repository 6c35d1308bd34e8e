//! The common options of the tests' API servers: an etcd, users with tokens, and RBAC.
//!
//! No certificates are needed: the API server creates its own, which is the authority of every kubeconfig. Tokens are
//! no secrets, because the namespaces are private to the test.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// etcd's client address in the API server's network namespace.
pub const ETCD: &str = "127.0.0.1:2379";
/// The peer address of etcd's only member.
const PEER: &str = "http://127.0.0.1:2380";

/// A user of the API server, with its own token.
#[derive(Debug, Clone)]
pub struct User {
    /// For file names.
    pub short: Cow<'static, str>,
    /// As the API server knows it; a service account is `system:serviceaccount:NAMESPACE:NAME`.
    pub name: Cow<'static, str>,
    /// Its name at the API server; a service account is `system:serviceaccount:NAMESPACE:NAME`.
    pub group: &'static str,
}

// === impl User ===

impl User {
    /// A user with a fixed name.
    #[must_use]
    pub const fn new(short: &'static str, name: &'static str, group: &'static str) -> Self {
        Self { short: Cow::Borrowed(short), name: Cow::Borrowed(name), group }
    }

    fn token(&self) -> String {
        format!("token-of-{}", self.short)
    }
}

/// The administrator.
pub const ADMIN: User = User::new("admin", "admin", "system:masters");

/// Returns the path of a user's kubeconfig.
#[must_use]
pub fn kubeconfig_path(dir: &Path, user: &str) -> PathBuf {
    dir.join(format!("{user}.kubeconfig"))
}

/// Writes the tokens of all users, and a kubeconfig for each that names `server`.
///
/// # Errors
/// A file cannot be written.
pub fn write_users(dir: &Path, server: &str, users: &[User]) -> Result<()> {
    let line = |user: &User| format!("{},{},{},{}\n", user.token(), user.name, user.short, user.group);
    fs::write(dir.join("tokens.csv"), users.iter().map(line).collect::<String>()).context("write the tokens")?;
    let cluster = json!({"server": server, "certificate-authority": dir.join("tls/apiserver.crt")});
    users.iter().try_for_each(|user| {
        write_kubeconfig(&kubeconfig_path(dir, &user.short), &cluster, &json!({"token": user.token()}))
    })
}

/// Writes a kubeconfig: the server's address and the client's credentials.
///
/// # Errors
/// The file cannot be written.
pub fn write_kubeconfig(path: &Path, cluster: &Value, user: &Value) -> Result<()> {
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "only",
        "clusters": [{"name": "only", "cluster": cluster}],
        "users": [{"name": "only", "user": user}],
        "contexts": [{"name": "only", "context": {"cluster": "only", "user": "only"}}],
    });
    fs::write(path, kubeconfig.to_string()).with_context(|| format!("write {}", path.display()))
}

/// Flags of a program.
#[must_use]
pub fn flags(flags: &[(&str, String)]) -> Vec<String> {
    flags.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

/// The common options of etcd and its tool for the member with its data in `data`.
fn member_flags(data: &Path) -> Vec<String> {
    flags(&[
        ("name", "only".to_owned()),
        ("data-dir", data.display().to_string()),
        ("initial-advertise-peer-urls", PEER.to_owned()),
        ("initial-cluster", format!("only={PEER}")),
    ])
}

/// Returns flags of `etcdutl snapshot restore` for the member whose data go into `data`, `bump` revisions after the
/// snapshot's last.
#[must_use]
pub fn restore_flags(data: &Path, bump: u64) -> Vec<String> {
    let more = ["--skip-hash-check".to_owned(), "--mark-compacted".to_owned(), format!("--bump-revision={bump}")];
    [member_flags(data), more.into()].concat()
}

/// Returns flags of etcd with its data in `data`.
#[must_use]
pub fn etcd_flags(data: &Path) -> Vec<String> {
    let client = format!("http://{ETCD}");
    let more = flags(&[
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", PEER.to_owned()),
        // Tests kill processes, never the machine.
        ("unsafe-no-fsync", "true".to_owned()),
    ]);
    [member_flags(data), more].concat()
}

/// Returns flags of the API server: `dir` has its users and `account.key`.
#[must_use]
pub fn api_server_flags(dir: &Path, bind: &str, advertise: &str, port: u16) -> Vec<String> {
    let at = |name: &str| dir.join(name).display().to_string();
    flags(&[
        // The agent is privileged.
        ("allow-privileged", "true".to_owned()),
        ("etcd-servers", format!("http://{ETCD}")),
        ("bind-address", bind.to_owned()),
        ("advertise-address", advertise.to_owned()),
        ("secure-port", port.to_string()),
        ("cert-dir", at("tls")),
        ("token-auth-file", at("tokens.csv")),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("anonymous-auth", "false".to_owned()),
        ("service-account-issuer", "https://kubernetes.default.svc".to_owned()),
        ("service-account-key-file", at("account.key")),
        ("service-account-signing-key-file", at("account.key")),
        ("service-cluster-ip-range", "10.96.0.0/16".to_owned()),
        ("endpoint-reconciler-type", "none".to_owned()),
        ("profiling", "false".to_owned()),
    ])
}
