//! Credentials for the API server, from files that others write: a kubeconfig, or a service account's files in a pod.
//!
//! Invariants: empty, partial or missing files change nothing, and the working client is kept; new credentials are used
//! within seconds.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::Log;

/// How often to check the files.
const LOOK: Duration = Duration::from_secs(3);
/// The minimum time between two checks that failed requests trigger.
const RELOAD: Duration = Duration::from_millis(300);
/// The service account files of a pod.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The source of credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A kubeconfig; its current context is used.
    Kubeconfig(PathBuf),
    /// The service account files that every pod has.
    InCluster,
}

/// The client with the newest credentials that work.
pub(super) struct Credentials(Rc<Inner>);

struct Inner {
    source: Source,
    client: RefCell<Option<Client>>,
    /// The problem with the files, for people.
    fault: RefCell<Option<String>>,
    digest: Cell<[u8; 32]>,
    generation: Cell<u64>,
    reload: Notify,
    log: Log,
}

impl Credentials {
    /// Reads the files now, and again whenever they change.
    pub(super) fn start(source: Source, log: Log) -> Self {
        let inner = Rc::new(Inner {
            source,
            client: RefCell::default(),
            fault: RefCell::default(),
            digest: Cell::default(),
            generation: Cell::new(0),
            reload: Notify::new(),
            log,
        });
        let watching = Rc::clone(&inner);
        tokio::task::spawn_local(async move {
            loop {
                watching.look().await;
                if timeout(LOOK, watching.reload.notified()).await.is_ok() {
                    tokio::time::sleep(RELOAD).await;
                }
            }
        });
        Self(inner)
    }

    /// Returns the client.
    ///
    /// # Errors
    /// No client exists yet; the error describes the problem of the files.
    pub(super) fn client(&self) -> Result<Client, String> {
        self.0.client.borrow().clone().ok_or_else(|| {
            let fault = self.0.fault.borrow().clone();
            fault.unwrap_or_else(|| format!("{} was not read yet", self.0.source.name()))
        })
    }

    /// Incremented by every new client.
    pub(super) fn generation(&self) -> u64 {
        self.0.generation.get()
    }

    /// Triggers a check of the files soon.
    pub(super) fn reload(&self) {
        self.0.reload.notify_one();
    }
}

impl Inner {
    async fn look(&self) {
        let read = match digest(&self.source) {
            Ok(digest) if digest == self.digest.get() => return,
            Ok(digest) => match config(&self.source).await {
                Ok(config) => {
                    Client::try_from(config).map(|client| (digest, client)).map_err(|error| error.to_string())
                }
                Err(text) => Err(text),
            },
            Err(text) => Err(text),
        };
        match read {
            Ok((digest, client)) => {
                self.digest.set(digest);
                self.client.replace(Some(client));
                self.generation.set(self.generation.get() + 1);
                self.fault.replace(None);
                self.log.info(&format!("read credentials from {}", self.source.name()));
            }
            Err(text) => {
                let text = format!("cannot use {}: {text}", self.source.name());
                if self.fault.replace(Some(text.clone())).as_ref() != Some(&text) {
                    self.log.warn(&text);
                }
            }
        }
    }
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::Kubeconfig(path) => path.display().to_string(),
            Self::InCluster => format!("the service account in {ACCOUNT}"),
        }
    }
}

/// Returns a digest over the contents of all files of the credentials.
fn digest(source: &Source) -> Result<[u8; 32], String> {
    let mut hash = Sha256::new();
    for path in files(source)? {
        let bytes = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(format!("{} is empty", path.display()));
        }
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(&bytes);
    }
    Ok(hash.finalize().into())
}

fn files(source: &Source) -> Result<Vec<PathBuf>, String> {
    let path = match source {
        Source::InCluster => return Ok(["ca.crt", "token"].iter().map(|name| Path::new(ACCOUNT).join(name)).collect()),
        Source::Kubeconfig(path) => path,
    };
    let config = Kubeconfig::read_from(path).map_err(|error| error.to_string())?;
    let mut files = vec![path.clone()];
    let clusters = config.clusters.into_iter().filter_map(|named| named.cluster);
    files.extend(clusters.filter_map(|cluster| cluster.certificate_authority).map(PathBuf::from));
    for user in config.auth_infos.into_iter().filter_map(|named| named.auth_info) {
        let named = [user.client_certificate, user.client_key, user.token_file];
        files.extend(named.into_iter().flatten().map(PathBuf::from));
    }
    Ok(files)
}

/// Returns a client with the current credentials, for a single use.
///
/// # Errors
/// What is wrong with the files.
pub(crate) async fn client(source: &Source) -> Result<Client, String> {
    digest(source).map_err(|text| format!("{}: {text}", source.name()))?;
    let config = config(source).await.map_err(|text| format!("{}: {text}", source.name()))?;
    Client::try_from(config).map_err(|error| format!("{}: {error}", source.name()))
}

async fn config(source: &Source) -> Result<Config, String> {
    let mut config = match source {
        Source::InCluster => Config::incluster().map_err(|error| error.to_string())?,
        Source::Kubeconfig(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| error.to_string())?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options).await.map_err(|error| error.to_string())?
        }
    };
    // The caller's deadline limits the tries.
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(5));
    Ok(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use tokio::task::LocalSet;

    use super::*;

    const CONFIG: &str = r#"
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {tokenFile: token}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
"#;

    fn credentials(path: &Path) -> Rc<Inner> {
        Credentials::start(Source::Kubeconfig(path.to_owned()), Log).0
    }

    #[test]
    fn files_that_are_empty_or_gone_for_a_while_do_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let (path, token) = (dir.path().join("config"), dir.path().join("token"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let inner = credentials(&path);
            inner.look().await;
            assert!(Credentials(Rc::clone(&inner)).client().is_err());
            std::fs::write(&path, CONFIG).unwrap();
            std::fs::write(&token, "one").unwrap();
            inner.look().await;
            assert_eq!(inner.generation.get(), 1);
            for damage in [("config", ""), ("config", "clusters: ["), ("token", ""), ("config", " \n")] {
                std::fs::write(&path, CONFIG).unwrap();
                std::fs::write(dir.path().join(damage.0), damage.1).unwrap();
                inner.look().await;
                assert!(inner.fault.borrow().is_some(), "{damage:?}");
                assert!(Credentials(Rc::clone(&inner)).client().is_ok(), "{damage:?}");
            }
            std::fs::remove_file(&path).unwrap();
            inner.look().await;
            assert!(Credentials(Rc::clone(&inner)).client().is_ok());
            // After a rotation the new token is used, and the fault is over.
            std::fs::write(&path, CONFIG).unwrap();
            std::fs::write(&token, "two").unwrap();
            inner.look().await;
            assert_eq!((inner.generation.get(), inner.fault.borrow().is_none()), (2, true));
            inner.look().await;
            assert_eq!(inner.generation.get(), 2);
        });
    }
}
