//! Checks weft's files on the node: binary, names, state directory, policies, compiled cache, network configurations.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use weft_core::conf::Persona;
use weft_core::policy::{PolicyError, PolicyRow, PolicyState, PolicyStore};

use super::{DoctorArgs, Finding};
use crate::policy;
use crate::pools::Pools;

const REINSTALL: &str = "run `weftctl install`";

pub(super) fn check(args: &DoctorArgs, state: &Path) -> Vec<Finding> {
    let bin_dir = args.bin_dir(state);
    let mut findings = vec![binary(&bin_dir.join("weft")), names(&bin_dir)];
    for dir in [state.to_owned(), state.join("policies"), state.join("cache")] {
        findings.push(private(&dir, true));
    }
    let store = state.join("weft.db");
    if store.exists() {
        findings.push(private(&store, false));
    }
    findings.extend(policies(state));
    findings.extend(fetched(state));
    findings.extend(configurations(args, state));
    findings.extend(clashes(&args.conf_dir));
    findings.extend(node_facts(state));
    findings
}

fn binary(path: &Path) -> Finding {
    let what = format!("binary {}", path.display());
    match fs::metadata(path) {
        Ok(meta) if meta.uid() != 0 || meta.mode() & 0o022 != 0 => Finding::fail(
            what,
            format!(
                "owner {} mode {:o}: users other than root can change a program that runs as root",
                meta.uid(),
                meta.mode() & 0o7777
            ),
            format!("chown root {0}; chmod 755 {0}", path.display()),
        ),
        Ok(meta) if meta.is_file() && meta.mode() & 0o111 != 0 => Finding::ok(what, format!("{} bytes", meta.len())),
        Ok(_) => Finding::fail(what, "not an executable file", REINSTALL),
        Err(error) => Finding::fail(what, error.to_string(), REINSTALL),
    }
}

/// Reports the names by which weft is called here, and those of other plugins.
fn names(bin: &Path) -> Finding {
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for name in Persona::all().map(Persona::name).filter(|name| *name != "weft") {
        let path = bin.join(name);
        if fs::read_link(&path).is_ok_and(|target| target.file_name().is_some_and(|file| file == "weft")) {
            ours.push(name);
        } else if path.exists() {
            others.push(name);
        }
    }
    if others.is_empty() {
        return Finding::ok("names", ours.join(" "));
    }
    Finding::warn(
        "names",
        format!("other plugins answer to {}", others.join(" ")),
        "fine if that is meant; `weftctl install --replace` puts weft in charge",
    )
}

/// Checks that only root can change a file or directory: its contents decide what runs as root.
fn private(path: &Path, directory: bool) -> Finding {
    let what = format!("{} {}", if directory { "directory" } else { "file" }, path.display());
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() != directory => {
            Finding::fail(what, "is something else", "move it away and install again")
        }
        Ok(meta) if meta.uid() != 0 || meta.mode() & 0o077 != 0 => Finding::fail(
            what,
            format!("owner {} mode {:o}, should be root's alone", meta.uid(), meta.mode() & 0o7777),
            format!("chown root:root {0}; chmod go= {0}", path.display()),
        ),
        Ok(meta) => Finding::ok(what, format!("mode {:o}", meta.mode() & 0o7777)),
        Err(error) => Finding::fail(what, error.to_string(), REINSTALL),
    }
}

fn policies(state: &Path) -> Vec<Finding> {
    let dir = state.join("policies");
    let Ok(entries) = fs::read_dir(&dir) else { return Vec::new() };
    let mut findings = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "wasm") {
            continue;
        }
        let what = format!("policy {}", path.display());
        findings.push(match fs::read(&path) {
            Err(error) => Finding::fail(what, error.to_string(), REINSTALL),
            Ok(component) => match policy::is_compiled(&component, state) {
                Ok(true) => Finding::ok(what, "compiled"),
                Ok(false) => Finding::warn(
                    what,
                    "not compiled for this version; the next ADD has to wait for it",
                    format!("weftctl policy compile {}", path.display()),
                ),
                Err(error) => Finding::fail(what, format!("{error:#}"), REINSTALL),
            },
        });
    }
    if findings.is_empty() {
        findings.push(Finding::fail(format!("policies in {}", dir.display()), "none", REINSTALL));
    }
    findings
}

/// Reports fetched policies that an ADD would have to wait for, or could not use.
fn fetched(state: &Path) -> Vec<Finding> {
    let dir = state.join("policies/pinned");
    let listed = weft_core::facts::now().map_err(anyhow::Error::from).and_then(|now| {
        let rows = PolicyStore::new(state).and_then(|store| store.policies(now))?;
        Ok::<_, anyhow::Error>(rows.into_iter().filter(|row| row.path.starts_with(&dir)).map(fetched_one).collect())
    });
    listed.unwrap_or_else(|error| {
        // Those of weft itself say what is wrong with the cache.
        let is_said = matches!(error.downcast_ref(), Some(PolicyError::Cache { .. } | PolicyError::CacheUnsafe { .. }));
        if is_said { Vec::new() } else { vec![Finding::fail("fetched policies", format!("{error:#}"), REINSTALL)] }
    })
}

fn fetched_one(row: PolicyRow) -> Finding {
    let again = "start `weftctl agent`, which fetches what networks name, or run `weftctl policy pull`";
    let what = format!("policy {}", row.policy);
    // The file's name has the digest.
    let named = row.path.file_stem().and_then(|stem| stem.to_str()).map(|stem| stem.replacen('-', ":", 1));
    if let Some(found) = row.digest.filter(|found| named.as_ref() != Some(found)) {
        let detail = format!("{} is damaged: it has the digest {found}", row.path.display());
        return Finding::fail(what, detail, again);
    }
    let compile = format!("start `weftctl agent`, or run `weftctl policy compile {}`", row.path.display());
    match row.state {
        PolicyState::Ready => Finding::ok(what, "compiled"),
        PolicyState::Fetching => Finding::ok(what, "the agent fetches it"),
        PolicyState::Compiling { seconds, of } => {
            Finding::ok(what, format!("is being compiled for {seconds} s, at most {of} s"))
        }
        PolicyState::NotCompiled { why } => Finding::warn(
            what,
            format!("not compiled for this version ({why}); the agent compiles it, else the next ADD waits for that"),
            compile,
        ),
        PolicyState::Failed { reason, ago } => Finding::fail(what, format!("failed {ago} s ago: {reason}"), compile),
        PolicyState::Unusable { why } | PolicyState::Withdrawn { why } | PolicyState::Missing { why } => {
            Finding::fail(what, why, again)
        }
    }
}

/// Checks network configurations that name weft, like `weftctl policy check`.
fn configurations(args: &DoctorArgs, state: &Path) -> Vec<Finding> {
    let Ok(entries) = fs::read_dir(&args.conf_dir) else { return Vec::new() };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let mut findings = Vec::new();
    for path in files {
        if !path.extension().is_some_and(|ext| ["conf", "conflist", "json"].iter().any(|known| ext == *known)) {
            continue;
        }
        let what = format!("configuration {}", path.display());
        match policy::check_file(&path, state, &args.bin_dir(state)) {
            Ok(checked) if checked.plugins == 0 => {}
            Ok(checked) => match checked.problems.first() {
                None => findings.push(Finding::ok(what, format!("{} plugins of weft", checked.plugins))),
                Some(problem) => findings.push(Finding::fail(
                    what,
                    problem.to_string(),
                    format!("correct it; `weftctl policy check {}` lists all problems", path.display()),
                )),
            },
            Err(error) => findings.push(Finding::fail(what, format!("{error:#}"), "correct or remove the file")),
        }
    }
    findings
}

/// Reports networks that allocate the same addresses.
fn clashes(dir: &Path) -> Vec<Finding> {
    let found = Pools::read(dir, None).clashes();
    let remedy = "give one of them other ranges; running containers keep their addresses until they are made anew";
    found.iter().map(|clash| Finding::warn("networks", clash.to_string(), remedy)).collect()
}

/// Checks the operator's facts about this node, which every policy gets: if they cannot be read, every ADD fails.
fn node_facts(state: &Path) -> Option<Finding> {
    let error = anyhow::Error::from(weft_core::facts::node(state).err()?);
    Some(Finding::fail("node.json", format!("{error:#}"), "correct or remove the file in the state directory"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use weft_core::policy::{Digest, PolicyRef, add_pinned};

    use super::super::State;
    use super::*;

    #[test]
    fn a_fetched_policy_that_is_not_compiled_or_damaged_is_found() {
        let state = tempfile::tempdir().unwrap();
        assert!(fetched(state.path()).is_empty());
        let manifest = Digest::new(b"manifest");
        let policy = PolicyRef::parse(&format!("oci://registry.example/net/rack:1@{manifest}")).unwrap();
        let file = add_pinned(state.path(), &policy, b"component", None, &|_path| Ok(())).unwrap();
        let one = || {
            let mut found = fetched(state.path());
            assert_eq!(found.len(), 1, "{found:?}");
            found.remove(0)
        };
        let found = one();
        assert!(found.state == State::Warn && found.detail.contains("not compiled for this version"), "{found:?}");
        fs::write(&file, "compo").unwrap();
        let found = one();
        assert!(found.state == State::Fail && found.detail.contains("is damaged"), "{found:?}");
    }
}
