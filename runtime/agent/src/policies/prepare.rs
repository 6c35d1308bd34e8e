//! Brings one policy to the point where it can run: fetched, verified, compiled; tried until it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use weft_core::agent::policy::PolicyState;
use weft_core::policy::compiler::{CompileAsk, compile_waiting};
use weft_core::policy::{
    PolicyError, PolicyRef, PolicyStore, Readiness, add_pinned, is_added, locked_to, resolve_tag, settle_lock,
};

use super::Policies;
use super::limits::with_timeout;
use super::references::Place;
use crate::artifact::Image;
use crate::pause::Pause;
use crate::registry::{self, RegistryError, Remote, Source, chain};
use crate::server::Deadline;
use crate::trust::Trust;

/// Time limit of one fetch: manifest, signatures and component.
const FETCH: Duration = Duration::from_secs(15 * 60);

/// Time limit of a program with the credentials for a registry.
const HELPER: Duration = Duration::from_secs(30);

/// Returns what an ADD would find if it used the version that the lock file has.
pub(super) fn standing_of_locked(state: &Path, store: Option<&PolicyStore>, policy: &PolicyRef) -> Readiness {
    let Ok(policy) = locked_to(state, policy) else { return Readiness::Absent };
    match store {
        Some(store) => store.standing(&policy),
        None if is_added(state, &policy) => Readiness::Ready,
        None => Readiness::Absent,
    }
}

impl Policies {
    /// Tries until the policy can run.
    pub(super) async fn bring_until_ready(&self, reference: &str) {
        let mut pause = Pause::new(Duration::from_secs(1), Duration::from_secs(120));
        let (mut last, mut tries) = (String::new(), 0);
        loop {
            let outcome = self.bring_policy(reference, tries).await;
            let is_ready = outcome.is_ok();
            if let Some(row) = self.rows.borrow_mut().get_mut(reference) {
                row.state = match outcome {
                    Ok(()) => PolicyState::Ready,
                    Err(reason) => {
                        if reason != last {
                            self.log.warn(&format!("policy {reference} is not here yet: {reason}"));
                            self.note_missed(reference, &reason);
                            last.clone_from(&reason);
                        }
                        PolicyState::Failed { reason }
                    }
                };
            }
            if is_ready {
                self.log.info(&format!("policy {reference} is ready"));
                return;
            }
            tries += 1;
            sleep(pause.next()).await;
        }
    }

    /// Does what is missing.
    async fn bring_policy(&self, reference: &str, tries: u32) -> Result<(), String> {
        let named = PolicyRef::parse(reference).map_err(|error| error.to_string())?;
        loop {
            let wanted = self.wanted_of(&named)?;
            let used = resolve_tag(&self.state, &named).map_err(|error| error.to_string())?.into_owned();
            if used != wanted
                && let Readiness::NotCompiled(path) = self.standing(&used).await?
            {
                // Networks use it until the wanted one is here, which may take long.
                if let Err(reason) = self.compile(reference, tries, &used, path).await {
                    self.log.warn(&format!("policy {used}, which is still in use, is not compiled: {reason}"));
                }
            }
            match self.standing(&wanted).await? {
                Readiness::Ready => {}
                Readiness::NotCompiled(path) => self.compile(reference, tries, &wanted, path).await?,
                Readiness::Absent => {
                    let _turn = self.fetches.take(reference, tries).await?;
                    self.fetch(reference, &wanted).await?;
                }
            }
            // The tag may have been locked again meanwhile.
            if self.wanted_of(&named)? == wanted {
                return settle_lock(&self.state, &named).map_err(|error| chain(&error));
            }
        }
    }

    /// Returns the policy with the digest in the lock file.
    fn wanted_of(&self, named: &PolicyRef) -> Result<PolicyRef, String> {
        Ok(locked_to(&self.state, named).map_err(|error| error.to_string())?.into_owned())
    }

    async fn standing(&self, policy: &PolicyRef) -> Result<Readiness, String> {
        let (state, store, policy) = (self.state.clone(), self.store.clone(), policy.clone());
        let found = spawn_blocking(move || standing_of_locked(&state, store.as_ref().map(Arc::as_ref), &policy));
        found.await.map_err(|error| error.to_string())
    }

    /// Compiles a component that is here.
    async fn compile(&self, reference: &str, tries: u32, policy: &PolicyRef, path: PathBuf) -> Result<(), String> {
        let _turn = self.compiles.take(reference, tries).await?;
        let (state, name) = (self.state.clone(), policy.to_string());
        let compiled = spawn_blocking(move || compile(&state, &name, &path).map_err(|error| chain(&error)));
        compiled.await.map_err(|error| error.to_string())?
    }

    /// Fetches, verifies and compiles.
    async fn fetch(&self, reference: &str, policy: &PolicyRef) -> Result<(), String> {
        match Place::parse(reference) {
            Some(place) => self.fetch_config_map(policy.clone(), &place).await,
            None => self.fetch_image(policy, self.is_operators(reference)).await,
        }
    }

    async fn fetch_config_map(&self, policy: PolicyRef, place: &Place) -> Result<(), String> {
        let Place { namespace, name, key } = place;
        let what = format!("read ConfigMap {namespace}/{name}");
        let cluster =
            self.cluster.as_ref().ok_or("ConfigMaps need a cluster: start \"weftctl agent\" with --node-name")?;
        let client = cluster.client().map_err(|error| error.chain())?;
        let api: Api<ConfigMap> = Api::namespaced(client, namespace);
        let found = cluster.bounded(&what, Deadline::after(None), api.get_opt(name)).await;
        let found = found.map_err(|error| error.chain())?;
        let map = found.ok_or_else(|| format!("there is no ConfigMap {namespace}/{name}"))?;
        let binary = map.binary_data.and_then(|mut data| data.remove(key)).map(|data| data.0);
        let component = binary.or_else(|| map.data.and_then(|mut data| data.remove(key)).map(String::into_bytes));
        let component = component.ok_or_else(|| {
            format!("ConfigMap {namespace}/{name} has no key {key:?}; put the component into binaryData")
        })?;
        let state = self.state.clone();
        let added = spawn_blocking(move || {
            let compile = |path: &Path| compile(&state, &policy.to_string(), path);
            add_pinned(&state, &policy, &component, None, &compile).map(drop).map_err(|error| chain(&error))
        });
        added.await.map_err(|error| error.to_string())?
    }

    /// Returns whether a network of the node itself names a policy, and not only definitions, as `NAMESPACE/NAME`.
    fn is_operators(&self, reference: &str) -> bool {
        let rows = self.rows.borrow();
        rows.get(reference).is_some_and(|row| row.networks.iter().any(|network| !network.contains('/')))
    }

    async fn fetch_image(&self, policy: &PolicyRef, is_operators: bool) -> Result<(), String> {
        let image = Image::parse(&policy.to_string()).map_err(|error| error.to_string())?;
        // Read it each time: a key may have been added since the last try.
        let trust = Trust::of_node(self.options.trust.as_deref(), &self.state).map_err(|error| error.to_string())?;
        let text = |error: RegistryError| chain(&error);
        registry::admit(&image, &self.options.access, trust.as_ref(), is_operators).map_err(text)?;
        let (access, place) = (self.options.access.clone(), image.clone());
        // Docker's configuration may name a program with the credentials.
        let remote = move || Remote::new(&place, &access).map_err(|error| chain(&error));
        let remote = self.helpers.run(image.registry(), HELPER, remote).await?;
        let fetched = async { registry::fetch(Source::Remote(&remote), &image, trust.as_ref()).await.map_err(text) };
        let fetched = with_timeout(FETCH, &format!("the fetch from registry {}", image.registry()), fetched).await?;
        let state = self.state.clone();
        let added = spawn_blocking(move || {
            let name = fetched.looked.image.to_string();
            registry::add(&state, &fetched, &|path| compile(&state, &name, path)).map_err(text)
        });
        added.await.map_err(|error| error.to_string())?
    }
}

/// Compiles a component. Runs on a thread; the compiler is a process with its own limits.
fn compile(state: &Path, policy: &str, path: &Path) -> Result<(), PolicyError> {
    let ask = CompileAsk::new(path, policy);
    compile_waiting(state, &ask)
        .map_err(|error| PolicyError::Compiling { policy: policy.to_owned(), progress: error.to_string() })
}
