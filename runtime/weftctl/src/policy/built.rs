//! A policy to test or to measure: a project's build, a component, or a shipped policy. Its compiled code is stored in
//! the project, so that this does not need root.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde_json::Value;
use weft_core::policy::{Choice, Grants, Ipam, PolicyRef, PolicyStore};
use weft_host_abi::contract::{self, Kind};

use super::cases::Policy;
use super::project::Project;
use super::{SHIPPED, by_hand};

/// A loaded policy and its location.
#[derive(Debug)]
pub(super) struct Tested {
    pub(super) policy: Policy,
    /// The component's bytes.
    pub(super) size: usize,
    reference: PolicyRef,
    grants: Grants,
    state: PathBuf,
}

// === impl Tested ===

impl Tested {
    /// Loads it again in a new engine, from the existing compiled code.
    pub(super) fn reload(&self) -> anyhow::Result<Policy> {
        load_as(
            match &self.policy {
                Policy::Ipam(_) => Kind::Ipam,
                Policy::Choice(_) => Kind::Choice,
            },
            &self.reference,
            &self.grants,
            &self.state,
        )
    }
}

/// Builds the project in `dir`, unless a policy is named, and loads it.
pub(super) fn tested(dir: &Path, policy: Option<&str>, grants: Grants, state: &Path) -> anyhow::Result<Tested> {
    let (component, name) = match policy {
        None => (project(dir)?, None),
        Some(name) if PolicyRef::is_name(name) && !Path::new(name).exists() => {
            let shipped = SHIPPED.iter().find(|(shipped, _component)| *shipped == name);
            let (_name, component) = shipped.with_context(|| {
                let names: Vec<_> = SHIPPED.iter().map(|(name, _component)| *name).collect();
                format!("{name:?} is neither a file nor a shipped policy ({})", names.join(", "))
            })?;
            ((*component).to_vec(), Some(name))
        }
        Some(path) => (fs::read(path).with_context(|| format!("cannot read {path}"))?, None),
    };
    load(&component, name, grants, &scratch(dir, state)?)
}

/// Returns the component that a project builds.
fn project(dir: &Path) -> anyhow::Result<Vec<u8>> {
    let mut built = super::build::build(&Project::open(dir)?)?;
    match (built.pop(), built.len()) {
        (Some(guest), 0) => Ok(guest.component),
        _ => {
            bail!("{} builds several policies; name the directory of one, or a component with --policy", dir.display())
        }
    }
}

fn load(component: &[u8], name: Option<&str>, grants: Grants, state: &Path) -> anyhow::Result<Tested> {
    let described = contract::describe(component).map_err(anyhow::Error::msg)?;
    let reference = write_project(component, name, state)?;
    // A component that is no policy gets the error that says so.
    let policy = load_as(Kind::from_exports(&described.exports).unwrap_or(Kind::Ipam), &reference, &grants, state)?;
    Ok(Tested { policy, size: component.len(), reference, grants, state: state.to_owned() })
}

/// Writes a component into a directory of this user's.
pub(super) fn write_project(component: &[u8], name: Option<&str>, dir: &Path) -> anyhow::Result<PolicyRef> {
    let digest = weft_core::policy::Digest::new(component).to_string();
    let file = dir.join(format!("{}.wasm", name.map_or_else(|| digest.replace(':', "-"), str::to_owned)));
    // Rename it into place: another test of the same component may be reading it.
    let fresh = file.with_extension(format!("{}.new", std::process::id()));
    fs::write(&fresh, component).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, &file).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(PolicyRef::File(file))
}

/// Returns a state directory for compiled code: the node's if this user may use it, otherwise one of the user's.
pub(super) fn cache_dir(state: &Path) -> anyhow::Result<PathBuf> {
    let of_node = private(state.join("cache")).and_then(|cache| Ok(fs::read_dir(cache)?));
    match (of_node, user_cache()) {
        (Err(_not_ours), Some(cache)) => private(cache.join("weft/tested")),
        _ => Ok(state.to_owned()),
    }
}

fn load_as(kind: Kind, reference: &PolicyRef, grants: &Grants, state: &Path) -> anyhow::Result<Policy> {
    let store = PolicyStore::new(state)?;
    Ok(match kind {
        Kind::Ipam => Policy::Ipam(store.load::<Ipam>(reference, grants, &|ask| by_hand(state, ask))?),
        Kind::Choice => Policy::Choice(store.load::<Choice>(reference, grants, &|ask| by_hand(state, ask))?),
    })
}

/// Returns a state directory for compiled code: in the project if this is one, otherwise the node's, otherwise this
/// user's.
fn scratch(dir: &Path, state: &Path) -> anyhow::Result<PathBuf> {
    if let Ok(project) = Project::open(dir) {
        return private(std::path::absolute(project.build_dir()?)?.join("state"));
    }
    match (private(state.join("tested")), user_cache()) {
        (Err(_not_ours), Some(cache)) => private(cache.join("weft/tested")),
        (made, _cache) => made,
    }
}

/// Makes a directory. Code that others can write is never mapped.
pub(super) fn private(dir: PathBuf) -> anyhow::Result<PathBuf> {
    weft_core::private::make_dir(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

fn user_cache() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))
}

/// Returns the project's own network.
pub(super) fn network(dir: &Path) -> anyhow::Result<Option<Value>> {
    let path = dir.join("network.json");
    match fs::read(&path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
