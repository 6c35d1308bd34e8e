//! `weftctl policy pull`, `lock`, `rm`, and the registry parts of `ls`, `digest` and `inspect`: transfers a policy from
//! a registry to a node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use weft_agent::artifact::Image;
use weft_agent::registry::{self, Access, Change, Entry, Fetched, Remote, Source, check_lock, lock, lock_ahead};
use weft_agent::trust::Trust;
use weft_core::policy::{self, CompileAsk, LockFile, PolicyError, PolicyRef, locked_to, resolve_tag};

use super::push::said_of_version;
use crate::output::Output;

/// How registries are reached.
#[derive(Debug, Clone, Args)]
pub(crate) struct Reach {
    /// A registry or token server to access over plain HTTP, in addition to registries on this machine. May be repeated.
    #[arg(long, value_name = "HOST:PORT")]
    plain_http: Vec<String>,
    /// A PEM file with CA certificates for registries, in addition to the system's. May be repeated.
    #[arg(long, value_name = "FILE", env = "WEFT_REGISTRY_CA", value_delimiter = ':')]
    registry_ca: Vec<PathBuf>,
}

/// Whom to trust.
#[derive(Debug, Clone, Args)]
pub(crate) struct TrustArgs {
    /// The trust file [default: trust.json in the state directory].
    #[arg(long, value_name = "FILE", env = "WEFT_TRUST")]
    trust: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// The policy: REGISTRY/REPOSITORY with a tag, a digest, or both.
    reference: String,
    /// Write the component to this file instead of adding it to this node.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Take a version that is lower than the one that the lock file has for this tag.
    #[arg(long)]
    allow_downgrade: bool,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    /// The policies, each with a tag.
    #[arg(required = true)]
    references: Vec<String>,
    /// The lock file [default: this node's].
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Take a version that is lower than the one that the lock file has for a tag.
    #[arg(long)]
    allow_downgrade: bool,
    #[command(flatten)]
    trust: TrustArgs,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The policy, as a network names it.
    reference: String,
}

// === impl Reach ===

impl Reach {
    pub(super) fn access(&self) -> Access {
        Access { plain_http: self.plain_http.clone(), ca_files: self.registry_ca.clone() }
    }

    /// Returns the registry of an image.
    pub(super) fn remote(&self, image: &Image) -> anyhow::Result<Remote> {
        registry::stand_in_for_system_roots(&self.registry_ca);
        Ok(Remote::new(image, &self.access())?)
    }
}

// === impl TrustArgs ===

impl TrustArgs {
    /// Reads the trust file; `None` if this node has none. A named file must exist.
    pub(super) fn read(&self, state: &Path) -> anyhow::Result<Option<Trust>> {
        Ok(Trust::of_node(self.trust.as_deref(), state)?)
    }
}

/// Parses the reference of a policy to push or to lock: it has a tag and no digest.
pub(super) fn tagged(reference: &str) -> anyhow::Result<Image> {
    let image = Image::parse(reference)?;
    if image.digest().is_some() || image.tag().is_none() {
        bail!("{image} has {}; use REGISTRY/REPOSITORY:TAG", if image.tag().is_none() { "no tag" } else { "a digest" });
    }
    Ok(image)
}

pub(super) fn pull(args: &PullArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let image = Image::parse(&args.reference)?;
    let trust = args.trust.read(state)?;
    let remote = args.reach.remote(&image)?;
    let fetched = registry::wait(registry::fetch(Source::Remote(&remote), &image, trust.as_ref()))?;
    let looked = &fetched.looked;
    let entry = Entry { image: &image, digest: &looked.digest, version: looked.version.as_deref() };
    // A tag with a digest determines the version; only a tag alone can be downgraded.
    let lock_file = (image.tag().is_some() && image.digest().is_none()).then(|| LockFile::path(state));
    if let Some(path) = &lock_file {
        check_lock(path, &entry, args.allow_downgrade)?;
    }
    let pinned = looked.image.to_string();
    let mut lines = vec![format!("pulled {pinned}"), trust_message(&fetched)];
    let mut change = None;
    if let Some(file) = &args.output {
        fs::write(file, &fetched.component).with_context(|| format!("cannot write {}", file.display()))?;
        lines.push(format!("written to {}", file.display()));
    } else {
        registry::add(state, &fetched, &|path| compile(state, &pinned, path))?;
        policy::keep_pinned(state, &PolicyRef::parse(&pinned)?)?;
        lines.push("it is compiled on this node; networks may name it".to_owned());
        if let Some(path) = &lock_file {
            let changed = lock(path, &entry, args.allow_downgrade)?;
            lines.push(lock_message(&changed, path));
            lines.extend(said_of_version(looked.version.as_deref(), &image));
            change = Some(changed);
        }
    }
    let document = json!({
        "reference": pinned, "digest": looked.digest.to_string(), "version": looked.version, "verdict": fetched.verdict,
        "lock": change,
    });
    output.lines(&document, &lines)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn lock_tags(args: &LockArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let trust = args.trust.read(state)?;
    let own = LockFile::path(state);
    let path = args.lock.as_ref().unwrap_or(&own);
    let (mut lines, mut documents) = (Vec::new(), Vec::new());
    for reference in &args.references {
        let image = tagged(reference)?;
        if let Some(trust) = &trust {
            trust.covers(&image)?;
        }
        let remote = args.reach.remote(&image)?;
        let looked = registry::wait(registry::look(Source::Remote(&remote), &image))?;
        if let Some(trust) = &trust {
            looked.judge(trust)?;
        }
        let entry = Entry { image: &image, digest: &looked.digest, version: looked.version.as_deref() };
        let change = if *path == own {
            lock_ahead(state, &entry, args.allow_downgrade)?
        } else {
            lock(path, &entry, args.allow_downgrade)?
        };
        lines.push(format!("{}: {}", looked.image, lock_message(&change, path)));
        let (tag, wanted) = (PolicyRef::parse(&image.to_string())?, PolicyRef::parse(&looked.image.to_string())?);
        if *path == own && *resolve_tag(state, &tag)? != wanted {
            lines.push(
                "networks use the version before until the agent, or `weftctl policy pull`, has added it".to_owned(),
            );
        }
        lines.extend(said_of_version(looked.version.as_deref(), &image));
        documents.push(json!({ "reference": looked.image.to_string(), "lock": change }));
    }
    output.lines(&documents, &lines)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn rm(args: &RmArgs, state: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let text = if args.reference.contains("://") {
        args.reference.clone()
    } else {
        Image::parse(&args.reference)?.to_string()
    };
    let named = PolicyRef::parse(&text)?;
    let mut removed = false;
    for pinned in [locked_to(state, &named)?, resolve_tag(state, &named)?] {
        removed |= policy::remove_pinned(state, &pinned)?;
    }
    if let PolicyRef::Tagged(reference) = &named {
        let path = LockFile::path(state);
        removed |= LockFile::change(&path, |file| Ok::<_, PolicyError>(file.policies.remove(reference).is_some()))?;
    }
    if !removed {
        bail!("{named} is not on this node; `weftctl policy ls` lists what is");
    }
    output.lines(&json!({ "removed": named.to_string() }), &[format!("removed {named}")])?;
    Ok(ExitCode::SUCCESS)
}

/// Lists the tags of a repository.
pub(super) fn ls(repository: &str, reach: &Reach, output: Output) -> anyhow::Result<ExitCode> {
    let image = Image::parse(repository)?;
    let remote = reach.remote(&image)?;
    let tags = registry::wait(remote.tags(&image))?;
    // Signatures are tags too.
    let tags: Vec<_> = tags.into_iter().filter(|tag| !tag.starts_with("sha256-")).collect();
    let rows = tags.iter().map(|tag| vec![image.with_tag(tag).to_string()]).collect();
    output.table(&json!({ "repository": image.name(), "tags": tags }), &["policy"], rows)?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the digest of a reference in its registry.
pub(super) fn digest(reference: &str, reach: &Reach, output: Output) -> anyhow::Result<ExitCode> {
    let image = Image::parse(reference)?;
    let remote = reach.remote(&image)?;
    let (_manifest, digest) = registry::wait(remote.manifest(&image))?;
    let document = json!({ "digest": digest.to_string(), "reference": image.with_digest(digest).to_string() });
    output.lines(&document, &[digest.to_string()])?;
    Ok(ExitCode::SUCCESS)
}

/// Shows a registry's information about a policy, without pulling the component.
pub(super) fn inspect(reference: &str, reach: &Reach, output: Output) -> anyhow::Result<ExitCode> {
    let image = Image::parse(reference)?;
    let remote = reach.remote(&image)?;
    let looked = registry::wait(registry::look(Source::Remote(&remote), &image))?;
    let names = |names: Option<&Vec<String>>| match names {
        None => "(not listed: the artifact is of an older format)".to_owned(),
        Some(names) if names.is_empty() => "nothing".to_owned(),
        Some(names) => names.join(", "),
    };
    let reaches = looked.reach.as_ref();
    let beyond: Vec<_> = reaches.iter().flat_map(|reach| reach.beyond_contract()).collect();
    let signers: Vec<_> = looked.signatures.iter().map(weft_agent::trust::Signature::signer).collect();
    let lines = [
        format!("policy     {}", looked.image),
        format!("version    {}", looked.version.as_deref().unwrap_or("(none)")),
        format!("size       {} bytes", looked.size),
        format!("exports    {}", names(reaches.map(|reach| &reach.exports))),
        format!("imports    {}", names(reaches.map(|reach| &reach.imports))),
        match (reaches, beyond.is_empty()) {
            (None, _) => "reaches    unknown before it is pulled".to_owned(),
            (Some(_), true) => "reaches    nothing but the contract: no files, clock, environment, network".to_owned(),
            (Some(_), false) => format!("reaches    {} (a network has to grant it)", beyond.join(", ")),
        },
        format!(
            "signed     {}",
            if signers.is_empty() {
                "by nobody".to_owned()
            } else {
                format!("by {} (not verified; see `weftctl policy verify`)", signers.join(", "))
            }
        ),
    ];
    output.lines(&looked, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Compiles a fetched policy, and waits for it, because a person does.
pub(super) fn compile(state: &Path, name: &str, path: &Path) -> Result<(), PolicyError> {
    let ask = CompileAsk::new(path, name);
    super::by_hand(state, &ask).map_err(|error| PolicyError::NotCompiled {
        policy: name.to_owned(),
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn trust_message(fetched: &Fetched) -> String {
    match &fetched.verdict {
        Some(verdict) if verdict.keys.is_empty() => format!("the rule for {:?} requires no signature", verdict.rule),
        Some(verdict) => format!("signed by {}, as the rule for {:?} requires", verdict.keys.join(", "), verdict.rule),
        None => "signatures were not verified: this node has no trust file".to_owned(),
    }
}

pub(super) fn lock_message(change: &Change, path: &Path) -> String {
    match change {
        Change::New => format!("locked in {}", path.display()),
        Change::Same => format!("is what {} has already", path.display()),
        Change::From(digest) => format!("locked in {}, where it was {digest}", path.display()),
    }
}
