//! Checks weft's files on the node: binary, names, state directory, policies, compiled cache, network configurations.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use weft_core::conf::Persona;

use super::{DoctorArgs, Finding};
use crate::policy;
use crate::pools::Pools;

const REINSTALL: &str = "run `weftctl install`";

pub(super) fn look(args: &DoctorArgs, state: &Path) -> Vec<Finding> {
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
