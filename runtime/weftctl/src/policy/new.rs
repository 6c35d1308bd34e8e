//! `weftctl policy new`: creates a directory that builds and passes its own tests at once. The files are those of
//! `sdk/templates`; a Rust project gets a copy of the SDK, so that it only needs a registry of crates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use weft_host_abi::contract;

use super::project::{Kind, Language, MANIFEST, Manifest};
use super::toolchain;
use crate::output::Output;

/// (path below `sdk/`, content), made by build.rs.
static TEMPLATES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/templates.rs"));

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// The policy's name: small letters, digits and dashes.
    name: String,
    /// The language it is written in.
    #[arg(long, value_enum, default_value = "rust")]
    lang: Language,
    /// What it decides.
    #[arg(long, value_enum, default_value = "ipam")]
    kind: Kind,
    /// The directory to make [default: the name].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &NewArgs, output: Output) -> anyhow::Result<ExitCode> {
    check_name(&args.name)?;
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    if dir.exists() && dir.read_dir().with_context(|| format!("cannot read {}", dir.display()))?.next().is_some() {
        bail!("{} is not empty: name another directory with --dir, or empty it", dir.display());
    }
    let files = files(args)?;
    for (name, content) in &files {
        write(&dir.join(name), content)?;
    }
    let names: Vec<_> = files.iter().map(|(name, _content)| name).collect();
    let mut lines = vec![format!(
        "{}: a policy in {} that picks {}",
        dir.display(),
        args.lang.title(),
        match args.kind {
            Kind::Ipam => "addresses",
            Kind::Delegate => "the delegate",
        }
    )];
    if let Some(missing) = toolchain::missing(args.lang, &dir) {
        lines.push(format!("to build it, {missing}"));
    }
    lines.push(format!("next: cd {} && weftctl policy test", dir.display()));
    output.lines(&json!({ "dir": dir, "files": names }), &lines)?;
    Ok(ExitCode::SUCCESS)
}

/// Checks a name that is used for a crate, a file and a network.
fn check_name(name: &str) -> anyhow::Result<()> {
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if !plain || !starts || name.ends_with('-') || name.len() > 48 {
        bail!(
            "invalid policy name {name:?}: use at most 48 lower-case letters, digits and dashes, starting with a letter"
        );
    }
    Ok(())
}

/// Returns the files of a project, with their paths.
fn files(args: &NewArgs) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let (language, kind) = (
        short_name(args.lang),
        match args.kind {
            Kind::Ipam => "ipam",
            Kind::Delegate => "delegate",
        },
    );
    let mut files = Vec::new();
    for (path, content) in TEMPLATES {
        if *path == "rust/Cargo.lock" {
            if args.lang == Language::Rust {
                files.push((PathBuf::from("Cargo.lock"), locked(content, &args.name)));
            }
            continue;
        }
        let place = if let Some(rest) = path.strip_prefix("rust/") {
            match args.lang {
                Language::Rust => Some(Path::new("weft-sdk").join(rest)),
                // Other languages use the contract's files directly.
                _ => rest.starts_with("wit/").then(|| PathBuf::from(rest)),
            }
        } else {
            path.strip_prefix("templates/").and_then(|path| template_path(path, language, kind))
        };
        if let Some(place) = place {
            let of_sdk = path.starts_with("rust/");
            files.push((place, if of_sdk { (*content).to_owned() } else { fill_template(content, args) }));
        }
    }
    let manifest = Manifest { name: args.name.clone(), language: args.lang, kind: args.kind };
    files.push((PathBuf::from(MANIFEST), format!("{}\n", serde_json::to_string_pretty(&manifest)?)));
    files.sort();
    Ok(files)
}

/// Returns the SDK's lock file with the project's own package added in cargo's order: the first build uses the versions
/// with which weft is tested.
fn locked(of_sdk: &str, name: &str) -> String {
    let own = format!("name = \"{name}\"\nversion = \"0.1.0\"\ndependencies = [\n \"weft-sdk\",\n]");
    let mut parts = of_sdk.split("\n[[package]]\n").map(|part| part.trim_end().to_owned());
    let head = parts.next().unwrap_or_default();
    let mut packages: Vec<String> = parts.chain([own]).collect();
    packages.sort();
    let packages: String = packages.iter().map(|package| format!("\n[[package]]\n{package}\n")).collect();
    format!("{head}\n{packages}")
}

/// Returns the path of a template in a project of this language and kind, if it belongs there.
fn template_path(path: &str, language: &str, kind: &str) -> Option<PathBuf> {
    let (part, rest) = path.split_once('/')?;
    if part != language && part != "common" {
        return None;
    }
    let rest = match rest.split_once('/') {
        Some((first @ ("ipam" | "delegate"), rest)) if first == kind => rest,
        Some(("ipam" | "delegate", _other)) => return None,
        _ => rest,
    };
    // Tools would interpret these names in this repository.
    Some(match rest {
        "gitignore" => PathBuf::from(".gitignore"),
        _ => PathBuf::from(rest.strip_suffix(".in").unwrap_or(rest)),
    })
}

fn short_name(language: Language) -> &'static str {
    match language {
        Language::Rust => "rust",
        Language::Js => "js",
        Language::Python => "python",
        Language::C => "c",
    }
}

fn fill_template(content: &str, args: &NewArgs) -> String {
    // A link's name has at most 15 bytes, including "br-".
    let short: String = args.name.chars().filter(|c| *c != '-').take(12).collect();
    let decides = match args.kind {
        Kind::Ipam => "which addresses a container gets",
        Kind::Delegate => "which of a network's delegates builds a container's interface",
    };
    let pairs = [
        ("{{name}}", args.name.as_str()),
        ("{{short}}", &short),
        ("{{contract}}", contract::VERSION),
        ("{{language}}", args.lang.title()),
        ("{{decides}}", decides),
        ("{{needs}}", toolchain::needs(args.lang)),
        ("{{source}}", args.lang.source()),
        ("{{wit}}", if args.lang == Language::Rust { "weft-sdk/wit/policy.wit" } else { "wit/policy.wit" }),
    ];
    pairs.into_iter().fold(content.to_owned(), |text, (key, value)| text.replace(key, value))
}

fn write(path: &Path, content: &str) -> anyhow::Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(cannot)?;
    }
    fs::write(path, content).with_context(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(lang: Language, kind: Kind) -> NewArgs {
        NewArgs { name: "my-policy".into(), lang, kind, dir: None }
    }

    #[test]
    fn every_project_is_whole_and_has_no_place_left_to_fill() {
        for lang in [Language::Rust, Language::Js, Language::Python, Language::C] {
            for kind in [Kind::Ipam, Kind::Delegate] {
                let files = files(&args(lang, kind)).expect("files");
                let has = |name: &str| files.iter().any(|(place, _content)| place == Path::new(name));
                for name in
                    [MANIFEST, ".gitignore", "README.md", "network.json", lang.source(), "cases/configuration.json"]
                {
                    assert!(has(name), "{lang:?} {kind:?} has no {name}");
                }
                assert!(has("wit/policy.wit") || has("weft-sdk/wit/policy.wit"), "{lang:?} {kind:?} has no contract");
                let readme = files.iter().find(|(place, _content)| place == Path::new("README.md")).expect("a README");
                let contract = readme.1.split('`').find(|word| word.ends_with("policy.wit")).expect("its contract");
                assert!(has(contract), "{lang:?} {kind:?}: README.md names {contract}");
                for (place, content) in &files {
                    assert!(!content.contains("{{"), "{lang:?} {kind:?} {}", place.display());
                    serde_json::from_str::<serde_json::Value>(content)
                        .err()
                        .filter(|_| place.extension().is_some_and(|extension| extension == "json"))
                        .map_or(Ok(()), Err)
                        .unwrap_or_else(|error| panic!("{}: {error}", place.display()));
                }
            }
        }
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["", "-x", "x-", "X", "a_b", "1a", "a/b", "../x"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        check_name("rack-pools2").expect("a name");
    }
}
