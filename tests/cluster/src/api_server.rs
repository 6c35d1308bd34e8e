//! What every API server of the tests is started with: an etcd beside it, users with tokens, and RBAC.
//!
//! There are no certificates to make: the API server writes one for itself, which is the authority of every kubeconfig. Tokens are
//! no secrets: the namespaces are private to the test.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

/// Where etcd listens for clients, in the API server's network namespace.
pub const ETCD: &str = "127.0.0.1:2379";

/// A user of the API server, with a token of its own.
#[derive(Debug, Clone)]
pub struct User {
    /// For file names.
    pub short: Cow<'static, str>,
    /// As the API server knows it; a service account is `system:serviceaccount:NAMESPACE:NAME`.
    pub name: Cow<'static, str>,
    /// Its group, if any.
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

/// May do everything.
pub const ADMIN: User = User::new("admin", "admin", "system:masters");

/// The file that a user's kubeconfig is in.
#[must_use]
pub fn kubeconfig_path(dir: &Path, user: &str) -> PathBuf {
    dir.join(format!("{user}.kubeconfig"))
}

/// Writes the tokens of all users, and a kubeconfig for each, which names `server`.
///
/// # Errors
/// A file cannot be written.
pub fn write_users(dir: &Path, server: &str, users: &[User]) -> Result<()> {
    let line = |user: &User| format!("{},{},{},{}\n", user.token(), user.name, user.short, user.group);
    fs::write(dir.join("tokens.csv"), users.iter().map(line).collect::<String>()).context("write the tokens")?;
    for user in users {
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "only",
            "clusters": [{"name": "only", "cluster": {
                "server": server, "certificate-authority": dir.join("tls/apiserver.crt")}}],
            "users": [{"name": "only", "user": {"token": user.token()}}],
            "contexts": [{"name": "only", "context": {"cluster": "only", "user": "only"}}],
        });
        fs::write(kubeconfig_path(dir, &user.short), kubeconfig.to_string()).context("write a kubeconfig")?;
    }
    Ok(())
}

/// Flags of a program.
#[must_use]
pub fn flags(flags: &[(&str, String)]) -> Vec<String> {
    flags.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

/// Flags of etcd, whose data are in `data`.
#[must_use]
pub fn etcd_flags(data: &Path) -> Vec<String> {
    let (client, peer) = (format!("http://{ETCD}"), "http://127.0.0.1:2380".to_owned());
    flags(&[
        ("name", "only".to_owned()),
        ("data-dir", data.display().to_string()),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer.clone()),
        ("initial-cluster", format!("only={peer}")),
        // Tests end processes, never the machine.
        ("unsafe-no-fsync", "true".to_owned()),
    ])
}

/// Flags of the API server: `dir` has its users and `account.key`.
#[must_use]
pub fn api_server_flags(dir: &Path, bind: &str, advertise: &str, port: u16) -> Vec<String> {
    let at = |name: &str| dir.join(name).display().to_string();
    flags(&[
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
