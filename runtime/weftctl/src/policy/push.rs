//! `weftctl policy push`: sends a policy to a registry.
//!
//! Invariant: a tag that is a version keeps its policy, unless the author says `--force`.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use weft_agent::artifact::{Image, Manifest, VERSION_KEY, pack, version_of};
use weft_agent::registry;

use super::registry::{Reach, tagged};
use crate::output::Output;

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The component.
    component: PathBuf,
    /// Where to: REGISTRY/REPOSITORY:TAG.
    reference: String,
    /// The version that it is, as in 1.2.3 [default: the tag, where that is one].
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// Replace the policy that has this tag, even if the tag is a version.
    #[arg(long)]
    force: bool,
    /// An annotation of the manifest. May be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    #[command(flatten)]
    reach: Reach,
}

pub(super) fn push(args: &PushArgs, output: Output) -> anyhow::Result<ExitCode> {
    let image = tagged(&args.reference)?;
    let component = fs::read(&args.component).with_context(|| format!("cannot read {}", args.component.display()))?;
    let mut annotations = BTreeMap::new();
    for annotation in &args.annotation {
        let (key, value) = annotation.split_once('=').with_context(|| format!("{annotation:?} is not KEY=VALUE"))?;
        annotations.insert(key.to_owned(), value.to_owned());
    }
    let version = match &args.version {
        Some(text) => Some(version_of(text).with_context(|| format!("--version {text:?} is no version, as in 1.2.3"))?),
        None => image.tag().and_then(version_of),
    };
    if let Some(version) = &version {
        annotations.insert(VERSION_KEY.to_owned(), version.to_string());
    }
    let packed = pack(&component, annotations).with_context(|| args.component.display().to_string())?;
    let remote = args.reach.remote(&image)?;
    let digest = registry::wait(registry::push(&remote, &image, &packed, &component, args.force))?;
    let pinned = image.with_digest(digest).to_string();
    let document = json!({ "reference": pinned, "digest": digest.to_string(), "imports": packed.reach.imports });
    let mut lines = vec![format!("pushed {pinned}"), "use this as \"policy\" in a network's configuration".to_owned()];
    // Annotations may have said it, too.
    let said = Manifest::read(&packed.manifest)?;
    lines.extend(said_of_version(said.version(), &image));
    output.lines(&document, &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Warns if nothing tells whether a tag goes back.
pub(super) fn said_of_version(version: Option<&str>, image: &Image) -> Option<String> {
    match version.map(|text| (text, version_of(text))) {
        Some((_text, Some(_version))) => None,
        Some((text, None)) => Some(format!("its version {text:?} has no order: the tag of {image} can be moved back")),
        None => Some(format!("it has no version: the tag of {image} can be moved back (push it with --version)")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_tag_without_an_ordered_version_is_reported() {
        let image = Image::parse("registry.example/net/rack:stable").unwrap();
        assert_eq!(said_of_version(Some("1.2.0"), &image), None);
        for version in [Some("1.10"), Some("today"), None] {
            assert!(said_of_version(version, &image).unwrap().contains("can be moved back"), "{version:?}");
        }
    }
}
