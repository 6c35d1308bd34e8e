//! `weftctl policy inspect`: shows the kind of a component, its imports, and its configuration. Only its schema export
//! is run, within the usual limits.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use weft_core::policy::{Choice, Grants, Ipam, Limits, PolicyRef, PolicyStore};
use weft_host_abi::contract::Kind;
use weft_host_abi::guest::World;
use weft_host_abi::{contract, engine};

use super::{SHIPPED, built};
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The component, the name of a shipped policy, or a policy in a registry, as in REGISTRY/REPOSITORY:TAG.
    component: String,
    /// A directory that a network would grant: print its digest, as a decision's record has it.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    #[cfg(feature = "agent")]
    #[command(flatten)]
    reach: super::registry::Reach,
}

pub(super) fn run(args: &InspectArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let component = args.component.as_str();
    #[cfg(feature = "agent")]
    if !Path::new(component).exists() && super::cache::is_reference(component) {
        return super::registry::inspect(component, &args.reach, output);
    }
    let state = &built::cache_dir(state)?;
    let (reference, bytes) = find_component(component, state)?;
    let path = reference.path(state);
    let types = contract::describe(&bytes).map_err(|reason| anyhow::anyhow!("{}: {reason}", path.display()))?;
    let kind = Kind::from_exports(&types.exports);
    let grants = Grants { wasi: true, data: args.data.clone(), isolated: false };
    let verdict = match kind {
        Some(Kind::Choice) => verdict::<Choice>(&reference, &grants, state),
        Some(Kind::Ipam) | None => verdict::<Ipam>(&reference, &grants, state),
    };
    let usable = verdict.as_ref().err().map(|error| format!("{error:#}"));
    let Verdict { digest, schema, wasi, data_digest } = verdict.unwrap_or_default();
    let document = json!({
        "path": path, "kind": kind.map(Kind::world), "size": bytes.len(), "digest": digest, "imports": types.imports, "exports": types.exports,
        "contract": contract::VERSION, "engine": engine::artifact_key(), "schema": schema, "refused": usable,
        "needs": if wasi { &["grants.wasi"][..] } else { &[] }, "dataDigest": data_digest,
    });
    let mut lines = vec![
        format!("component  {}", path.display()),
        format!("size       {} bytes", bytes.len()),
        format!("digest     {}", if digest.is_empty() { "(not loaded)" } else { &digest }),
        format!("kind       {}", kind.map_or("no policy", Kind::noun)),
        format!("exports    {}", or_nothing(&types.exports)),
        format!("imports    {}", or_nothing(&types.imports)),
        describe_reach(&types.imports),
    ];
    if wasi {
        lines.push("needs      grants.wasi of its network; grants.data, if it reads files".to_owned());
    }
    lines.extend(data_digest.iter().map(|digest| format!("data       {digest}")));
    match &usable {
        Some(reason) => lines.push(format!("refused    {reason}")),
        None => lines.push(format!("usable     with contract {} on {}", contract::VERSION, engine::artifact_key())),
    }
    if let Some(keys) = schema.as_ref().and_then(|schema| schema.get("properties")).and_then(Value::as_object) {
        lines.push(format!("keys       {}", keys.keys().cloned().collect::<Vec<_>>().join(", ")));
    }
    output.lines(&document, &lines)?;
    Ok(if usable.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the component. A shipped policy is the node's, or, without one that can be read here, that of this weftctl.
fn find_component(component: &str, state: &Path) -> anyhow::Result<(PolicyRef, Vec<u8>)> {
    let reference = reference(component)?;
    let path = reference.path(state);
    match (std::fs::read(&path), SHIPPED.iter().find(|(name, _component)| *name == component)) {
        (Ok(bytes), _) => Ok((reference, bytes)),
        (Err(_not_here), Some((name, own))) if matches!(reference, PolicyRef::Shipped(_)) => {
            let dir = built::private(state.join("tested"))?;
            Ok((built::write_project(own, Some(name), &dir)?, own.to_vec()))
        }
        (Err(error), _) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Returns a file if it looks like one, otherwise a shipped policy of that name.
pub(super) fn reference(component: &str) -> anyhow::Result<PolicyRef> {
    if PolicyRef::is_name(component) && !Path::new(component).exists() {
        return Ok(PolicyRef::shipped(component)?);
    }
    let path: PathBuf = std::path::absolute(component).context("cannot find the current directory")?;
    Ok(PolicyRef::File(path))
}

/// What was found out by loading a component.
#[derive(Debug, Default)]
struct Verdict {
    digest: String,
    schema: Option<Value>,
    /// Whether it imports WASI.
    wasi: bool,
    /// `sha256:...` of the data directory, if the component can read it.
    data_digest: Option<String>,
}

/// Loads it like a network that grants all it may need, and asks for its schema.
fn verdict<W: World>(reference: &PolicyRef, grants: &Grants, state: &Path) -> anyhow::Result<Verdict> {
    let store = PolicyStore::new(state)?;
    let loaded = store.load::<W>(reference, grants, &|ask| super::compile::by_hand(state, ask))?;
    let schema = loaded.config_schema(&Limits::default())?;
    Ok(Verdict {
        digest: loaded.digest().to_owned(),
        schema: serde_json::from_str(&schema).ok(),
        wasi: !loaded.wasi_imports().is_empty(),
        data_digest: loaded.data_digest()?,
    })
}

fn describe_reach(imports: &[String]) -> String {
    let beyond: Vec<_> = imports.iter().filter(|name| !name.starts_with(contract::PACKAGE)).cloned().collect();
    if beyond.is_empty() {
        return "reaches    nothing but the contract: no files, clock, environment, network".to_owned();
    }
    format!("reaches    {} (a network has to grant it)", beyond.join(", "))
}

fn or_nothing(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
